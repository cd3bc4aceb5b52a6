"""Replay as one step of fixed shapes and without branches, which a GPU can capture and repeat.

`training.replay` steers its loop from Python: it skips what a step does not need and lets shapes
and branches depend on the schedule. On a GPU launching the kernels of such a step takes longer than
running them. Here what differs from step to step is looked up in tables on the device, in place and
without a branch, so that the step can be captured as a CUDA graph and replayed; nothing is read
back before the end of an epoch. The next epoch fills the same tables anew and goes on with the same
graph. On a CPU the same step is called once an arrival, which is how it is held to
`replay.advance_in_steps`, of which it computes the same numbers.

What a graph must not do, and how it is kept from it (numbers are of PyTorch's issues):

- A graph holds addresses, so what it reads and writes must outlive it: the state and the tables
  belong to the `StaticStep` that has the graph. Nothing made inside a step outlives the step.
- A number of Python is frozen in a graph (#76368). Which step it is, the decays of Adam and the
  factors of learning rates are tensors.
- On a stream of its own each capture takes a workspace of cuBLAS that is not given back (#99196).
  One stream and one pool of memory serve all captures, warm-ups and replays of a process.
- Graphs of one stream share that workspace, and where one of them is destroyed the others lose it
  (#193402). All are kept until none is in use, and then destroyed together.
"""

import functools
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stalegrad.problems import Task
from stalegrad.rules import steps_on
from stalegrad.training import replay
from stalegrad.training.backends import Backend
from stalegrad.training.replay import ReplayState, Run, Steps
from stalegrad.training.snapshots import CURRENT

WARM_UP = 3  # steps before the capture, in which libraries allocate what they need


def advance_captured(
    task: Task, runs: list[Run], state: ReplayState, backend: Backend
) -> tuple[ReplayState, Tensor]:
    """`replay.advance_in_steps` with a backend that is `static`, as a step that a GPU captures."""
    steps = replay.align(runs, state.epoch, task.train[0], fetched=False)
    step = state.step
    if step is None or not step.can_take(task, runs, state, backend, steps):
        step = StaticStep(task, runs, state, backend, steps)
    with _on_stream(state.weights.device) as recorder:
        step.begin(steps)
        for _ in range(steps.count):
            step.take(recorder)
    return step.outcome(steps, state.epoch + 1)


