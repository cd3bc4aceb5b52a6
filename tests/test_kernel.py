"""The fused LeNet-5 kernel against autograd, layer by layer, where the two could come apart."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from helpers import InOrder, make_schedule, plan, quadratic_task
from torch import Tensor

from stalegrad import fused, kernels, replay
from stalegrad.backends import cpu, make_backend
from stalegrad.backends.vmap import VmapBackend
from stalegrad.errors import ConfigError
from stalegrad.problems.lenet5 import NETWORK
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.sgd import SGD

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
LAYERS = [f"{layer}.{kind}" for layer in ("conv1", "conv2", "fc1", "fc2", "fc3") for kind in "wb"]


@pytest.fixture(scope="module", autouse=True)
def _needs_compiler():
    try:
        kernels.load("lenet5")
    except kernels.KernelUnavailable as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


def batch_of(task, size: int, runs: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    chosen = np.random.default_rng(seed).integers(len(task.train[0]), size=(runs, size))
    return task.train[0][chosen], task.train[1][chosen]


def random_weights(seed: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (NETWORK.initial_weights(seed) * scale).to(dtype)[None]


def with_layer(weights: Tensor, name: str, value: float) -> Tensor:
    """A copy in which one layer's weights or biases all have one value."""
    parts = list(weights.clone().split(NETWORK.sizes, dim=1))
    parts[LAYERS.index(name)][:] = value
    return torch.cat(parts, dim=1)


