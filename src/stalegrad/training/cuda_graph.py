"""Replay as one step of fixed shapes and without branches, which a GPU can capture and repeat.

`training.replay` steers its loop from Python: it skips what a step does not need and lets shapes
and branches depend on the schedule. On a GPU launching the kernels of such a step takes longer than
running them. Here what differs from step to step is looked up in tables on the device, in place and
without a branch, so that the step can be captured as a CUDA graph and replayed for the rest of the
epoch; nothing is read back before the end. On a CPU the same step is called once an arrival, which
is how it is held to `replay.advance_in_steps`, of which it computes the same numbers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stalegrad.problems import Task
from stalegrad.rules import steps_on
from stalegrad.training import replay
from stalegrad.training.backends import Backend
from stalegrad.training.replay import ReplayState, Run
from stalegrad.training.snapshots import CURRENT

WARM_UP = 3  # steps before the capture, in which libraries allocate what they need


def advance_captured(
    task: Task, runs: list[Run], state: ReplayState, backend: Backend
) -> tuple[ReplayState, Tensor]:
    """`replay.advance_in_steps` with a backend that is `static`, as a step that a GPU captures."""
    epoch = _Epoch(task, runs, state, backend)
    repeat(epoch.step, epoch.count, state.weights.device)
    return epoch.outcome()


def repeat(step: Callable[[], None], times: int, device: torch.device) -> None:
    """Call `step` this many times; on CUDA the calls after WARM_UP are replays of a graph."""
    if device.type != "cuda" or times <= WARM_UP:
        for _ in range(times):
            step()
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(times - WARM_UP):
        graph.replay()
    torch.cuda.current_stream(device).synchronize()  # the graph must outlive its replays


class _Epoch:
    """The state of R runs, changed in place, and tables [n, R] of what each of n steps does."""

    def __init__(self, task: Task, runs: list[Run], state: ReplayState, backend: Backend):
        steps = replay.align(runs, state.epoch, task.train[0], fetched=False)
        self._task, self._backend, self._state, self._steps = task, backend, state, steps
        self._rule = steps_on(type(runs[0].rule), task.layers)
        self._numbers = replay.stack_numbers([run.rule for run in runs], state.weights)
        self._per_update = runs[0].schedule.arrivals_per_update
        self._total = state.weights.new_zeros(len(runs), dtype=torch.float64)
        device = state.weights.device
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._rows = torch.arange(len(runs), device=device)

        def table(values: np.ndarray | Tensor) -> Tensor:
            """[R, n] -> [n, R] on the device."""
            return torch.as_tensor(values).to(device).transpose(0, 1).contiguous()

        samples = steps.samples
        if 1 < len(samples) < len(runs):  # groups of runs share minibatches
            samples = samples.repeat_interleave(steps.bounds.diff().to(device), dim=0)
        self._samples = table(samples)
        self._active = table(steps.active) if steps.ragged.any() else None
        self._updated = table(steps.updated) if steps.some_update.any() else None
        self._read = table(steps.read) if (steps.read != CURRENT).any() else None
        self._write = table(steps.write) if (steps.write != CURRENT).any() else None
        factors = replay.stack_factors(runs, steps, state.weights)
        self._factors = None if factors is None else table(factors)

    @property
    def count(self) -> int:
        return self._steps.count

    def step(self) -> None:
        """One arrival of every run, as in the loop of `replay.advance_in_steps`."""
        state, rule = self._state, self._rule
        active, updated = self._now(self._active), self._now(self._updated)
        read = self._weights_read()
        samples = self._row(self._samples)
        inputs, targets = (replay.take(part, samples) for part in self._task.train)
        gradient, losses = self._backend.gradients(read, inputs, targets)
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

    def outcome(self) -> tuple[ReplayState, Tensor]:
        state = self._state
        arrivals = torch.from_numpy(self._steps.arrivals).to(self._total)
        made = ReplayState(state.weights, state.rule, state.saved, state.pending, state.epoch + 1)
        return made, self._total / arrivals

    def _row(self, table: Tensor) -> Tensor:
        """That of this step."""
        return table.index_select(0, self._step)[0]

    def _now(self, table: Tensor | None) -> Tensor | None:
        return None if table is None else self._row(table)

    def _weights_read(self) -> Tensor:
        weights, slots = self._state.weights, self._now(self._read)
        if slots is None:
            return weights
        saved = self._state.saved[slots.clamp(min=0), self._rows]
        return torch.where((slots == CURRENT)[:, None], weights, saved)

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


def _overwrite(old: dict[str, Tensor], new: dict[str, Tensor], rows: Tensor | None) -> None:
    """Put `new` in the place of `old`, for the runs where `rows` [R] is true (None: for all)."""
    for name, value in new.items():
        if value is not old[name]:
            shaped = None if rows is None else rows.view(-1, *(1,) * (value.dim() - 1))
            old[name].copy_(value if shaped is None else torch.where(shaped, value, old[name]))
