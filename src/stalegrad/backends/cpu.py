"""The fused LeNet-5 kernel (`kernels/lenet5.cpp`): one thread a call, float32 or float64."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from stalegrad import kernels
from stalegrad.kernels.calls import Kernel, Stretch, address
from stalegrad.problems import Task

# The kernel of each problem that has one.
KERNELS = {
    "lenet5": "lenet5",
    "chain": "chain",
    "least_squares": "linear_model",
    "linear_regression": "linear_model",
}
_SCALARS = {torch.float32: ctypes.c_float, torch.float64: ctypes.c_double}


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


class CpuBackend:
    name = "cpu"
    # One run's weights and state fit the second-level cache.
    runs_at_once = 1
    fetches = False
    static = False

    def __init__(self, task: Task):
        self._kernel = Kernel("lenet5")
        self._scale, self._shift = task.options["scale"], task.options["shift"]
        self._details = task.details
        self._test = tuple(tensor.contiguous() for tensor in task.test)
        self._options = torch.tensor([self._scale, self._shift], dtype=torch.float64)
        self._parameters = task.parameters
        self._train = self._laid_out(*task.train)

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: None = None
    ) -> tuple[Tensor, Tensor]:
        rows = torch.arange(targets.numel()).view(targets.shape)
        bounds = [0, len(weights)] if len(inputs) == 1 else range(len(weights) + 1)
        flat = self._laid_out(inputs.reshape(-1, *inputs.shape[2:]), targets.reshape(-1))
        return self._kernel.gradients(weights, rows, torch.tensor(bounds), flat)

    def steps_alone(self, batch_size: int) -> bool:
        return True

    def replay(self, stretch: Stretch, dtype: torch.dtype) -> None:
        self._kernel.replay(stretch, dtype, self._train)

    def _laid_out(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        return {
            "inputs": images.contiguous(),
            "targets": labels.contiguous(),
            "dimension": self._parameters,
            "width": self._parameters,
            "options": self._options,
        }

    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        images, labels = self._test
        losses = torch.empty((len(weights), len(labels)), dtype=torch.float64)
        classes = torch.empty((len(weights), len(labels)), dtype=torch.int64)
        self._predict(weights, images, labels, losses, classes)
        correct = (classes == labels).double()
        means = {"test_loss": losses.mean(dim=1), "test_accuracy": correct.mean(dim=1)}
        return means | (self._details(weights, classes, labels) if self._details else {})

    def _predict(
        self, weights: Tensor, images: Tensor, labels: Tensor, losses: Tensor, classes: Tensor
    ) -> None:
        scalar = _SCALARS[weights.dtype]
        precision = str(weights.dtype).removeprefix("torch.")
        weights = weights.contiguous()
        failed = getattr(self._kernel.library, f"lenet5_predictions_{precision}")(
            ctypes.c_int64(len(weights)),
            *(ctypes.c_void_p(address(tensor)) for tensor in (weights, images, labels)),
            ctypes.c_int64(len(labels)),
            scalar(self._scale),
            scalar(self._shift),
            *(ctypes.c_void_p(address(tensor)) for tensor in (losses, classes)),
        )
        if failed:
            raise MemoryError("The LeNet-5 kernel could not allocate its scratch space.")
