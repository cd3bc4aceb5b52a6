"""The archive of a study: runs made at full scale, kept with where they come from.

Its folder, `<study>/measured/`, holds `history.csv.gz` (one row a run and epoch, as `train_bundle`
writes it) and `provenance.csv` (one row a bundle: machine, versions, commit, wall time, hashes of
its cells). A run is found by its content hash, so an archived run is used only for exactly the cell
it was made for. Trajectories and landscapes have a folder each, `<kind>/<content hash>/`, with the
files that their rule makes, CSVs compressed.
"""

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stalegrad.analysis.results import collect, read_csv
from stalegrad.io.errors import ResultError
from stalegrad.io.files import (
    archived_history_path,
    archived_runs,
    csv_text,
    held,
    is_kept,
    provenance_path,
    write_atomically,
    write_bytes_atomically,
)
from stalegrad.planning.cell import Cell

UNRECORDED = "not recorded"


def archived_history(archive: Path) -> pd.DataFrame:
    """The history of all archived runs of a study; empty where there are none."""
    path = archived_history_path(archive)
    return read_csv(path) if path.exists() else pd.DataFrame({"run": []})


def add_to_archive(archive: Path, outputs: list[Path]) -> int:
    """Add the bundles at `outputs` to the archive of a study. Returns how many runs were new.

    Runs that are archived already are not changed. The same content gives the same bytes. A lock
    lets one call at a time add to a study. A run is archived once `runs.txt`, which is written
    last, names it; so the next call repairs what a killed one has left.
    """
    if not outputs:
        return 0
    names = archive / "runs.txt"
    with held(names, wait=True):
        before = archived_runs(archive)
        history, provenance = _archived(archive, before)
        known, histories, provenances = set(before), [history], [provenance]
        for output in outputs:
            history = read_csv(output, "run", "epoch")
            new = history[~history["run"].isin(known)]
            if new.empty:
                continue
            known |= set(new["run"])
            histories.append(new)
            made = json.loads(provenance_path(output).read_text())
            provenances.append(pd.DataFrame([made | {"cells": " ".join(new["run"].unique())}]))
        if known == before:
            return 0
        history = pd.concat([h for h in histories if len(h)], ignore_index=True)
        history = history.sort_values(["run", "epoch"], ignore_index=True)
        provenance = pd.concat([p for p in provenances if len(p)], ignore_index=True)
        if "instructions" in provenance:  # which rows of earlier versions do not say
            provenance["instructions"] = provenance["instructions"].fillna(UNRECORDED)
        content = _gzipped(csv_text(history).encode())
        write_bytes_atomically(archived_history_path(archive), content)
        text = provenance.to_csv(index=False, lineterminator="\n")
        write_atomically(names.with_name("provenance.csv"), text)
        write_atomically(names, "\n".join(sorted(known)) + "\n")
    return len(known) - len(before)


def _archived(archive: Path, known: set[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """History and provenance of the archived runs, which are `known`, and of no others."""
    history, path = archived_history(archive), archive / "provenance.csv"
    provenance = read_csv(path, "cells") if path.exists() else pd.DataFrame({"cells": []})
    theirs = [known.issuperset(cells.split()) for cells in provenance["cells"]]
    return history[history["run"].isin(known)], provenance[theirs]


def gather(archive: Path, grids: Mapping[str, list[Cell]], folder: Path) -> int:
    """Write `runs.csv` and `history.csv` of the archived runs among `grids` to `folder`.

    Runs that are not archived are left out, so that figures and claims can be made from what has
    been measured so far. Returns the number of runs. Raises ResultError if there are none.
    """
    known = archived_runs(archive)
    there = {name: [cell for cell in cells if cell.hash in known] for name, cells in grids.items()}
    there = {name: cells for name, cells in there.items() if cells}
    if not there:
        raise ResultError(f"{archive} holds none of the runs asked for; nothing to gather.")
    for table, name in zip(
        collect(there, [archived_history(archive)]), ("runs", "history"), strict=True
    ):
        write_atomically(folder / f"{name}.csv", csv_text(table))
    return len({cell.hash for cells in there.values() for cell in cells})


def keep(folder: Path, outputs: Mapping[str, Path]) -> bool:
    """Put files into a folder of the archive, by name. Returns False if they are there already.

    The folder is named by the content hash of the trajectory or landscape. Its `provenance`, which
    must name the same hash, is written last. Raises ResultError if one of the files has not been
    made, or if the hash differs.
    """
    if is_kept(folder):
        return False
    if missing := [path for path in outputs.values() if not path.exists()]:
        raise ResultError(f"{missing[0]} is not there; `snakemake --config preset=paper` makes it.")
    made = json.loads(outputs["provenance"].read_text())
    if folder.name not in (made.get("bundle"), made.get("landscape")):
        raise ResultError(
            f"{outputs['provenance']} belongs to other runs than the paper preset has now; "
            f"`snakemake --config preset=paper` makes it again."
        )
    for name, path in sorted(outputs.items(), key=lambda output: output[0] == "provenance"):
        content = path.read_bytes()
        kept = _kept(folder, name, path)
        write_bytes_atomically(kept, _gzipped(content) if kept.suffix == ".gz" else content)
    return True


def restore(folder: Path, outputs: Mapping[str, Path]) -> None:
    """Copy the files that `keep` put into a folder of the archive to the paths `outputs`."""
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
