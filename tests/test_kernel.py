"""The fused kernels of networks against autograd, layer by layer, where they could come apart."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import InOrder, make_schedule, plan, quadratic_task
from networks import (
    TOLERANCE,
    argmax,
    assert_equals_autograd,
    batch_of,
    biases_before_relu,
    layers,
    need_compiled,
    network_of,
    noise_of,
    random_weights,
    share_predicted,
    with_layer,
)

from stalegrad.io.errors import ConfigError
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.problems.lenet5 import NETWORK
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.sgd import SGD
from stalegrad.training import kernel_replay, kernels, replay
from stalegrad.training.backends import cpu, make_backend
from stalegrad.training.backends.vmap import VmapBackend


@pytest.fixture(scope="module", autouse=True)
def _needs_compiler():
    need_compiled(*cpu.NETWORKS)


@pytest.fixture
def task(network_task):
    return network_task


@pytest.mark.parametrize("size", [1, 5, 16, 17, 32, 60])
def test_gradients_on_random_weights(task, dtype, size):
    """With tiles of 16 or 32: less than one, exactly one, and a last one that is not full."""
    for seed, scale in ((1, 1.0), (4, 3.0)):
        weights = random_weights(task, seed, dtype, scale)
        assert_equals_autograd(task, weights, *batch_of(task, size, seed=seed))


def test_gradients_of_a_large_batch(lenet, dtype):
    """Rounding does not pile up over the sixty-four tiles of the largest minibatch."""
    assert_equals_autograd(lenet, random_weights(lenet, 3, dtype), *batch_of(lenet, 1024))


def test_dead_layer_passes_no_gradient(task, dtype):
    network = network_of(task)
    for layer in biases_before_relu(network):
        weights = with_layer(task, random_weights(task, 4, dtype), layer, -1e3)
        gradients = assert_equals_autograd(task, weights, *batch_of(task, 17))
        below = sum(network.sizes[: layers(network).index(layer) + 1])
        assert (gradients[:, :below] == 0).all() and (gradients[:, -10:] != 0).all()


def test_some_units_dead_in_every_layer(task, dtype):
    weights = random_weights(task, 5, dtype)
    for layer in biases_before_relu(network_of(task)):
        weights = with_layer(task, weights, layer, -1e3, every=2)
    assert_equals_autograd(task, weights, *batch_of(task, 17))


def test_units_at_exactly_zero_pass_no_gradient(task, dtype):
    """With zero weights and biases every unit sits on the kink of its ReLU."""
    weights = torch.zeros((1, task.parameters), dtype=dtype)
    gradients = assert_equals_autograd(task, weights, *batch_of(task, 17))
    assert (gradients[:, :-10] == 0).all()


@pytest.mark.parametrize("pixel", [0, 1, 255])
def test_ties_in_pooling_on_constant_images(task, dtype, pixel):
    """All windows away from the border tie: the first maximum takes the whole gradient."""
    images = torch.full((1, 5, 28, 28), pixel, dtype=torch.uint8)
    labels = torch.tensor([[0, 1, 2, 3, 9]])
    assert_equals_autograd(task, random_weights(task, 6, dtype), images, labels)


@pytest.mark.parametrize("normalize", [False], indirect=True, ids=["pixels in [0, 1]"])
def test_ties_between_equal_pixels(task, dtype):
    """Black and white images under convolutions of few bits: two-, three- and four-way ties.

    All sums before the pooling are exact, so that no order of summing breaks a tie.
    """
    rng = np.random.default_rng(7)
    images = torch.from_numpy(rng.choice(np.array([0, 255], np.uint8), size=(1, 17, 28, 28)))
    labels = torch.from_numpy(rng.integers(10, size=(1, 17)))
    weights = random_weights(task, 7, dtype, scale=4.0)
    convolutions = weights[:, : sum(network_of(task).sizes[:4])]
    convolutions[:] = (convolutions * 4).round() / 4
    assert_equals_autograd(task, weights, images, labels)


def test_several_runs_in_one_call_equal_one_by_one(task, dtype):
    weights = torch.cat([random_weights(task, seed, dtype) for seed in range(5)])
    images, labels = batch_of(task, 21, runs=5)
    noise, backend = noise_of(task, labels), cpu.CpuBackend(task)
    together = backend.gradients(weights, images, labels, noise)
    metrics = backend.metrics(weights)
    for run in range(5):
        row = slice(run, run + 1)
        own = None if noise is None else noise[row]
        alone = backend.gradients(weights[row], images[row], labels[row], own)
        assert all(torch.equal(a[row], b) for a, b in zip(together, alone, strict=True))
        for name, value in backend.metrics(weights[row]).items():
            assert torch.equal(metrics[name][row], value)


def test_rows_that_are_not_contiguous(task):
    weights = torch.cat([random_weights(task, seed, torch.float64) for seed in range(4)])
    images, labels = batch_of(task, 3, runs=4)
    backend = cpu.CpuBackend(task)
    whole, _ = backend.gradients(weights, images, labels)
    strided, _ = backend.gradients(weights.T.contiguous().T[::2], images[::2], labels[::2])
    assert torch.equal(strided, whole[::2])


def test_metrics_equal_the_reference(task, dtype):
    weights = torch.cat([random_weights(task, seed, dtype, scale=2.0) for seed in range(3)])
    fused, wanted = (cpu.CpuBackend(task).metrics(weights), VmapBackend(task).metrics(weights))
    assert fused.keys() == wanted.keys()
    assert torch.equal(fused["test_accuracy"], wanted["test_accuracy"])
    assert fused["test_loss"].dtype == torch.float64
    tolerance = TOLERANCE[dtype]
    assert fused["test_loss"].tolist() == pytest.approx(wanted["test_loss"].tolist(), rel=tolerance)


def test_a_task_without_labels_is_refused(lenet):
    with pytest.raises(ValueError, match="The targets of the problem 'lenet5' are not labels"):
        cpu.CpuBackend(replace(lenet, metrics_of=None))


def test_predictions_equal_argmax(task, dtype):
    weights = random_weights(task, 10, dtype, scale=3.0)
    wanted = argmax(task, weights)
    assert wanted.unique().numel() > 1
    assert share_predicted(task, weights, wanted) == 1


def test_equal_logits_predict_class_0(task, dtype):
    weights = torch.zeros((1, task.parameters), dtype=dtype)
    assert share_predicted(task, weights, torch.zeros_like(task.test[1])) == 1


def test_nan_weights_give_nan_and_class_0(task, dtype):
    """One NaN anywhere in the first unit of any layer reaches the loss, as in PyTorch."""
    network, (images, labels) = network_of(task), batch_of(task, 5)
    for layer, name in enumerate(layers(network)):
        weights = random_weights(task, 10, dtype).abs()
        weights[0, sum(network.sizes[:layer])] = math.nan
        backend = cpu.CpuBackend(task)
        gradients, losses = backend.gradients(weights, images, labels, noise_of(task, labels))
        assert not losses.isfinite().any() and not gradients.isfinite().all(), name
        assert math.isnan(backend.metrics(weights)["test_loss"].item()), name
        wanted = argmax(task, weights)
        assert (wanted == 0).all()
        assert share_predicted(task, weights, wanted) == 1, name


@pytest.mark.parametrize("value", [math.inf, -math.inf], ids=["inf", "-inf"])
def test_infinite_weights_are_seen(task, dtype, value):
    """Wherever PyTorch's loss is not finite the kernel's is not. (The converse need not hold:
    some of PyTorch's convolutions leave out products with padding, which are NaN.)"""
    # Black images with one bright pixel: within one pooling window some sums are NaN (0 times
    # infinity) and some are not.
    images = torch.zeros((1, 4, 28, 28), dtype=torch.uint8)
    images[0, 1, 7, 7], images[0, 2, 8, 8], images[0, 3] = 255, 9, 255
    labels = torch.tensor([[0, 1, 2, 9]])
    noise = noise_of(task, labels)
    batch = [part for part in (images, labels, noise) if part is not None]
    for place in places(network_of(task)):
        weights = random_weights(task, 11, dtype).abs()
        weights[0, place] = value
        _, losses = cpu.CpuBackend(task).gradients(weights, *batch)
        for i in range(4):
            one = [part[:, i : i + 1] for part in batch]
            _, loss = cpu.CpuBackend(task).gradients(weights, *one)
            wanted = task.loss(weights[0], *(part[0] for part in one))
            assert wanted.isfinite() or not loss.isfinite(), (place, i)
            assert loss.isfinite() or not losses[0].isfinite(), (place, i)


def places(network) -> list[int]:
    """Of the first weight of each layer, and of the middle and last weight of the first kernels."""
    starts = np.cumsum([0, *network.sizes[:-1]]).tolist()
    area = math.prod(network.shapes[0][2:])
    return sorted({*starts, *(at + i for at in (0, starts[2]) for i in (area // 2, area - 1))})


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
        kernels._load.cache_clear()
        monkeypatch.setenv("STALEGRAD_CACHE", str(tmp_path / "cache"))
        self.cache = tmp_path / "cache"
        yield
        kernels._load.cache_clear()

    def assert_falls_back(self, lenet, capsys, reason: str):
        assert make_backend("auto", lenet).name == "torch"
        *before, line = capsys.readouterr().err.splitlines()
        assert line.startswith("note: ") and reason in line
        assert all(each.startswith("note: compiling the kernel lenet5") for each in before)
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
    "decayed": SGD(lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam": Adam(lr=0.001, warmup_epochs=1.0),
    "compensated": DelayCompensation(lr=0.05, compensation=2.0, adaptive=True),
    "as published": DelayCompensation(lr=0.05, momentum=0.9, compensation=2.0, as_published=True),
    "adaptive": DelayAdaptive(lr=0.05, concurrency=2, warmup_epochs=1.0),
}


@pytest.mark.parametrize("per_update", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_whole_stretches_are_the_steps_of_the_loop(lenet, rule, per_update):
    assert_steps_are_those_of_the_loop(lenet, RULES[rule], per_update)


@pytest.mark.parametrize("arrivals", [1, 3, 100])
@pytest.mark.parametrize("rule", ["momentum", "adam", "adaptive"])
def test_whole_stretches_with_noise(monkeypatch, small_task, rule, arrivals):
    """Its random bytes are handed over in pieces, of so many arrivals; each gets its own."""
    task = small_task(LargeCNN, normalize=True)
    monkeypatch.setattr(kernel_replay, "_NOISE_AT_ONCE", arrivals * 5 * task.noise)
    assert_steps_are_those_of_the_loop(task, RULES[rule], per_update=2, batch_size=5)


def assert_steps_are_those_of_the_loop(task, rule, per_update, batch_size=17):
    """Two epochs of two runs of different schedules: the same losses, weights and state."""
    rng, arrivals, runs = np.random.default_rng(1), 9, []
    for run in range(2):
        versions = np.arange(arrivals) // per_update
        read = rng.integers(np.maximum(versions - 3, 0), versions + 1)
        schedule = make_schedule(read, [5 - run, arrivals], per_update)
        runs.append(plan(rule, schedule, InOrder(batch_size), seed=run))
    backend = cpu.CpuBackend(task)
    assert kernel_replay.can_advance(runs, backend)
    one, other = (replay.start(task, runs, torch.float64) for _ in range(2))
    for _ in range(2):
        one, wanted = replay.advance_in_steps(task, runs, one, backend)
        other, losses = kernel_replay.advance_in_kernel(runs, other, backend)
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
        state, losses = kernel_replay.advance_in_kernel(runs, replay.start(lenet, runs), backend)
        found.append((state.weights, losses))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
