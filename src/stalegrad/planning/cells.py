"""Cells: the entries of published tables and figures, and the bundles they are trained in."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from stalegrad import specs
from stalegrad.data_order import Partition, check_labels
from stalegrad.io.errors import ConfigError
from stalegrad.planning import freshness
from stalegrad.planning.config import (
    Count,
    Grid,
    Landscape,
    Preset,
    Simulation,
    Study,
    Trajectory,
    at_preset,
)
from stalegrad.problems import runs_in_step
from stalegrad.schedule import Workload

MOST_RUNS = 1_000_000  # of a grid; published ones have thousands
_PARTS = {"problem": "problems", "rule": "rules", "cluster": "clusters"}

# How a bundle says what is recorded of its runs, and the least of each.
_RECORDED = {"per_epoch": 1, "gradient_batches": 2}

# The calls around a step of a small problem cost as much as this many weights times samples.
_WORK_OF_A_CALL = 400_000


@specs.spec
class Cell:
    """Everything that decides the result of one training run, and nothing else.

    problem, rule, cluster: specs (see `stalegrad.specs`). batch_size: samples in a minibatch.
    epochs: passes over the training set. partition: how samples are dealt to workers. seed: of
    initial weights (unless the problem says where they come from), data order, partition and
    compute times.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # for type checkers

    problem: Any
    rule: Any
    cluster: Any
    batch_size: Count
    epochs: Count
    partition: Partition = "shared"
    seed: Annotated[int, Field(ge=0)] = 1

    @functools.cached_property
    def hash(self) -> str:
        """The name of the run: 16 hexadecimal digits over the cell, the content of the files that
        it names, and the source of what is defined in a notebook."""
        content = self._plain(specs.without_defaults)
        typed = freshness.own_code(*(getattr(self, part) for part in _PARTS)).digest
        content |= {"notebook": typed} if typed else {}
        named = [file.absolute() for part in _PARTS for file in specs.files(getattr(self, part))]
        return _digest(content | ({"files": [*map(freshness.file_digest, named)]} if named else {}))

    def workload(self) -> Workload | None:
        """The minibatches to compute; None where they are known only once the data are read."""
        samples, streams = self.samples_in_epoch(), 1
        if self.partition in ("none", "dataset"):
            streams = self.cluster.streams()
            samples //= streams if self.partition == "dataset" else 1
        elif self.partition not in ("shared", "independent"):
            return None
        return Workload((samples // self.batch_size,) * streams, self.epochs)

    def samples_in_epoch(self) -> int:
        """Rows of the training set; with independent minibatches, the draws that count as an
        epoch."""
        return self.problem.draws() if self.partition == "independent" else self.problem.samples()

    def samples(self) -> int:
        """Approximate sample visits over all epochs, repeats included.

        With partition `none` every worker visits all samples. Samples past the last full minibatch
        are not counted; samples that a partition drops are counted.
        """
        passes = self.cluster.streams() if self.partition == "none" else 1
        whole = self.samples_in_epoch() // self.batch_size * self.batch_size
        return whole * passes * self.epochs

    def as_dict(self) -> dict[str, Any]:
        """The cell as plain values; `parse_cell` is the inverse."""
        return self._plain(specs.describe)

    def _plain(self, describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {part: describe(plain[part]) for part in _PARTS}

    def columns(self) -> dict[str, Any]:
        """The cell's columns of `runs.csv`: every field of every part, by its own name."""
        columns: dict[str, Any] = {}
        for name, value in self.as_dict().items():
            if name in _PARTS:
                fields = {name: value["name"]}
                fields |= {key: _flat(v) for key, v in value.items() if key != "name"}
            else:
                fields = {name: value}
            if clash := columns.keys() & fields.keys():
                raise TypeError(f"Two parts of a cell have a field called {sorted(clash)}.")
            columns |= fields
        return columns


def _flat(value: Any) -> Any:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list | tuple) else value


def parse_cell(values: Mapping[str, Any], where: str) -> Cell:
    """A cell from plain values, checked key by key.

    Raises ConfigError naming `where` and each key that is unknown, missing, of the wrong type or
    out of range, a minibatch larger than the data included.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: a cell is keys and values, not {values!r}.")
    values = {str(key): value for key, value in values.items()}
    for key, kind in _PARTS.items():
        if key in values:
            values[key] = specs.parse(kind, values[key], where=where, key=key)
    cell = specs.validate(Cell, values, where=where)
    check_cell(cell, where)
    return cell


def check_cell(cell: Cell, where: str) -> None:
    """Raises ConfigError naming `where` and the key that does not go with the others."""
    for part in _PARTS:
        _check_files(getattr(cell, part), where, part)
    _check_partition(cell, where)
    if cell.batch_size > (most := cell.samples_in_epoch()):
        of = "samples drawn in an epoch" if cell.partition == "independent" else "training samples"
        raise ConfigError(
            f"{where}: 'batch_size' is {cell.batch_size}, more than the {most} {of}; choose a "
            f"smaller one."
        )
    if (workload := cell.workload()) is not None:
        try:
            cell.cluster.check(workload)
        except ValueError as error:
            raise ConfigError(
                f"{where}: 'cluster' cannot do what 'epochs', 'batch_size' and 'partition' ask "
                f"for: {error}. The cluster is {specs.describe(cell.cluster)}."
            ) from None


def _check_files(part: Any, where: str, key: str) -> None:
    for file in specs.files(part):
        if not file.is_file():
            raise ConfigError(
                f"{where}: '{key}' names the file {file}, which is not there; its path is seen "
                f"from the folder that the command is given in."
            )


def _check_partition(cell: Cell, where: str) -> None:
    if not cell.partition.startswith("labels"):
        return
    if not hasattr(cell.problem, "classes"):
        raise ConfigError(
            f"{where}: 'partition' is {cell.partition!r}, but the problem "
            f"'{specs.name_of(cell.problem)}' has no labels; use another partition."
        )
    try:
        check_labels(cell.partition, cell.problem.classes(), cell.cluster.streams())
    except ValueError as error:
        raise ConfigError(f"{where}: 'partition' is {cell.partition!r}: {error}.") from None


@dataclass(frozen=True)
class Bundle:
    """Runs of one problem that are trained in one job and written to one file.

    Runs with the same `lockstep_key` can be stepped together, as one batch of models.
    per_epoch: record each run at its start and this many times in each epoch; None records it at
        the end of every epoch.
    gradient_batches: record also the variance of the gradient over so many minibatches.
    """

    cells: tuple[Cell, ...]
    per_epoch: int | None = None
    gradient_batches: int | None = None

    @functools.cached_property
    def hash(self) -> str:
        given = [self.per_epoch, self.gradient_batches]
        recorded = [value for value in given if value is not None]
        return _digest([*(cell.hash for cell in self.cells), *recorded])

    def megabytes(self) -> int:
        """Memory to request for a job with this bundle: PyTorch, the data and a step of one run,
        and twice what the runs hold, since a checkpoint copies it.

        `training.memory` estimates what replay takes once the job runs.
        """
        return math.ceil(1_500 + 2 * sum(map(_megabytes, self.cells)))

    def work(self) -> float:
        """Weights times samples, plus a fixed amount for each call that steps runs together.

        It compares jobs, and is the same on every machine. `training.speed` estimates seconds.
        """
        samples = sum(cell.samples() for cell in self.cells)
        steps = sum(cell.samples() // cell.batch_size for cell in self.cells)
        parameters = self.cells[0].problem.parameters()
        calls = steps / min(runs_in_step(parameters), len(self.cells))
        return samples * parameters + calls * _WORK_OF_A_CALL

    def recordings(self, cell: Cell) -> int:
        """How often a run of it is recorded, its start included where that is recorded."""
        return cell.epochs if self.per_epoch is None else cell.epochs * self.per_epoch + 1

    def to_json(self) -> str:
        content = {"cells": [cell.as_dict() for cell in self.cells]}
        content |= {name: getattr(self, name) for name in _RECORDED}
        return json.dumps({k: v for k, v in content.items() if v is not None}, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Bundle":
        """Raises ConfigError where `text` is not what `to_json` writes."""
        try:
            content = json.loads(text)
            cells, recorded = content["cells"], {name: content.get(name) for name in _RECORDED}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{where}: not a bundle; it must be JSON with a list 'cells', as "
                f"`stalegrad bundles` writes it."
            ) from None
        if not isinstance(cells, list) or not cells:
            raise ConfigError(f"{where}: 'cells' must be a list of at least one cell.")
        for name, value in recorded.items():
            if value is not None and (type(value) is not int or value < _RECORDED[name]):
                raise ConfigError(
                    f"{where}: '{name}' is {value!r}; it must be a whole number >= "
                    f"{_RECORDED[name]}."
                )
        parsed = tuple(parse_cell(c, f"{where}, cell {i}") for i, c in enumerate(cells))
        if len({cell.problem for cell in parsed}) > 1:
            raise ConfigError(f"{where}: the cells of a bundle must share one problem.")
        return cls(parsed, **recorded)


def study_cells(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, list[Cell]]:
    """The runs of each grid of a study at a preset, seeds included, in the order of the grid."""
    return _by_name(study.grids, preset_name, preset, f"{where}, grids")


def study_traces(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, list[Cell]]:
    """The runs of each trace of a study at a preset."""
    return _by_name(study.traces, preset_name, preset, f"{where}, traces")


def _by_name(
    grids: Mapping[str, Grid], preset_name: str, preset: Preset, where: str
) -> dict[str, list[Cell]]:
    return {
        name: list(_grid_cells(grid, preset_name, preset, f"{where}.{name}"))
        for name, grid in grids.items()
    }


def study_trajectories(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, Bundle]:
    """The runs of each trajectory of a study at a preset, and how often they are recorded."""
    return {
        name: _recorded(trajectory, preset_name, preset, f"{where}, trajectories.{name}")
        for name, trajectory in study.trajectories.items()
    }


def _recorded(
    trajectory: Trajectory | Landscape, preset_name: str, preset: Preset, where: str
) -> Bundle:
    cells = tuple(_grid_cells(trajectory, preset_name, preset, where))
    if len({cell.problem for cell in cells}) > 1:
        raise ConfigError(
            f"{where}: the runs differ in their 'problem'; they must share one, so take it out of "
            f"'axes' and 'cases'."
        )
    merged = at_preset(trajectory, preset_name)
    batches = merged.get("gradient_batches")
    for cell in cells:
        if (batches or 0) * cell.batch_size > cell.problem.samples():
            raise ConfigError(
                f"{where}: 'gradient_batches' is {batches}, and so many minibatches of "
                f"{cell.batch_size} are more than the {cell.problem.samples()} training samples; "
                f"take fewer."
            )
    return Bundle(cells, merged["per_epoch"], batches)


@dataclass(frozen=True)
class LandscapeCell:
    """What decides a loss landscape (see `planning.config.Landscape`).

    left_out: hashes of the runs that do not decide the plane.
    """

    runs: Bundle
    resolution: int
    margin: float
    left_out: tuple[str, ...] = ()

    def megabytes(self) -> int:
        """Memory a job that computes it may take: PyTorch and the data, all weights recorded a few
        times over in float64, and the images of a chunk of points going through the network."""
        recorded = sum(map(self.runs.recordings, self.runs.cells))
        weights = recorded * self.runs.cells[0].problem.parameters() * 8 / 1e6
        return math.ceil(2_000 + 5 * weights)

    @property
    def hash(self) -> str:
        return _digest([self.runs.hash, self.resolution, self.margin, *self.left_out])


def study_landscapes(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, LandscapeCell]:
    """The landscapes of a study at a preset, by name."""
    return {
        name: _landscape(landscape, preset_name, preset, f"{where}, landscapes.{name}")
        for name, landscape in study.landscapes.items()
    }


def _landscape(landscape: Landscape, preset_name: str, preset: Preset, where: str) -> LandscapeCell:
    merged = at_preset(landscape, preset_name)
    runs = _recorded(landscape, preset_name, preset, where)
    left_out = [cell for cell in runs.cells if _matches(cell, merged["left_out"])]
    for wrong, said in (
        (merged["left_out"] and not left_out, "matches none of the runs"),
        (len(left_out) == len(runs.cells), "matches all of the runs, and some must be left"),
    ):
        if wrong:
            raise ConfigError(f"{where}: 'left_out' is {merged['left_out']!r}, which {said}.")
    fitted = sum(runs.recordings(c) for c in runs.cells if c not in left_out)
    if fitted < 3:
        raise ConfigError(
            f"{where}: 'per_epoch' is {runs.per_epoch}, which leaves {fitted} weight vectors to "
            f"fit a plane to; record more often, so that there are 3."
        )
    hashes = tuple(cell.hash for cell in left_out)
    return LandscapeCell(runs, merged["resolution"], merged["margin"], hashes)


def _matches(cell: Cell, keys: Mapping[str, Any]) -> bool:
    """Whether each of the dotted `keys` has the value given; false if there are no keys."""
    values = cell.as_dict()
    found = {f"{part}.{key}": v for part in _PARTS for key, v in values[part].items()}
    return bool(keys) and all((values | found).get(key) == value for key, value in keys.items())


def _grid_cells(
    grid: Grid | Trajectory | Landscape, preset_name: str, preset: Preset, where: str
) -> Iterator[Cell]:
    merged = at_preset(grid, preset_name)
    seeds = merged["seeds"] or preset.seeds
    runs = seeds * len(merged["cases"]) * math.prod(map(len, merged["axes"].values()))
    if runs > MOST_RUNS:
        raise ConfigError(
            f"{where}: 'axes', 'cases' and 'seeds' ({seeds}) make {runs:,} runs, more than the "
            f"{MOST_RUNS:,} that a grid may have; leave some out."
        )
    made = set()
    for keys in combinations(merged["axes"], merged["cases"]):
        values = with_keys(merged["cell"], keys, where)
        first = parse_cell({"seed": 1} | values, where)  # all but the seed is checked once
        for seed in range(1, seeds + 1):
            cell = first if "seed" in values else dataclasses.replace(first, seed=seed)
            if cell.hash in made:  # it would count twice in every mean
                raise ConfigError(
                    f"{where}: 'axes', 'cases' and 'seeds' make one run twice, that of seed "
                    f"{cell.seed} with {json.dumps(keys)}; leave one of the two out."
                )
            made.add(cell.hash)
            yield cell


def combinations(
    axes: Mapping[str, list[Any]], cases: list[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Every case crossed with the product of the axes, the last axis fastest."""
    for case in cases:
        for values in itertools.product(*axes.values()):
            yield dict(case) | dict(zip(axes, values, strict=True))


def with_keys(base: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of nested `base` with dotted `keys` set."""
    out = json.loads(json.dumps(base, default=str))
    for key, value in keys.items():
        *path, last = key.split(".")
        inner = out
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{where}: '{key}' goes into '{part}', which holds no keys.")
        inner[last] = value
    return out


def bundles(cells: list[Cell], preset: Preset) -> list[Bundle]:
    """Distinct runs grouped into bundles; runs that can be stepped together are neighbours.

    A bundle holds runs of one problem: at most `bundle_size` times `runs_in_step` of the problem,
    and fewer where these would take more than `bundle_memory` megabytes. Raises ConfigError if one
    run alone takes more.
    """
    distinct = list({cell.hash: cell for cell in cells}.values())
    out: list[Bundle] = []
    for problem in dict.fromkeys(cell.problem for cell in distinct):
        alike = [cell for cell in distinct if cell.problem == problem]
        alike.sort(key=lambda cell: (lockstep_key(cell), _megabytes(cell)))
        needs = [_megabytes(cell) for cell in alike]
        _check_largest(max(alike, key=_megabytes), preset)
        size = preset.bundle_size * runs_in_step(problem.parameters())
        for count in range(math.ceil(len(alike) / size), len(alike) + 1):
            bounds = [len(alike) * i // count for i in range(count + 1)]
            cuts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
            if max(sum(needs[cut]) for cut in cuts) <= preset.bundle_memory:
                break
        out += [Bundle(tuple(alike[cut])) for cut in cuts]
    return out


def lockstep_key(cell: Cell) -> str:
    """A key that is equal for cells whose runs can be stepped together: only numbers differ."""
    switches = {k: v if isinstance(v, bool) else None for k, v in cell.rule.numbers().items()}
    rule, grouping = specs.name_of(cell.rule), cell.cluster.arrivals_per_update()
    return json.dumps([rule, switches, cell.batch_size, cell.epochs, grouping], sort_keys=True)


def _megabytes(cell: Cell) -> float:
    """Megabytes that a run holds: weights, gradient and rule state (at most six times the weights),
    and the old weights kept for gradients in flight."""
    return (6 + cell.cluster.in_flight()) * cell.problem.parameters() * 4 / 1e6


def _check_largest(cell: Cell, preset: Preset) -> None:
    if _megabytes(cell) > preset.bundle_memory:
        raise ConfigError(
            f"preset '{preset.title}': 'bundle_memory' is {preset.bundle_memory}, but a run takes "
            f"{_megabytes(cell):,.0f} megabytes with its {cell.cluster.in_flight()} gradients in "
            f"flight (cell {cell.hash}); allow more, or leave that cell out. {described(cell)}"
        )


def described(cell: Cell) -> str:
    """The sentence that an error ends with: what its cell is."""
    return f"The cell is {json.dumps(cell.columns())}."


@specs.spec
class SimulationCell:
    """A cluster simulated for its staleness alone, in `replicates` independent repetitions.

    Either a long run: `arrivals` gradients in each repetition. The first `skip` (None: a tenth) are
        not counted, because all workers read the same weights at the start.
    Or the start itself: the first `updates` updates of each repetition, one by one.
    schedule: keep the arrivals of the first repetition.
    """

    cluster: Any
    arrivals: Count | None = None
    updates: Count | None = None
    replicates: Count = 1
    skip: Annotated[int, Field(ge=0)] | None = None
    schedule: bool = False

    @property
    def skipped(self) -> int:
        if self.arrivals is None:
            return 0
        return self.arrivals // 10 if self.skip is None else self.skip

    @property
    def workload(self) -> Workload:
        """The gradients of one repetition. Workers of `hub_and_spoke` continue until all gradients
        have arrived; in other clusters each worker computes an equal share, without remainder."""
        arrivals = self.arrivals or self.updates * self.cluster.arrivals_per_update()
        streams = 1 if specs.name_of(self.cluster) == "hub_and_spoke" else self.cluster.streams()
        return Workload((arrivals // streams,) * streams, 1)


def parse_simulation(values: Mapping[str, Any], where: str) -> SimulationCell:
    """A simulation from plain values, checked key by key; `None` stands for a key's default.

    Raises ConfigError naming `where` and each key that is unknown, missing, of the wrong type or
    out of range.
    """
    values = {key: value for key, value in values.items() if value is not None}
    cluster = values.pop("cluster", None)
    values["cluster"] = specs.parse("clusters", cluster, where=where, key="cluster")
    _check_files(values["cluster"], where, "cluster")
    cell = specs.validate(SimulationCell, values, where=where)
    if cell.arrivals is None and cell.updates is None:
        raise ConfigError(f"{where}: 'arrivals' is missing and has no default.")
    if specs.name_of(cell.cluster) != "hub_and_spoke":
        for key in ("updates", "skip"):
            if getattr(cell, key) is not None:
                raise ConfigError(
                    f"{where}: '{key}' is only for the cluster 'hub_and_spoke', whose workers go "
                    f"on without end; leave it out."
                )
    if cell.updates is not None:
        for key in ("arrivals", "skip"):
            if getattr(cell, key) is not None:
                raise ConfigError(
                    f"{where}: '{key}' does not go with 'updates': a simulation is either a long "
                    f"run of so many arrivals, or its first updates one by one; leave one out."
                )
        if cell.replicates < 2:
            raise ConfigError(
                f"{where}: 'replicates' is {cell.replicates}; single updates are averaged over "
                f"repetitions, of which there must be 2 or more."
            )
    elif cell.skipped >= cell.arrivals:
        raise ConfigError(
            f"{where}: 'skip' is {cell.skip}, all of the {cell.arrivals} arrivals; leave some to "
            f"be counted."
        )
    try:
        cell.cluster.check(cell.workload)
    except ValueError:
        raise ConfigError(
            f"{where}: 'arrivals' is {cell.arrivals}, too few for one update of the cluster "
            f"{specs.describe(cell.cluster)}; simulate more."
        ) from None
    return cell


def study_simulations(
    study: Study, preset_name: str, where: str
) -> dict[str, list[SimulationCell]]:
    """The simulations of a study at a preset, by name."""
    return {
        name: list(_simulation_cells(simulation, preset_name, f"{where}, simulations.{name}"))
        for name, simulation in study.simulations.items()
    }


def _simulation_cells(simulation: Simulation, preset: str, where: str) -> Iterator[SimulationCell]:
    merged = at_preset(simulation, preset)
    base = {key: value for key, value in merged.items() if key not in ("axes", "cases")}
    for keys in combinations(merged["axes"], merged["cases"]):
        yield parse_simulation(with_keys(base, keys, where), where)


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
