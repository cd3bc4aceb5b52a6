# Studies of stale gradients, from configuration to report. This is the contents page: the rules
# are in workflow/rules, what they do is in src/stalegrad.

from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/landscapes.smk"
include: "workflow/rules/analyse.smk"
include: "workflow/rules/check.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/notebooks.smk"


wildcard_constraints:
    study="|".join(PLAN.studies),
    dataset="mnist|fashion_mnist",
    bundle="[0-9a-f]{16}",
    landscape="|".join(name for of in PLAN.landscapes.values() for name in of) or "none",


localrules:
    all,


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.pdf",
        f"{RESULTS}/index.html",
        f"{RESULTS}/verdicts.csv",
        FIGURES,
        TABLES,
        NOTEBOOKS,
        f"{RESULTS}/check.txt" if PLAN.is_checked else [],
