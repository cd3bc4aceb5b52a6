# Training: one job and one file a bundle of runs. Short bundles of a study share a job, in a rule of
# its own, since each study has its own files.


rule train_bundle:
    input:
        data=lambda wildcards: data_of(bundle_of(wildcards)),
        code=lambda wildcards: code_of("training.bundles", bundle_of(wildcards)),
    output:
        csv=f"{RESULTS}/{{study}}/bundles/{{bundle}}.csv",
        provenance=f"{RESULTS}/{{study}}/bundles/{{bundle}}.csv.provenance.json",
    log:
        f"{RESULTS}/logs/train_bundle/{{study}}-{{bundle}}.log",
    benchmark:
        f"{RESULTS}/logs/train_bundle/{{study}}-{{bundle}}.tsv"
    wildcard_constraints:
        bundle="|".join(LONG_BUNDLES) or "none",
    # The longest jobs go first: a last one would keep one core busy and leave the others idle.
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        **A_CARD,
        mem_mb=lambda wildcards, attempt: attempt * bundle_of(wildcards).megabytes(),
    params:
        bundles=lambda wildcards: [bundle_of(wildcards).to_json()],
        code=lambda wildcards: digest_of("training.bundles", bundle_of(wildcards)),
        # No script reads these two: with another device or backend a job is out of date.
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/train_bundle.py"


for study, short in SHORT_BUNDLES.items():

    rule:
        name:
            f"train_short_{study}"
        input:
            data=data_of(*short.values()),
            code=lambda wildcards, short=short: code_of("training.bundles", *short.values()),
        output:
            csv=[f"{RESULTS}/{study}/bundles/{bundle}.csv" for bundle in short],
            provenance=[
                f"{RESULTS}/{study}/bundles/{bundle}.csv.provenance.json" for bundle in short
            ],
        log:
            f"{RESULTS}/logs/train_short/{study}.log",
        benchmark:
            f"{RESULTS}/logs/train_short/{study}.tsv"
        conda:
            "../../envs/train.yaml"
        threads: SETTINGS.threads
        resources:
            **A_CARD,
            mem_mb=lambda wildcards, attempt, most=max(b.megabytes() for b in short.values()): (
                attempt * most
            ),
        params:
            bundles=[bundle.to_json() for bundle in short.values()],
            code=lambda wildcards, short=short: digest_of("training.bundles", *short.values()),
            device=SETTINGS.device,
            backend=SETTINGS.backend,
        script:
            "../scripts/train_bundle.py"


rule trace_runs:
    input:
        data=lambda wildcards: data_of(trace_of(wildcards)),
        code=lambda wildcards: code_of("analysis.virtual_iterates", trace_of(wildcards)),
    output:
        f"{RESULTS}/{{study}}/traces/{{trace}}.csv",
    log:
        f"{RESULTS}/logs/trace_runs/{{study}}-{{trace}}.log",
    conda:
        "../../envs/train.yaml"
    params:
        cells=lambda wildcards: repr(PLAN.traces[wildcards.study][wildcards.trace]),
        code=lambda wildcards: digest_of("analysis.virtual_iterates", trace_of(wildcards)),
    script:
        "../scripts/trace_runs.py"
