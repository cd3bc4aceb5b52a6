"""Freshness: which source files decide a result, and whether a finished file is still of them.

A result is out of date when the code that computes it has changed. That code is the import closure
of the module that computes and of the modules that the parts of its cells are defined in. The
closure is read from the source, so that there is no list of modules to keep, and nothing is
imported: the workflow asks for it at the start of every job.
"""

import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from stalegrad import specs
from stalegrad.io.errors import ResultError
from stalegrad.io.files import is_trained, provenance_path
from stalegrad.planning import sources
from stalegrad.planning.sources import PACKAGE

# Where a closure stops. What `config` reads ends in the content of cells, which their hashes tell;
# the package's own docstring and version, and the classes of errors, decide no number.
UNDECIDING = frozenset(
    PACKAGE / name for name in ("__init__.py", "planning/config.py", "io/errors.py")
)


class Trained(Protocol):
    """What is asked here of a `planning.cells.Bundle`."""

    hash: str
    cells: tuple[Any, ...]


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
    these name. cells: of any kind (`Cell`, `SimulationCell`).
    """
    parts = {part for cell in cells for part in _parts(cell)}
    classes = {Path(inspect.getfile(type(part))) for part in parts}
    named = {file for part in parts for file in specs.files(part)}
    start = PACKAGE.joinpath(*module.split("."))
    start = start / "__init__.py" if start.is_dir() else start.with_suffix(".py")
    return sorted(closure(start, *classes) | named)


def training_code(cells: Iterable[Any]) -> str:
    """The digest of all files that decide what training cells gives."""
    return digest(code_of("training.bundles", cells))


def is_fresh(output: Path, bundle: Trained) -> bool:
    """Whether the finished file at `output` holds this bundle, as the code there is now trains it.

    False where there is none.
    """
    made = _provenance(output)
    same_run = made is not None and made.get("bundle") == bundle.hash
    return same_run and is_of_this_code(output, bundle.cells)


def can_take(output: Path, bundle: Trained) -> bool:
    """`is_fresh`, for a file that a user asks for: says why a finished file is not taken.

    Raises ResultError where it holds another bundle, which is not to be written over.
    """
    made = _provenance(output)
    if made is not None and made.get("bundle") != bundle.hash:
        raise ResultError(
            f"{output} holds another run (bundle {made.get('bundle')}, not {bundle.hash}); name "
            f"another file with '--output', or delete it."
        )
    fresh = is_fresh(output, bundle)
    if made is not None and not fresh:
        print(f"note: {output} was trained by other code than there is now; it is trained anew.",
              file=sys.stderr, flush=True)  # fmt: skip
    return fresh


def is_of_this_code(output: Path, cells: Iterable[Any]) -> bool:
    """Whether the finished file at `output`, which holds these cells, is what the code there is now
    gives."""
    made = _provenance(output)
    return made is not None and made.get("code") == training_code(cells)


def digest(files: Iterable[str | Path]) -> str:
    """Changes with what is in files; 16 hexadecimal digits.

    Snakemake alone would go by their dates, which a clock that was set back, or a copy that keeps
    dates, makes older than the results of the files before.
    """
    paths = sorted({Path(file).absolute() for file in files})
    return hashlib.sha256("".join(map(file_digest, paths)).encode()).hexdigest()[:16]


@cache
def file_digest(path: Path) -> str:
    """SHA-256 of a file, as it was when this process first asked."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _provenance(output: Path) -> dict[str, Any] | None:
    """What stands beside a finished file; None where it is not finished."""
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
