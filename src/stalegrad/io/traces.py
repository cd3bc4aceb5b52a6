"""Traces: what a real server and its workers did, arrival by arrival, in a CSV file.

docs/recording.md documents the format. A trace is written under the name `<file>.part`, line by
line, and takes its own name once it is closed; its last line then says how it ended.
"""

import functools
import gzip
import itertools
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stalegrad.io.errors import DataError, OutputError
from stalegrad.io.files import check_writable, reported, write_bytes_atomically

FORMAT = "1"
FIRST = "stalegrad-trace"  # the key of the first line
ENDED = "ended"  # the key of the last line
COMPLETE = "complete"  # how a recording ended that did all it was to do

# Integers that every trace has, and the moment that decides the order.
COUNTS = ("arrival", "worker", "version", "stream", "minibatch")
APPLIED = "applied"
# Moments of one gradient, in their order; each may be missing.
MOMENTS = ("read", "start", "end", "sent", "arrived")
COLUMNS = (*COUNTS, *MOMENTS, APPLIED)
_DECIMALS = 6  # of a second


@dataclass(frozen=True)
class Trace:
    """A trace that `read_trace` found consistent.

    about: the lines `# key: value` before the rows, by key; events: those between and after them,
        in order, as (key, value).
    columns: [A] each; int64 of COUNTS, seconds (float64) of MOMENTS, where there are any, and of
        APPLIED.
    ended: how the recording ended; None where the file was not closed.
    """

    file: Path
    about: Mapping[str, str]
    events: tuple[tuple[str, str], ...]
    columns: Mapping[str, np.ndarray]
    ended: str | None

    @property
    def arrivals(self) -> int:
        return len(self.columns["worker"])

    @property
    def workers(self) -> int:
        """Those the trace says there were, else as many as gradients came from."""
        return _count(self, "workers", 1 + int(self.columns["worker"].max()))

    @property
    def arrivals_per_update(self) -> int:
        return _count(self, "arrivals_per_update", 1)

    @property
    def clock_error(self) -> float:
        """Seconds by which the clocks of its machines may differ; 0 on one machine."""
        text = self.about.get("clock_error", "0")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise DataError(f"{self.file}: 'clock_error' is {text!r}; it must be seconds >= 0.")
        return seconds

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments that the trace has, APPLIED included, in their order."""
        return tuple(name for name in (*MOMENTS, APPLIED) if name in self.columns)

    def event(self, key: str) -> str | None:
        """The last value of an event; None where there is none."""
        return next((value for name, value in reversed(self.events) if name == key), None)


class TraceWriter:
    """Writes a trace line by line, so that a killed process leaves the whole rows there were.

    Raises OutputError where `file` is there already: a recording cannot be made again.
    """

    def __init__(self, file: Path, about: Mapping[str, str]):
        check_writable(file)
        if file.exists():
            raise OutputError(
                f"{file} is there already, and a recording is never replaced; name another file "
                f"with '--output', or move this one."
            )
        self.file, self._part = file, part_of(file)
        with reported(self._part):
            self._part.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Line by line, so that what was written is there whatever ends the process.
                self._out = open(self._part, "x", encoding="utf-8", buffering=1)
            except FileExistsError:
                raise OutputError(
                    f"{self._part} is there already: another recording is being written, or one "
                    f"was killed. `stalegrad trace check {self._part}` says what it holds; name "
                    f"another file with '--output', or move it."
                ) from None
        for key, value in ({FIRST: FORMAT} | dict(about)).items():
            self.note(key, value)
        self._write(",".join(COLUMNS))

    def row(self, counts: Sequence[int], moments: Sequence[float]) -> None:
        """One arrival. counts: COUNTS, in order; moments: MOMENTS and APPLIED, in seconds."""
        numbers = [*map(str, counts), *(f"{moment:.{_DECIMALS}f}" for moment in moments)]
        self._write(",".join(numbers))

    def note(self, key: str, value: str) -> None:
        """A line `# key: value`."""
        self._write(f"# {key}: {' '.join(value.split())}")

    def close(self, ended: str) -> None:
        """Say how the recording ended, and give the file its name; compressed where it ends in
        .gz."""
        self.note(ENDED, ended)
        self._out.close()
        with reported(self.file):
            if self.file.suffix == ".gz":
                # Without a time in it, equal traces are equal files.
                write_bytes_atomically(self.file, gzip.compress(self._part.read_bytes(), mtime=0))
                self._part.unlink()
            else:
                os.replace(self._part, self.file)

    def _write(self, line: str) -> None:
        with reported(self._part):
            self._out.write(line + "\n")


def part_of(file: Path) -> Path:
    """Where a trace is written until it is closed."""
    return file.with_name(file.name.removesuffix(".gz") + ".part")


def read_trace(file: Path) -> Trace:
    """The trace at `file`. Raises DataError, which names row and column, where it is none, or says
    what cannot have happened.

    A file that was not closed is read as far as its rows are whole; its `ended` is None.
    """
    try:
        stat = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    return _read(file.absolute(), stat.st_mtime_ns, stat.st_size, file)


@functools.lru_cache(maxsize=64)
def _read(absolute: Path, changed: int, size: int, file: Path) -> Trace:
    """changed, size: of the file, so that another content is read again."""
    about, events, rows = _lines(file, _text(file))
    ended = events[-1][1] if events and events[-1][0] == ENDED else None
    if not rows:
        raise DataError(f"{file}: there is no row with the names of the columns.")
    (line, header), *numbered = rows
    names = header.split(",")
    _check_names(file, line, names)
    if not numbered:
        raise DataError(f"{file}: there are no arrivals.")
    columns = _columns(file, names, numbered)
    trace = Trace(file, about, tuple(events), columns, ended)
    _check(trace, [number for number, _ in numbered])
    return trace


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from None
    except (EOFError, zlib.error) as error:
        raise DataError(f"{file} is cut short or damaged: {error}.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text: {error}.") from None


def _lines(
    file: Path, text: str
) -> tuple[dict[str, str], list[tuple[str, str]], list[tuple[int, str]]]:
    """Notes before the rows, notes after the first row, and (line number, text) of the rows."""
    about: dict[str, str] = {}
    events: list[tuple[str, str]] = []
    rows: list[tuple[int, str]] = []
    lines = text.split("\n")
    # What has no end of line is not whole.
    for number, line in enumerate(lines[:-1], start=1):
        line = line.rstrip("\r")
        if not line.startswith("#"):
            rows.append((number, line))
            continue
        key, colon, value = line[1:].strip().partition(":")
        if not colon:
            raise DataError(f"{file}, line {number}: {line!r} is no note; write '# key: value'.")
        if rows:
            events.append((key.strip(), value.strip()))
        else:
            about[key.strip()] = value.strip()
    if next(iter(about), None) != FIRST:
        raise DataError(
            f"{file} is no trace: its first line must be '# {FIRST}: {FORMAT}'; docs/recording.md "
            f"says what follows."
        )
    if about[FIRST] != FORMAT:
        raise DataError(
            f"{file} has the format {about[FIRST]!r}; this version of stalegrad reads {FORMAT!r}."
        )
    return about, events, rows


def _check_names(file: Path, line: int, names: list[str]) -> None:
    needed = {*COUNTS, APPLIED}
    if missing := sorted(needed - set(names)):
        raise DataError(
            f"{file}, line {line}: the column '{missing[0]}' is missing; there must be "
            f"{', '.join(sorted(needed))}, and there may be {', '.join(MOMENTS)}."
        )
    for name in names:
        if name not in COLUMNS:
            raise DataError(
                f"{file}, line {line}: the column {name!r} is not known; allowed: "
                f"{', '.join(COLUMNS)}."
            )
        if names.count(name) > 1:
            raise DataError(f"{file}, line {line}: the column '{name}' is there twice.")


def _columns(file: Path, names: list[str], rows: list[tuple[int, str]]) -> dict[str, np.ndarray]:
    """Numbers by column."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for row, (line, text) in enumerate(rows):
        words = text.split(",")
        if len(words) != len(names):
            raise _refused(file, row, line, None, f"{len(words)} values, not {len(names)}")
        for name, word in zip(names, words, strict=True):
            try:
                values[name].append(int(word) if name in COUNTS else float(word))
            except ValueError:
                what = "a whole number" if name in COUNTS else "a number of seconds"
                raise _refused(file, row, line, name, f"{word!r} is not {what}") from None
    types = {name: np.int64 if name in COUNTS else np.float64 for name in names}
    return {name: np.array(column, types[name]) for name, column in values.items()}


