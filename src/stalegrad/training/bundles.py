"""Train a bundle: from cells to one CSV, safe to kill, the same bytes every time."""

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd
import torch

from stalegrad.data_order import (
    CLUSTER,
    DataOrder,
    IndependentOrder,
    Order,
    generator,
    split,
)
from stalegrad.io.errors import ConfigError
from stalegrad.io.files import (
    check_writable,
    csv_text,
    held,
    provenance_path,
    replaced,
    write_atomically,
)
from stalegrad.planning.bundle import Bundle, lockstep_key
from stalegrad.planning.cell import Cell, described
from stalegrad.planning.freshness import can_take, made_as, training_code
from stalegrad.planning.memory import SHARE
from stalegrad.problems import Task, load_task
from stalegrad.training import memory, replay, stepping
from stalegrad.training.backends import Backend, make_backend, resolve_device
from stalegrad.training.cards import own_card
from stalegrad.training.checkpoints import load_checkpoint, save_checkpoint
from stalegrad.training.gradient_noise import gradient_noise
from stalegrad.training.machine import (
    describe_machine,
    dispatch,
    settled_torch,
    vector_instructions,
)
from stalegrad.training.replay import ReplayState, Run

if TYPE_CHECKING:
    from stalegrad.planning.config import Settings

# The largest share of the time that saving may take. A checkpoint grows with every epoch.
SAVING_SHARE = 0.1


@dataclass(frozen=True)
class Place:
    """Where and how a bundle is trained; none of it decides what is trained."""

    data_folder: Path
    device: str = "auto"
    backend: str = "auto"
    threads: int = 1

    @classmethod
    def of(cls, settings: "Settings", threads: int) -> "Place":
        return cls(Path(settings.data_folder), settings.device, settings.backend, threads)

    def threads_on(self, device: torch.device) -> int:
        """`threads` on a CPU, each for runs of its own; one on a GPU, as only one can capture."""
        return self.threads if device.type == "cpu" else 1


_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Grown(Generic[_Item]):
    """A sequence that is added to at its end, in time that does not depend on how long it is.

    What was there before an addition stays as it was. last: what was added last, after `before`.
    """

    before: "Grown[_Item] | None" = None
    last: tuple[_Item, ...] = ()
    length: int = 0

    def and_then(self, more: Iterable[_Item]) -> "Grown[_Item]":
        added = tuple(more)
        return Grown(self, added, self.length + len(added))

    def newest(self, count: int) -> list[_Item]:
        """The last `count` items, in order."""
        found: list[_Item] = []
        part: Grown[_Item] | None = self
        while part is not None and len(found) < count:
            found += reversed(part.last)
            part = part.before
        return found[:count][::-1]

    def __iter__(self) -> Iterator[_Item]:
        return iter(self.newest(self.length))

    def __len__(self) -> int:
        return self.length


@dataclass(frozen=True)
class Progress:
    """How far a bundle is, reported after every epoch or recorded stretch.

    done, total: epochs (or stretches) over all runs; the rest of a diverged run counts as done.
    computed: those that were trained. seconds: since the start.
    """

    done: int
    total: int
    computed: int
    seconds: float
    _bundle: Bundle
    _parts: "list[Part]"

    @cached_property
    def history(self) -> pd.DataFrame:
        """The history so far; built on demand, since it is long after many epochs of many runs."""
        return _history(self._bundle, self._parts)

    def newest(self, count: int) -> pd.DataFrame:
        """The last `count` rows of the history of a bundle of one run; takes no longer after many
        epochs than after few."""
        (part,) = self._parts
        return pd.DataFrame(part.rows.newest(count))


def train_bundle(
    bundle: Bundle,
    output: Path,
    place: Place,
    report: Callable[[Progress], None] | None = None,
    *,
    weights: Path | None = None,
) -> None:
    """Train the runs of `bundle` and write their history to `output`.

    `output` (CSV) has one row a run and epoch: run, epoch, updates, simulated_seconds,
    mean_staleness and max_staleness (just before the update, so far, gradients that a policy drops
    included), train_loss (of those that it applies), the problem's metrics, diverged. A run whose
    loss or weights are no longer finite gets `diverged` in its last row and leaves the bundle.
    `<output>.provenance.json` records machine, code and time.

    Where the bundle has `per_epoch`, there is a row for the start too, which has no train_loss;
    `epoch` goes up in fractions, train_loss is of the stretch since the row before, and the cells'
    columns follow the run. Where it has `gradient_batches`, the columns of `gradient_noise` follow
    the metrics.

    weights: write here (npz) the array `weights` [rows, P] (float32), those of each row.

    Runs that do not fit into memory together are trained one after another. Raises ConfigError if
    one run alone does not fit.

    The state is saved beside `output` after an epoch, as long as saving takes at most SAVING_SHARE
    of the time; a later call resumes from it. All files are written under a temporary name and
    renamed. If another process works on the same output, this call waits for it, and returns once
    the other has finished the output. On a GPU it holds a card (`training.cards.own_card`), and
    waits for one first. Raises ResultError if the other has put another run there, and OutputError,
    before training, if one of the files cannot be written.
    """
    for path in (output, provenance_path(output), *([weights] if weights else [])):
        check_writable(path)
    with own_card(place.device):
        _train(bundle, output, place, report, weights)


