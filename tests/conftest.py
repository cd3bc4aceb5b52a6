"""Shared fixtures. Data sets are small and made up here, so that no test needs a download."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from stalegrad.io import datasets
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.problems.lenet5 import LeNet5

SMALL_TRAIN, SMALL_TEST = 320, 70


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_figure_left_open():
    """pyplot keeps every figure until it is closed, and warns from the twenty-first on."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    left = pyplot.get_fignums() if pyplot else []
    if left:
        pyplot.close("all")
    assert not left, "a figure was left open: close it with pyplot.close"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """MNIST and Fashion-MNIST where the workflow keeps them; fetched where they are not there."""
    folder = Path(__file__).parents[1] / "resources" / "data"
    for name in ("mnist", "fashion_mnist"):
        datasets.fetch_dataset(name, folder)
    return folder


def small_files() -> dict[str, bytes]:
    """Ten classes that differ in which rows are bright, on noise, with black and equal pixels."""
    rng = np.random.default_rng(8)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(10, size=count, dtype=np.uint8)
        images = rng.integers(0, 60, size=(count, 28, 28), dtype=np.uint8)
        rows = np.arange(28)
        bright = (rows[None] // 2) % 10 == labels[:, None]
        images[np.broadcast_to(bright[:, :, None], images.shape)] = 255
        images[:, :, :5] = 0
        return images, labels

    (train, train_labels), (test, test_labels) = part(SMALL_TRAIN), part(SMALL_TEST)
    return {
        datasets.TRAIN_IMAGES: datasets.format_idx(train),
        datasets.TRAIN_LABELS: datasets.format_idx(train_labels),
        datasets.TEST_IMAGES: datasets.format_idx(test),
        datasets.TEST_LABELS: datasets.format_idx(test_labels),
    }


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A folder with a small data set under the name `mnist`, and the SHA-256 of its files."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    files = small_files()
    for name, content in files.items():
        (folder / "mnist" / name).write_bytes(content)
    return folder, {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.fixture
def data_folder(small_data, monkeypatch) -> Iterator[Path]:
    """The folder of the small data set, which passes for the published one during the test."""
    folder, hashes = small_data
    monkeypatch.setattr(datasets, "SHA256", datasets.SHA256 | {"mnist": hashes})
    yield folder
    left = {file.name for file in (folder / "mnist").iterdir()}
    assert left == set(hashes), "the data that all tests share were changed: let the test copy them"


@pytest.fixture(scope="session", params=[False, True], ids=["pixels in [0, 1]", "normalized"])
def normalize(request):
    return request.param


@pytest.fixture(scope="session")
def small_task(small_data):
    """(problem, normalize) -> its task on the small data set, in float64."""
    folder, hashes = small_data

    def load(problem, normalize: bool):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets, "SHA256", datasets.SHA256 | {"mnist": hashes})
            made = problem(dataset="mnist", normalize=normalize)
            return made.load(folder, torch.device("cpu"), torch.float64)

    return load


@pytest.fixture(scope="session")
def lenet(normalize, small_task):
    """LeNet-5 on the small data set."""
    return small_task(LeNet5, normalize)


@pytest.fixture(scope="session", params=[LeNet5, LargeCNN])
def network_task(request, normalize, small_task):
    """A network on the small data set."""
    return small_task(request.param, normalize)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param
