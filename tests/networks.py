"""Shared by the tests of kernels of networks: weights, minibatches, autograd to hold them to."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from stalegrad.data_order import minibatch_noise
from stalegrad.problems import Task, large_cnn, lenet5
from stalegrad.problems._network import Convolution, Network, ReLU
from stalegrad.training import kernels
from stalegrad.training.backends import cpu

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
NETWORKS = {"lenet5": lenet5.NETWORK, "large_cnn": large_cnn.NETWORK}


def need_compiled(*names: str) -> None:
    """Skips where there is no compiler; a kernel that does not compile is an error."""
    try:
        for name in names:
            kernels.load(name)
    except kernels.KernelUnavailable as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))


def network_of(task: Task) -> Network:
    return NETWORKS[task.name]


def layers(network: Network) -> list[str]:
    """conv1.w, conv1.b, ..., fc1.w, ...: the parts of the flat weights."""
    names, counts = [], {"conv": 0, "fc": 0}
    for layer, shape, _ in network.walk():
        if layer.weights(shape):
            kind = "conv" if isinstance(layer, Convolution) else "fc"
            counts[kind] += 1
            names += [f"{kind}{counts[kind]}.{part}" for part in "wb"]
    return names


def biases_before_relu(network: Network) -> list[str]:
    biases = iter(layers(network)[1::2])
    found, latest = [], None
    for layer, shape, _ in network.walk():
        if layer.weights(shape):
            latest = next(biases)
        elif isinstance(layer, ReLU):
            found.append(latest)
    return found


def random_weights(task: Task, seed: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (task.initial_weights(seed) * scale).to(dtype)[None]


def with_layer(task: Task, weights: Tensor, name: str, value: float, every: int = 1) -> Tensor:
    """A copy in which every so many weights or biases of a layer have one value."""
    network = network_of(task)
    parts = list(weights.clone().split(network.sizes, dim=1))
    parts[layers(network).index(name)][:, ::every] = value
    return torch.cat(parts, dim=1)


def batch_of(task: Task, size: int, runs: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    chosen = np.random.default_rng(seed).integers(len(task.train[0]), size=(runs, size))
    return task.train[0][chosen], task.train[1][chosen]


def noise_of(task: Task, labels: Tensor, seed: int = 0) -> Tensor | None:
    """Random bytes for minibatches with labels [R, B], where the task takes any."""
    if not task.noise:
        return None
    runs, size = labels.shape
    drawn = [minibatch_noise(seed, 0, run, size, task.noise) for run in range(runs)]
    return torch.from_numpy(np.stack(drawn))


def assert_equals_autograd(
    task: Task, weights: Tensor, images: Tensor, labels: Tensor, noise: Tensor | None = None
) -> Tensor:
    """Gradients and losses within tolerance of autograd in float64; returns the gradients.

    Relative to the norm of each layer, or, where that is all but zero, to that of the whole.
    noise: by default some of `noise_of`.
    """
    if noise is None:
        noise = noise_of(task, labels)
    tolerance, network = TOLERANCE[weights.dtype], network_of(task)
    gradients, losses = cpu.CpuBackend(task).gradients(weights, images, labels, noise)
    assert gradients.dtype == losses.dtype == weights.dtype
    for run in range(len(weights)):
        exact = weights[run].double().requires_grad_()
        batch = (part if part is None else part[run] for part in (images, labels, noise))
        loss = task.loss(exact, *batch)
        (wanted,) = torch.autograd.grad(loss, exact)
        assert losses[run].item() == pytest.approx(loss.item(), rel=tolerance)
        parts = zip(
            layers(network),
            gradients[run].double().split(network.sizes),
            wanted.split(network.sizes),
            strict=True,
        )
        for name, part, wanted_part in parts:
            error = (part - wanted_part).norm().item()
            if wanted_part.norm() == 0:
                assert error == 0, name
            assert error <= tolerance * max(wanted_part.norm(), 1e-3 * wanted.norm()), name
    return gradients


def share_predicted(task: Task, weights: Tensor, classes: Tensor) -> float:
    """The share of test images that the kernel puts in these classes [N]."""
    relabelled = dataclasses.replace(task, test=(task.test[0], classes))
    return cpu.CpuBackend(relabelled).metrics(weights)["test_accuracy"].item()


def argmax(task: Task, weights: Tensor) -> Tensor:
    images = task.test[0].to(weights.dtype) * task.options["scale"] + task.options["shift"]
    return network_of(task)(weights[0], images[:, None]).argmax(dim=1)
