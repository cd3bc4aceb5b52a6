"""The fused LeNet-5 kernel (`kernels/lenet5.cpp`): one thread a call, float32 or float64."""

import ctypes

import torch
from torch import Tensor

from stalegrad import kernels
from stalegrad.problems import Task

# The kernel of each problem that has one.
KERNELS = {
    "lenet5": "lenet5",
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
        self._library = kernels.load("lenet5")
        self._scale, self._shift = task.options["scale"], task.options["shift"]
        self._details = task.details
        self._test = tuple(tensor.contiguous() for tensor in task.test)

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: None = None
    ) -> tuple[Tensor, Tensor]:
        out, losses = weights.new_empty(weights.shape), weights.new_empty(len(weights))
        # The kernel takes one minibatch a run, shared or not.
        inputs, targets = (part.expand(len(weights), *part.shape[1:]) for part in (inputs, targets))
        self._call("gradients", weights, inputs, targets, targets.shape[1], out, losses)
        return out, losses

    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        images, labels = self._test
        losses = torch.empty((len(weights), len(labels)), dtype=torch.float64)
        classes = torch.empty((len(weights), len(labels)), dtype=torch.int64)
        self._call("predictions", weights, images, labels, len(labels), losses, classes)
        correct = (classes == labels).double()
        means = {"test_loss": losses.mean(dim=1), "test_accuracy": correct.mean(dim=1)}
        return means | (self._details(weights, classes, labels) if self._details else {})

    def _call(
        self,
        function: str,
        weights: Tensor,
        images: Tensor,
        labels: Tensor,
        count: int,
        *outputs: Tensor,
    ) -> None:
        scalar = _SCALARS[weights.dtype]
        precision = str(weights.dtype).removeprefix("torch.")
        tensors = (weights.contiguous(), images.contiguous(), labels.contiguous())
        failed = getattr(self._library, f"lenet5_{function}_{precision}")(
            ctypes.c_int64(len(weights)),
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
            ctypes.c_int64(count),
            scalar(self._scale),
            scalar(self._shift),
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in outputs),
        )
        if failed:
            raise MemoryError("The LeNet-5 kernel could not allocate its scratch space.")
