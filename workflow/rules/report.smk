# The PDF: every number in it is read from a file that a rule above wrote.


rule build_report:
    input:
        figures=FIGURES,
        tables=TABLES,
        verdicts=f"{RESULTS}/verdicts.csv",
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
