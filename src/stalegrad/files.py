"""Writing results: beside their place and renamed, so that a file is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def provenance_path(output: Path) -> Path:
    """Where the provenance of the bundle at `output` stands."""
    return output.with_name(output.name + ".provenance.json")


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
