# Staleness alone: clusters simulated without a gradient.


rule simulate_staleness:
    input:
        f"{SOURCE}/simulations.py",
        f"{SOURCE}/compute_times.py",
        f"{SOURCE}/clusters/hub_and_spoke.py",
        f"{SOURCE}/clusters/parameter_server.py",
        f"{SOURCE}/clusters/heterogeneous.py",
        f"{SOURCE}/clusters/_profiles.py",
        f"{SOURCE}/clusters/_merge.py",
        f"{SOURCE}/clusters/_staleness.py",
    output:
        csv=f"{RESULTS}/{{study}}/simulations/{{simulation}}.csv",
        npz=f"{RESULTS}/{{study}}/schedules/{{simulation}}.npz",
    log:
        f"{RESULTS}/logs/simulate_staleness/{{study}}-{{simulation}}.log",
    conda:
        "../../envs/train.yaml"
    params:
        cells=lambda wildcards: repr(PLAN.simulations[wildcards.study][wildcards.simulation]),
    script:
        "../scripts/simulate_staleness.py"


rule collect_staleness:
    input:
        lambda wildcards: [
            f"{RESULTS}/{wildcards.study}/simulations/{name}.csv"
            for name in PLAN.simulations[wildcards.study]
        ],
    output:
        f"{RESULTS}/{{study}}/staleness.csv",
    log:
        f"{RESULTS}/logs/collect_staleness/{{study}}.log",
    conda:
        "../../envs/analysis.yaml"
    script:
        "../scripts/collect_staleness.py"
