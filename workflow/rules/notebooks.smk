# Notebooks: the percent script of each study that has one, run on the results and rendered to HTML.

# What runs them, and what they share.
NOTEBOOK_CODE = {*freshness.code_of("report.rendering"), *freshness.code_of("report.notebooks")}


rule render_notebook:
    input:
        notebook=lambda wildcards: notebook_of(wildcards.study),
        results=lambda wildcards: results_of(wildcards.study),
        code=lambda wildcards: as_inputs(
            {
                *NOTEBOOK_CODE,
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
        code=lambda w: freshness.digest([notebook_of(w.study), *NOTEBOOK_CODE]),
        results=lambda wildcards, output: Path(output.html).parents[2],
        home=lambda wildcards: PLAN.homes[wildcards.study],
    script:
        "../scripts/render_notebook.py"
