"""Networks of many runs as products of large matrices, which suit a GPU.

`vmap` turns the runs' convolutions into grouped ones of few channels each, which cuDNN is slow at
and which leave a GPU idle most of the time. Here every layer of all runs is one batch of products;
of runs that share a minibatch, the first layer's is of their stacked weights and the patches of the
images, which are laid out once. The gradient is autograd's, of the sum of the runs' losses.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from stalegrad.problems import Task
from stalegrad.training.backends import Backend
from stalegrad.training.backends.vmap import mean_metrics

EVALUATED_ON_GPU = 1 << 14  # test samples times runs at once: patches take about a gigabyte


def reason_against(task: Task) -> str | None:
    """Why this backend cannot do `task`, as half a sentence, or None where it can."""
    if task.together is None:
        return f"the problem '{task.name}' has no form for many runs at once"
    if task.noise:
        return f"the problem '{task.name}' takes random numbers in training"
    return None


class BatchedBackend(Backend):
    """tf32: products of float32 matrices may be rounded to TF32, on GPUs that have it."""

    fetches = False
    static = True
    runs_at_once = None
    noise = 0

    def __init__(self, task: Task, tf32: bool = False):
        self.name = "batched_tf32" if tf32 else "batched"
        if task.together is None:
            raise ValueError(f"The backend '{self.name}' cannot be used: {reason_against(task)}.")
        self._task, self._together, self._tf32 = task, task.together, tf32
        on_cpu = task.train[0].device.type == "cpu"
        self._evaluated = task.test_chunk if on_cpu else EVALUATED_ON_GPU

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        weights = weights.detach().requires_grad_()
        with torch.enable_grad(), _products_in(self._tf32):
            losses = self._together.losses(weights, inputs, targets)
            (gradients,) = torch.autograd.grad(losses.sum(), weights)
        return gradients, losses.detach()

    def steps_alone(self, batch_size: int) -> bool:
        return False

    @torch.no_grad()
    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        chunk = max(1, self._evaluated // len(weights))
        return mean_metrics(self._together.metrics, weights, self._task.test, chunk)


@contextlib.contextmanager
def _products_in(tf32: bool) -> Iterator[None]:
    if not tf32:
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
