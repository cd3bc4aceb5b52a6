"""What a long computation can go on from: kept whole, or reported and not used."""

import numpy as np
import pytest

from stalegrad.training.checkpoints import load_checkpoint, save_checkpoint

ABOUT = {"seconds": 1.5, "rows": [{"epoch": 1, "loss": None}]}
ARRAYS = {"0/weights": np.arange(6, dtype=np.float32).reshape(2, 3), "kept/0": np.zeros((0, 3))}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out.csv.checkpoint.npz"
    save_checkpoint(path, "a run", ABOUT, ARRAYS)
    return path


def test_what_was_saved_comes_back(path, capsys):
    about, arrays = load_checkpoint(path, "a run", "all is done again")
    assert about == ABOUT | {"identity": "a run"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert capsys.readouterr().err == ""


def test_a_later_one_takes_the_place_of_an_earlier(path):
    save_checkpoint(path, "a run", {"seconds": 2.0}, {})
    assert load_checkpoint(path, "a run", "-") == ({"seconds": 2.0, "identity": "a run"}, {})
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_none_is_none_without_a_word(tmp_path, capsys):
    assert load_checkpoint(tmp_path / "none.npz", "a run", "all is done again") is None
    assert capsys.readouterr().err == ""


def test_that_of_another_run_is_reported_by_both_names(path, capsys):
    assert load_checkpoint(path, "another run", "all is done again") is None
    said = capsys.readouterr().err
    assert said.startswith(f"note: {path} is not usable (it is of a run, not of another run);")
    assert said.endswith("; all is done again.\n")


def damaged(content: bytes, how: str) -> bytes:
    if how == "cut short":
        return content[: len(content) // 2]
    if how == "a flipped bit":
        at = content.index(ARRAYS["0/weights"].tobytes())
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    return {"empty": b"", "text": b"seconds: 1.5"}[how]


@pytest.mark.parametrize("how", ["cut short", "a flipped bit", "empty", "text"])
def test_a_damaged_one_is_reported_and_not_used(path, capsys, how):
    path.write_bytes(damaged(path.read_bytes(), how))
    assert load_checkpoint(path, "a run", "all is done again") is None
    (said,) = capsys.readouterr().err.splitlines()
    assert str(path) in said and "all is done again" in said
