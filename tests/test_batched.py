"""The path of a GPU, held to autograd and to the reference on a CPU: all of it but the capture."""

import types

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_close, quadratic_task, small_cell
from networks import need_compiled

from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.training.backends import make_backend
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.machine import settled_torch

RUNS, BATCH = 4, 7


def in_lockstep(task) -> VmapBackend:
    """All runs in one vmapped call, as on a GPU."""
    backend = VmapBackend(task)
    backend.runs_at_once = None
    return backend


def minibatches(task, groups: int):
    """One for each group of neighbouring runs."""
    shape = (groups, BATCH)
    chosen = np.random.default_rng(2).integers(len(task.train[0]), size=shape)
    return task.train[0][chosen], task.train[1][chosen]


def weights_of(task, dtype: torch.dtype):
    return torch.stack([task.initial_weights(seed) for seed in range(RUNS)]).to(dtype)


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["one minibatch", "two", "each its own"])
@pytest.mark.parametrize("name", ["batched", "torch", "cpu"])
def test_gradients_equal_autograd(lenet, name, groups):
    if name == "cpu":
        need_compiled("lenet5")
    weights = weights_of(lenet, torch.float64)
    inputs, targets = minibatches(lenet, groups)
    gradients, losses = make_backend(name, lenet).gradients(weights, inputs, targets)
    assert not gradients.requires_grad and not losses.requires_grad
    for run in range(RUNS):
        exact = weights[run].clone().requires_grad_()
        of_run = run // (RUNS // groups)
        loss = lenet.loss(exact, inputs[of_run], targets[of_run])
        (wanted,) = torch.autograd.grad(loss, exact)
        assert losses[run].item() == pytest.approx(loss.item(), rel=1e-12)
        assert_close(gradients[run], wanted)


def test_metrics_equal_the_reference(lenet, monkeypatch):
    weights = 2 * weights_of(lenet, torch.float64)
    wanted = VmapBackend(lenet).metrics(weights)
    for samples in (1, 60, 10_000):  # chunks of one image, of a part, and of all
        backend = BatchedBackend(lenet)
        monkeypatch.setattr(backend, "_evaluated", samples)
        found = backend.metrics(weights)
        assert found.keys() == wanted.keys()
        for name, value in found.items():
            assert value.dtype == torch.float64
            assert value.tolist() == pytest.approx(wanted[name].tolist(), rel=1e-12)


def test_evaluation_of_the_larger_network(data_folder):
    task = LargeCNN(dataset="mnist", test_samples=5).load(
        data_folder, torch.device("cpu"), torch.float64
    )
    weights = weights_of(task, torch.float64)
    found = task.together.metrics(weights, *task.test)
    wanted = VmapBackend(task).metrics(weights)
    assert found["test_loss"].tolist() == pytest.approx(wanted["test_loss"].tolist(), rel=1e-12)


def test_what_it_cannot_do_is_refused(data_folder):
    dropout = LargeCNN(dataset="mnist").load(data_folder, torch.device("cpu"), torch.float32)
    with pytest.raises(ConfigError, match="'large_cnn' takes random numbers in training"):
        make_backend("batched", dropout)
    with pytest.raises(ConfigError, match="'quadratic' has no form for many runs at once"):
        make_backend("batched_tf32", quadratic_task([1.0], lambda seed: [1.0]))
    with pytest.raises(ValueError, match="'batched' cannot .* 'quadratic' has no form for many"):
        BatchedBackend(quadratic_task([1.0], lambda seed: [1.0]))


MIXED = Bundle(
    tuple(
        small_cell(**changes)
        for changes in (
            {"seed": 1},
            {"seed": 1, "rule__lr": 0.01, "cluster__delay": 0},
            {"seed": 2, "cluster__delay": 3, "rule__warmup_epochs": 1.5},
            {"seed": 2, "rule__clip_norm": 0.5},
            {"seed": 1, "rule__lr": 1e6},  # diverges, and leaves the others
            {"seed": 3, "rule": {"name": "adam", "lr": 0.001}, "cluster__delay": 2},
            {
                "seed": 1,
                "partition": "labels_uncut",  # workers of different lengths
                "cluster": {"name": "parameter_server", "workers": 2, "compute_ms": 5.0},
            },
            {
                "seed": 4,
                "partition": "dataset",
                "cluster": {
                    "name": "parameter_server",
                    "workers": 2,
                    "compute_ms": 5.0,
                    "synchronous": True,
                },
            },
        )
    )
)


def test_bundles_equal_those_of_the_reference(data_folder, tmp_path):
    histories = {}
    for name in ("torch", "batched"):
        output = tmp_path / f"{name}.csv"
        train_bundle(MIXED, output, Place(data_folder, "cpu", name))
        histories[name] = pd.read_csv(output, dtype={"run": str})
        assert f'"backend": "{name}"' in (tmp_path / f"{name}.csv.provenance.json").read_text()
    reference = histories["torch"]
    assert reference["diverged"].sum() == 1
    pd.testing.assert_frame_equal(histories["batched"], reference, rtol=1e-3)
    again = tmp_path / "again.csv"
    train_bundle(MIXED, again, Place(data_folder, "cpu", "batched"))
    assert again.read_bytes() == (tmp_path / "batched.csv").read_bytes()


@pytest.fixture
def container():
    """PyTorch as it starts in NVIDIA's containers."""
    products = torch.backends.cuda.matmul
    before, products.fp32_precision = products.fp32_precision, "tf32"
    yield
    products.fp32_precision = before


def test_float32_is_float32_unless_tf32_is_asked_for(lenet, container):
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    seen = []
    original = lenet.together.losses

    def losses(*arguments):
        seen.append(products.fp32_precision)
        return original(*arguments)

    task = types.SimpleNamespace(
        together=types.SimpleNamespace(losses=losses), train=lenet.train, test_chunk=1
    )
    weights = weights_of(lenet, torch.float32)
    before = products.fp32_precision, convolutions.fp32_precision
    with settled_torch(torch.device("cuda")):
        assert convolutions.fp32_precision == "ieee"
        for tf32 in (False, True):
            backend = BatchedBackend(task, tf32=tf32)
            assert backend.name == ("batched_tf32" if tf32 else "batched")
            backend.gradients(weights, *minibatches(lenet, groups=1))
    assert seen == ["ieee", "tf32"]
    assert (products.fp32_precision, convolutions.fp32_precision) == before