def _check(trace: Trace, lines: Sequence[int]) -> None:
    """Raises DataError for the first row that says what cannot have happened."""
    found = [
        (int(np.flatnonzero(wrong)[0]), column, reason)
        for column, wrong, reason in _impossible(trace)
        if wrong.any()
    ]
    if found:
        row, column, reason = min(found, key=lambda each: each[0])
        value = trace.columns[column][row]
        raise _refused(trace.file, row, lines[row], column, f"{value}, but {reason}")


def _impossible(trace: Trace) -> Iterator[tuple[str, np.ndarray, str]]:
    """Column, where [A] it is wrong, and why; later ones suppose that the earlier hold."""
    columns, workers, per_update = trace.columns, trace.workers, trace.arrivals_per_update
    number = np.arange(trace.arrivals)
    worker, version = columns["worker"], columns["version"]
    yield "arrival", columns["arrival"] != number, "arrivals are numbered 0, 1, 2, ... in order"
    for name in COUNTS[1:]:
        yield name, columns[name] < 0, "it counts from 0"
    yield "worker", worker >= workers, f"there are {workers} workers, 0 to {workers - 1}"
    yield (
        "version",
        version > number // per_update,
        "that many updates had not been made before this arrival",
    )
    yield (
        "minibatch",
        _repeated(columns["stream"], columns["minibatch"]),
        "its stream had this minibatch before",
    )
    yield "version", _before_own(worker, version, version, 0), "its worker had read a later one"
    for name in trace.moments:
        yield name, ~np.isfinite(columns[name]), "a moment is a finite number of seconds"
    yield (
        APPLIED,
        np.diff(columns[APPLIED], prepend=columns[APPLIED][0]) < 0,
        "rows are in the order in which gradients are applied",
    )
    # Clocks of several machines are set by one another only so well.
    error = trace.clock_error
    for earlier, later in itertools.pairwise(trace.moments):
        yield later, columns[later] < columns[earlier] - error, f"'{earlier}' comes before it"
    if "read" in columns:
        yield (
            "read",
            _before_own(worker, columns["read"], columns[trace.moments[-2]], error),
            "its worker was still busy with its gradient before",
        )
        # The arrival that made the version; of the first there is none, and none is too late.
        made = version * per_update - 1
        known = (made >= 0) & (made < trace.arrivals)
        when = columns[APPLIED][np.where(known, made, 0)]
        yield "read", known & (columns["read"] < when - error), "its version was not made yet"


