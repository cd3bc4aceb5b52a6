# Notebooks: the percent script of each study that has one, run on the results and rendered to HTML.


rule render_notebook:
    input:
        notebook=lambda wildcards: notebook_of(wildcards.study),
        results=lambda wildcards: results_of(wildcards.study),
        code=lambda wildcards: as_inputs(
            {
                *freshness.code_of("report.notebooks"),
                *PLAN.code(wildcards.study, "figures", "tables", "claims"),
            }
        ),
    output:
        ipynb=f"{RESULTS}/notebooks/{{study}}.ipynb",
        html=report(
            f"{RESULTS}/notebooks/{{study}}.html",
            caption="../report/notebook.rst",
            category=lambda wildcards: wildcards.study,
            subcategory="Notebook",
        ),
    log:
        f"{RESULTS}/logs/render_notebook/{{study}}.log",
    conda:
        "../../envs/notebooks.yaml"
    params:
        preset=SETTINGS.preset,
        sources=lambda w: PLAN.products_digest(w.study, "figures", "tables", "claims"),
        code=lambda w: freshness.digest(
            [notebook_of(w.study), *freshness.code_of("report.notebooks")]
        ),
        results=lambda wildcards, output: Path(output.html).parents[2],
        home=lambda wildcards: PLAN.homes[wildcards.study],
    shell:
        "(export STALEGRAD_PRESET={params.preset:q} STALEGRAD_RESULTS={params.results:q}"
        " STALEGRAD_STUDY={params.home:q};"
        " python -m jupytext --to ipynb --execute --run-path . --output {output.ipynb:q}"
        " {input.notebook:q} && python -m nbconvert --to html --log-level WARN {output.ipynb:q})"
        " > {log:q} 2>&1"
