"""Use from Python: what `import stalegrad as sg` offers.

Everything here is made of what the workflow is made of: the same cells, hashes, backends and files.
PyTorch and pandas are imported by the functions that need them.
"""

import itertools
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stalegrad import specs
from stalegrad.clusters import Cluster
from stalegrad.data_order import CLUSTER, Dirichlet, Partition, generator
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell, SimulationCell, check_cell
from stalegrad.planning.freshness import can_take
from stalegrad.planning.plan import Plan
from stalegrad.problems import Problem
from stalegrad.rules import Rule
from stalegrad.schedule import Schedule

if TYPE_CHECKING:
    import pandas as pd

    from stalegrad.analysis.results import StudyResults
    from stalegrad.training.bundles import Place, Progress

# A part of a cell: made already, or as configuration has it, `{"name": "sgd", "lr": 0.1}`.
Part = Any | Mapping[str, Any]


def problem(name: str, **keys: Any) -> Problem:
    """The problem of that name with these keys, such as `problem("lenet5", dataset="mnist")`.

    Raises ConfigError, which says what is allowed, for a name or key that is not known.
    """
    return specs.parse("problems", {"name": name, **keys}, where="problem", key=name)


def rule(name: str, **keys: Any) -> Rule:
    """The update rule of that name, such as `rule("sgd", lr=0.1, momentum=0.9)`.

    Raises ConfigError as `problem`.
    """
    return specs.parse("rules", {"name": name, **keys}, where="rule", key=name)


def cluster(name: str, **keys: Any) -> Cluster:
    """The cluster of that name, such as `cluster("hub_and_spoke", workers=8)`.

    Raises ConfigError as `problem`.
    """
    return specs.parse("clusters", {"name": name, **keys}, where="cluster", key=name)


def simulate(cluster: Part, *, arrivals: int = 10_000, seed: int = 1) -> Schedule:
    """The arrivals of `arrivals` gradients at the server of a cluster; nothing is trained.

    Where the workers share them equally, what does not divide is left out. `staleness_before` and
    `worker` of the schedule tell who was how late. Raises ConfigError where the cluster cannot do
    so few.
    """
    made = _part("clusters", cluster, "simulate", "cluster")
    cell = specs.validate(SimulationCell, {"cluster": made, "arrivals": arrivals}, where="simulate")
    try:
        made.check(cell.workload)
        return made.simulate(cell.workload, generator(seed, CLUSTER))
    except ValueError as error:
        raise ConfigError(
            f"simulate: 'arrivals' is {arrivals}, which the cluster {specs.name_of(made)} cannot "
            f"do: {error}."
        ) from None


def cell(
    *,
    problem: Part,
    rule: Part,
    cluster: Part,
    batch_size: int,
    epochs: int,
    partition: Partition | Dirichlet | Mapping[str, Any] = "shared",
    seed: int = 1,
    local_steps: int = 1,
    local_lr: float | None = None,
) -> Cell:
    """One training run, checked. Raises ConfigError, which names what is wrong."""
    parts = {
        "problem": _part("problems", problem, "cell", "problem"),
        "rule": _part("rules", rule, "cell", "rule"),
        "cluster": _part("clusters", cluster, "cell", "cluster"),
    }
    rest = {"batch_size": batch_size, "epochs": epochs, "partition": partition, "seed": seed}
    steps = {"local_steps": local_steps, "local_lr": local_lr}
    made = specs.validate(Cell, parts | rest | steps, where="cell")
    check_cell(made, "cell")
    return made


def grid(**keys: Any) -> list[Cell]:
    """The runs of every combination of what is given: `cell`, where a list, tuple or range stands
    for several values. The last one named changes fastest."""
    several = {k: v for k, v in keys.items() if isinstance(v, list | tuple | range)}
    if empty := [key for key, values in several.items() if not len(values)]:
        raise ConfigError(f"grid: '{empty[0]}' is empty; give it at least one value.")
    return [
        cell(**keys | dict(zip(several, values, strict=True)))
        for values in itertools.product(*several.values())
    ]


