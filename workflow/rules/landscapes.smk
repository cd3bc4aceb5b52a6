# Runs recorded several times an epoch, and the loss around them.


rule follow_runs:
    input:
        data=lambda wildcards: data_of(followed(wildcards)),
        code=lambda wildcards: code_of("training.bundles", followed(wildcards)),
    output:
        history=f"{RESULTS}/{{study}}/trajectories/{{trajectory}}.csv",
        provenance=f"{RESULTS}/{{study}}/trajectories/{{trajectory}}.csv.provenance.json",
    log:
        f"{RESULTS}/logs/follow_runs/{{study}}-{{trajectory}}.log",
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        **A_CARD,
        mem_mb=lambda wildcards: followed(wildcards).megabytes(),
    params:
        bundle=lambda wildcards: followed(wildcards).to_json(),
        code=lambda wildcards: digest_of("training.bundles", followed(wildcards)),
        kept=lambda w: PLAN.kept(w.study, "trajectories", followed(w).hash),
        # No script reads these two: with another device or backend a job is out of date.
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/follow_runs.py"


rule save_weights:
    input:
        data=lambda wildcards: data_of(landscape_of(wildcards).runs),
        code=lambda wildcards: code_of("training.bundles", landscape_of(wildcards).runs),
    output:
        history=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.csv",
        weights=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.npz",
        provenance=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.csv.provenance.json",
    log:
        f"{RESULTS}/logs/save_weights/{{study}}-{{landscape}}.log",
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        **A_CARD,
        mem_mb=lambda wildcards: landscape_of(wildcards).runs.megabytes(),
    params:
        bundle=lambda wildcards: landscape_of(wildcards).runs.to_json(),
        code=lambda wildcards: digest_of("training.bundles", landscape_of(wildcards).runs),
        kept="",
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/follow_runs.py"


rule compute_landscape:
    input:
        data=lambda wildcards: data_of(landscape_of(wildcards).runs),
        recorded=recorded_weights,
        code=lambda wildcards: code_of("analysis.landscapes", landscape_of(wildcards).runs),
    output:
        grid=f"{RESULTS}/{{study}}/landscapes/{{landscape}}.npz",
        points=f"{RESULTS}/{{study}}/landscapes/{{landscape}}.csv",
        lines=f"{RESULTS}/{{study}}/landscapes/{{landscape}}_lines.csv",
        provenance=f"{RESULTS}/{{study}}/landscapes/{{landscape}}.npz.provenance.json",
    log:
        f"{RESULTS}/logs/compute_landscape/{{study}}-{{landscape}}.log",
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        **A_CARD,
        mem_mb=lambda wildcards: landscape_of(wildcards).megabytes(),
    params:
        cell=lambda wildcards: landscape_of(wildcards).hash,
        code=lambda w: digest_of("analysis.landscapes", landscape_of(w).runs),
        kept=lambda w: PLAN.kept(w.study, "landscapes", landscape_of(w).hash),
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/compute_landscape.py"
