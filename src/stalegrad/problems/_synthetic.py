"""What problems on synthetic data have in common: they start at 0, and their gradient is known."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from stalegrad.problems import Task

if TYPE_CHECKING:
    from torch import Tensor


class SyntheticProblem:
    """What `Problem` asks for that follows from the fields `dimension` and `epoch_samples`.

    `samples`, the rows of its training set, is the problem's own.
    """

    dimension: int
    epoch_samples: int

    def datasets(self) -> tuple[str, ...]:
        return ()

    def draws(self) -> int:
        return self.epoch_samples

    def parameters(self) -> int:
        return self.dimension


def synthetic_task(
    name: str,
    dimension: int,
    loss: Callable[["Tensor", "Tensor", "Tensor"], "Tensor"],
    gradients: Callable[["Tensor", "Tensor", "Tensor"], tuple["Tensor", "Tensor"]],
    metrics: Callable[["Tensor", "Tensor", "Tensor"], dict[str, "Tensor"]],
    train: tuple["Tensor", "Tensor"],
    test: tuple["Tensor", "Tensor"] | None = None,
    options: Mapping[str, float] | None = None,
) -> Task:
    """The task whose weights [dimension] start at 0, whatever the seed.

    loss, gradients, metrics, train, test, options: as in `Task`; without `test` the metrics need no
    samples.
    """
    import torch

    return Task(
        name=name,
        parameters=dimension,
        initial_weights=lambda seed: torch.zeros(dimension, dtype=torch.float64),
        loss=loss,
        metrics=metrics,
        train=train,
        test=test or (train[0][:1], train[1][:1]),
        options=options or {},
        gradients=gradients,
    )


def linear_loss(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> "Tensor":
    """Half the mean squared residual of a linear model: weights [d], inputs [B, d], targets [B]."""
    return (inputs @ weights - targets).square().mean() / 2


def linear_gradients(
    weights: "Tensor", inputs: "Tensor", targets: "Tensor"
) -> tuple["Tensor", "Tensor"]:
    """Gradients [..., R, d] and losses [..., R] of `linear_loss`, as `Task.gradients` says."""
    residual = (weights @ inputs.mT).sub_(targets.unsqueeze(-2))
    losses = residual.square().mean(dim=-1) / 2
    return residual.div_(inputs.shape[-2]) @ inputs, losses
