"""Initial weights from a seed of PyTorch: as in a plain construction, whatever the run's seed."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small_cell
from networks import need_compiled
from torch import nn

from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell, parse_cell
from stalegrad.planning.config import Preset, Study
from stalegrad.planning.expand import study_cells
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training.bundles import Place, train_bundle

AUTHORS = 614310  # of Lamour et al. 2023
FIXED = {"torch_seed": AUTHORS}


class PlainLeNet5(nn.Module):
    """As one writes it, in the order of the authors."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)


class PlainLargeCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)


def plain(make: type[nn.Module], torch_seed: int) -> torch.Tensor:
    """Flat weights of a module made after `torch.manual_seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed)
        return nn.utils.parameters_to_vector(make().parameters()).detach()


PAIRS = pytest.mark.parametrize(
    ("problem", "make"), [(LeNet5, PlainLeNet5), (LargeCNN, PlainLargeCNN)]
)


@PAIRS
@pytest.mark.parametrize("torch_seed", [AUTHORS, 0, (1 << 64) - 1])
def test_weights_are_those_of_a_plain_construction_to_the_bit(problem, make, torch_seed):
    wanted = plain(make, torch_seed)
    assert wanted.dtype == torch.float32
    made = problem(dataset="mnist", initialisation={"torch_seed": torch_seed})
    for seed in (1, 2):
        found = made.initial_weights(seed)
        assert found.dtype == torch.float64 and not found.requires_grad
        assert torch.equal(found.float(), wanted) and torch.equal(found, wanted.double())


@PAIRS
def test_nothing_but_the_torch_seed_decides_them(problem, make):
    """Neither PyTorch's generator, which stays where it was, nor its default type."""
    made = problem(dataset="mnist", initialisation=FIXED)
    torch.manual_seed(8)
    before = torch.random.get_rng_state()
    found = made.initial_weights(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(made.initial_weights(1), found)
    finally:
        torch.set_default_dtype(torch.float32)
    other = problem(dataset="mnist", initialisation={"torch_seed": AUTHORS + 1})
    assert not torch.equal(other.initial_weights(1), found)


@PAIRS
def test_unset_the_seed_of_the_run_decides(problem, make):
    made = problem(dataset="mnist")
    assert made == problem(dataset="mnist", initialisation=None)
    assert torch.equal(made.initial_weights(2), made.network.initial_weights(2))
    assert not torch.equal(made.initial_weights(1), made.initial_weights(2))


# ---- in training ----


def cell(seed: int, **problem) -> Cell:
    """Two workers with random times, each with its own half of the data."""
    cluster = {"name": "parameter_server", "workers": 2, "compute_ms": 10.0, "jitter": 0.2}
    keys = {f"problem__{key}": value for key, value in problem.items()}
    return small_cell(seed=seed, partition="dataset", cluster=cluster, epochs=2, **keys)


def trained(folder, place: Place, cells: list[Cell]) -> tuple[pd.DataFrame, np.ndarray]:
    """Their history, recorded at the start and twice an epoch, and the weights [runs, stops, P]."""
    train_bundle(Bundle(tuple(cells), 2), folder / "h.csv", place, weights=folder / "w.npz")
    with np.load(folder / "w.npz") as arrays:
        weights = arrays["weights"]
    return pd.read_csv(folder / "h.csv"), weights.reshape(len(cells), -1, weights.shape[-1])


@pytest.mark.parametrize("backend", ["cpu", "torch", "batched"])
def test_every_backend_starts_from_them(backend, data_folder, tmp_path):
    if backend == "cpu":
        need_compiled("lenet5")
    place = Place(data_folder, "cpu", backend)
    history, weights = trained(tmp_path, place, [cell(s, initialisation=FIXED) for s in (1, 2)])
    wanted = plain(PlainLeNet5, AUTHORS).numpy()
    assert (weights[0, 0] == wanted).all() and (weights[1, 0] == wanted).all()
    start = history[history["epoch"] == 0]
    assert start["test_loss"].nunique() == 1
    # The order of the data is still the seed's own.
    assert np.abs(weights[0, 1:] - weights[1, 1:]).max(axis=1).min() > 1e-4


def test_times_are_still_those_of_the_seed(data_folder, tmp_path):
    place = Place(data_folder, "cpu", "torch")
    found = {}
    for name, keys in (("own", {}), ("fixed", {"initialisation": FIXED})):
        (tmp_path / name).mkdir()
        found[name] = trained(tmp_path / name, place, [cell(s, **keys) for s in (1, 2)])
    columns = ["updates", "simulated_seconds", "mean_staleness", "max_staleness"]
    own, fixed = (found[name][0][columns] for name in ("own", "fixed"))
    pd.testing.assert_frame_equal(own, fixed)
    assert own["simulated_seconds"].nunique() > len(own) // 2
    assert not (found["own"][1][:, 0] == found["fixed"][1][:, 0]).all(axis=1).any()


def test_minibatches_are_still_those_of_the_seed(data_folder, tmp_path, monkeypatch):
    """With the weights of seed 1 put in the place of those drawn, the run is that of seed 1."""
    place = Place(data_folder, "cpu", "torch")
    (tmp_path / "own").mkdir()
    _, own = trained(tmp_path / "own", place, [cell(1)])
    start = LeNet5.network.initial_weights(1)
    monkeypatch.setattr(type(LeNet5.network), "torch_weights", lambda self, torch_seed: start)
    _, fixed = trained(tmp_path, place, [cell(1, initialisation=FIXED)])
    assert (own == fixed).all()


# ---- as configuration ----


def test_it_is_an_axis_and_a_key_of_the_cell():
    values = cell(1).as_dict() | {"partition": "shared"}
    del values["seed"], values["problem"]["initialisation"]
    axis = {"problem.initialisation.torch_seed": [AUTHORS, 1]}
    grid = {"cell": values, "seeds": 2, "axes": axis, "cases": [{}]}
    study = Study(title="t", cite="c", grids={"g": grid})
    cells = study_cells(study, "paper", Preset(title="", seeds=2, bundle_size=4), "f.yaml")["g"]
    assert [(c.problem.initialisation.torch_seed, c.seed) for c in cells] == [
        *((AUTHORS, 1), (AUTHORS, 2), (1, 1), (1, 2)),
    ]
    assert len({c.hash for c in cells}) == 4
    assert cells[0].columns()["initialisation"] == '{"torch_seed": 614310}'
    assert parse_cell(cells[0].as_dict(), "a test") == cells[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"torch_seed": -1}, "torch_seed' is -1: input should be greater than or equal to 0"),
        ({"torch_seed": 1 << 64}, "torch_seed' is 18446744073709551616: input should be less than"),
        ({"torch_seed": 1.0}, r"torch_seed' is 1\.0: input should be a valid integer"),
        ({"torch_seed": True}, "torch_seed' is True: input should be a valid integer"),
        ({"torch_seed": [1, 2]}, r"torch_seed' is \[1, 2\]: input should be a valid integer"),
        (AUTHORS, "' is 614310: an initialisation is a mapping with the one key"),
        ({}, "' is {}: an initialisation is a mapping with the one key"),
        ({"torch_seed": 1, "seed": 2}, "a mapping with the one key 'torch_seed', such as"),
    ],
    ids=str,
)
def test_what_is_no_initialisation_is_refused(value, words):
    with pytest.raises(ConfigError, match=f"^a test: 'problem.initialisation.*{words}"):
        cell(1, initialisation=value)
