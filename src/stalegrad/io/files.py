"""Writing results under a temporary name and renaming them, so that a file is whole or absent."""

import errno
import fcntl
import glob
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from stalegrad.io.errors import LockedError, OutputError
from stalegrad.io.paths import check_folder

if TYPE_CHECKING:
    import pandas as pd

_HERE = socket.gethostname().partition(".")[0]
# No space, over quota, file too large, read-only, not permitted: errors that a user can correct.
_UNWRITABLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
)
# What a file system without locks answers to `flock`.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def provenance_path(output: Path) -> Path:
    """The path of the provenance of the bundle at `output`."""
    return output.with_name(output.name + ".provenance.json")


def is_trained(output: Path) -> bool:
    """Whether both files of a bundle exist; training writes the provenance last."""
    return output.exists() and provenance_path(output).exists()


def archived_runs(archive: Path) -> set[str]:
    """Hashes of the runs that the archive of a study holds (see `analysis.archive`)."""
    path = archive / "runs.txt"
    # Without their history, as where that was damaged and deleted, they are to be trained again.
    there = path.exists() and archived_history_path(archive).exists()
    return set(path.read_text().split()) if there else set()


def archived_history_path(archive: Path) -> Path:
    """Where the archive of a study keeps the history of its runs."""
    return archive / "history.csv.gz"


def archived_folder(archive: Path, kind: str, content: str) -> Path:
    """Where the archive of a study keeps a trajectory or landscape (`kind`) of that hash."""
    return archive / kind / content


def is_kept(folder: Path) -> bool:
    """Whether all files of a trajectory or landscape exist: see `analysis.archive.keep`."""
    return (folder / "provenance.json").exists()


def csv_text(frame: "pd.DataFrame") -> str:
    """A result table as CSV with nine digits, so that equal results give equal bytes."""
    return frame.to_csv(index=False, float_format="%.9g", lineterminator="\n")


def check_writable(path: Path) -> None:
    """Raises OutputError where no file can be put at `path`: something stands there that is no
    plain file, or its folder cannot be made."""
    try:
        with reported(path):
            check_folder(path.parent)
            mode = path.lstat().st_mode
    except ValueError as error:
        raise OutputError(f"{path} cannot be written: {error}; name another file.") from None
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link", stat.S_IFIFO: "a pipe"}
        what = kinds.get(stat.S_IFMT(mode), "a device or socket")
        raise OutputError(
            f"{path} is {what}, which no result replaces; name a file that is not there yet, or a "
            f"plain one."
        )


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it replaces `path` if the block raises no error.

    Temporary files that killed processes left are removed. Raises OutputError if the disk is full
    or not writable, or if `path` is no plain file; it is then unchanged.
    """
    check_writable(path)
    beside = path.with_name(f".{path.name}.{_HERE}.{os.getpid()}.part")
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        try:
            yield beside
            os.replace(beside, path)
        finally:
            with suppress(OSError):  # the first error says more
                beside.unlink(missing_ok=True)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns the error of a full or read-only disk into an OutputError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise OutputError(
            f"{path} cannot be written: {error.strerror}. Free some space there, or name a folder "
            f"that can be written to, and give the same command again; what is done is kept."
        ) from error


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` whose process ended; of other machines, those a day old."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        host, _, pid = part.name.removeprefix(f".{path.name}.").removesuffix(".part").partition(".")
        with suppress(OSError, ValueError):  # removed by another, or not one of ours
            gone = not _alive(int(pid)) if host == _HERE else _is_older(part, 86_400)
            if gone:
                part.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _is_older(path: Path, seconds: float) -> bool:
    return time.time() - path.stat().st_mtime > seconds


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock on `path`, so that no other process works on it at the same time.

    The lock is the operating system's, on a file beside `path`; it is released when its process
    ends in any way. If another process holds it, this one prints so and waits if `wait`, else
    raises LockedError; both name that process. A file system without locks locks nothing.
    """
    file = path.with_name(f".{path.name}.lock")
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(file, path, wait)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.close()


def _locked(file: Path, path: Path, wait: bool) -> IO[str]:
    while True:
        lock = open(file, "a+", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            said = f"{path} is being worked on by {lock.read() or 'another process'}"
            if not wait:
                lock.close()
                raise LockedError(
                    f"{said}; wait for it to end, or end it, and give the command again."
                ) from None
            print(f"note: {said}; waiting for it.", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if _is_still_there(file, lock):
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {_HERE}")
            lock.flush()
            return lock
        lock.close()


def _is_still_there(file: Path, lock: IO[str]) -> bool:
    """Whether `file` is what we locked: its last holder may have removed it after we opened it."""
    try:
        return os.path.samestat(file.stat(), os.fstat(lock.fileno()))
    except FileNotFoundError:
        return False


def bring_to_now(*folders: Path) -> None:
    """Set modification times in the future, which a clock that was set back leaves, to just before
    now, for all files below `folders`. Their order is kept; files that may not be changed are left.
    """
    now = time.time_ns()
    dates = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        with suppress(OSError):  # a link to nothing, or removed by another
            dates[path] = path.stat().st_mtime_ns
    late = sorted({date for date in dates.values() if date > now}, reverse=True)
    before_now = {date: 1_000 * i for i, date in enumerate(late)}  # nanoseconds
    for path, date in dates.items():
        with suppress(OSError):
            if date > now:
                os.utime(path, ns=(now, now - before_now[date]))


def write_atomically(path: Path, text: str) -> None:
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    with replaced(path) as beside:
        beside.write_bytes(content)
