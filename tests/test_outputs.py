"""What stands where a result is to go: refused before training, never replaced, never mistaken."""

import os
import re
import shlex
import stat
import threading
from pathlib import Path

import pytest
from helpers import small_cell

from stalegrad import cli
from stalegrad.io import datasets
from stalegrad.io.errors import DataError, OutputError, ResultError
from stalegrad.io.files import (
    archived_runs,
    check_writable,
    held,
    provenance_path,
    write_atomically,
)
from stalegrad.planning.bundle import Bundle
from stalegrad.training import bundles
from stalegrad.training.bundles import Place, train_bundle


def make_special(kind: str, path: Path) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link":
        path.with_name("target").write_text("kept")
        path.symlink_to(path.with_name("target"))
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


SPECIAL = ["a folder", "a link", "a pipe", "a device or socket"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a device")


@pytest.fixture(params=[pytest.param(k, marks=needs_root if "dev" in k else ()) for k in SPECIAL])
def special(request, tmp_path) -> tuple[Path, str]:
    make_special(request.param, tmp_path / "out.csv")
    return tmp_path / "out.csv", request.param


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("training has begun")

    monkeypatch.setattr(bundles, "load_task", refuse)


def test_writing_never_replaces_what_is_no_plain_file(special):
    path, what = special
    before = path.lstat()
    with pytest.raises(OutputError, match=f"{re.escape(str(path))} is {what}, which no result"):
        write_atomically(path, "new")
    assert os.path.samestat(path.lstat(), before)


@pytest.mark.parametrize("place", ["output", "provenance", "weights"])
def test_training_to_what_is_no_plain_file_is_refused_before(place, special, no_training):
    path, what = special
    output = path.with_name("other.csv")
    if place == "provenance":
        path = path.rename(provenance_path(output))
    names = {"output": path if place == "output" else output}
    names["weights"] = path if place == "weights" else None
    with pytest.raises(OutputError, match=f"{re.escape(str(path))} is {what}"):
        train_bundle(Bundle((small_cell(),)), names["output"], Place(path.parent), **{
            "weights": names["weights"]
        })  # fmt: skip
    assert not list(path.parent.glob(".*.lock"))


def test_a_folder_that_is_a_file_is_refused_before(tmp_path, no_training):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file is no folder; name another file"):
        train_bundle(Bundle((small_cell(),)), tmp_path / "file" / "a.csv", Place(tmp_path))
    with pytest.raises(OutputError, match="is a link to .*gone, which is no folder"):
        (tmp_path / "link").symlink_to(tmp_path / "gone")
        check_writable(tmp_path / "link" / "a.csv")


# ---- another run at the same output ----


def test_another_run_that_ends_meanwhile_is_not_taken_for_this(tmp_path, data_folder, capsys):
    """The first holds the lock until the second waits for it; the second then finds the first's."""
    output, place = tmp_path / "out.csv", Place(data_folder)
    first, second = (Bundle((small_cell(seed=seed, epochs=1),)) for seed in (1, 2))
    refusals = []

    def train_second() -> None:
        try:
            train_bundle(second, output, place)
        except ResultError as error:
            refusals.append(str(error))

    waiting = threading.Thread(target=train_second)
    train_bundle(first, output, place, lambda _: (waiting.start(), waiting.join(2)))
    waiting.join()
    assert "waiting for it" in capsys.readouterr().err
    assert refusals == [
        f"{output} holds another run (bundle {first.hash}, not {second.hash}); name another file "
        f"with '--output', or delete it."
    ]
    assert f'"bundle": "{first.hash}"' in provenance_path(output).read_text()


def test_the_same_run_that_ends_meanwhile_is_taken(tmp_path, data_folder):
    output, bundle, told = tmp_path / "out.csv", Bundle((small_cell(epochs=1),)), []
    place = Place(data_folder)
    waiting = threading.Thread(target=lambda: train_bundle(bundle, output, place, told.append))
    train_bundle(bundle, output, place, lambda _: (waiting.start(), waiting.join(2)))
    waiting.join()
    assert told == []


# ---- advice that works ----


def advised(message: str) -> list[str]:
    """The command of this package that a message names."""
    return shlex.split(re.search(r"`stalegrad ([^`]*)`", message)[1])


@pytest.fixture
def damaged(tmp_path, small_data, data_folder) -> Path:
    """A data folder whose test images are cut short; the whole set is beside it."""
    folder, _ = small_data
    target = tmp_path / "a folder" / "mnist"
    target.mkdir(parents=True)
    for file in datasets.FILES:
        content = (folder / "mnist" / file).read_bytes()
        (target / file).write_bytes(content[:-9] if file == datasets.TEST_IMAGES else content)
    return target.parent


def test_damaged_data_are_set_aside_and_the_advice_fetches_them(damaged, small_data, capsys):
    with pytest.raises(DataError) as refusal:
        datasets.load_dataset("mnist", damaged)
    file = damaged / "mnist" / datasets.TEST_IMAGES
    assert not file.exists() and file.with_name(f"{file.name}.damaged").exists()
    assert f"It is set aside as {file.name}.damaged" in str(refusal.value)
    # Of the sources there are, one that needs no network.
    command = [*advised(str(refusal.value)), "--local-data", str(small_data[0])]
    assert cli.main(command) == 0
    datasets.load_dataset("mnist", damaged)


def test_damaged_data_are_fetched_by_the_workflow_next_time(damaged):
    """The rule that fetches is for data sets of which a file is not there."""
    with pytest.raises(DataError, match="by running `snakemake`, which fetches what is not there"):
        datasets.load_dataset("mnist", damaged)
    assert not all((damaged / "mnist" / file).exists() for file in datasets.FILES)


def test_missing_data_name_the_command_that_fetches_them(tmp_path, small_data, data_folder):
    with pytest.raises(DataError) as refusal:
        datasets.load_dataset("mnist", tmp_path / "none")
    assert cli.main([*advised(str(refusal.value)), "--local-data", str(small_data[0])]) == 0
    datasets.load_dataset("mnist", tmp_path / "none")


def test_a_local_folder_that_is_not_there_is_refused_and_no_network_asked(tmp_path):
    with pytest.raises(DataError, match="The local folder .*gone, which is to hold mnist, is not"):
        datasets.fetch_dataset("mnist", tmp_path / "data", tmp_path / "gone")


def test_provenance_cut_short_is_mended_as_it_says(tmp_path, data_folder):
    output, bundle = tmp_path / "out.csv", Bundle((small_cell(epochs=1),))
    train_bundle(bundle, output, Place(data_folder))
    provenance_path(output).write_text('{"bundle": ')
    with pytest.raises(ResultError, match="delete it and out.csv, and give the same command"):
        train_bundle(bundle, output, Place(data_folder))
    output.unlink()
    provenance_path(output).unlink()
    train_bundle(bundle, output, Place(data_folder))
    assert output.exists()


def test_runs_whose_archived_history_was_deleted_are_trained_again(tmp_path):
    (tmp_path / "runs.txt").write_text("0123456789abcdef\n")
    (tmp_path / "history.csv.gz").write_bytes(b"")
    assert archived_runs(tmp_path) == {"0123456789abcdef"}
    (tmp_path / "history.csv.gz").unlink()
    assert archived_runs(tmp_path) == set()


def test_a_file_system_that_answers_einval_has_no_locks(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("fcntl.flock", flock)
    with held(tmp_path / "out.csv"):
        pass