def assert_equals_autograd(task, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Gradients and losses within tolerance of autograd in float64; returns the gradients.

    Relative to the norm of each layer, or, where that is all but zero, to that of the whole.
    """
    tolerance = TOLERANCE[weights.dtype]
    gradients, losses = cpu.CpuBackend(task).gradients(weights, images, labels)
    assert gradients.dtype == losses.dtype == weights.dtype
    for run in range(len(weights)):
        exact = weights[run].double().requires_grad_()
        loss = task.loss(exact, images[run], labels[run])
        (wanted,) = torch.autograd.grad(loss, exact)
        assert losses[run].item() == pytest.approx(loss.item(), rel=tolerance)
        parts = zip(
            LAYERS,
            gradients[run].double().split(NETWORK.sizes),
            wanted.split(NETWORK.sizes),
            strict=True,
        )
        for name, part, wanted_part in parts:
            error = (part - wanted_part).norm().item()
            if wanted_part.norm() == 0:
                assert error == 0, name
            assert error <= tolerance * max(wanted_part.norm(), 1e-3 * wanted.norm()), name
    return gradients


@pytest.mark.parametrize("size", [1, 5, 16, 17, 50])
def test_gradients_on_random_weights(lenet, dtype, size):
    """With tiles of 16: less than one, exactly one, and a last one that is not full."""
    for seed, scale in ((1, 1.0), (2, 3.0)):
        weights = random_weights(seed, dtype, scale)
        assert_equals_autograd(lenet, weights, *batch_of(lenet, size, seed=seed))


def test_gradients_of_a_large_batch(lenet, dtype):
    """Rounding does not pile up over the sixty-four tiles of the largest minibatch."""
    assert_equals_autograd(lenet, random_weights(3, dtype), *batch_of(lenet, 1024))


@pytest.mark.parametrize("layer", ["conv1.b", "conv2.b", "fc1.b", "fc2.b"])
def test_dead_layer_passes_no_gradient(lenet, dtype, layer):
    weights = with_layer(random_weights(4, dtype), layer, -1e3)
    gradients = assert_equals_autograd(lenet, weights, *batch_of(lenet, 17))
    below = sum(NETWORK.sizes[: LAYERS.index(layer) + 1])
    assert (gradients[:, :below] == 0).all() and (gradients[:, -10:] != 0).all()


def test_some_units_dead_in_every_layer(lenet, dtype):
    parts = list(random_weights(5, dtype).split(NETWORK.sizes, dim=1))
    for layer in range(1, 9, 2):
        parts[layer] = parts[layer].clone()
        parts[layer][:, ::2] = -1e3
    assert_equals_autograd(lenet, torch.cat(parts, dim=1), *batch_of(lenet, 17))


def test_units_at_exactly_zero_pass_no_gradient(lenet, dtype):
    """With zero weights and biases every unit sits on the kink of its ReLU."""
    weights = torch.zeros((1, NETWORK.parameters), dtype=dtype)
    gradients = assert_equals_autograd(lenet, weights, *batch_of(lenet, 17))
    assert (gradients[:, :-10] == 0).all()


@pytest.mark.parametrize("pixel", [0, 1, 255])
def test_ties_in_pooling_on_constant_images(lenet, dtype, pixel):
    """All windows away from the border tie: the first maximum takes the whole gradient."""
    images = torch.full((1, 5, 28, 28), pixel, dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 2, 3, 9]])
    assert_equals_autograd(lenet, random_weights(6, dtype), images, labels)


@pytest.mark.parametrize("lenet", [False], indirect=True, ids=["pixels in [0, 1]"])
def test_ties_between_equal_pixels(lenet, dtype):
    """Black and white images under convolutions of few bits: two-, three- and four-way ties.

    All sums before the pooling are exact, so that no order of summing breaks a tie.
    """
    rng = np.random.default_rng(7)
    images = torch.from_numpy(rng.choice(np.array([0, 255], np.uint8), size=(1, 17, 28, 28)))
    labels = torch.from_numpy(rng.integers(10, size=(1, 17)))
    weights = random_weights(7, dtype, scale=4.0)
    convolutions = weights[:, : sum(NETWORK.sizes[:4])]
    convolutions[:] = (convolutions * 4).round() / 4
    assert_equals_autograd(lenet, weights, images, labels)


def test_several_runs_in_one_call_equal_one_by_one(lenet, dtype):
    weights = torch.cat([random_weights(seed, dtype) for seed in range(5)])
    images, labels = batch_of(lenet, 21, runs=5)
    backend = cpu.CpuBackend(lenet)
    together = backend.gradients(weights, images, labels)
    metrics = backend.metrics(weights)
    for run in range(5):
        row = slice(run, run + 1)
        alone = backend.gradients(weights[row], images[row], labels[row])
        assert all(torch.equal(a[row], b) for a, b in zip(together, alone, strict=True))
        for name, value in backend.metrics(weights[row]).items():
            assert torch.equal(metrics[name][row], value)


def test_rows_that_are_not_contiguous(lenet):
    weights = torch.cat([random_weights(seed, torch.float64) for seed in range(4)])
    images, labels = batch_of(lenet, 3, runs=4)
    backend = cpu.CpuBackend(lenet)
    whole, _ = backend.gradients(weights, images, labels)
    strided, _ = backend.gradients(weights.T.contiguous().T[::2], images[::2], labels[::2])
    assert torch.equal(strided, whole[::2])


def test_metrics_equal_the_reference(lenet, dtype):
    weights = torch.cat([random_weights(seed, dtype, scale=2.0) for seed in range(3)])
    fused, wanted = cpu.CpuBackend(lenet).metrics(weights), VmapBackend(lenet).metrics(weights)
    assert fused.keys() == wanted.keys()
    assert torch.equal(fused["test_accuracy"], wanted["test_accuracy"])
    assert fused["test_loss"].dtype == torch.float64
    tolerance = TOLERANCE[dtype]
    assert fused["test_loss"].tolist() == pytest.approx(wanted["test_loss"].tolist(), rel=tolerance)


def share_predicted(task, weights: Tensor, classes: Tensor) -> float:
    """The share of test images that the kernel puts in these classes [N]."""
    relabelled = dataclasses.replace(task, test=(task.test[0], classes))
    return cpu.CpuBackend(relabelled).metrics(weights)["test_accuracy"].item()


def argmax(task, weights: Tensor) -> Tensor:
    images = task.test[0].to(weights.dtype) * task.options["scale"] + task.options["shift"]
    return NETWORK(weights[0], images[:, None]).argmax(dim=1)


def test_predictions_equal_argmax(lenet, dtype):
    weights = random_weights(9, dtype, scale=3.0)
    wanted = argmax(lenet, weights)
    assert wanted.unique().numel() > 1
    assert share_predicted(lenet, weights, wanted) == 1


def test_equal_logits_predict_class_0(lenet, dtype):
    weights = torch.zeros((1, NETWORK.parameters), dtype=dtype)
    assert share_predicted(lenet, weights, torch.zeros_like(lenet.test[1])) == 1


@pytest.mark.parametrize("layer", LAYERS)
def test_nan_weights_give_nan_and_class_0(lenet, dtype, layer):
    """One NaN anywhere in the first unit of any layer reaches the loss, as in PyTorch."""
    weights = random_weights(10, dtype).abs()
    weights[0, sum(NETWORK.sizes[: LAYERS.index(layer)])] = math.nan
    images, labels = batch_of(lenet, 5)
    backend = cpu.CpuBackend(lenet)
    gradients, losses = backend.gradients(weights, images, labels)
    assert not losses.isfinite().any() and not gradients.isfinite().all()
    assert math.isnan(backend.metrics(weights)["test_loss"].item())
    wanted = argmax(lenet, weights)
    assert (wanted == 0).all()
    assert share_predicted(lenet, weights, wanted) == 1


@pytest.mark.parametrize("value", [math.inf, -math.inf], ids=["inf", "-inf"])
@pytest.mark.parametrize("place", [0, 12, 24, 150, 156, 168, 2556, 2572, 50572, 61686, 61696])
def test_infinite_weights_are_seen(lenet, dtype, place, value):
    """Wherever PyTorch's loss is not finite the kernel's is not. (The converse need not hold:
    some of PyTorch's convolutions leave out products with padding, which are NaN.)"""
    weights = random_weights(11, dtype).abs()
    weights[0, place] = value
    # Black images with one bright pixel: within one pooling window some sums are NaN (0 times
    # infinity) and some are not.
    images = torch.zeros((1, 4, 28, 28), dtype=torch.uint8)
    images[0, 1, 7, 7], images[0, 2, 8, 8], images[0, 3] = 255, 9, 255
    labels = torch.tensor([[0, 1, 2, 9]])
    _, losses = cpu.CpuBackend(lenet).gradients(weights, images, labels)
    for i in range(4):
        one = (images[:, i : i + 1], labels[:, i : i + 1])
        _, loss = cpu.CpuBackend(lenet).gradients(weights, *one)
        wanted = lenet.loss(weights[0], *(tensor[0] for tensor in one))
        assert wanted.isfinite() or not loss.isfinite(), i
        assert loss.isfinite() or not losses[0].isfinite(), i


def test_network_is_lenet5_as_written_with_modules():
    """The flat weights lie in the order of `parameters()` of the usual nn.Sequential."""
    nn = torch.nn
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).double()
    assert tuple(tuple(p.shape) for p in model.parameters()) == NETWORK.shapes
    weights = NETWORK.initial_weights(1)
    nn.utils.vector_to_parameters(weights, model.parameters())
    images = torch.rand(
        (4, 28, 28), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(
        NETWORK(weights, images[:, None]), model(images[:, None]), rtol=1e-12, atol=0
    )


def test_initial_weights_are_pytorchs_default():
    """Uniform in +-1/sqrt(fan-in) of the layer, for weights and biases alike."""
    fans = (25, 25, 150, 150, 400, 400, 120, 120, 84, 84)
    parts = NETWORK.initial_weights(1).split(NETWORK.sizes)
    for part, fan in zip(parts, fans, strict=True):
        bound = 1 / math.sqrt(fan)
        assert part.abs().max() <= bound
        if len(part) > 800:
            assert part.abs().max() > 0.99 * bound
            assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert torch.equal(NETWORK.initial_weights(1), NETWORK.initial_weights(1))
    assert not torch.equal(NETWORK.initial_weights(1), NETWORK.initial_weights(2))


class TestWithoutKernel:
    """Where the kernel cannot be had, `auto` goes on with PyTorch and says why in one line."""

    @pytest.fixture(autouse=True)
    def _nothing_loaded(self, monkeypatch, tmp_path):
        kernels.load.cache_clear()
        monkeypatch.setenv("STALEGRAD_CACHE", str(tmp_path / "cache"))
        self.cache = tmp_path / "cache"
        yield
        kernels.load.cache_clear()

    def assert_falls_back(self, lenet, capsys, reason: str):
        assert make_backend("auto", lenet).name == "torch"
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("note: ") and reason in line
        with pytest.raises(ConfigError, match=f"'backend' is 'cpu', but .*{re.escape(reason)}"):
            make_backend("cpu", lenet)

    def put_compiler(self, monkeypatch, tmp_path, compiling: str):
        compiler = tmp_path / "compiler"
        compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{compiling}\n')
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))

    def test_no_compiler(self, lenet, capsys, monkeypatch, tmp_path):
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        self.assert_falls_back(lenet, capsys, "no C++ compiler")

    def test_compiler_that_is_not_there(self, lenet, capsys, monkeypatch):
        monkeypatch.setenv("CXX", "no-such-compiler")
        self.assert_falls_back(lenet, capsys, "no-such-compiler")

    def test_compiler_that_refuses(self, lenet, capsys, monkeypatch, tmp_path):
        self.put_compiler(monkeypatch, tmp_path, "echo 'error: too old' >&2; exit 1")
        self.assert_falls_back(lenet, capsys, "error: too old")
        assert list(self.cache.iterdir()) == []

    def test_library_that_cannot_be_loaded(self, lenet, capsys, monkeypatch, tmp_path):
        self.put_compiler(monkeypatch, tmp_path, 'for last; do :; done; echo > "$last"')
        self.assert_falls_back(lenet, capsys, "cannot be made or loaded")

    def test_cache_folder_that_cannot_be_made(self, lenet, capsys, monkeypatch):
        self.cache.write_text("a file")
        self.assert_falls_back(lenet, capsys, "cannot be made or loaded")


