# Staleness alone: clusters simulated without a gradient. All of a study are one job, in a rule of its
# own, since each study has its own files.

for study in PLAN.studies:

    rule:
        name:
            f"simulate_{study}"
        input:
            f"{SOURCE}/simulations.py",
            f"{SOURCE}/compiled.py",
            f"{SOURCE}/compute_times.py",
            f"{SOURCE}/clusters/hub_and_spoke.py",
            f"{SOURCE}/clusters/parameter_server.py",
            f"{SOURCE}/clusters/heterogeneous.py",
            f"{SOURCE}/clusters/_profiles.py",
            f"{SOURCE}/clusters/_merge.py",
            f"{SOURCE}/clusters/_staleness.py",
        output:
            csv=f"{RESULTS}/{study}/staleness.csv",
            npz=[f"{RESULTS}/{study}/schedules/{name}.npz" for name in PLAN.simulations[study]],
        log:
            f"{RESULTS}/logs/simulate/{study}.log",
        conda:
            "../../envs/train.yaml"
        params:
            study=study,
            cells=repr(PLAN.simulations[study]),
        script:
            "../scripts/simulate.py"
