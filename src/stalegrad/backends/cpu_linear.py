"""The fused kernel of linear models (`kernels/linear_model.cpp`): one thread a call."""

import ctypes

import torch
from torch import Tensor

from stalegrad import kernels
from stalegrad.backends.vmap import VmapBackend
from stalegrad.problems import Task


class LinearModelBackend(VmapBackend):
    """Loss and gradient of |X w - y|^2 / (2 B); metrics are the reference's.

    It reads the samples of a minibatch where they lie in the training set, once for all runs that
    share it.
    """

    name = "cpu"
    kernel = "linear_model"
    fetches = True
    static = False

    def __init__(self, task: Task):
        super().__init__(task)
        self._library = kernels.load(self.kernel)
        self._train = tuple(part.contiguous() for part in task.train)

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: None = None
    ) -> tuple[Tensor, Tensor]:
        samples = torch.arange(targets.numel()).view(targets.shape)  # where they lie in `flat`
        bounds = [0, len(weights)] if len(inputs) == 1 else range(len(weights) + 1)
        flat = inputs.reshape(-1, inputs.shape[-1]), targets.reshape(-1)
        return self._call(weights.contiguous(), *flat, samples, torch.tensor(bounds))

    def gradients_of(
        self, weights: Tensor, samples: Tensor, bounds: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._call(weights.contiguous(), *self._train, samples.contiguous(), bounds)

    def _call(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, samples: Tensor, bounds: Tensor
    ) -> tuple[Tensor, Tensor]:
        out, losses = torch.empty_like(weights), weights.new_empty(len(weights))
        precision = str(weights.dtype).removeprefix("torch.")
        failed = getattr(self._library, f"linear_model_gradients_{precision}")(
            ctypes.c_int64(len(samples)),
            *_pointers(bounds, samples),
            ctypes.c_int64(samples.shape[1]),
            *_pointers(inputs, targets),
            ctypes.c_int64(weights.shape[1]),
            *_pointers(weights, out, losses),
        )
        if failed:
            raise MemoryError("The kernel of linear models could not allocate its scratch space.")
        return out, losses


def _pointers(*tensors: Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
