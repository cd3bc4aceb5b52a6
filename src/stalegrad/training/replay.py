"""Replay: execute schedules, many runs at once.

At each arrival the gradient is taken at the weights that the worker had read and goes through the
update rule. Of an arrival that the server drops no gradient is taken: it would change nothing.
Replay knows nothing of clocks and nothing of problems: it sees a schedule, a function from weights
to gradients, and a rule. All runs of a bundle advance in step, on tensors whose first axis is the
run; what differs between them (step size, delay, schedule, seed, data order) is data.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stalegrad.data_order import Order, minibatch_noise
from stalegrad.io.errors import ConfigError
from stalegrad.problems import Task
from stalegrad.rules import Numbers, Rule, Shapes, steps_on
from stalegrad.schedule import Schedule
from stalegrad.training.backends import Backend
from stalegrad.training.snapshots import CURRENT, SnapshotPlan, plan_snapshots

if TYPE_CHECKING:
    from stalegrad.training.cuda_graph import StaticStep


@dataclass(frozen=True)
class Run:
    """One run, ready to be replayed.

    order: which samples each minibatch holds; neighbours that have the same object share their
    minibatches. seed: of the initial weights, and of the random numbers in a loss. per_epoch: how
    often replay stops in an epoch, so that weights and metrics can be recorded. local_lr: learning
    rate of steps on a worker, where the order has several for an arrival; None is that of the rule.
    """

    rule: Rule
    schedule: Schedule
    order: Order
    seed: int
    snapshots: SnapshotPlan
    per_epoch: int = 1
    local_lr: float | None = None

    @classmethod
    def plan(
        cls, rule: Rule, schedule: Schedule, order: Order, seed: int, per_epoch: int = 1
    ) -> "Run":
        return cls(rule, schedule, order, seed, plan_snapshots(schedule), per_epoch)

    @cached_property
    def stops(self) -> np.ndarray:
        """Arrivals served by each stop; without `per_epoch`, by the end of each epoch."""
        return self.schedule.stops(self.per_epoch)

    @cached_property
    def applied(self) -> np.ndarray:
        """Arrivals applied by each stop."""
        return self.schedule.applied_until(self.stops)

    @property
    def replayed(self) -> Schedule:
        """The arrivals that are applied; what is said of arrivals below is said of these."""
        return self.schedule.replayed

    @cached_property
    def staleness(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and maximum [stops] of the staleness of all arrivals served by each stop, those
        dropped included."""
        return self.schedule.staleness_until(self.stops)

    @cached_property
    def step_factors(self) -> np.ndarray | None:
        """`Rule.step_factors` of all arrivals."""
        return self.rule.step_factors(self.replayed)

    @property
    def local_rate(self) -> float:
        """The learning rate of steps on a worker."""
        return self.rule.lr if self.local_lr is None else self.local_lr

    @property
    def longest(self) -> int:
        """Arrivals between one stop and the next, at most."""
        return int(np.diff(self.applied, prepend=0).max())

    def stretch(self, number: int) -> tuple[int, int]:
        """The arrivals between stop `number` - 1 (or the start) and stop `number`, from 0 on."""
        return int(self.applied[number - 1]) if number else 0, int(self.applied[number])

    def noise(self, arrivals: Iterable[int], per_sample: int) -> np.ndarray:
        """The random bytes [A, taken, per_sample] of the minibatches of these arrivals."""
        streams, batches = self.replayed.stream, self.replayed.batch
        drawn = [
            minibatch_noise(
                self.seed, int(streams[i]), int(batches[i]), self.order.taken, per_sample
            )
            for i in arrivals
        ]
        return np.stack(drawn)


@dataclass(frozen=True)
class ReplayState:
    """Everything replay carries from one arrival to the next, for R runs.

    weights [R, P]; rule: the update rule's state; saved [slots, R, P]: old weights that gradients
    in flight were computed at; pending [R, P]: gradients of an update not yet complete (None where
    every arrival is an update); epoch: epochs done, or where runs stop more often, stretches.
    step: what changes these very tensors in place (see `training.cuda_graph`), so that the next
    epoch can go on with it; no part of the state, and None where there is none.
    """

    weights: Tensor
    rule: dict[str, Tensor]
    saved: Tensor
    pending: Tensor | None
    epoch: int
    step: "StaticStep | None" = field(default=None, compare=False, repr=False)

    def keep(self, rows: list[int]) -> "ReplayState":
        """The state of some of the runs."""
        return replace(
            self,
            weights=self.weights[rows],
            rule={name: value[rows] for name, value in self.rule.items()},
            saved=self.saved[:, rows],
            pending=None if self.pending is None else self.pending[rows],
            step=None,
        )

    def tensors(self) -> dict[str, Tensor]:
        """By name, what a checkpoint must hold; `from_tensors` is the inverse."""
        tensors = {"weights": self.weights, "saved": self.saved}
        tensors |= {f"rule.{name}": value for name, value in self.rule.items()}
        return tensors if self.pending is None else tensors | {"pending": self.pending}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], epoch: int) -> "ReplayState":
        rule = {k.removeprefix("rule."): v for k, v in tensors.items() if k.startswith("rule.")}
        pending = tensors.get("pending")
        return cls(tensors["weights"], rule, tensors["saved"], pending, epoch)


