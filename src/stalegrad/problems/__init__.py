"""Problems: what is minimised. One module a problem.

A module defines a `spec` whose fields are configuration keys; it is read without torch. Its `load`
gives a `Task`: the data on a device and the functions of flat weights that replay needs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A problem ready to be trained.

    name: the problem's, by which a backend knows what it can do.
    parameters: length P of the flat weights.
    initial_weights: seed -> float64 [P], the same on every device.
    loss: (weights [P], inputs [B, ...], targets [B]) -> mean loss; made of torch functions that
        `torch.func` can differentiate and map over runs.
    metrics: (weights [P], inputs [N, ...], targets [N]) -> what is recorded of the test set each
        epoch, as means over its samples in float64.
    train, test: (inputs, targets) on the device; images as uint8.
    options: what a fused kernel must know beside the data (pixel scale and shift).
    """

    name: str
    parameters: int
    initial_weights: Callable[[int], "Tensor"]
    loss: Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
    metrics: Callable[["Tensor", "Tensor", "Tensor"], dict[str, "Tensor"]]
    train: tuple["Tensor", "Tensor"]
    test: tuple["Tensor", "Tensor"]
    options: Mapping[str, float]


class Problem(Protocol):
    """What a module of this package defines: a `spec` with these methods."""

    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets it reads, as `stalegrad.data` knows them."""

    def samples(self) -> int:
        """Training samples, known without loading them."""

    def parameters(self) -> int:
        """Length of the flat weights."""

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        """The task on `device`. Raises DataError where the data are not there."""
