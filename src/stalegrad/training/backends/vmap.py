"""The reference: `torch.func` maps one run's gradient over all runs. Any problem, any device."""

from collections.abc import Callable

import torch
from torch import Tensor

from stalegrad.problems import Task, runs_in_step
from stalegrad.training.backends import Backend


class VmapBackend(Backend):
    name = "torch"
    fetches = False
    static = False

    def __init__(self, task: Task):
        self._task, self.noise = task, task.noise
        self._gradients = torch.func.vmap(torch.func.grad_and_value(task.loss))
        shared = (0, None, None, None) if task.noise else (0, None, None)
        self._shared = torch.func.vmap(torch.func.grad_and_value(task.loss), in_dims=shared)
        self._metrics = torch.func.vmap(task.metrics, in_dims=(0, None, None))
        on_cpu = task.train[0].device.type == "cpu"
        self.runs_at_once = runs_in_step(task.parameters) if on_cpu else None

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        shared = len(inputs) == 1 < len(weights)
        if not shared and (alike := len(weights) // len(inputs)) > 1:
            inputs, targets = (part.repeat_interleave(alike, dim=0) for part in (inputs, targets))
            noise = None if noise is None else noise.repeat_interleave(alike, dim=0)
        if self._task.gradients is None:
            batch = (inputs, targets) if noise is None else (inputs, targets, noise)
            if shared:
                return self._shared(weights, *(part[0] for part in batch))
            return self._gradients(weights, *batch)
        if shared:
            return self._task.gradients(weights, inputs[0], targets[0])
        gradients, losses = self._task.gradients(weights.unsqueeze(1), inputs, targets)
        return gradients.squeeze(1), losses.squeeze(1)

    def steps_alone(self, batch_size: int) -> bool:
        return False

    @torch.no_grad()
    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        return mean_metrics(self._metrics, weights, self._task.test, self._task.test_chunk)


def mean_metrics(
    metrics: Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]],
    weights: Tensor,
    test: tuple[Tensor, Tensor],
    chunk: int,
) -> dict[str, Tensor]:
    """`metrics`, which are means over samples, of all of `test`, `chunk` samples at once."""
    inputs, targets = test
    sums: dict[str, Tensor] = {}
    for some, wanted in zip(inputs.split(chunk), targets.split(chunk), strict=True):
        for name, mean in metrics(weights, some, wanted).items():
            sums[name] = sums.get(name, 0) + mean * len(wanted)
    return {name: total / len(targets) for name, total in sums.items()}
