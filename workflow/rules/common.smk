# What all rules use: the configuration, checked and expanded, and where things are.

import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from snakemake.exceptions import WorkflowError

from stalegrad.io import datasets, files
from stalegrad.planning import freshness, plan
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.config import read_yaml
from stalegrad.io.errors import StalegradError
from stalegrad.planning.plan import Plan, as_inputs
from stalegrad.planning.studies import words_of
from stalegrad.training import cards, speed, stages
from stalegrad.training.progress import announcement


@contextmanager
def refusing():
    """What the user can put right is said in a sentence."""
    try:
        yield
    except StalegradError as error:
        raise WorkflowError(str(error)) from None


with refusing():
    for configfile in workflow.configfiles:
        read_yaml(Path(configfile))  # Snakemake's own reader lets a key that stands twice pass
    PLAN = Plan.load(config)
    if workflow.is_main_process:  # before anything is trained that could not be shown in the end
        PLAN.check_code()

BEGUN = time.time()
SETTINGS = PLAN.settings
# What a job that trains on this machine takes of it besides: a card, where there is one to use. As
# many run at once as there are cards, or as `--resources gpu=N` allows; which one a job takes it
# settles itself (`training.cards`). On a cluster the profile says which rules ask for a GPU.
A_CARD = {}
if workflow.is_main_process and workflow.local_exec:
    if CARDS := cards.usable(SETTINGS.device):
        A_CARD = {"gpu": 1}
        if "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", len(CARDS))
DATA = SETTINGS.data_folder
RESULTS = f"{SETTINGS.results_folder}/{SETTINGS.preset}"
SOURCE = plan.SOURCE


def notebook_of(study):
    """The notebook of a study, be it there or not."""
    return str(PLAN.homes[study] / "notebook.py")


FIGURES = [f"{RESULTS}/figures/{name}.{kind}" for name in PLAN.figures for kind in ("pdf", "png")]
TABLES = [f"{RESULTS}/tables/{name}.{kind}" for name in PLAN.tables for kind in ("csv", "tex")]
NOTEBOOKS = [
    f"{RESULTS}/notebooks/{study}.html"
    for study in PLAN.studies
    if Path(notebook_of(study)).exists()
]
# What the report says in words: of the paper, and of each study.
PAPER = [str(path) for path in sorted(Path("paper").rglob("*")) if path.is_file()]
PAPER += [str(path) for home in PLAN.homes.values() for path in words_of(home)]
SHORT_BUNDLES = {s: short for s in PLAN.studies if (short := PLAN.short_bundles(s))}
LONG_BUNDLES = [
    bundle
    for study, bundles in PLAN.bundles.items()
    for bundle in bundles
    if bundle not in SHORT_BUNDLES.get(study, ())
]
CHECKED = [f"{RESULTS}/check.csv", f"{RESULTS}/check.json"] if PLAN.is_checked else []
VERDICTS = [f"{RESULTS}/{study}/verdicts.csv" for study in PLAN.studies]


def results_of(study):
    """Everything gathered of a study: what its figures, tables and claims read, and the provenance."""
    kept = [files["provenance"] for files in PLAN.products_kept(study).values()]
    return [f"{RESULTS}/{study}/{file}" for file in [*PLAN.outputs(study), *kept]]


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


def archived_kinds():
    """Of the archived runs one of each kind, which decide the data and the code of all of them."""
    kinds = {}
    for study, grids in PLAN.grids.items():
        known = PLAN.archived(study)
        for cell in (cell for grid in grids.values() for cell in grid if cell.hash in known):
            kinds.setdefault((cell.problem, type(cell.rule), type(cell.cluster)), cell)
    return [Bundle((cell,)) for cell in kinds.values()]


def bundle_of(wildcards):
    return PLAN.bundles[wildcards.study][wildcards.bundle]


def trace_of(wildcards):
    """The runs of a trace, as the bundle they would be."""
    return Bundle(tuple(PLAN.traces[wildcards.study][wildcards.trace]))


def followed(wildcards):
    return PLAN.trajectories[wildcards.study][wildcards.trajectory]


def landscape_of(wildcards):
    return PLAN.landscapes[wildcards.study][wildcards.landscape]


def recorded_weights(wildcards):
    """History and weights that a landscape is made of; none where the archive holds it."""
    if PLAN.kept(wildcards.study, "landscapes", landscape_of(wildcards).hash):
        return []
    beside = f"{RESULTS}/{wildcards.study}/landscapes/weights/{wildcards.landscape}"
    return [f"{beside}.csv", f"{beside}.npz"]


# The data sets of which all files are there.
FETCHED = [
    folder.name
    for folder in Path(DATA).glob("*")
    if all((folder / file).exists() for file in datasets.FILES)
]


def data_of(*bundles):
    """The verified files of the data sets that bundles read, whatever their date: they are known
    by their hashes."""
    return [
        ancient(f"{DATA}/{dataset}/{file}")
        for dataset in sorted({name for bundle in bundles for name in PLAN.datasets(bundle)})
        for file in datasets.FILES
    ]


def code_of(module, *bundles):
    """The files that decide what a module computes of bundles: when one changes, it is made anew."""
    return as_inputs(PLAN.code_of(module, *bundles))


def digest_of(module, *bundles):
    """Changes with what is in the files of `code_of`, whatever their dates."""
    return freshness.digest(PLAN.code_of(module, *bundles))


# One run at a time on the same results. Snakemake's own lock, which the default profile turns off,
# would outlive a run that was killed; this one ends with it.
HELD = ExitStack()


onstart:
    with refusing():
        HELD.enter_context(files.held(Path(RESULTS)))
        # Snakemake fails a job whose inputs have a date after that of its outputs.
        files.bring_to_now(
            *map(Path, (RESULTS, DATA, SOURCE, "paper", "workflow")), *PLAN.homes.values()
        )
        cores = workflow.cores if workflow.local_exec else None
        tell(*announcement(PLAN, Path(RESULTS), cores))
        names = [job.rule.name for job in workflow.persistence.dag.needrun_jobs()]
        speeds = speed.measured_of_timed(SETTINGS, ARCHIVED) or speed.read(SETTINGS)
        tell(stages.expected(names, speeds, cores, SETTINGS.check_minutes))


def tell(*lines):
    """On the terminal, whatever Snakemake itself is told to say; '' is no line."""
    for line in filter(None, lines):
        print(line, file=sys.stderr, flush=True)


def jobs_done():
    """Rule, start and end of each job that this run has ended."""
    found = []
    for job in workflow.persistence.dag.finished_jobs:
        made = workflow.persistence.metadata(job.output[0]) if job.output else None
        if made is not None and made.starttime and made.endtime and made.endtime > BEGUN:
            found.append((job.rule.name, made.starttime, made.endtime))
    return found


onsuccess:
    HELD.close()
    tell(*stages.spent(jobs_done()))
    if PLAN.is_checked and (found := Path(f"{RESULTS}/check.txt")).exists():
        tell(found.read_text().splitlines()[0])


onerror:
    HELD.close()
    tell(*stages.spent(jobs_done()))
    print(
        "The run has ended before its end. Whatever is complete is kept: give the same command"
        " again, and it goes on from there, a bundle from its last whole epoch.",
        file=sys.stderr,
    )
