"""The archive `measured/`: runs made at full scale, kept with where they come from.

`measured/<study>/` holds `history.csv.gz` (one row a run and epoch, as `train_bundle` writes it)
and `provenance.csv` (one row a bundle: machine, versions, commit, wall time, hashes of its cells).
A run is found by its content hash, so an archived run is used only for exactly the cell it was made
for. Trajectories and landscapes have a folder each, `<kind>/<content hash>/`, with the files that
their rule makes, CSVs compressed.
"""

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stalegrad.cells import Cell
from stalegrad.errors import ResultError
from stalegrad.files import (
    ARCHIVE,
    archived_runs,
    csv_text,
    provenance_path,
    write_atomically,
    write_bytes_atomically,
)
from stalegrad.results import collect, read_csv


def archived_history(study: str, archive: Path = ARCHIVE) -> pd.DataFrame:
    """The history of all archived runs of a study; empty where there are none."""
    path = archive / study / "history.csv.gz"
    return read_csv(path) if path.exists() else pd.DataFrame({"run": []})


def add_to_archive(study: str, outputs: list[Path], archive: Path = ARCHIVE) -> int:
    """Add the bundles at `outputs` to the archive; how many runs were new.

    A run that is there already stays as it is. The same content gives the same bytes.
    """
    known = archived_runs(study, archive)
    histories, provenances = [archived_history(study, archive)], []
    for output in outputs:
        history = read_csv(output)
        new = history[~history["run"].isin(known)]
        if new.empty:
            continue
        known |= set(new["run"])
        histories.append(new)
        provenance = json.loads(provenance_path(output).read_text())
        provenances.append(provenance | {"cells": " ".join(new["run"].unique())})
    if not provenances:
        return 0
    folder = archive / study
    history = pd.concat([h for h in histories if len(h)], ignore_index=True)
    history = history.sort_values(["run", "epoch"], ignore_index=True)
    before = len(archived_runs(study, archive))
    _write_history(folder / "history.csv.gz", history)
    _write_provenance(folder / "provenance.csv", provenances)
    write_atomically(folder / "runs.txt", "\n".join(sorted(known)) + "\n")
    return len(known) - before


def gather(
    study: str, grids: Mapping[str, list[Cell]], folder: Path, archive: Path = ARCHIVE
) -> int:
    """Write `runs.csv` and `history.csv` of the archived runs among `grids` to `folder`.

    What the archive does not hold is left out, so that figures and claims can be made of what has
    been measured so far. How many runs there are. Raises ResultError where there are none.
    """
    known = archived_runs(study, archive)
    held = {name: [cell for cell in cells if cell.hash in known] for name, cells in grids.items()}
    held = {name: cells for name, cells in held.items() if cells}
    if not held:
        raise ResultError(f"{archive / study} holds none of the runs asked for; nothing to gather.")
    for table, name in zip(
        collect(held, [archived_history(study, archive)]), ("runs", "history"), strict=True
    ):
        write_atomically(folder / f"{name}.csv", csv_text(table))
    return len({cell.hash for cells in held.values() for cell in cells})


def keep(folder: Path, outputs: Mapping[str, Path]) -> bool:
    """Put files into a folder of the archive, by name; whether they were not there already.

    Raises ResultError where one of them has not been made.
    """
    if folder.exists():
        return False
    if missing := [path for path in outputs.values() if not path.exists()]:
        raise ResultError(f"{missing[0]} is not there; `snakemake --config preset=paper` makes it.")
    for name, path in outputs.items():
        content = path.read_bytes()
        kept = _kept(folder, name, path)
        write_bytes_atomically(kept, _gzipped(content) if kept.suffix == ".gz" else content)
    return True


def restore(folder: Path, outputs: Mapping[str, Path]) -> None:
    """Write the files that `keep` put into a folder of the archive to where they are wanted."""
    for name, path in outputs.items():
        kept = _kept(folder, name, path)
        content = kept.read_bytes()
        write_bytes_atomically(path, gzip.decompress(content) if kept.suffix == ".gz" else content)


def _kept(folder: Path, name: str, path: Path) -> Path:
    return folder / (name + path.suffix + (".gz" if path.suffix == ".csv" else ""))


def _gzipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    # No name and no time in the header: the same content gives the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=9) as file:
        file.write(content)
    return buffer.getvalue()


def _write_history(path: Path, history: pd.DataFrame) -> None:
    write_bytes_atomically(path, _gzipped(csv_text(history).encode()))


def _write_provenance(path: Path, provenances: list[dict]) -> None:
    known = [read_csv(path)] if path.exists() else []
    rows = pd.concat([*known, pd.DataFrame(provenances)], ignore_index=True)
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))
