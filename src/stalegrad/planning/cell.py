"""Cells: what decides one training run, or one simulation, and the hash that names it."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from stalegrad import specs
from stalegrad.data_order import AnyPartition, Dirichlet, check_labels, named
from stalegrad.io.errors import ConfigError
from stalegrad.planning import freshness
from stalegrad.planning.config import Count
from stalegrad.schedule import Workload

# Parts of a cell that are specs, and the packages that they are chosen from.
PARTS = {"problem": "problems", "rule": "rules", "cluster": "clusters"}


@specs.spec
class Cell:
    """Everything that decides the result of one training run, and nothing else.

    problem, rule, cluster: specs (see `stalegrad.specs`). batch_size: samples in a minibatch.
    epochs: passes over the training set. partition: how samples are dealt to workers, such as
    'dataset', 'labels' or {"name": "dirichlet", "alpha": 0.1}; see `data_order.split`. seed: of
    initial weights (unless the problem says where they come from), data order, partition and
    compute times.

    local_steps: gradients H that a worker computes before it sends, each where the one before has
        led it by plain SGD. It sends their sum, which is what it has moved by over the step; the
        server takes that for a gradient. 1: it sends each gradient (no local steps).
    local_lr: learning rate of the steps on a worker; null takes the rule's `lr`, without its
        factors.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # for type checkers

    problem: Any
    rule: Any
    cluster: Any
    batch_size: Count
    epochs: Count
    partition: AnyPartition = "shared"
    seed: Annotated[int, Field(ge=0)] = 1
    local_steps: Count = 1
    local_lr: Annotated[float, Field(gt=0)] | None = None

    @functools.cached_property
    def hash(self) -> str:
        """The name of the run: 16 hexadecimal digits over the cell, the content of the files that
        it names, and the source of what is defined in a notebook."""
        content = self._plain(specs.without_defaults)
        for name in ("local_steps", "local_lr"):  # which cells had none of when hashes were fixed
            if content[name] == Cell.__dataclass_fields__[name].default:
                del content[name]
        typed = freshness.own_code(*(getattr(self, part) for part in PARTS)).digest
        content |= {"notebook": typed} if typed else {}
        named = [file.absolute() for part in PARTS for file in specs.files(getattr(self, part))]
        return digest(content | ({"files": [*map(freshness.file_digest, named)]} if named else {}))

    def workload(self) -> Workload | None:
        """The minibatches to compute; None where they are known only once the data are read."""
        samples, streams = self.samples_in_epoch(), 1
        partition = named(self.partition)
        if partition in ("none", "dataset"):
            streams = self.cluster.streams()
            samples //= streams if partition == "dataset" else 1
        elif partition not in ("shared", "independent"):
            return None
        taken = self.batch_size * self.local_steps
        return Workload((samples // taken,) * streams, self.epochs, self.local_steps)

    def samples_in_epoch(self) -> int:
        """Rows of the training set; with independent minibatches, the draws that count as an
        epoch."""
        return self.problem.draws() if self.partition == "independent" else self.problem.samples()

    def samples(self) -> int:
        """Approximate sample visits over all epochs, repeats included.

        With partition `none` every worker visits all samples. Samples past the last full minibatch
        (or the last `local_steps` of them) are not counted; samples that a partition drops are.
        """
        passes = self.cluster.streams() if self.partition == "none" else 1
        taken = self.batch_size * self.local_steps
        whole = self.samples_in_epoch() // taken * taken
        return whole * passes * self.epochs

    def as_dict(self) -> dict[str, Any]:
        """The cell as plain values; `parse_cell` is the inverse."""
        return self._plain(specs.describe)

    def _plain(self, describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if isinstance(self.partition, Dirichlet):
            plain["partition"] = dataclasses.asdict(self.partition)
        return plain | {part: describe(plain[part]) for part in PARTS}

    def columns(self) -> dict[str, Any]:
        """The cell's columns of `runs.csv`: every field of every part, by its own name."""
        columns: dict[str, Any] = {}
        for name, value in self.as_dict().items():
            if isinstance(value, Mapping):
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
    for key, kind in PARTS.items():
        if key in values:
            values[key] = specs.parse(kind, values[key], where=where, key=key)
    cell = specs.validate(Cell, values, where=where)
    check_cell(cell, where)
    return cell


def check_cell(cell: Cell, where: str) -> None:
    """Raises ConfigError naming `where` and the key that does not go with the others."""
    for part in PARTS:
        _check_files(getattr(cell, part), where, part)
    _check_partition(cell, where)
    if cell.batch_size * cell.local_steps > (most := cell.samples_in_epoch()):
        of = "samples drawn in an epoch" if cell.partition == "independent" else "training samples"
        times = f", and 'local_steps' {cell.local_steps}" if cell.local_steps > 1 else ""
        raise ConfigError(
            f"{where}: 'batch_size' is {cell.batch_size}{times}, more than the {most} {of}; "
            f"choose a smaller one."
        )
    if cell.local_steps == 1 and cell.local_lr is not None:
        raise ConfigError(
            f"{where}: 'local_lr' is {cell.local_lr}, and with 'local_steps' 1 a worker takes no "
            f"step of its own; leave it out, or set 'local_steps' to 2 or more."
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
    partition, told = named(cell.partition), cell.as_dict()["partition"]
    if isinstance(partition, str) and not partition.startswith("labels"):
        return
    if not hasattr(cell.problem, "classes"):
        raise ConfigError(
            f"{where}: 'partition' is {told!r}, but the problem "
            f"'{specs.name_of(cell.problem)}' has no labels; use another partition."
        )
    if isinstance(partition, Dirichlet):  # whether all get enough shows once shares are drawn
        return
    try:
        check_labels(partition, cell.problem.classes(), cell.cluster.streams())
    except ValueError as error:
        raise ConfigError(f"{where}: 'partition' is {told!r}: {error}.") from None


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
    if specs.name_of(cell.cluster) != "hub_and_spoke" or cell.cluster.policy is not None:
        for key in ("updates", "skip"):
            if getattr(cell, key) is not None:
                raise ConfigError(
                    f"{where}: '{key}' is only for the cluster 'hub_and_spoke' without a 'policy', "
                    f"whose workers go on without end; leave it out."
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


def digest(content: Any) -> str:
    """16 hexadecimal digits over plain values, the order of keys left out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
