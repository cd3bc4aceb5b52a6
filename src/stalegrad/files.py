"""Writing results: beside their place and renamed, so that a file is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ARCHIVE = Path("measured")  # see `stalegrad.measured`


def provenance_path(output: Path) -> Path:
    """Where the provenance of the bundle at `output` stands."""
    return output.with_name(output.name + ".provenance.json")


def archived_runs(study: str, archive: Path = ARCHIVE) -> set[str]:
    """Hashes of the runs of a study that the archive holds."""
    path = archive / study / "runs.txt"
    return set(path.read_text().split()) if path.exists() else set()


def csv_text(frame: "pd.DataFrame") -> str:
    """A result table as every CSV has it: nine digits, so that equal results are equal bytes."""
    return frame.to_csv(index=False, float_format="%.9g", lineterminator="\n")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: Path, content: bytes) -> None:
    with replaced(path) as beside:
        beside.write_bytes(content)