def start(task: Task, runs: list[Run], dtype: torch.dtype = torch.float32) -> ReplayState:
    """The state before the first arrival, on the device of the task's data.

    Raises ConfigError where a schedule has more stages than the task has layers.
    """
    for run in runs:
        if (by_stage := run.snapshots.by_stage) is not None:
            _stages_of(task, by_stage.shape[1])
    device = task.train[0].device
    weights = torch.stack([task.initial_weights(run.seed) for run in runs])
    weights = weights.to(device=device, dtype=dtype)
    slots = max(run.snapshots.slots for run in runs)
    saved = weights.new_zeros((slots, *weights.shape))
    grouped = runs[0].schedule.arrivals_per_update > 1
    pending = torch.zeros_like(weights) if grouped else None
    rule_state = steps_on(type(runs[0].rule), task.layers).init(weights)
    return ReplayState(weights, rule_state, saved, pending, epoch=0)


def advance_in_steps(
    task: Task, runs: list[Run], state: ReplayState, backend: Backend
) -> tuple[ReplayState, Tensor]:
    """Replay one epoch of every run, or up to its next stop where it stops more often.

    Returns the state after it and the mean loss [R] (float64) of its minibatches, each at the
    weights its gradient was computed at; NaN for a run with no arrival in this epoch. Nothing is
    read back from the device before the end. `state` must not be used again: its tensors may be
    overwritten.

    The runs must share rule class, minibatch size, local steps and arrivals per update. Where they
    differ in the number of arrivals, those with fewer start later, so that all end together.
    """
    steps = align(runs, state.epoch, task.train[0], backend.fetches)
    rule = steps_on(type(runs[0].rule), task.layers)
    numbers = stack_numbers([run.rule for run in runs], state.weights)
    factors = stack_factors(runs, steps, state.weights)
    scales = stack_scales(runs, steps, state.weights)
    rates = local_rates(runs, state.weights)
    weights, rule_state, saved, pending = state.weights, state.rule, state.saved, state.pending
    slots = slots_read(task, runs, steps)
    total = weights.new_zeros(len(runs), dtype=torch.float64)
    per_update = runs[0].schedule.arrivals_per_update

    for i in range(steps.count):
        read = joined(
            [_read(weights[:, here], saved[:, :, here], each[:, i]) for here, each in slots]
        )
        gradients = partial(_gradients, backend, task, runs, steps, i)
        gradient, losses = after_local_steps(gradients, read, runs[0].order, rates)
        active = steps.active[:, i]
        total += torch.where(active, losses.double(), 0) if steps.ragged[i] else losses
        step_numbers = numbers
        if factors is not None:
            step_numbers = {**numbers, "lr": numbers["lr"] * factors[:, i, None]}
        if "clip_norm" in numbers:
            gradient = clip(gradient, numbers["clip_norm"])
        gradient, corrected = rule.correct(gradient, read, weights, rule_state, step_numbers)
        rule_state = _choose(corrected, rule_state, active) if steps.ragged[i] else corrected
        if scales is not None:
            gradient = gradient * scales[:, i, None]
        if pending is not None:
            if steps.ragged[i]:
                gradient = torch.where(active[:, None], gradient, 0)
            pending = pending + gradient
            if steps.no_update[i]:
                continue
            gradient = pending / per_update
        _write(weights, saved, steps.write[:, i])
        new_weights, new_state = rule.update(gradient, weights, rule_state, step_numbers)
        if steps.some_update[i]:
            updated = steps.updated[:, i]
            weights = torch.where(updated[:, None], new_weights, weights)
            rule_state = _choose(new_state, rule_state, updated)
            if pending is not None:
                pending = torch.where(updated[:, None], 0, pending)
        else:
            weights, rule_state = new_weights, new_state
            if pending is not None:
                pending = torch.zeros_like(pending)

    arrivals = torch.tensor(steps.arrivals, dtype=torch.float64, device=total.device)
    return ReplayState(weights, rule_state, saved, pending, state.epoch + 1), total / arrivals


