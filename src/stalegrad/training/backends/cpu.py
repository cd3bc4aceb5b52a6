"""Fused kernels of networks on images (`lenet5.cpp`, `large_cnn.cpp`), one thread a call."""

from typing import Any

import torch
from torch import Tensor

from stalegrad.problems import Task
from stalegrad.training import kernels
from stalegrad.training.backends import Backend
from stalegrad.training.kernels.calls import Kernel, Stretch

# Networks on images, each with a kernel of its own; and the kernel of each problem that has one.
NETWORKS = ("lenet5", "large_cnn")
KERNELS = {
    **{name: name for name in NETWORKS},
    "chain": "chain",
    "least_squares": "linear_model",
    "linear_regression": "linear_model",
}


def reason_against(task: Task) -> str | None:
    """Why this backend cannot do `task`, as half a sentence, or None where it can."""
    if task.name not in KERNELS:
        return f"it has no kernel for the problem '{task.name}'"
    if task.train[0].device.type != "cpu":
        return "the data are not on the CPU"
    try:
        kernels.load(KERNELS[task.name])
    except kernels.KernelUnavailable as error:
        return str(error)
    return None


class CpuBackend(Backend):
    name = "cpu"
    # One run's weights and state fit the second-level cache, or fill the third.
    runs_at_once = 1
    fetches = False
    static = False

    def __init__(self, task: Task):
        if task.metrics_of is None:
            raise ValueError(f"The targets of the problem '{task.name}' are not labels.")
        self._kernel = Kernel(KERNELS[task.name])
        self._metrics_of, self.noise = task.metrics_of, task.noise
        self._options = torch.tensor(list(task.options.values()), dtype=torch.float64)
        self._parameters = task.parameters
        self._train, self._test = self._laid_out(*task.train), self._laid_out(*task.test)

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        rows = torch.arange(targets.numel()).view(targets.shape)
        bounds = range(0, len(weights) + 1, len(weights) // len(inputs))
        flat = self._laid_out(inputs.reshape(-1, *inputs.shape[2:]), targets.reshape(-1))
        return self._kernel.gradients(weights, rows, torch.tensor(bounds), flat, noise)

    def steps_alone(self, batch_size: int) -> bool:
        return True

    def replay(self, stretch: Stretch, dtype: torch.dtype) -> None:
        self._kernel.replay(stretch, dtype, self._train)

    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        losses, classes = self._kernel.predictions(weights, self._test)
        return self._metrics_of(weights, losses, classes, self._test["targets"])

    def _laid_out(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        return {
            "inputs": images.contiguous(),
            "targets": labels.contiguous(),
            "dimension": self._parameters,
            "width": self._parameters,
            "options": self._options,
        }
