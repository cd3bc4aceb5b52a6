"""Fused kernels of problems on synthetic data (`kernels/*.cpp`): one thread a call."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from stalegrad.problems import Task
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.kernels.calls import Kernel, Stretch

_BYTES = 64  # of a vector; rows of samples are filled with zeros to whole ones
# Numbers in a minibatch up to which a run steps alone: avoiding the calls around a step then gains
# more than sharing samples with other runs.
STEPS_ALONE = 1 << 13


class SyntheticBackend(VmapBackend):
    """Loss, gradient and whole stretches; metrics are the reference's.

    It reads the samples of a minibatch where they lie in the training set, once for all runs that
    share it.
    """

    name = "cpu"
    fetches = True
    static = False

    def __init__(self, task: Task, kernel: str):
        super().__init__(task)
        self._kernel = Kernel(kernel)
        self._options = torch.tensor(list(task.options.values()), dtype=torch.float64)
        self._train = self._laid_out(*task.train)

    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        rows = torch.arange(targets.numel()).view(targets.shape)  # where they lie in `flat`
        bounds = range(0, len(weights) + 1, len(weights) // len(inputs))
        flat = self._laid_out(inputs.reshape(-1, inputs.shape[-1]), targets.reshape(-1))
        return self._kernel.gradients(weights, rows, torch.tensor(bounds), flat)

    def gradients_of(
        self, weights: Tensor, samples: Tensor, bounds: Tensor
    ) -> tuple[Tensor, Tensor]:
        return self._kernel.gradients(weights, samples, bounds, self._train)

    def steps_alone(self, batch_size: int) -> bool:
        return batch_size * self._train["dimension"] <= STEPS_ALONE

    def replay(self, stretch: Stretch, dtype: torch.dtype) -> None:
        self._kernel.replay(stretch, dtype, self._train)

    def _laid_out(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        """Samples as the kernels read them: rows of whole vectors, the rest zeros."""
        dimension, lanes = inputs.shape[1], _BYTES // inputs.element_size()
        width = -(-dimension // lanes) * lanes
        return {
            "inputs": functional.pad(inputs, (0, width - dimension)).contiguous(),
            "targets": targets.contiguous(),
            "dimension": dimension,
            "width": width,
            "options": self._options,
        }