def clip(gradient: Tensor, longest: Tensor) -> Tensor:
    """Scale gradients [R, P] down to norm `longest` [R, 1], as `torch.nn.utils.clip_grad_norm_`."""
    norm = gradient.norm(dim=1, keepdim=True)
    return gradient * (longest / (norm + 1e-6)).clamp(max=1)


@dataclass(frozen=True)
class Steps:
    """One epoch of R runs, n steps long; [R, n] unless said otherwise.

    Index arrays are on the device. Arrays that control the loop stay in numpy, so that no step
    waits for the device.
    """

    count: int
    arrivals: np.ndarray  # [R]
    samples: Tensor  # [G, n, taken] of each group of runs that take the same minibatches in step
    groups: list[slice] | None  # the runs of each; None where every run is its own
    bounds: Tensor  # [G + 1] the first run of each group, and R
    active: Tensor  # the run has an arrival at this step
    updated: Tensor  # that arrival completes an update
    read: np.ndarray
    write: np.ndarray
    schedule_index: np.ndarray  # number of the arrival in its run's schedule; 0 where inactive
    ragged: np.ndarray  # [n] some run is inactive
    some_update: np.ndarray  # [n] some runs update and some do not
    no_update: np.ndarray  # [n]


def minibatches(runs: list[Run], number: int) -> list[np.ndarray]:
    """Sample numbers [n, taken] of each run's arrivals in stretch `number`. Runs with the same
    schedule and order share the array, since making it shuffles the data."""
    drawn: dict[tuple[int, int], np.ndarray] = {}
    for run in runs:
        key = id(run.order), id(run.schedule)
        if key not in drawn:
            here = slice(*run.stretch(number))
            drawn[key] = run.order.indices(run.replayed.stream[here], run.replayed.batch[here])
    return [drawn[id(run.order), id(run.schedule)] for run in runs]


def align(runs: list[Run], epoch: int, inputs: Tensor, fetched: bool) -> Steps:
    """The steps of stretch `epoch` of all runs, which end together: see `advance_in_steps`.

    inputs: those of the training set, for their device and size. fetched: the backend fetches
    minibatches itself, so that grouping runs always pays.
    """
    device = inputs.device
    bounds = [run.stretch(epoch) for run in runs]
    lengths = np.array([stop - first for first, stop in bounds])
    count = int(lengths.max())
    shape = (len(runs), count)
    index = np.zeros(shape, np.int64)
    active, updated = np.zeros(shape, bool), np.zeros(shape, bool)
    read, write = np.full(shape, CURRENT), np.full(shape, CURRENT)
    groups = _alike(runs, bounds, inputs[0].numel(), 0 if fetched else _WORTH_A_CALL)
    samples = np.zeros((len(groups), count, runs[0].order.taken), np.int64)
    for row, (run, (first, stop)) in enumerate(zip(runs, bounds, strict=True)):
        here, chosen = slice(first, stop), np.s_[row, count - (stop - first) :]
        index[chosen] = np.arange(first, stop)
        active[chosen] = True
        updated[chosen] = (index[chosen] + 1) % run.schedule.arrivals_per_update == 0
        read[chosen], write[chosen] = run.snapshots.read[here], run.snapshots.write[here]
    for row, drawn in enumerate(minibatches([runs[group.start] for group in groups], epoch)):
        samples[row, count - len(drawn) :] = drawn
    return Steps(
        count=count,
        arrivals=lengths,
        samples=torch.from_numpy(samples).to(device),
        groups=groups if len(groups) < len(runs) else None,
        bounds=torch.tensor([0, *(group.stop for group in groups)]),
        active=torch.from_numpy(active).to(device),
        updated=torch.from_numpy(updated).to(device),
        read=read,
        write=write,
        schedule_index=index,
        ragged=~np.all(active, axis=0),
        some_update=~np.all(updated, axis=0),
        no_update=~np.any(updated, axis=0),
    )


# Where a backend does not fetch minibatches itself, fetching one for a group of runs costs a call,
# about as much as fetching this many numbers. Where grouping saves less, every run fetches its own.
_WORTH_A_CALL = 1 << 15


