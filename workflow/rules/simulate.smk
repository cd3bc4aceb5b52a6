# Staleness alone: clusters simulated without a gradient. All of a study are one job, in a rule of its
# own, since each study has its own files.

for study in PLAN.studies:

    rule:
        name:
            f"simulate_{study}"
        input:
            lambda wildcards, study=study: as_inputs(PLAN.simulation_code(study)),
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
            code=lambda wildcards, study=study: freshness.digest(PLAN.simulation_code(study)),
        script:
            "../scripts/simulate.py"
