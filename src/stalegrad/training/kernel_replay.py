"""Replay in machine code: all arrivals of a run up to its next stop, update rule and all, at once.

A step of a small problem takes less time than one call of PyTorch, of which `training.replay`
makes dozens; and steps of a large one, on several threads, wait for each other at every call.
Where the backend has a kernel for the problem and the rule a form for kernels, a run goes through
its arrivals inside the kernel, alone: nothing is aligned with other runs, so that neither their
number nor what they do changes a byte. The tests hold it to the numbers of
`replay.advance_in_steps`.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Iterator

import torch

from stalegrad.rules import Rule
from stalegrad.training.backends import Backend
from stalegrad.training.kernels.calls import Stretch
from stalegrad.training.replay import ReplayState, Run, minibatches


def can_advance(runs: list[Run], backend: Backend) -> bool:
    """Whether there is a kernel for these runs, which share rule class and minibatch size. None
    knows stages that read versions of their own, which is said once."""
    if not all(has_kernel(run.rule, run.order.batch_size, backend) for run in runs):
        return False
    staged = any(run.snapshots.by_stage is not None for run in runs)
    if staged:
        _say_that_none_knows_stages()
    return not staged


@functools.cache
def _say_that_none_knows_stages() -> None:
    print(
        "note: no kernel computes a gradient at weights of several versions, as the stages of a "
        "pipeline read them. PyTorch computes it, which is slower.",
        file=sys.stderr,
    )


def has_kernel(rule: Rule, batch_size: int, backend: Backend) -> bool:
    """Whether a run of this rule, with minibatches of this size, is replayed in a kernel."""
    return (
        type(rule).has_kernel_form() and backend.steps_alone(batch_size) and rule.clip_norm is None
    )


def advance_in_kernel(
    runs: list[Run], state: ReplayState, backend: Backend
) -> tuple[ReplayState, torch.Tensor]:
    """`replay.advance_in_steps` of runs for which `can_advance` is true."""
    weights, saved = state.weights.contiguous(), state.saved.contiguous()
    pending = None if state.pending is None else state.pending.contiguous()
    rule = {name: value.contiguous() for name, value in state.rule.items()}
    losses = torch.zeros(len(runs), dtype=torch.float64)
    groups = _groups(runs)
    drawn = minibatches([runs[rows.start] for rows in groups], state.epoch)
    for rows, samples in zip(groups, drawn, strict=True):
        group = runs[rows]
        run, per_update = group[0], group[0].schedule.arrivals_per_update
        first, stop = run.stretch(state.epoch)
        steps = run.step_factors
        factors = None if steps is None else weights.new_tensor(steps[first:stop])
        weighted = run.replayed.weight
        scales = None if weighted is None else weights.new_tensor(weighted[first:stop])
        stretch = Stretch(
            batch=run.order.batch_size,
            local_steps=run.order.local_steps,
            local_rates=weights.new_tensor([run.local_rate for run in group]),
            per_update=per_update,
            rates=weights.new_tensor([run.rule.lr for run in group]),
            **run.rule.kernel_form({name: value[rows] for name, value in rule.items()}),
            runs=len(group),
            weights=weights[rows],
            pending=None if pending is None else pending[rows],
            saved=saved[:, rows],
            slots=run.snapshots.slots,
            apart=saved.stride(0),
            losses=losses[rows],
        )
        for here in _pieces(first, stop, run.order.taken * backend.noise):
            arrivals = range(here.start, here.stop)
            within = slice(here.start - first, here.stop - first)
            stretch.set(
                count=len(arrivals),
                rows=samples[within],
                noise=run.noise(arrivals, backend.noise) if backend.noise else None,
                read=run.snapshots.read[here],
                write=run.snapshots.write[here],
                factors=None if factors is None else factors[within],
                scales=None if scales is None else scales[within],
                waiting=here.start % per_update,
            )
            backend.replay(stretch, weights.dtype)
    lengths = [stop - first for first, stop in (run.stretch(state.epoch) for run in runs)]
    means = losses / torch.tensor(lengths, dtype=torch.float64)
    return ReplayState(weights, rule, saved, pending, state.epoch + 1), means


_NOISE_AT_ONCE = 1 << 22  # bytes


def _pieces(first: int, stop: int, noise: int) -> Iterator[slice]:
    """The arrivals from first to stop, in pieces; an arrival takes `noise` random bytes."""
    size = max(1, _NOISE_AT_ONCE // noise if noise else stop - first)
    for start in range(first, stop, size):
        yield slice(start, min(start + size, stop))


def _groups(runs: list[Run]) -> list[slice]:
    """Neighbours that differ in their learning rate at most, as slices that cover all."""
    starts = [i for i in range(len(runs)) if not i or not _alike(runs[i - 1], runs[i])]
    return [slice(a, b) for a, b in itertools.pairwise([*starts, len(runs)])]


def _alike(one: Run, other: Run) -> bool:
    same = one.schedule is other.schedule and one.order is other.order and one.seed == other.seed
    return same and _but_lr(one.rule) == _but_lr(other.rule)


def _but_lr(rule: Rule) -> list:
    return [getattr(rule, f.name) for f in dataclasses.fields(rule) if f.name != "lr"]
