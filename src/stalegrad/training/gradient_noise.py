"""How much gradients differ between minibatches, at weights that a run went through."""

import torch
from torch import Tensor

from stalegrad.io.errors import ConfigError
from stalegrad.problems import Task
from stalegrad.training.backends import Backend


def gradient_noise(
    task: Task, backend: Backend, weights: Tensor, batch_size: int, batches: int
) -> dict[str, Tensor]:
    """Variance of the gradient over minibatches, and the squared length of their mean.

    weights [R, P]. The first `batches` x `batch_size` training samples, in the order of the data,
    are cut into minibatches, at least 2. Each [R], in float64: gradient_variance, the unbiased
    variance over minibatches, summed over the parameters; mean_gradient_square, the squared length
    of the mean over minibatches, of which the variance divided by `batches` is noise. For
    uncorrelated samples the variance is that of one sample's gradient divided by `batch_size`.

    Raises ConfigError for a loss that takes random numbers, which would vary too.
    """
    if task.noise:
        raise ConfigError(
            f"'gradient_batches' is of losses without random numbers, and that of the problem "
            f"'{task.name}' takes some (dropout); leave it out."
        )
    inputs, targets = (
        part[: batches * batch_size].unflatten(0, (batches, batch_size)) for part in task.train
    )
    found = [_noise(backend, one, inputs, targets) for one in weights]
    names = ("gradient_variance", "mean_gradient_square")
    return dict(zip(names, torch.stack(found, dim=1), strict=True))


def _noise(backend: Backend, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """The two numbers [2] at weights [P]."""
    at = weights[None]
    gradients = torch.cat(
        [backend.gradients(at, x[None], y[None])[0] for x, y in zip(inputs, targets, strict=True)]
    ).double()
    variance = gradients.var(dim=0, correction=1).sum()
    return torch.stack([variance, gradients.mean(dim=0).square().sum()])
