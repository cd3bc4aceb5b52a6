"""Steps of a rule with gradients that arrive from elsewhere: what a real server does.

They are those of replay, to the bit: in the kernel where replay takes its steps there, else by the
rule's own functions, in the order of `replay.advance_in_steps`.
"""

import torch
from torch import Tensor

from stalegrad.problems import Task
from stalegrad.rules import Rule, steps_on
from stalegrad.training import kernel_replay, replay
from stalegrad.training.backends import Backend
from stalegrad.training.kernels.calls import Kernel, Stretch


class Server:
    """The weights of one run, and what changes them.

    weights [P]: those now. version: how many updates they have had. sent [N, P]: the weights that
    each worker computes its gradient at; the caller sets them.
    """

    def __init__(
        self,
        task: Task,
        backend: Backend,
        rule: Rule,
        batch_size: int,
        per_update: int,
        weights: Tensor,
        sent: Tensor,
    ):
        self.weights, self.sent, self.version = weights.clone(), sent, 0
        self._per_update, self._waiting = per_update, 0
        state = steps_on(type(rule), task.layers).init(self.weights[None])
        pending = torch.zeros_like(self.weights) if per_update > 1 else None
        kind = _InKernel if kernel_replay.has_kernel(rule, batch_size, backend) else _ByTorch
        self._step = kind(task, rule, per_update, self.weights, sent, state, pending)

    def apply(self, worker: int, gradient: Tensor, factor: float | None = None) -> None:
        """Take in a gradient [P] of a worker, computed at `sent[worker]`. factor: of the learning
        rate, as `Rule.step_factors`."""
        self._step.take(worker, gradient, factor, self._waiting)
        self._waiting = (self._waiting + 1) % self._per_update
        self.version += self._waiting == 0


class _InKernel:
    """The step of `kernels/replay.h`."""

    def __init__(
        self,
        task: Task,
        rule: Rule,
        per_update: int,
        weights: Tensor,
        sent: Tensor,
        state: dict[str, Tensor],
        pending: Tensor | None,
    ):
        self._kernel, self._dtype = Kernel("given"), weights.dtype
        self._slot, self._factor = torch.zeros(1, dtype=torch.int32), weights.new_ones(1)
        self._stretch = Stretch(
            count=1,
            batch=1,
            local_steps=1,
            rows=None,
            read=self._slot,
            write=torch.full((1,), -1, dtype=torch.int32),
            per_update=per_update,
            rates=weights.new_tensor([rule.lr]),
            **rule.kernel_form(state),
            runs=1,
            weights=weights,
            pending=pending,
            saved=sent,
            slots=len(sent),
            apart=sent.stride(0),
            losses=torch.zeros(1, dtype=torch.float64),
        )

    def take(self, worker: int, gradient: Tensor, factor: float | None, waiting: int) -> None:
        self._slot[0] = worker
        if factor is not None:
            self._factor[0] = factor
        self._stretch.set(waiting=waiting, factors=None if factor is None else self._factor)
        samples = {"inputs": gradient, "dimension": len(gradient), "width": len(gradient)}
        self._kernel.replay(self._stretch, self._dtype, samples)


class _ByTorch:
    """The steps of `replay.advance_in_steps`, for one run."""

    def __init__(
        self,
        task: Task,
        rule: Rule,
        per_update: int,
        weights: Tensor,
        sent: Tensor,
        state: dict[str, Tensor],
        pending: Tensor | None,
    ):
        self._rule, self._per_update, self._state = (
            steps_on(type(rule), task.layers),
            per_update,
            state,
        )
        self._weights, self._sent, self._pending = weights, sent, pending
        self._numbers = replay.stack_numbers([rule], weights)

    def take(self, worker: int, gradient: Tensor, factor: float | None, waiting: int) -> None:
        numbers, weights = self._numbers, self._weights[None]
        if factor is not None:
            numbers = {**numbers, "lr": numbers["lr"] * weights.new_tensor([[factor]])}
        gradient = gradient[None]
        if "clip_norm" in numbers:
            gradient = replay.clip(gradient, numbers["clip_norm"])
        gradient, self._state = self._rule.correct(
            gradient, self._sent[worker][None], weights, self._state, numbers
        )
        if self._pending is not None:
            self._pending += gradient[0]
            if waiting + 1 < self._per_update:
                return
            gradient = self._pending[None] / self._per_update
        new, self._state = self._rule.update(gradient, weights, self._state, numbers)
        self._weights.copy_(new[0])
        if self._pending is not None:
            self._pending.zero_()
