# The PDF and the page: every number in them is read from a file that a rule above wrote.


rule build_report:
    input:
        figures=FIGURES,
        tables=TABLES,
        verdicts=f"{RESULTS}/verdicts.csv",
        check=CHECKED,
        paper=PAPER,
        code=lambda wildcards: as_inputs(freshness.code_of("report")),
    output:
        report(f"{RESULTS}/report.pdf", caption="../report/report.rst", category="Report"),
    log:
        f"{RESULTS}/logs/build_report.log",
    conda:
        "../../envs/report.yaml"
    params:
        studies=list(PLAN.studies),
        sources=lambda wildcards: [
            PLAN.products_digest(study, "figures", "tables", "claims") for study in PLAN.studies
        ],
        code=lambda wildcards: freshness.digest([*PAPER, *freshness.code_of("report")]),
    script:
        "../scripts/build_report.py"


rule build_page:
    input:
        figures=FIGURES,
        tables=TABLES,
        verdicts=f"{RESULTS}/verdicts.csv",
        check=CHECKED,
        runs=[
            f"{RESULTS}/{study}/{file}"
            for study in PLAN.studies
            for file in PLAN.outputs(study)
            if file in ("runs.csv", "history.csv")
        ],
        notebooks=NOTEBOOKS,
        report=f"{RESULTS}/report.pdf",
        code=lambda wildcards: as_inputs(freshness.code_of("report.page")),
    output:
        f"{RESULTS}/index.html",
    log:
        f"{RESULTS}/logs/build_page.log",
    conda:
        "../../envs/page.yaml"
    params:
        studies=list(PLAN.studies),
        shown=[
            getattr(content, kind)
            for content in PLAN.studies.values()
            for kind in ("heat_maps", "curves")
        ],
        sources=lambda wildcards: [
            PLAN.products_digest(study, "figures", "tables", "claims") for study in PLAN.studies
        ],
        code=lambda wildcards: freshness.digest(freshness.code_of("report.page")),
    script:
        "../scripts/build_page.py"