def train(
    cells: Cell | Iterable[Cell],
    *,
    folder: str | Path | None = None,
    data_folder: str | Path = "resources/data",
    device: str = "auto",
    backend: str = "auto",
    threads: int | None = None,
    report: "Callable[[Progress], None] | None" = None,
) -> "pd.DataFrame":
    """Train runs; one row a run and epoch, in the order given.

    Columns: `run`, the hash; the fields of the cell and its parts; `epoch`, `updates`,
    `simulated_seconds`, `mean_staleness`, `max_staleness`, `train_loss`, the problem's metrics, and
    `diverged`, which is true of the last row of a run that is no longer finite.

    folder: keep results there, and take those that the same runs and the same code have left;
        without it nothing is kept. data_folder: of MNIST and Fashion-MNIST, as `stalegrad data`
        fetches them. device, backend: as in `config/config.yaml`; none of them, nor `threads` (all
        cores where it is None), decides what is trained. report: told of the progress after every
        epoch.

    Raises ConfigError where two cells that differ would have one hash.
    """
    import pandas as pd

    from stalegrad.training.bundles import Place
    from stalegrad.training.machine import cores

    distinct = _distinct([cells] if isinstance(cells, Cell) else list(cells))
    place = Place(Path(data_folder), device, backend, threads or cores())
    with tempfile.TemporaryDirectory() as temporary:
        histories = [
            _trained(bundle, Path(folder or temporary), place, report)
            for bundle in _bundles(distinct.values())
        ]
    history = pd.concat(histories, ignore_index=True)
    columns = pd.DataFrame([{"run": run, **cell.columns()} for run, cell in distinct.items()])
    return columns.merge(history, on="run", how="left", validate="one_to_many")


def results(
    study: str,
    *,
    preset: str = "paper",
    results_folder: str | Path = "results",
    config: str | Path = "config",
) -> "StudyResults":
    """The results of a study: its tables `runs` and `history`, and `grid`, `curves`, `published`.

    They are those that the workflow has gathered in `results_folder`, or, of the preset `paper`,
    those that the study's archive holds of grids that are measured in full. config: the folder with
    the configuration, seen from which studies are found. Raises ResultError where there are none.
    """
    from stalegrad.analysis.archive import gather, restore
    from stalegrad.analysis.results import StudyResults

    archived = {"measured_only": True} if preset == "paper" else {}
    plan = Plan.load({"preset": preset, "studies": [study], **archived}, Path(config))
    gathered = Path(results_folder) / preset / study
    if (gathered / "runs.csv").exists():
        return StudyResults(plan.homes[study], preset, gathered)
    if preset != "paper":
        raise ResultError(
            f"{gathered} holds no results; `snakemake --config preset={preset}` makes them."
        )
    temporary = tempfile.TemporaryDirectory()
    found = StudyResults(plan.homes[study], preset, Path(temporary.name))
    weakref.finalize(found, temporary.cleanup)
    gather(plan.archive(study), plan.grids[study], found.folder)
    for (kind, content), files in plan.products_kept(study).items():
        kept = plan.kept(study, kind, content)
        restore(Path(kept), {name: found.folder / file for name, file in files.items()})
    return found


def _part(kind: str, value: Part, where: str, key: str) -> Any:
    """A spec as it is; one that is described by a mapping, made."""
    return specs.parse(kind, value, where=where, key=key) if _is_plain(value) else value


def _is_plain(value: Any) -> bool:
    return isinstance(value, Mapping | str) or value is None


def _distinct(cells: list[Cell]) -> dict[str, Cell]:
    """Hash -> run, each once, in the order given."""
    found: dict[str, Cell] = {}
    for each in cells:
        other = found.setdefault(each.hash, each)
        for part in ("problem", "rule", "cluster"):
            if type(getattr(each, part)) is not type(getattr(other, part)):
                raise ConfigError(
                    f"train: two classes are called '{specs.name_of(getattr(each, part))}'; give "
                    f"them different names, by which their runs are told apart."
                )
    if not found:
        raise ConfigError("train: there is no cell to train.")
    return found


def _bundles(cells: Iterable[Cell]) -> list[Bundle]:
    """One of each problem; what does not fit into memory together is trained in turn."""
    by_problem: dict[Any, list[Cell]] = {}
    for each in cells:
        by_problem.setdefault(each.problem, []).append(each)
    return [Bundle(tuple(alike)) for alike in by_problem.values()]


def _trained(
    bundle: Bundle, folder: Path, place: "Place", report: "Callable[[Progress], None] | None"
) -> "pd.DataFrame":
    from stalegrad.analysis.results import read_csv
    from stalegrad.training.bundles import train_bundle

    output = folder / f"{bundle.hash}.csv"
    if not can_take(output, bundle):
        train_bundle(bundle, output, place, report)
    return read_csv(output)
