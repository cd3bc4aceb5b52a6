"""The larger CNN of lamour2023: what it is made of, its dropout, and that both can be relied on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_close, epoch_an_arrival, make_schedule, plan, quadratic_task, trajectory
from torch import nn

from stalegrad.analysis.results import read_csv
from stalegrad.analysis.virtual_iterates import trace
from stalegrad.data_order import DataOrder, minibatch_noise
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.problems._network import Dropout, Network
from stalegrad.problems.large_cnn import NETWORK, LargeCNN
from stalegrad.rules.sgd import SGD
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle


@pytest.fixture
def task(data_folder):
    problem = LargeCNN(dataset="mnist", normalize=True, train_samples=40, test_samples=20)
    return problem.load(data_folder, torch.device("cpu"), torch.float64)


class Masked(nn.Module):
    """Dropout as one writes it, for a mask that is known."""

    def __init__(self, share: float, bytes_: torch.Tensor):
        super().__init__()
        self.keep = bytes_ / 256 >= share
        self.share = share

    def forward(self, x):
        return torch.where(self.keep.view(x.shape), x, 0) / (1 - self.share)


def modules(first: nn.Module, second: nn.Module) -> nn.Sequential:
    """The network as PyTorch users write it, with something in the places of its two dropouts."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), first),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), second, nn.Linear(128, 10)),
    ).double()


def with_weights(model: nn.Module, weights: torch.Tensor) -> nn.Module:
    nn.utils.vector_to_parameters(weights.clone(), model.parameters())
    return model


def pixels(task, images):
    return (images.double() * task.options["scale"] + task.options["shift"])[:, None]


def test_it_has_the_published_number_of_parameters_in_pytorchs_order():
    shapes = tuple(tuple(p.shape) for p in modules(nn.Identity(), nn.Identity()).parameters())
    assert shapes == NETWORK.shapes
    assert NETWORK.parameters == 1_199_882
    assert LargeCNN(dataset="mnist").parameters() == 1_199_882


def test_evaluation_is_without_dropout(task):
    weights = task.initial_weights(1)
    model = with_weights(modules(nn.Dropout(0.25), nn.Dropout(0.5)), weights).eval()
    images, labels = task.test
    outputs = model(pixels(task, images))
    found = VmapBackend(task).metrics(weights[None])
    wanted = nn.functional.cross_entropy(outputs, labels).item()
    assert found["test_loss"].item() == pytest.approx(wanted, rel=1e-12)
    assert found["test_accuracy"].item() == (outputs.argmax(1) == labels).double().mean().item()
    assert task.loss(weights, images, labels).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
def test_gradients_are_those_of_modules_with_the_same_masks(task, seed):
    weights = task.initial_weights(seed)
    images, labels = (part[:5] for part in task.train)
    noise = torch.from_numpy(minibatch_noise(seed, 0, 3, 5, task.noise))
    model = modules(Masked(0.25, noise[:, :9216]), Masked(0.5, noise[:, 9216:]))
    loss = nn.functional.cross_entropy(with_weights(model, weights)(pixels(task, images)), labels)
    loss.backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    batch = images[None], labels[None], noise[None]
    gradients, losses = VmapBackend(task).gradients(weights[None], *batch)
    assert losses.item() == pytest.approx(loss.item(), rel=1e-12)
    assert_close(gradients[0], wanted, 1e-12)
    single, _ = VmapBackend(task).gradients(weights[None].float(), *batch)
    assert_close(single[0].double(), wanted, 1e-6)


def test_dropout_cuts_at_its_share_and_keeps_the_mean():
    every_byte = torch.arange(256, dtype=torch.uint8)[None]
    for share, cut in ((0.25, 64), (0.5, 128), (0.0, 0)):
        x = torch.ones((1, 256), dtype=torch.float64)
        out = Dropout(share).apply(x, [], every_byte)
        assert (out[0, :cut] == 0).all() and (out[0, cut:] == 1 / (1 - share)).all()
        assert out.mean().item() == pytest.approx(1)


def test_noise_is_of_the_minibatch_alone():
    one = minibatch_noise(1, 2, 3, samples=4, per_sample=1000)
    assert one.shape == (4, 1000) and one.dtype == np.uint8
    assert np.array_equal(one, minibatch_noise(1, 2, 3, 4, 1000))
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert (one == minibatch_noise(*other, 4, 1000)).mean() < 0.02
    assert len({row.tobytes() for row in one}) == 4
    assert (one < 64).mean() == pytest.approx(0.25, abs=0.03)