def _repeated(*keys: np.ndarray) -> np.ndarray:
    """Where [A] a combination of keys was there in an earlier row."""
    order = np.lexsort(keys)
    same = np.all([np.diff(key[order]) == 0 for key in keys], axis=0)
    repeated = np.zeros(len(order), bool)
    repeated[order[1:][same]] = True
    return repeated


def _before_own(
    worker: np.ndarray, value: np.ndarray, other: np.ndarray, error: float
) -> np.ndarray:
    """Where [A] `value` is less than `other` in the row before of the same worker, by more than
    `error`."""
    order = np.argsort(worker, kind="stable")
    own = np.diff(worker[order]) == 0
    less = value[order[1:]] < other[order[:-1]] - error
    wrong = np.zeros(len(worker), bool)
    wrong[order[1:][own & less]] = True
    return wrong


def _count(trace: Trace, key: str, otherwise: int) -> int:
    """A note that is a whole number of at least 1."""
    text = trace.about.get(key, str(otherwise))
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise DataError(f"{trace.file}: '{key}' is {text!r}; it must be a whole number >= 1.")
    return int(text)


def _refused(file: Path, row: int, line: int, column: str | None, reason: str) -> DataError:
    where = f", column '{column}'" if column else ""
    return DataError(f"{file}, row {row} (line {line}){where}: {reason}.")
