"""The reference: `torch.func` maps one run's gradient over all runs. Any problem, any device."""

import torch
from torch import Tensor

from stalegrad.problems import Task

TEST_CHUNK = 2_000  # samples evaluated at once; bounds the memory of activations


class VmapBackend:
    name = "torch"

    def __init__(self, task: Task):
        self._task = task
        self._gradients = torch.func.vmap(torch.func.grad_and_value(task.loss))
        self._metrics = torch.func.vmap(task.metrics, in_dims=(0, None, None))
        # On a CPU mapping gives nothing over one run at a time, and threads go over the runs.
        self.runs_at_once = 1 if task.train[0].device.type == "cpu" else None

    def gradients(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self._gradients(weights, inputs, targets)

    @torch.no_grad()
    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        inputs, targets = self._task.test
        sums: dict[str, Tensor] = {}
        for start in range(0, len(targets), TEST_CHUNK):
            chunk = slice(start, start + TEST_CHUNK)
            means = self._metrics(weights, inputs[chunk], targets[chunk])
            for name, mean in means.items():
                sums[name] = sums.get(name, 0) + mean * len(targets[chunk])
        return {name: total / len(targets) for name, total in sums.items()}