class StaticStep:
    """The state of R runs, changed in place, and tables [n, R] of what each of n steps does.

    runs, task, backend: what it steps. n is that of the longest epoch, so that the tables serve
    every epoch. Which tables there are depends on the runs; on the epoch, whether some of them
    start later, and how many share a minibatch. So the numbers do not depend on where training
    began. Where the epoch needs another form, another step takes the state over.
    """

    def __init__(
        self, task: Task, runs: list[Run], state: ReplayState, backend: Backend, steps: Steps
    ):
        # Without the step of an epoch before, which would be kept for nothing.
        self._task, self._backend, self._state = task, backend, replace(state, step=None)
        self._runs = tuple(runs)
        self._rule = steps_on(type(runs[0].rule), task.layers)
        self._numbers = replay.stack_numbers([run.rule for run in runs], state.weights)
        self._per_update = runs[0].schedule.arrivals_per_update
        self._groups = _groups(steps, len(runs))
        device, many = state.weights.device, len(runs)
        self._total = state.weights.new_zeros(many, dtype=torch.float64)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows = torch.arange(many, device=device)
        self._warm, self._failed = 0, False
        self._graph: torch.cuda.CUDAGraph | None = None

        most = max(run.longest for run in runs)
        self._ragged, grouped = bool(steps.ragged.any()), self._per_update > 1

        def table(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((most, *shape), dtype=dtype, device=device)

        self._order = runs[0].order
        self._rates = replay.local_rates(runs, state.weights)
        self._samples = table(torch.int64, self._groups, self._order.taken)
        self._active = table(torch.bool, many) if self._ragged else None
        self._updated = table(torch.bool, many) if self._ragged or grouped else None
        # A schedule reads an old version in its first stage, if in any.
        reads = any((run.snapshots.read != CURRENT).any() for run in runs)
        slots = replay.slots_read(task, runs, steps)
        self._columns = [columns for columns, _ in slots]
        writes = any((run.snapshots.write != CURRENT).any() for run in runs)
        self._read = table(torch.int64, len(slots), many) if reads else None
        self._write = table(torch.int64, many) if writes else None
        scaled = any(run.step_factors is not None for run in runs)
        self._factors = table(state.weights.dtype, many) if scaled else None
        weighted = any(run.replayed.weight is not None for run in runs)
        self._scales = table(state.weights.dtype, many) if weighted else None

    @property
    def captured(self) -> bool:
        """Whether it is replayed as a graph."""
        return self._graph is not None

    def can_take(
        self, task: Task, runs: list[Run], state: ReplayState, backend: Backend, steps: Steps
    ) -> bool:
        """Whether it steps these runs, from this state, through an epoch of these steps."""
        own = self._state.tensors()
        return (
            task is self._task
            and backend is self._backend
            and len(runs) == len(self._runs)
            and all(a is b for a, b in zip(runs, self._runs, strict=True))
            and all(value is own[name] for name, value in state.tensors().items())
            and self._groups == _groups(steps, len(runs))
            and self._ragged == bool(steps.ragged.any())
        )

    def begin(self, steps: Steps) -> None:
        """Fill the tables with the steps of an epoch, and count from its first."""

        def fill(table: Tensor | None, values: np.ndarray | Tensor | None) -> None:
            """[R, n, ...] -> the first n rows [n, R, ...]."""
            if table is not None and values is not None:
                table[: steps.count].copy_(torch.as_tensor(values).transpose(0, 1))

        samples = steps.samples
        if len(samples) < self._groups:
            counts = steps.bounds.diff().to(samples.device)
            samples = samples.repeat_interleave(counts, dim=0, output_size=self._groups)
        fill(self._samples, samples)
        fill(self._active, steps.active)
        fill(self._updated, steps.updated)
        slots = replay.slots_read(self._task, list(self._runs), steps)
        fill(self._read, np.stack([each.T for _, each in slots]))  # [L, n, R]
        fill(self._write, steps.write)
        fill(self._factors, replay.stack_factors(list(self._runs), steps, self._state.weights))
        fill(self._scales, replay.stack_scales(list(self._runs), steps, self._state.weights))
        self._total.zero_()
        self._step.zero_()

    def take(self, recorder: "Recorder | None") -> None:
        """One step: on a GPU, the first WARM_UP as they are, and then as a graph, once there is
        one. A step that cannot be captured is called every time, which computes the same."""
        if recorder is not None and self._warm >= WARM_UP and not self._failed:
            if self._graph is None:
                self._graph = recorder.capture(self, self.step)
                self._failed = self._graph is None
            if self._graph is not None:
                self._graph.replay()
                return
        self.step()
        self._warm += 1

    def step(self) -> None:
        """One arrival of every run, as in the loop of `replay.advance_in_steps`."""
        state, rule = self._state, self._rule
        active, updated = self._now(self._active), self._now(self._updated)
        read = self._weights_read()
        gradient, losses = replay.after_local_steps(self._gradients, read, self._order, self._rates)
        losses = losses.double()
        self._total += losses if active is None else torch.where(active, losses, 0)
        numbers = self._numbers
        if self._factors is not None:
            factors = self._row(self._factors)[:, None]
            numbers = {**numbers, "lr": numbers["lr"] * factors}
        if "clip_norm" in numbers:
            gradient = replay.clip(gradient, numbers["clip_norm"])
        gradient, corrected = rule.correct(gradient, read, state.weights, state.rule, numbers)
        _overwrite(state.rule, corrected, active)
        if self._scales is not None:
            gradient = gradient * self._row(self._scales)[:, None]
        if state.pending is not None:
            if active is not None:
                gradient = torch.where(active[:, None], gradient, 0)
            gradient = state.pending.add_(gradient) / self._per_update
        self._save()
        weights, made = rule.update(gradient, state.weights, state.rule, numbers)
        _overwrite(state.rule, made, updated)
        _overwrite({"": state.weights}, {"": weights}, updated)
        if state.pending is not None:
            _overwrite({"": state.pending}, {"": torch.zeros_like(state.pending)}, updated)
        self._step += 1

    def outcome(self, steps: Steps, epoch: int) -> tuple[ReplayState, Tensor]:
        """The state after these steps, `epoch` epochs done, and the mean losses [R]."""
        state = self._state
        arrivals = torch.from_numpy(steps.arrivals).to(self._total)
        made = ReplayState(state.weights, state.rule, state.saved, state.pending, epoch, self)
        return made, self._total / arrivals

    def _gradients(self, weights: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        samples = self._row(self._samples)[:, part]
        inputs, targets = (replay.take(each, samples) for each in self._task.train)
        return self._backend.gradients(weights, inputs, targets)

    def _row(self, table: Tensor) -> Tensor:
        """That of this step."""
        return table.index_select(0, self._step)[0]

    def _now(self, table: Tensor | None) -> Tensor | None:
        return None if table is None else self._row(table)

    def _weights_read(self) -> Tensor:
        state, slots = self._state, self._now(self._read)
        if slots is None:
            return state.weights
        parts = []
        for columns, each in zip(self._columns, slots, strict=True):
            saved = state.saved[:, :, columns][each.clamp(min=0), self._rows]
            fresh = (each == CURRENT)[:, None]
            parts.append(torch.where(fresh, state.weights[:, columns], saved))
        return replay.joined(parts)

    def _save(self) -> None:
        """Keep weights for gradients in flight; a run that keeps none writes its slot back
        unchanged."""
        slots = self._now(self._write)
        if slots is None:
            return
        place = slots.clamp(min=0), self._rows
        saved = self._state.saved
        keeps = (slots == CURRENT)[:, None]
        saved.index_put_(place, torch.where(keeps, saved[place], self._state.weights))


def _groups(steps: Steps, runs: int) -> int:
    """How many minibatches a step has: one for each group of runs that share it, where all groups
    are alike in size, and else one for each run."""
    sizes = steps.bounds.diff()
    return len(steps.samples) if bool((sizes == sizes[0]).all()) else runs


def _overwrite(old: dict[str, Tensor], new: dict[str, Tensor], rows: Tensor | None) -> None:
    """Put `new` in the place of `old`, for the runs where `rows` [R] is true (None: for all)."""
    for name, value in new.items():
        if value is not old[name]:
            shaped = None if rows is None else rows.view(-1, *(1,) * (value.dim() - 1))
            old[name].copy_(value if shaped is None else torch.where(shaped, value, old[name]))


class Recorder:
    """The stream and the pool of memory that all captures of a process on one device share.

    An empty graph, captured first, keeps the pool: PyTorch takes no pool back into use that its
    last graph has left.
    """

    def __init__(self, device: torch.device):
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._anchor: torch.cuda.CUDAGraph | None = None
        self._graphs: list[tuple[weakref.ref[object], torch.cuda.CUDAGraph]] = []
        self._told: set[str] = set()

    def capture(self, owner: object, step: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """A graph of `step`, which is not executed; None where it cannot be captured, which is said
        once. owner: the graph is in use as long as this object is. Called on the stream."""
        if not any(user() for user, _ in self._graphs):
            self._graphs.clear()
        try:
            if self._anchor is None:
                with warnings.catch_warnings():  # that it is empty
                    warnings.simplefilter("ignore")
                    self._anchor = self._recorded(lambda: None)
            graph = self._recorded(step)
        except RuntimeError as error:  # CUDA's own are subclasses
            self._tell(error)
            return None
        self._graphs.append((weakref.ref(owner), graph))
        return graph

    def _recorded(self, step: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        # What other threads do meanwhile, such as asking for free memory, spoils no capture.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            step()
        return graph

    def _tell(self, error: RuntimeError) -> None:
        # The end of a capture that has failed raises an error of its own, which says less.
        reason = str(error.__context__ or error).strip().partition("\n")[0]
        if reason not in self._told:
            self._told.add(reason)
            print(
                f"note: a step cannot be captured as a CUDA graph ({reason}). It is called as it "
                f"is, which gives the same numbers and takes longer.",
                file=sys.stderr,
                flush=True,
            )


@functools.cache
def _recorder(index: int) -> Recorder:
    return Recorder(torch.device("cuda", index))


@contextmanager
def _on_stream(device: torch.device) -> Iterator[Recorder | None]:
    """Work in the block goes to the stream of this device's recorder, after all work before it and
    before all work behind it; on a CPU there is none."""
    if device.type != "cuda":
        yield None
        return
    recorder = _recorder(torch.cuda.current_device() if device.index is None else device.index)
    outside = torch.cuda.current_stream(device)
    recorder.stream.wait_stream(outside)
    # A capture that fails may leave its stream the current one; the block's end puts that right.
    with torch.cuda.stream(recorder.stream):
        yield recorder
    outside.wait_stream(recorder.stream)
    recorder.stream.synchronize()  # graphs must outlive their replays