def _train(
    bundle: Bundle,
    output: Path,
    place: Place,
    report: Callable[[Progress], None] | None,
    weights: Path | None,
) -> None:
    device = resolve_device(place.device)
    threads = place.threads_on(device)
    with settled_torch(device):
        task = load_task(bundle.cells[0].problem, place.data_folder, device, torch.float32)
        backend = make_backend(place.backend, task)
        instructions = vector_instructions(backend.name, task.name, device)
        choices = dispatch(backend.name, device)
        free = memory.free_megabytes(device)
        room = math.inf if free is None else SHARE * free
        plans = _plan_parts(bundle, task, backend, room)
        before = made_as(output)
        with held(output, wait=True):
            # Another process has finished a file here meanwhile: for this run or for another.
            if made_as(output) != before and can_take(output, bundle):
                return
            checkpoint = Checkpoint.beside(
                output,
                bundle,
                plans,
                f"{backend.name} on {device.type} with {instructions}, {choices}",
                weights is not None,
            )
            begun, seconds = checkpoint.read(plans, device) or (
                [Part.of(plan, weights is not None) for plan in plans],
                0.0,
            )
            start = time.monotonic() - seconds  # time before a kill counts too
            parts, saving = begun, _Saving(checkpoint)
            for parts in _epochs(task, backend, bundle, begun, room, threads):
                seconds = time.monotonic() - start
                if report:
                    report(_progress(bundle, parts, seconds))
                if not all(part.done for part in parts) and saving.is_due():
                    saving.save(parts, seconds)
            provenance = describe_machine(device) | {
                "backend": backend.name,
                "instructions": instructions,
                "dispatch": choices,
                "threads": threads,
                "bundle": bundle.hash,
                "code": training_code(bundle.cells),
                "runs": len(bundle.cells),
                "samples": _samples_trained(parts),
                "wall_seconds": round(seconds, 3),
            }
            _write(bundle, parts, output, weights, provenance)
            checkpoint.remove()


def _write(
    bundle: Bundle,
    parts: list["Part"],
    output: Path,
    weights: Path | None,
    provenance: dict[str, Any],
) -> None:
    """The files of `train_bundle`; the provenance last, as the sign that the others are whole."""
    if weights:
        with replaced(weights) as beside, open(beside, "wb") as file:
            np.savez(file, weights=np.stack([kept for _, kept in _in_order(bundle, parts)]))
    write_atomically(output, csv_text(_history(bundle, parts)))
    write_atomically(provenance_path(output), json.dumps(provenance, indent=1) + "\n")


def _epochs(
    task: Task, backend: Backend, bundle: Bundle, parts: list["Part"], room: float, threads: int
) -> Iterator[list["Part"]]:
    """The parts after each epoch, until all are done; as many at once as fit into `room` MB."""
    needs = [memory.need(task, [p.run for p in part.planned]) for part in parts]
    with ThreadPoolExecutor(max_workers=threads) as pool:
        while not all(part.done for part in parts):
            advancing = {
                i: pool.submit(_advance, task, backend, bundle, parts[i])
                for i in _in_memory(parts, needs, room, threads)
            }
            try:
                advanced = {i: each.result() for i, each in advancing.items()}
            except BaseException:  # an interrupt does not wait for parts that have not started
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            parts = [advanced.get(i, part) for i, part in enumerate(parts)]
            yield parts


@dataclass(frozen=True)
class Planned:
    """A cell with its schedule and data order."""

    cell: Cell
    run: Run


def plan_run(cell: Cell, targets: np.ndarray) -> Planned:
    """Simulate the cell's cluster and lay out what replay needs.

    Raises ConfigError if the cluster cannot do this amount of work.
    """
    return plan_runs([cell], targets)[0]


