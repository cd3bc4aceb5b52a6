"""Freshness: which source files decide a result, and whether a finished file was made by them.

A result is out of date when the code that computes it has changed. That code is the import closure
of the module that computes and of the modules that the parts of its cells are defined in. The
closure is read from the source: there is no list of modules to maintain, and nothing is imported,
which would take long, since the workflow asks at the start of every job.
"""

import dataclasses
import hashlib
import json
import secrets
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from stalegrad import specs
from stalegrad.io.errors import ResultError
from stalegrad.io.files import is_trained, provenance_path
from stalegrad.planning import interactive, sources
from stalegrad.planning.sources import PACKAGE

# Files where a closure stops. What `config` reads becomes the content of cells, which their hashes
# cover; the package's docstring and version, and the error classes, decide no number.
UNDECIDING = frozenset(
    PACKAGE / name for name in ("__init__.py", "planning/config.py", "io/errors.py")
)


class Trained(Protocol):
    """The attributes of a `planning.bundle.Bundle` that are used here."""

    @property
    def hash(self) -> str: ...

    @property
    def cells(self) -> tuple[Any, ...]: ...


def closure(*starts: Path) -> frozenset[Path]:
    """The source files `starts`, all that they import of the package, and what these import.

    Imports inside functions count, those for type checkers alone do not. A call of
    `specs.spec_class` imports what it names, or every choice there is. With a package come the
    sources in its folder that are no Python.
    """
    found: set[Path] = set()
    left = set(starts)
    while left:
        found.add(file := left.pop())
        left |= sources.imported(file) - found - UNDECIDING
    return frozenset(found)


def code_of(module: str, cells: Iterable[Any] = ()) -> list[Path]:
    """The files that decide what a module of the package (`training.bundles`) computes of cells,
    sorted.

    They are its source, that of the problems, rules and clusters of the cells, and the files that
    these name. What is defined in a notebook is in no file: see `training_code`. cells: of any kind
    (`Cell`, `SimulationCell`).
    """
    parts = {part for cell in cells for part in _parts(cell)}
    things = (thing for part in parts for thing in specs.code(part))
    classes = interactive.written(*things).files - UNDECIDING
    named = {file for part in parts for file in specs.files(part)}
    start = PACKAGE.joinpath(*module.split("."))
    start = start / "__init__.py" if start.is_dir() else start.with_suffix(".py")
    return sorted(closure(start, *classes) | named)


def training_code(cells: Iterable[Any]) -> str:
    """The digest of all code that decides the result of training these cells: files, and what is
    defined in a notebook. It is new at each call where the source of that cannot be read."""
    cells = list(cells)
    files = digest(code_of("training.bundles", cells))
    own = own_code(*(part for cell in cells for part in _parts(cell)))
    if own.unknown:
        return f"{files}-{secrets.token_hex(8)}"
    return files if own.digest is None else f"{files}-{own.digest}"


def own_code(*parts: Any) -> interactive.Written:
    """What specs compute by, beside the package: see `interactive.Written`."""
    things = {id(thing): thing for part in parts for thing in specs.code(part)}.values()
    return interactive.written(*(thing for thing in things if not specs.is_of_package(thing)))


def is_fresh(output: Path, bundle: Trained) -> bool:
    """Whether the file at `output` is finished, holds this bundle and was made by the present code.

    False if there is no file.
    """
    made = _provenance(output)
    same_run = made is not None and made.get("bundle") == bundle.hash
    return same_run and is_of_this_code(output, bundle.cells)


def made_as(output: Path) -> tuple[str | None, str | None] | None:
    """Bundle and code that the finished file at `output` is of; None where there is none."""
    made = _provenance(output)
    return None if made is None else (made.get("bundle"), made.get("code"))


def can_take(output: Path, bundle: Trained) -> bool:
    """`is_fresh` for a file that a user names; prints why a finished file is not used.

    Raises ResultError if it holds another bundle, which must not be overwritten.
    """
    made = _provenance(output)
    if made is not None and made.get("bundle") != bundle.hash:
        raise ResultError(
            f"{output} holds another run (bundle {made.get('bundle')}, not {bundle.hash}); name "
            f"another file with '--output', or delete it."
        )
    fresh = is_fresh(output, bundle)
    if made is not None and not fresh:
        unknown = own_code(*(part for cell in bundle.cells for part in _parts(cell))).unknown
        why = "was made by other code than the present one"
        if unknown:
            why = f"is never taken as it is, because {unknown}"
        print(f"note: {output} {why}; it is trained again.", file=sys.stderr, flush=True)
    return fresh


def is_of_this_code(output: Path, cells: Iterable[Any]) -> bool:
    """Whether the file at `output`, which holds these cells, was made by the present code."""
    made = _provenance(output)
    return made is not None and made.get("code") == training_code(cells)


def digest(files: Iterable[str | Path]) -> str:
    """A digest of the content of files: 16 hexadecimal digits.

    Snakemake alone compares modification times, which mislead after a clock was set back or a copy
    kept old times.
    """
    paths = sorted({Path(file).absolute() for file in files})
    return hashlib.sha256("".join(map(file_digest, paths)).encode()).hexdigest()[:16]


@cache
def file_digest(path: Path) -> str:
    """SHA-256 of a file, as it was when this process first read it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _provenance(output: Path) -> dict[str, Any] | None:
    """The provenance beside a finished file; None if the file is not finished."""
    if not is_trained(output):
        return None
    try:
        return dict(json.loads(provenance_path(output).read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ResultError(
            f"{provenance_path(output)} is not readable as JSON; delete it and {output.name}, and "
            f"give the same command again."
        ) from None


def _parts(cell: Any) -> list[Any]:
    values = (getattr(cell, field.name) for field in dataclasses.fields(cell))
    return [value for value in values if dataclasses.is_dataclass(value)]