def _alike(
    runs: list[Run], bounds: list[tuple[int, int]], sample_size: int, worth: int
) -> list[slice]:
    """Neighbouring runs whose minibatches are the same throughout, as slices that cover all.

    sample_size: numbers in a sample; worth: how many numbers must be saved per group; otherwise
    every run is a group of its own.
    """
    starts = [0]
    for row in range(1, len(runs)):
        run, before = runs[row], runs[row - 1]
        here, there = slice(*bounds[row]), slice(*bounds[row - 1])
        same = run.order is before.order and run.seed == before.seed
        same = same and (
            run.schedule is before.schedule
            or np.array_equal(run.replayed.stream[here], before.replayed.stream[there])
            and np.array_equal(run.replayed.batch[here], before.replayed.batch[there])
        )
        if not same:
            starts.append(row)
    saved = (len(runs) - len(starts)) * runs[0].order.taken * sample_size
    if saved < len(starts) * worth:
        starts = list(range(len(runs)))
    return [slice(a, b) for a, b in itertools.pairwise([*starts, len(runs)])]


def local_rates(runs: list[Run], weights: Tensor) -> Tensor:
    """The learning rate of the steps on a worker, a column [R, 1]."""
    return weights.new_tensor([[run.local_rate] for run in runs])


def after_local_steps(
    gradients: Callable[[Tensor, slice], tuple[Tensor, Tensor]],
    read: Tensor,
    order: Order,
    rates: Tensor,
) -> tuple[Tensor, Tensor]:
    """What workers send [R, P] that take the local steps of `order` from the weights `read` [R, P]
    on, and the mean loss [R]: the sum of the gradients, each taken where plain SGD at `rates`
    [R, 1] has come by then.

    gradients: gives gradients and losses at weights [R, P], of a slice of the samples taken.
    """
    parts = [slice(s, s + order.batch_size) for s in range(0, order.taken, order.batch_size)]
    gradient, losses = gradients(read, parts[0])
    total, weights = gradient, read
    for part in parts[1:]:
        weights = weights.addcmul(gradient, rates, value=-1)
        gradient, more = gradients(weights, part)
        total, losses = total + gradient, losses + more
    return total, losses / len(parts) if len(parts) > 1 else losses


def _gradients(
    backend: Backend,
    task: Task,
    runs: list[Run],
    steps: Steps,
    i: int,
    weights: Tensor,
    part: slice,
) -> tuple[Tensor, Tensor]:
    """Gradients [R, P] and losses [R] at step i and weights [R, P], of the samples `part` of what a
    worker takes; a minibatch is fetched once for a group."""
    if backend.fetches:
        return backend.gradients_of(weights, steps.samples[:, i, part], steps.bounds)
    inputs, targets = task.train
    if steps.groups is None:
        batch = steps.samples[:, i, part]
        noise = _noise(task, runs, steps, i, range(len(runs)), part)
        return backend.gradients(weights, take(inputs, batch), take(targets, batch), noise)
    parts = []
    for group, samples in zip(steps.groups, steps.samples, strict=True):
        batch = samples[i : i + 1, part]
        noise = _noise(task, runs, steps, i, [group.start], part)
        minibatch = take(inputs, batch), take(targets, batch)
        parts.append(backend.gradients(weights[group], *minibatch, noise))
    if len(parts) == 1:
        return parts[0]
    gradients, losses = zip(*parts, strict=True)
    return torch.cat(gradients), torch.cat(losses)


def gradient_of_one(
    backend: Backend, task: Task, weights: Tensor, samples: Tensor, noise: np.ndarray | None
) -> tuple[Tensor, Tensor]:
    """The gradient [P] and the loss of one run at weights [P] and samples [1, B], with the random
    bytes [1, B, N] of its minibatch where the loss takes any: as replay takes it."""
    if backend.fetches:
        gradients, losses = backend.gradients_of(weights[None], samples, torch.tensor([0, 1]))
    else:
        inputs, targets = task.train
        drawn = None if noise is None else torch.from_numpy(noise).to(inputs.device)
        minibatch = take(inputs, samples), take(targets, samples)
        gradients, losses = backend.gradients(weights[None], *minibatch, drawn)
    return gradients[0], losses[0]


def take(samples: Tensor, numbers: Tensor) -> Tensor:
    """`samples[numbers]` [..., *sample] of samples [N, *sample]: several times as fast on a CPU."""
    chosen = samples.index_select(0, numbers.reshape(-1))
    return chosen.view(*numbers.shape, *samples.shape[1:])


def _noise(
    task: Task, runs: list[Run], steps: Steps, i: int, rows: Iterable[int], part: slice
) -> Tensor | None:
    """The random bytes [rows, B, N] of the minibatches of some runs, where the loss takes any."""
    if not task.noise:
        return None
    drawn = [runs[row].noise([steps.schedule_index[row, i]], task.noise)[0, part] for row in rows]
    return torch.from_numpy(np.stack(drawn)).to(task.train[0].device)