def plan_runs(cells: list[Cell], targets: np.ndarray, per_epoch: int = 1) -> list[Planned]:
    """`plan_run` of each; cells that differ in their rule alone share order and schedule.

    per_epoch: see `replay.Run`.
    """
    orders: dict[tuple, Order] = {}
    made: dict[tuple, Run] = {}
    planned = []
    for cell in cells:
        streams = cell.cluster.streams()
        data = (cell.partition, streams, cell.batch_size, cell.local_steps, cell.seed)
        work = (data, cell.cluster, cell.epochs)
        try:
            if data not in orders:
                orders[data] = order_of(cell, targets)
            order = orders[data]
            if work not in made:
                times = generator(cell.seed, CLUSTER)
                schedule = cell.cluster.simulate(order.workload(cell.epochs), times)
                made[work] = Run.plan(cell.rule, schedule, order, cell.seed, per_epoch)
        except ValueError as error:
            raise ConfigError(f"cell {cell.hash}: {error}. {described(cell)}") from None
        run = replace(made[work], rule=cell.rule, local_lr=cell.local_lr)
        planned.append(Planned(cell, run))
    return planned


def order_of(cell: Cell, targets: np.ndarray) -> Order:
    """The minibatches of a cell, whose data have these targets [N]. Raises ValueError where they
    cannot be dealt to its workers."""
    size, steps = cell.batch_size, cell.local_steps
    if cell.partition == "independent":
        return IndependentOrder(len(targets), cell.problem.draws(), size, cell.seed, steps)
    parts = split(cell.partition, targets, cell.cluster.streams(), cell.seed, size * steps)
    return DataOrder(parts, size, cell.seed, steps)


@dataclass(frozen=True)
class Part:
    """Runs of a bundle that are stepped together, between two epochs.

    planned: all runs; alive: which of them have not diverged; state: of those alive, None before
    the start; rows: the history so far; kept: the weights [P] of each row, or None if weights are
    not kept. Both are `Grown`, since they are added to after every epoch.
    """

    planned: tuple[Planned, ...]
    state: ReplayState | None
    alive: tuple[bool, ...]
    rows: Grown[dict[str, Any]]
    kept: Grown[np.ndarray] | None = None

    @classmethod
    def of(cls, planned: tuple[Planned, ...], keep: bool) -> "Part":
        """A part that has not started."""
        return cls(planned, None, (True,) * len(planned), Grown(), Grown() if keep else None)

    @property
    def done(self) -> bool:
        return not any(self.alive) or self.stops_done == len(self.planned[0].run.stops)

    @property
    def stops_done(self) -> int:
        """Epochs (or stretches of one) done."""
        return self.state.epoch if self.state else 0

    @property
    def running(self) -> list[Planned]:
        return [p for p, alive in zip(self.planned, self.alive, strict=True) if alive]


def _begin(task: Task, backend: Backend, bundle: Bundle, part: Part) -> tuple[Part, ReplayState]:
    """The part before its first arrival, recorded where the bundle says so, and its state."""
    state = replay.start(task, [p.run for p in part.planned])
    part = replace(part, state=state)
    if bundle.per_epoch is None:
        return part, state
    runs = len(part.planned)
    metrics = _metrics(task, backend, bundle, part, state)
    return _recorded(part, state, [math.nan] * runs, [True] * runs, metrics), state


def _plan_parts(
    bundle: Bundle, task: Task, backend: Backend, room: float
) -> list[tuple[Planned, ...]]:
    """The bundle cut into parts that are stepped together: runs of one `lockstep_key`, no more than
    the backend takes at once and than fit into `room` megabytes.

    The cut does not depend on the number of threads, so neither do the results.
    """
    targets = task.train[1].cpu().numpy()
    parts = []
    # Neighbours of one seed can share minibatches.
    in_order = sorted(bundle.cells, key=lambda cell: (lockstep_key(cell), cell.seed))
    # A notebook may have two classes of one name, as where it has defined one anew.
    for _, cells in itertools.groupby(in_order, lambda cell: (lockstep_key(cell), type(cell.rule))):
        planned = plan_runs(list(cells), targets, bundle.per_epoch or 1)
        size = min(backend.runs_at_once or len(planned), _fitting(task, planned, room))
        parts += [tuple(planned[i : i + size]) for i in range(0, len(planned), size)]
    return parts