def noisy_task():
    """The gradient of a minibatch is the mean of its random bytes: a record of what was drawn."""

    def loss(weights, inputs, targets, noise=None):
        return (noise.double().mean(dim=0) * weights).sum()

    return replace(quadratic_task([1.0] * 8, lambda seed: [0.0] * 3), loss=loss, noise=3)


def drawn(seed: int, stream: int, batch: int, samples: int) -> torch.Tensor:
    return torch.from_numpy(minibatch_noise(seed, stream, batch, samples, 3)).double().mean(dim=0)


def test_replay_gives_every_arrival_the_noise_of_its_minibatch():
    """Two workers whose gradients arrive out of order, as worked out by hand."""
    task = noisy_task()
    schedule = replace(
        epoch_an_arrival(make_schedule([0, 0, 1, 2])),
        stream=np.array([1, 0, 1, 0], np.int32),
        batch=np.array([0, 0, 1, 1]),
    )
    parts = np.arange(4), np.arange(4, 8)
    run = plan(SGD(lr=0.5), schedule, DataOrder(parts, batch_size=2, seed=7), seed=7)
    weights, _ = trajectory(task, [run], VmapBackend(task))
    wanted = torch.zeros(3, dtype=torch.float64)
    for after, minibatch in zip(weights, [(1, 0), (0, 0), (1, 1), (0, 1)], strict=True):
        wanted = wanted - 0.5 * drawn(7, *minibatch, samples=2)
        assert_close(after[0], wanted)


def test_runs_that_share_minibatches_share_noise_and_others_do_not(monkeypatch):
    monkeypatch.setattr("stalegrad.training.replay._WORTH_A_CALL", 0)
    task, schedule = noisy_task(), epoch_an_arrival(make_schedule([0, 1, 2]))
    orders = {seed: DataOrder((np.arange(8),), batch_size=2, seed=seed) for seed in (1, 2)}
    cells = [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    runs = [plan(SGD(lr=lr), schedule, orders[seed], seed) for seed, lr in cells]
    backend = VmapBackend(task)
    fetched = []
    whole = backend.gradients
    monkeypatch.setattr(
        backend, "gradients", lambda *batch: fetched.append(batch[3].shape) or whole(*batch)
    )
    together, _ = trajectory(task, runs, backend)
    assert set(fetched) == {(1, 2, 3)}
    for row, run in enumerate(runs):
        alone, _ = trajectory(task, [run], VmapBackend(task))
        assert all(torch.equal(a[row], b[0]) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together[-1][0], together[-1][2])


def cell(**changes):
    values = {
        "problem": {"name": "large_cnn", "dataset": "mnist", "train_samples": 40}
        | {"test_samples": 20, "details": True},
        "rule": {"name": "sgd", "lr": 0.005, "momentum": 0.9},
        "cluster": {"name": "parameter_server", "workers": 2, "compute_ms": 10.0},
        **{"partition": "dataset", "batch_size": 10, "epochs": 2, "seed": 1},
    }
    return parse_cell(values | changes, "a test")


def test_same_bytes_whatever_the_bundle_and_the_threads(data_folder, tmp_path):
    cells = (cell(), cell(seed=2), cell(rule={"name": "sgd", "lr": 0.01, "momentum": 0.9}))
    place = Place(data_folder)
    train_bundle(Bundle(cells), tmp_path / "all.csv", replace(place, threads=2))
    train_bundle(Bundle(cells), tmp_path / "again.csv", place)
    train_bundle(Bundle(cells[:1]), tmp_path / "one.csv", place)
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    together, alone = (read_csv(tmp_path / f"{name}.csv") for name in ("all", "one"))
    first = together[together["run"] == cells[0].hash].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, alone, check_dtype=False, check_exact=True)
    assert together["train_loss"].nunique() == len(together)


def test_virtual_iterates_refuse_it(task):
    run = plan(SGD(lr=0.1), make_schedule([0]), DataOrder((np.arange(40),), 10, 1))
    with pytest.raises(ValueError, match="no random numbers"):
        trace(task, run)


def test_layers_and_shapes_are_those_of_the_published_figure():
    walked = [(type(layer).__name__, out) for layer, _, out in NETWORK.walk()]
    assert walked == [
        *(("Convolution", (32, 26, 26)), ("ReLU", (32, 26, 26)), ("Convolution", (64, 24, 24))),
        *(("MaxPooling", (64, 12, 12)), ("Dropout", (64, 12, 12)), ("Connected", (128,))),
        *(("ReLU", (128,)), ("Dropout", (128,)), ("Connected", (10,))),
    ]
    assert NETWORK.noise == 9216 + 128


def test_a_network_without_dropout_takes_no_noise():
    assert Network((1, 28, 28), NETWORK.layers[:2]).noise == 0