def test_no_kernel_for_other_problems():
    task = quadratic_task([1.0], lambda seed: [1.0])
    assert make_backend("auto", task).name == "torch"
    with pytest.raises(ConfigError, match="no kernel for the problem 'quadratic'"):
        make_backend("cpu", task)


RULES = {
    "momentum": SGD(lr=0.05, momentum=0.9),
    "nesterov": SGD(lr=0.05, momentum=0.5, nesterov=True),
    "adam": Adam(lr=0.001, warmup_epochs=1.0),
    "compensated": DelayCompensation(lr=0.05, compensation=2.0, adaptive=True),
    "as published": DelayCompensation(lr=0.05, momentum=0.9, compensation=2.0, as_published=True),
    "adaptive": DelayAdaptive(lr=0.05, concurrency=2, warmup_epochs=1.0),
}


@pytest.mark.parametrize("per_update", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_whole_stretches_are_the_steps_of_the_loop(lenet, rule, per_update):
    """Two epochs of two runs of different schedules: the same losses, weights and state."""
    rng, arrivals, runs = np.random.default_rng(1), 9, []
    for run in range(2):
        versions = np.arange(arrivals) // per_update
        read = rng.integers(np.maximum(versions - 3, 0), versions + 1)
        schedule = make_schedule(read, [5 - run, arrivals], per_update)
        runs.append(plan(RULES[rule], schedule, InOrder(17), seed=run))
    backend = cpu.CpuBackend(lenet)
    assert fused.can_advance(runs, backend)
    one, other = (replay.start(lenet, runs, torch.float64) for _ in range(2))
    for _ in range(2):
        one, wanted = replay.advance(lenet, runs, one, backend)
        other, losses = fused.advance(runs, other, backend)
        torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=0)
        for name, value in one.tensors().items():
            torch.testing.assert_close(other.tensors()[name], value, rtol=1e-11, atol=1e-13)


def test_compensation_as_published_changes_no_bit(lenet):
    """Its backup is the live weights; inside the kernel too, whatever the compiler contracts."""
    schedule = make_schedule([0, 0, 0, 1, 2, 2, 4, 5], [8])
    off = SGD(lr=0.05, momentum=0.9)
    on = DelayCompensation(lr=0.05, momentum=0.9, compensation=5.0, as_published=True)
    backend, found = cpu.CpuBackend(lenet), []
    for rule in (off, on):
        runs = [plan(rule, schedule, InOrder(16))]
        state, losses = fused.advance(runs, replay.start(lenet, runs), backend)
        found.append((state.weights, losses))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
