# A spot check of the archive: some archived runs are drawn at random, trained again, and held to what
# is archived. The report and the page say what came of it; the last rule fails where one disagrees.


ARCHIVED = archived_kinds() if PLAN.is_checked else []


localrules:
    hold_to_archive,


rule spot_check:
    input:
        data=data_of(*ARCHIVED),
        archive=[file for study in PLAN.studies for file in PLAN.archive_files(study)],
        code=lambda wildcards: code_of("analysis.spot_check", *ARCHIVED),
    output:
        rows=f"{RESULTS}/check.csv",
        extent=f"{RESULTS}/check.json",
    log:
        f"{RESULTS}/logs/spot_check.log",
    # After everything that it could keep waiting, since it takes all cores.
    priority: -1
    conda:
        "../../envs/train.yaml"
    threads: lambda wildcards: workflow.cores if workflow.local_exec else SETTINGS.threads
    resources:
        mem_mb=lambda wildcards, threads: threads * max(b.megabytes() for b in ARCHIVED),
    params:
        minutes=SETTINGS.check_minutes,
        seed=SETTINGS.check_seed,
        archive=lambda wildcards, input: freshness.digest(input.archive),
        code=lambda wildcards: digest_of("analysis.spot_check", *ARCHIVED),
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/spot_check.py"


rule hold_to_archive:
    input:
        check=f"{RESULTS}/check.csv",
        report=f"{RESULTS}/report.pdf",
        page=f"{RESULTS}/index.html",
    output:
        f"{RESULTS}/check.txt",
    log:
        f"{RESULTS}/logs/hold_to_archive.log",
    conda:
        "../../envs/report.yaml"
    params:
        code=lambda wildcards: freshness.digest(freshness.code_of("report.checked")),
    script:
        "../scripts/hold_to_archive.py"
