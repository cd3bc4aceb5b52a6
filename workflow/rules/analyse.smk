# From bundles to tables, figures and verdicts. A table or figure takes less time than a job takes to
# start, so all of a study are one job, in a rule of its own, since each study has its own files.


rule collect_runs:
    input:
        bundles=lambda wildcards: [
            f"{RESULTS}/{wildcards.study}/bundles/{bundle}.csv"
            for bundle in PLAN.bundles[wildcards.study]
        ],
        # Not read. A bundle that was trained but for its provenance is trained to the end.
        provenance=lambda wildcards: [
            f"{RESULTS}/{wildcards.study}/bundles/{bundle}.csv.provenance.json"
            for bundle in PLAN.bundles[wildcards.study]
        ],
        code=lambda wildcards: as_inputs(freshness.code_of("analysis.archive")),
    output:
        runs=f"{RESULTS}/{{study}}/runs.csv",
        history=f"{RESULTS}/{{study}}/history.csv",
    log:
        f"{RESULTS}/logs/collect_runs/{{study}}.log",
    conda:
        "../../envs/analysis.yaml"
    params:
        cells=lambda wildcards: PLAN.digest(wildcards.study),
        code=lambda wildcards: freshness.digest(freshness.code_of("analysis.archive")),
    script:
        "../scripts/collect_runs.py"


for study in PLAN.studies:

    rule:
        name:
            f"judge_{study}"
        input:
            results=results_of(study),
            published=PLAN.published(study),
            code=lambda wildcards, study=study: as_inputs(PLAN.code(study, "tables", "claims")),
        output:
            verdicts=f"{RESULTS}/{study}/verdicts.csv",
            csv=reported(study, "tables", "csv"),
            tex=files_of(study, "tables", "tex"),
            captions=files_of(study, "tables", "rst"),
        log:
            f"{RESULTS}/logs/judge/{study}.log",
        conda:
            "../../envs/analysis.yaml"
        params:
            home=lambda wildcards, study=study: str(PLAN.homes[study]),
            measured_only=SETTINGS.measured_only,
            tables=PLAN.products(study, "tables"),
            sources=lambda wildcards, study=study: PLAN.products_digest(study, "tables", "claims"),
        script:
            "../scripts/judge.py"

    rule:
        name:
            f"plot_{study}"
        input:
            results=results_of(study),
            published=PLAN.published(study),
            code=lambda wildcards, study=study: as_inputs(PLAN.code(study, "figures")),
        output:
            pdf=files_of(study, "figures", "pdf"),
            png=reported(study, "figures", "png"),
            captions=files_of(study, "figures", "rst"),
        log:
            f"{RESULTS}/logs/plot/{study}.log",
        conda:
            "../../envs/analysis.yaml"
        params:
            home=lambda wildcards, study=study: str(PLAN.homes[study]),
            measured_only=SETTINGS.measured_only,
            figures=PLAN.products(study, "figures"),
            sources=lambda wildcards, study=study: PLAN.products_digest(study, "figures"),
        script:
            "../scripts/plot.py"


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
    params:
        sources=lambda wildcards: [
            PLAN.products_digest(s, "tables", "claims") for s in PLAN.studies
        ],
    script:
        "../scripts/collect_verdicts.py"
