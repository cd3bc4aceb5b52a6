# Runs recorded several times an epoch, and the loss around them.


rule follow_runs:
    input:
        data=lambda wildcards: data_of(followed(wildcards)),
        engine=ENGINE,
        parts=lambda wildcards: parts_of(followed(wildcards)),
    output:
        f"{RESULTS}/{{study}}/trajectories/{{trajectory}}.csv",
    log:
        f"{RESULTS}/logs/follow_runs/{{study}}-{{trajectory}}.log",
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        mem_mb=lambda wildcards: followed(wildcards).megabytes(),
    params:
        bundle=lambda wildcards: followed(wildcards).to_json(),
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/follow_runs.py"


rule save_weights:
    input:
        data=lambda wildcards: data_of(landscape_of(wildcards).runs),
        engine=ENGINE,
        parts=lambda wildcards: parts_of(landscape_of(wildcards).runs),
    output:
        history=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.csv",
        weights=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.npz",
    log:
        f"{RESULTS}/logs/save_weights/{{study}}-{{landscape}}.log",
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        mem_mb=lambda wildcards: landscape_of(wildcards).runs.megabytes(),
    params:
        bundle=lambda wildcards: landscape_of(wildcards).runs.to_json(),
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/follow_runs.py"


rule compute_landscape:
    input:
        data=lambda wildcards: data_of(landscape_of(wildcards).runs),
        history=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.csv",
        weights=f"{RESULTS}/{{study}}/landscapes/weights/{{landscape}}.npz",
        code=[f"{SOURCE}/landscapes.py", f"{SOURCE}/backends/cpu.py", f"{SOURCE}/backends/vmap.py"],
    output:
        grid=f"{RESULTS}/{{study}}/landscapes/{{landscape}}.npz",
        points=f"{RESULTS}/{{study}}/landscapes/{{landscape}}.csv",
        lines=f"{RESULTS}/{{study}}/landscapes/{{landscape}}_lines.csv",
    log:
        f"{RESULTS}/logs/compute_landscape/{{study}}-{{landscape}}.log",
    conda:
        "../../envs/train.yaml"
    threads: SETTINGS.threads
    resources:
        mem_mb=lambda wildcards: landscape_of(wildcards).megabytes(),
    params:
        cell=lambda wildcards: landscape_of(wildcards).hash,
        device=SETTINGS.device,
        backend=SETTINGS.backend,
    script:
        "../scripts/compute_landscape.py"
