# What all rules use: the configuration, checked and expanded, and where things are.

from pathlib import Path

from snakemake.exceptions import WorkflowError

from stalegrad.cells import Bundle
from stalegrad.errors import StalegradError
from stalegrad.plan import Plan

try:
    PLAN = Plan.load(config)
except StalegradError as error:
    raise WorkflowError(str(error)) from None

SETTINGS = PLAN.settings
DATA = SETTINGS.data_folder
RESULTS = f"{SETTINGS.results_folder}/{SETTINGS.preset}"
SOURCE = "src/stalegrad"

FIGURES = [f"{RESULTS}/figures/{name}.{kind}" for name in PLAN.figures for kind in ("pdf", "png")]
TABLES = [f"{RESULTS}/tables/{name}.{kind}" for name in PLAN.tables for kind in ("csv", "tex")]
NOTEBOOKS = [
    f"{RESULTS}/notebooks/{study}.html"
    for study in PLAN.studies
    if Path(f"workflow/notebooks/{study}.py").exists()
]
PAPER = [str(path) for path in sorted(Path("paper").rglob("*")) if path.is_file()]
SHORT_BUNDLES = {s: short for s in PLAN.studies if (short := PLAN.short_bundles(s))}
LONG_BUNDLES = [
    bundle
    for study, bundles in PLAN.bundles.items()
    for bundle in bundles
    if bundle not in SHORT_BUNDLES.get(study, ())
]
VERDICTS = [f"{RESULTS}/{study}/verdicts.csv" for study in PLAN.studies]

# Source files whose change makes a training run out of date, beside those of its own problem, rule
# and cluster. What only draws or words something stands in the rules that draw and word.
ENGINE = [
    f"{SOURCE}/{module}"
    for module in (
        "bundles.py",
        "replay.py",
        "schedule.py",
        "snapshots.py",
        "partitions.py",
        "compute_times.py",
        "compiled.py",
        "clusters/_merge.py",
        "clusters/_profiles.py",
        "problems/__init__.py",
        "problems/_images.py",
        "problems/_network.py",
        "rules/__init__.py",
        "backends/__init__.py",
        "backends/vmap.py",
        "backends/cpu.py",
        "backends/cpu_linear.py",
        "kernels/lenet5.cpp",
        "kernels/linear_model.cpp",
    )
]


def results_of(study):
    """Everything gathered of a study: what its figures, tables and claims read."""
    return [f"{RESULTS}/{study}/{file}" for file in PLAN.outputs(study)]


def files_of(study, kind, suffix):
    """The files of a study's figures or tables that have a suffix."""
    names = getattr(PLAN.studies[study], kind)
    return [f"{RESULTS}/{kind}/{study}_{name}.{suffix}" for name in names]


def reported(study, kind, suffix):
    """`files_of` for Snakemake's report: under their study, captioned by the .rst beside them."""
    files = []
    for file in files_of(study, kind, suffix):
        flagged = report(
            file,
            caption=str(Path(file).with_suffix(".rst").absolute()),
            category=study,
            subcategory=kind.capitalize(),
            labels={kind.removesuffix("s"): Path(file).stem},
        )
        files.append(flagged)
    return files


def bundle_of(wildcards):
    return PLAN.bundles[wildcards.study][wildcards.bundle]


def trace_of(wildcards):
    """The runs of a trace, as the bundle they would be."""
    return Bundle(tuple(PLAN.traces[wildcards.study][wildcards.trace]))


def followed(wildcards):
    return PLAN.trajectories[wildcards.study][wildcards.trajectory]


def landscape_of(wildcards):
    return PLAN.landscapes[wildcards.study][wildcards.landscape]


def data_of(*bundles):
    """The verified files of the data sets that bundles read."""
    return [
        f"{DATA}/{dataset}/{part}"
        for dataset in sorted({name for bundle in bundles for name in PLAN.datasets(bundle)})
        for part in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    ]


def parts_of(*bundles):
    """Source files of the problems, rules and clusters of bundles."""
    return sorted({f"{SOURCE}/{m}" for bundle in bundles for m in PLAN.modules(bundle)})