def stack_numbers(rules: list[Rule], weights: Tensor) -> Numbers:
    """Each number of the rules as a column [R, 1]; switches, which all share, as they are."""
    by_run = [rule.numbers() for rule in rules]
    switches = [{k: v if isinstance(v, bool) else None for k, v in n.items()} for n in by_run]
    if any(each != switches[0] for each in switches):
        raise ValueError("Runs that are stepped together must share the switches of their rule.")
    return {
        name: value
        if isinstance(value, bool)
        else weights.new_tensor([[numbers[name]] for numbers in by_run])
        for name, value in by_run[0].items()
    }


def stack_factors(runs: list[Run], steps: Steps, weights: Tensor) -> Tensor | None:
    """What to multiply the learning rates by at each step [R, n]; None where it is 1 throughout."""
    return _stack([run.step_factors for run in runs], steps, weights)


def stack_scales(runs: list[Run], steps: Steps, weights: Tensor) -> Tensor | None:
    """The weights of the gradients in the schedules at each step [R, n]; None where all are 1."""
    return _stack([run.replayed.weight for run in runs], steps, weights)


def _stack(by_run: list[np.ndarray | None], steps: Steps, weights: Tensor) -> Tensor | None:
    """Numbers [A] of each run's arrivals, those of its steps [R, n]; None stands for 1."""
    if all(numbers is None for numbers in by_run):
        return None
    chosen = [
        np.ones(steps.count) if numbers is None else numbers[index]
        for numbers, index in zip(by_run, steps.schedule_index, strict=True)
    ]
    return torch.from_numpy(np.stack(chosen)).to(weights)


def slots_read(task: Task, runs: list[Run], steps: Steps) -> list[tuple[slice, np.ndarray]]:
    """Which weights are read where: columns of the flat weights, and their slots [R, n].

    One entry for all weights, unless a run has stages: then one for each layer.
    """
    if all(run.snapshots.by_stage is None for run in runs):
        return [(slice(None), steps.read)]
    columns = _layers(task.layers)
    slots = np.repeat(steps.read[None], len(columns), axis=0)
    for row, run in enumerate(runs):
        if (by_stage := run.snapshots.by_stage) is not None:
            stages, here = _stages_of(task, by_stage.shape[1]), steps.count - steps.arrivals[row]
            arrivals = steps.schedule_index[row, here:]
            slots[:, row, here:] = by_stage[arrivals][:, stages].T
    return list(zip(columns, slots, strict=True))


def joined(parts: list[Tensor]) -> Tensor:
    """Weights [R, P] from their columns."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _layers(shapes: Shapes) -> list[slice]:
    """The columns of each layer in the flat weights: a matrix with the vectors behind it, as its
    bias; vectors before the first matrix belong to it."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    matrices = [i for i, shape in enumerate(shapes) if len(shape) > 1]
    bounds = [0, *(int(ends[i - 1]) for i in matrices[1:]), int(ends[-1])]
    return [slice(a, b) for a, b in itertools.pairwise(bounds)]


def _stages_of(task: Task, stages: int) -> np.ndarray:
    """The stage of each layer [L]: in order, as evenly as can be by their number.

    Raises ConfigError where there are more stages than layers.
    """
    layers = len(_layers(task.layers))
    if stages > layers:
        raise ConfigError(
            f"'cluster.stages' is {stages}, more than the {layers} layers of the problem "
            f"'{task.name}'; choose {layers} or fewer."
        )
    sizes = [len(part) for part in np.array_split(np.arange(layers), stages)]
    return np.repeat(np.arange(stages), sizes)


def _read(weights: Tensor, saved: Tensor, slots: np.ndarray) -> Tensor:
    """The weights [R, P], or some columns of them, that this step's gradients were computed at."""
    if (slots == CURRENT).all():
        return weights
    if (slots == slots[0]).all():
        return saved[slots[0]]
    rows = np.flatnonzero(slots != CURRENT)
    read = weights.clone()
    read[rows] = saved[slots[rows], rows]
    return read


def _write(weights: Tensor, saved: Tensor, slots: np.ndarray) -> None:
    """Keep the weights of the runs whose slot is not CURRENT."""
    if (slots == CURRENT).all():
        return
    if (slots == slots[0]).all():
        saved[slots[0]] = weights
        return
    rows = np.flatnonzero(slots != CURRENT)
    saved[slots[rows], rows] = weights[rows]


def _choose(new: dict[str, Tensor], old: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """`new` for the runs where `rows` [R] is true, `old` elsewhere."""
    if new is old:
        return old
    shaped = {name: rows.view(-1, *(1,) * (value.dim() - 1)) for name, value in new.items()}
    return {name: torch.where(shaped[name], value, old[name]) for name, value in new.items()}