def _fitting(task: Task, planned: list[Planned], room: float) -> int:
    """How many of these runs fit into `room` megabytes together, each counted as the largest."""
    largest = max(planned, key=lambda p: p.run.snapshots.slots)
    need = memory.need(task, [largest.run])
    if need.peak > room:
        raise ConfigError(
            f"cell {largest.cell.hash}: one run takes about "
            f"{need.peak:,.0f} megabytes, {need.snapshots:,.0f} of them for the weights that its "
            f"gradients in flight were computed at, and {room:,.0f} are available; train it where "
            f"there is more memory, or reduce its delay or its minibatch. {described(largest.cell)}"
        )
    return len(planned) if math.isinf(room) else int(room // need.peak)


def _in_memory(parts: list[Part], needs: list[memory.Need], room: float, threads: int) -> list[int]:
    """Indices of the parts to advance next: in order, those not done that fit together."""
    chosen: list[int] = []
    held, steps = 0.0, [0.0]
    for i, (part, need) in enumerate(zip(parts, needs, strict=True)):
        if part.done:
            continue
        held += need.held
        steps = sorted([*steps, need.step], reverse=True)[:threads]
        if chosen and held + sum(steps) > room:
            break
        chosen.append(i)
    return chosen


def _advance(task: Task, backend: Backend, bundle: Bundle, part: Part) -> Part:
    """The part one epoch on; runs that are no longer finite have left it."""
    state = part.state
    if state is None:
        part, state = _begin(task, backend, bundle, part)
    here = part.running
    state, losses = stepping.advance(task, [p.run for p in here], state, backend)
    finite = torch.isfinite(state.weights).all(dim=1).tolist()
    # A run that no gradient has reached in this epoch has no loss, and has not diverged.
    survives = [
        ok and (math.isfinite(loss) or not _arrivals(p.run, state.epoch))
        for p, ok, loss in zip(here, finite, losses.tolist(), strict=True)
    ]
    metrics = _metrics(task, backend, bundle, part, state)
    part = _recorded(part, state, losses.tolist(), survives, metrics)
    if not all(survives):
        state = state.keep([i for i, survived in enumerate(survives) if survived])
    remaining = iter(survives)
    alive = tuple(alive and next(remaining) for alive in part.alive)
    part = replace(part, state=state, alive=alive)
    # A part that is done frees its memory.
    return replace(part, state=state.keep([])) if part.done else part


def _metrics(
    task: Task, backend: Backend, bundle: Bundle, part: Part, state: ReplayState
) -> dict[str, list[float]]:
    """What is recorded of the weights of the runs in `state`, one value a run."""
    found = backend.metrics(state.weights)
    if batches := bundle.gradient_batches:
        size = part.running[0].cell.batch_size
        found = found | gradient_noise(task, backend, state.weights, size, batches)
    return {name: value.tolist() for name, value in found.items()}


def _recorded(
    part: Part,
    state: ReplayState,
    losses: list[float],
    survives: list[bool],
    metrics: dict[str, list[float]],
) -> Part:
    """The part with a row of history for each of its runs, at the stop of `state`."""
    rows = tuple(
        {
            "run": p.cell.hash,
            **_schedule_columns(p.run, state.epoch),
            "train_loss": losses[i],
            **{name: values[i] for name, values in metrics.items()},
            "diverged": not survives[i],
        }
        for i, p in enumerate(part.running)
    )
    kept = (
        part.kept if part.kept is None else part.kept.and_then(state.weights.cpu().numpy().copy())
    )
    return replace(part, rows=part.rows.and_then(rows), kept=kept)


def _arrivals(run: Run, stop: int) -> int:
    """Arrivals applied between the stop before and this one."""
    first, last = run.stretch(stop - 1)
    return last - first


def _schedule_columns(run: Run, stop: int) -> dict[str, Any]:
    """Where a run stands at a stop, the first being 1 and 0 the start."""
    arrivals = int(run.stops[stop - 1]) if stop else 0
    means, largest = run.staleness
    return {
        "epoch": stop if run.per_epoch == 1 else stop / run.per_epoch,
        "updates": int(run.applied[stop - 1]) // run.schedule.arrivals_per_update if stop else 0,
        "simulated_seconds": float(run.schedule.time[arrivals - 1]) if arrivals else 0.0,
        "mean_staleness": float(means[stop - 1]) if stop else 0.0,
        "max_staleness": int(largest[stop - 1]) if stop else 0,
    }


def _history(bundle: Bundle, parts: list[Part]) -> pd.DataFrame:
    """All rows so far, run by run in the order of the bundle."""
    history = pd.DataFrame(row for row, _ in _in_order(bundle, parts))
    if bundle.per_epoch is None:
        return history
    cells = pd.DataFrame([{"run": cell.hash, **cell.columns()} for cell in bundle.cells])
    return history[["run"]].merge(cells, on="run").join(history.drop(columns="run"))


def _in_order(bundle: Bundle, parts: list[Part]) -> list[tuple[dict[str, Any], np.ndarray]]:
    """The rows of the history, each with the weights kept of it: [0] where none are."""
    place = {cell.hash: i for i, cell in enumerate(bundle.cells)}
    found = [
        pair
        for part in parts
        for pair in zip(part.rows, part.kept or itertools.repeat(np.empty(0)), strict=False)
    ]
    return sorted(found, key=lambda pair: (place[pair[0]["run"]], pair[0]["epoch"]))


def _progress(bundle: Bundle, parts: list[Part], seconds: float) -> Progress:
    done = sum(part.stops_done * len(part.planned) for part in parts if not part.done)
    done += sum(len(p.run.stops) for part in parts if part.done for p in part.planned)
    total = sum(len(p.run.stops) for part in parts for p in part.planned)
    at_start = [p for part in parts if bundle.per_epoch and part.state for p in part.planned]
    computed = sum(len(part.rows) for part in parts) - len(at_start)
    return Progress(done, total, computed, seconds, bundle, parts)


def _samples_trained(parts: list[Part]) -> int:
    last = {row["run"]: row["epoch"] for part in parts for row in part.rows}
    return sum(
        int(p.run.applied[round(last[p.cell.hash] * p.run.per_epoch) - 1]) * p.run.order.taken
        for part in parts
        for p in part.planned
    )


@dataclass(frozen=True)
class Checkpoint:
    """The state of a bundle between two epochs, in a file beside its output.

    identity: what must match for a checkpoint to be resumed: the bundle, its parts, backend, kind
    of device, vector instructions and what else decides a bit (`machine.dispatch`),
    versions of PyTorch and numpy, and the code that decides a result.
    weights: whether the weights of each row of the history are kept.
    """

    path: Path
    identity: str
    weights: bool

    @classmethod
    def beside(
        cls,
        output: Path,
        bundle: Bundle,
        plans: list[tuple[Planned, ...]],
        backend: str,
        keep: bool,
    ) -> "Checkpoint":
        """backend: its name, the kind of its device, and its vector instructions."""
        cut = "+".join(str(len(plan)) for plan in plans)
        identity = f"{bundle.hash} in parts of {cut} runs, {backend}"
        identity += (
            f"{' with weights' if keep else ''}, torch {torch.__version__}, numpy {np.__version__}"
        )
        identity += f", code {training_code(bundle.cells)}"
        return cls(output.with_name(output.name + ".checkpoint.npz"), identity, keep)

    def write(self, parts: list[Part], seconds: float) -> None:
        about = {
            "seconds": seconds,
            "epochs": [part.stops_done for part in parts],
            "alive": [part.alive for part in parts],
            "rows": [list(part.rows) for part in parts],
        }
        states = {
            f"{i}/{name}": tensor.cpu().numpy()
            for i, part in enumerate(parts)
            if part.state and not part.done
            for name, tensor in part.state.tensors().items()
        }
        kept = {f"kept/{i}": np.stack(list(part.kept)) for i, part in enumerate(parts) if part.kept}
        save_checkpoint(self.path, self.identity, about, states | kept)

    def read(
        self, plans: list[tuple[Planned, ...]], device: torch.device
    ) -> tuple[list[Part], float] | None:
        """What `write` was given, or None if there is no checkpoint to resume from."""
        otherwise = "the bundle starts from its beginning"
        if (found := load_checkpoint(self.path, self.identity, otherwise)) is None:
            return None
        about, arrays = found
        parts = [
            Part(
                planned,
                _state(arrays, f"{i}/", about["epochs"][i], device),
                tuple(about["alive"][i]),
                Grown().and_then(about["rows"][i]),
                Grown().and_then(arrays.get(f"kept/{i}", ())) if self.weights else None,
            )
            for i, planned in enumerate(plans)
        ]
        return parts, about["seconds"]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def _state(
    arrays: dict[str, np.ndarray], prefix: str, epoch: int, device: torch.device
) -> ReplayState | None:
    """The state whose tensors are the arrays called `prefix`...; None before the first epoch."""
    if not epoch:
        return None
    tensors = {
        name.removeprefix(prefix): torch.from_numpy(array).to(device)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    if not tensors:  # of a part that is done, only the epoch is needed
        empty = torch.empty(0, device=device)
        tensors = {"weights": empty, "saved": empty}
    return ReplayState.from_tensors(tensors, epoch)


class _Saving:
    """Decides when to write a checkpoint, by the time that the last one took."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._took, self._ended = 0.0, -math.inf

    def is_due(self) -> bool:
        return self._took <= SAVING_SHARE * (time.monotonic() - self._ended)

    def save(self, parts: list[Part], seconds: float) -> None:
        start = time.monotonic()
        self._checkpoint.write(parts, seconds)
        self._ended = time.monotonic()
        self._took = self._ended - start
