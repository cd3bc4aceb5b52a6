"""CIFAR-10 from a local folder in the published layout, here a made-up one."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from stalegrad.io.datasets import CIFAR10_FOLDER, CIFAR10_TEST, CIFAR10_TRAIN, load_cifar10
from stalegrad.io.errors import DataError

ROWS = 4


def batch(seed: int, **changes) -> dict:
    """What a batch holds, with the entries that the published ones have beside."""
    rng = np.random.default_rng(seed)
    return {
        "batch_label": f"batch {seed}",
        "labels": [int(label) for label in rng.integers(10, size=ROWS)],
        "data": rng.integers(256, size=(ROWS, 3072), dtype=np.uint8),
        "filenames": [f"{i}.png" for i in range(ROWS)],
    } | changes


def as_published(content) -> bytes:
    """Pickled as numpy before version 2 wrote it."""
    return pickle.dumps(content, 3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / CIFAR10_FOLDER
    place.mkdir()
    for seed, name in enumerate((*CIFAR10_TRAIN, *CIFAR10_TEST)):
        (place / name).write_bytes(as_published(batch(seed)))
    return tmp_path


@pytest.mark.parametrize("inside", ["", CIFAR10_FOLDER])
def test_batches_come_in_order_as_images_of_three_planes(folder, inside):
    data = load_cifar10(folder / inside)
    images, labels = data.train
    assert images.shape == (5 * ROWS, 3, 32, 32) and images.dtype == np.uint8
    for seed in range(5):
        wanted, here = batch(seed), slice(seed * ROWS, (seed + 1) * ROWS)
        assert labels[here].tolist() == wanted["labels"]
        # Published as 1,024 red bytes, then green, then blue, each in rows of 32.
        for plane in range(3):
            row = wanted["data"][:, 1024 * plane + 32 : 1024 * plane + 64]
            assert np.array_equal(images[here][:, plane, 1], row)
    assert data.test[0].shape == (ROWS, 3, 32, 32)
    assert data.test[1].tolist() == batch(5)["labels"]


def test_arrays_pickled_by_the_numpy_there_is_are_read_too(folder):
    (folder / CIFAR10_FOLDER / "test_batch").write_bytes(pickle.dumps(batch(7), 4))
    assert load_cifar10(folder).test[1].tolist() == batch(7)["labels"]


class Malicious:
    """Unpickled without restriction, it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def test_a_batch_that_would_run_code_is_refused(folder, tmp_path):
    packed = pickle.dumps(batch(0, data=Malicious(tmp_path / "mark")))
    (folder / CIFAR10_FOLDER / "data_batch_2").write_bytes(packed)
    with pytest.raises(DataError, match="data_batch_2 is no readable .*only numpy arrays are all"):
        load_cifar10(folder)
    assert not (tmp_path / "mark").exists()
    pickle.loads(packed)
    assert (tmp_path / "mark").exists(), "the pickle must be a live one for this test to count"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "data_batch_3 is no readable batch"),
        (b"no pickle", "data_batch_3 is no readable batch"),
        (as_published([1]), "data_batch_3 is no batch of CIFAR-10: it must hold 'data'"),
        (as_published(batch(0, data=np.zeros((ROWS, 3)))), "an array of bytes"),
        (as_published(batch(0, data=np.zeros((ROWS, 3071), np.uint8))), r"bytes \[n, 3072\]"),
        (as_published(batch(0, labels=None)), "'labels', a list"),
        (as_published(batch(0, labels=[0] * 3)), "0 to 9 for each of its 4 images"),
        (as_published(batch(0, labels=[10] * ROWS)), "'labels' must hold one of 0 to 9"),
        (as_published(batch(0, labels=[[]] * ROWS)), "'labels' must hold one of 0 to 9"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(folder, content, said):
    (folder / CIFAR10_FOLDER / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_cifar10(folder)


def test_a_missing_batch_says_which_folder_to_name(folder):
    (folder / CIFAR10_FOLDER / "test_batch").unlink()
    with pytest.raises(DataError, match="test_batch is not there; name the folder that holds"):
        load_cifar10(folder)
