"""Writing: whole or not at all, nothing left lying about, one process at a time."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from stalegrad.io import files
from stalegrad.io.errors import LockedError, OutputError
from stalegrad.io.files import bring_to_now, held, replaced, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- a clock that was set back ----


def test_dates_of_the_future_become_those_of_now_in_their_order(tmp_path):
    now, hour = time.time(), 3600.0
    (tmp_path / "deep").mkdir()
    dates = {"past": -hour, "soon": hour, "later": 2 * hour, "deep/soon": hour}
    for name, date in dates.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (now, now + date))
    (tmp_path / "to nothing").symlink_to("nothing")
    bring_to_now(tmp_path / "nowhere", tmp_path)
    past, soon, later, deep = ((tmp_path / name).stat().st_mtime for name in dates)
    assert past == pytest.approx(now - hour)
    assert now - 1 < soon == deep < later <= time.time()


# ---- what a killed process leaves ----

KILLED = """
import os, signal, sys
from pathlib import Path
from stalegrad.io.files import replaced
with replaced(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path) -> str:
    """The name of the part that it leaves."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert done.returncode == -signal.SIGKILL
    (part,) = set(names(path.parent)) - {path.name}
    return part


@pytest.mark.parametrize("name", ["out.csv", "a[b]*.csv", "a b;$(c)'.csv"])
def test_part_of_a_killed_writer_is_removed_by_the_next(tmp_path, name):
    path = tmp_path / name
    write_atomically(path, "old")
    part = killed_while_writing(path)
    assert path.read_text() == "old" and part.endswith(".part")
    write_atomically(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == [name]


def test_part_of_a_living_writer_is_left_alone(tmp_path):
    path = tmp_path / "out.csv"
    living = tmp_path / f".out.csv.{files._HERE}.{os.getppid()}.part"
    living.write_text("half")
    write_atomically(path, "whole")
    assert names(tmp_path) == [living.name, "out.csv"]


def test_part_from_another_machine_is_left_for_a_day(tmp_path):
    path = tmp_path / "out.csv"
    other = tmp_path / ".out.csv.elsewhere.1.part"
    other.write_text("half")
    write_atomically(path, "whole")
    assert other.exists()
    day = time.time() - 90_000
    os.utime(other, (day, day))
    write_atomically(path, "whole")
    assert names(tmp_path) == ["out.csv"]


def test_what_is_not_a_part_is_left_alone(tmp_path):
    for name in (".out.csv.part", ".out.csv.mine.part", f".out.csv.{files._HERE}.x.part"):
        (tmp_path / name).write_text("mine")
    write_atomically(tmp_path / "out.csv", "whole")
    assert len(names(tmp_path)) == 4


# ---- a disk that does not take it ----


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES]
)
def test_what_cannot_be_written_is_a_sentence_that_names_it(tmp_path, number):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with pytest.raises(OutputError) as caught, replaced(path) as beside:
        beside.write_text("half")
        raise OSError(number, os.strerror(number))
    said = str(caught.value)
    assert said.startswith(f"{path} cannot be written: {os.strerror(number)}. ")
    assert "same command again" in said
    assert path.read_text() == "old" and names(tmp_path) == ["result.csv"]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), replaced(tmp_path / "out.csv"):
        (tmp_path / "missing").read_text()


# ---- one at a time ----


def hold(path: Path, has_it, may_go) -> None:
    with held(path):
        has_it.set()
        may_go.wait(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path / "out"`, and what lets it go."""
    context = multiprocessing.get_context("spawn")
    has_it, may_go = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / "out", has_it, may_go))
    process.start()
    assert has_it.wait(60)
    yield process, may_go
    process.kill()
    process.join()


def test_second_is_refused_and_told_who_is_first(tmp_path, holder):
    process, _ = holder
    with pytest.raises(LockedError, match=f"out is being worked on by process {process.pid} on "):
        with held(tmp_path / "out"):
            pass


def test_second_can_wait(tmp_path, holder, capsys):
    process, may_go = holder
    threading.Timer(0.5, may_go.set).start()
    with held(tmp_path / "out", wait=True):
        assert f"by process {process.pid} on" in capsys.readouterr().err
    process.join()
    assert process.exitcode == 0 and names(tmp_path) == []


def test_lock_ends_with_its_holder(tmp_path, holder):
    process, _ = holder
    process.kill()
    process.join()
    with held(tmp_path / "out"):
        assert names(tmp_path) == [".out.lock"]
    assert names(tmp_path) == []


def test_another_path_is_free(tmp_path, holder):
    with held(tmp_path / "other"):
        pass


def test_where_there_are_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with held(tmp_path / "out"), held(tmp_path / "out"):
        pass
