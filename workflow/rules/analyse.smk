# From bundles to tables, figures and verdicts.


rule collect_runs:
    input:
        bundles=lambda wildcards: [
            f"{RESULTS}/{wildcards.study}/bundles/{bundle}.csv"
            for bundle in PLAN.bundles[wildcards.study]
        ],
        code=f"{SOURCE}/results.py",
    output:
        runs=f"{RESULTS}/{{study}}/runs.csv",
        history=f"{RESULTS}/{{study}}/history.csv",
    log:
        f"{RESULTS}/logs/collect_runs/{{study}}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        cells=lambda wildcards: PLAN.digest(wildcards.study),
    script:
        "../scripts/collect_runs.py"


rule make_table:
    input:
        results=lambda wildcards: results_of(PLAN.product("tables", wildcards.table)[0]),
        published=lambda wildcards: PLAN.published(PLAN.product("tables", wildcards.table)[0]),
        code=lambda wildcards: PLAN.code("tables", wildcards.table),
    output:
        csv=report(
            f"{RESULTS}/tables/{{table}}.csv",
            caption="../report/table.rst",
            category=lambda wildcards: PLAN.product("tables", wildcards.table)[0],
            subcategory="Tables",
            labels=lambda wildcards: {"table": wildcards.table},
        ),
        tex=f"{RESULTS}/tables/{{table}}.tex",
    log:
        f"{RESULTS}/logs/make_table/{{table}}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        product=lambda wildcards: PLAN.product("tables", wildcards.table),
        caption=lambda wildcards: PLAN.tables[wildcards.table][2].caption,
    script:
        "../scripts/make_table.py"


rule plot_figure:
    input:
        results=lambda wildcards: results_of(PLAN.product("figures", wildcards.figure)[0]),
        published=lambda wildcards: PLAN.published(PLAN.product("figures", wildcards.figure)[0]),
        code=lambda wildcards: PLAN.code("figures", wildcards.figure),
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category=lambda wildcards: PLAN.product("figures", wildcards.figure)[0],
            subcategory="Figures",
            labels=lambda wildcards: {"figure": wildcards.figure},
        ),
    log:
        f"{RESULTS}/logs/plot_figure/{{figure}}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        product=lambda wildcards: PLAN.product("figures", wildcards.figure),
        caption=lambda wildcards: PLAN.figures[wildcards.figure][2].caption,
    script:
        "../scripts/plot_figure.py"


rule judge_claims:
    input:
        results=lambda wildcards: results_of(wildcards.study),
        published=lambda wildcards: PLAN.published(wildcards.study),
        code=lambda wildcards: PLAN.claims_code(wildcards.study),
    output:
        f"{RESULTS}/{{study}}/verdicts.csv",
    log:
        f"{RESULTS}/logs/judge_claims/{{study}}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        preset=SETTINGS.preset,
    script:
        "../scripts/judge_claims.py"


rule collect_verdicts:
    input:
        VERDICTS,
    output:
        report(
            f"{RESULTS}/verdicts.csv",
            caption="../report/verdicts.rst",
            category="Verdicts",
        ),
    log:
        f"{RESULTS}/logs/collect_verdicts.log",
    conda:
        "../../envs/analysis.yaml"
    script:
        "../scripts/collect_verdicts.py"
