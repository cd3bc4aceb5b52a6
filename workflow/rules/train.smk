# Training: one job and one file a bundle of runs.


rule train_bundle:
    input:
        data=lambda wildcards: data_of(bundle_of(wildcards)),
        engine=ENGINE,
        parts=lambda wildcards: [f"{SOURCE}/{m}" for m in PLAN.modules(bundle_of(wildcards))],
    output:
        csv=f"{RESULTS}/{{study}}/bundles/{{bundle}}.csv",
        provenance=f"{RESULTS}/{{study}}/bundles/{{bundle}}.csv.provenance.json",
    log:
        f"{RESULTS}/logs/train_bundle/{{study}}-{{bundle}}.log",
    benchmark:
        f"{RESULTS}/logs/train_bundle/{{study}}-{{bundle}}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        mem_mb=lambda wildcards: bundle_of(wildcards).megabytes(),
    params:
        bundle=lambda wildcards: bundle_of(wildcards).to_json(),
        data_folder=DATA,
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/train_bundle.py"


rule trace_runs:
    input:
        data=lambda wildcards: data_of(trace_of(wildcards)),
        engine=[*ENGINE, f"{SOURCE}/virtual_iterates.py"],
        parts=lambda wildcards: [f"{SOURCE}/{m}" for m in PLAN.modules(trace_of(wildcards))],
    output:
        f"{RESULTS}/{{study}}/traces/{{trace}}.csv",
    log:
        f"{RESULTS}/logs/trace_runs/{{study}}-{{trace}}.log",
    conda:
        "../../envs/train.yaml"
    params:
        cells=lambda wildcards: repr(PLAN.traces[wildcards.study][wildcards.trace]),
        data_folder=DATA,
    script:
        "../scripts/trace_runs.py"
