"""Results on disk: gathering bundles into the tables every figure, table and claim reads."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stalegrad.cells import Cell
from stalegrad.errors import ResultError

# Columns of a history that describe progress; all others but `diverged` are metrics.
_PROGRESS = ("updates", "simulated_seconds", "mean_staleness", "max_staleness")


def collect(
    grids: Mapping[str, list[Cell]], histories: Iterable[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`runs` and `history` of a study, from the histories of its bundles (or of an archive).

    runs: one row a grid and run: grid, run, the cell's columns, final_<metric> and final_train_loss
        after the last epoch, best_test_accuracy over epochs, diverged, updates, simulated_seconds,
        mean_staleness, max_staleness. A run that diverged has what it ended with.
    history: one row a run and epoch.

    Raises ResultError naming the runs that no history holds.
    """
    wanted = {cell.hash: cell for cells in grids.values() for cell in cells}
    history = _one_history(histories, wanted)
    last = history.groupby("run", sort=False).tail(1).set_index("run")
    metrics = [c for c in history.columns if c not in ("run", "epoch", "diverged", *_PROGRESS)]
    summary = last[metrics].rename(columns=lambda name: f"final_{name}")
    if "test_accuracy" in metrics:
        best = history.groupby("run", sort=False)["test_accuracy"].max()
        summary["best_test_accuracy"] = best
    summary[["diverged", *_PROGRESS]] = last[["diverged", *_PROGRESS]]
    rows = [
        {"grid": grid, "run": cell.hash, **cell.columns()}
        for grid, cells in grids.items()
        for cell in cells
    ]
    return pd.DataFrame(rows).join(summary, on="run"), history


def _one_history(histories: Iterable[pd.DataFrame], wanted: Mapping[str, Cell]) -> pd.DataFrame:
    found = [frame[frame["run"].isin(wanted)] for frame in histories]
    history = pd.concat(found, ignore_index=True) if found else pd.DataFrame({"run": []})
    # A run that stands in two places (an archive and a bundle) is the same run; the first counts.
    history = history.drop_duplicates(["run", "epoch"]) if len(history) else history
    missing = [run for run in wanted if run not in set(history["run"])]
    if missing:
        raise ResultError(
            f"{len(missing)} of {len(wanted)} runs have no history, the first {missing[0]} "
            f"({wanted[missing[0]].columns()}); train them with `snakemake`, or with "
            f"`stalegrad run-bundle`."
        )
    place = {run: i for i, run in enumerate(wanted)}
    history = history.assign(_place=history["run"].map(place))
    return history.sort_values(["_place", "epoch"]).drop(columns="_place").reset_index(drop=True)


def read_csv(path: Path) -> pd.DataFrame:
    """A result CSV (or csv.gz). Raises ResultError saying what makes it where it is missing."""
    try:
        return pd.read_csv(path, dtype={"run": str})
    except FileNotFoundError:
        raise ResultError(f"{path} is not there; `snakemake` makes it.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is not a readable CSV ({error}); delete it.") from None


@dataclass(frozen=True)
class StudyResults:
    """What figures, tables and claims of one study read.

    folder: `results/<preset>/<study>`; published: the folder of the papers' own numbers; preset:
    its name, by which a claim knows whether the grid is thinned.
    """

    study: str
    preset: str
    folder: Path
    published_folder: Path = Path("published")

    @cached_property
    def runs(self) -> pd.DataFrame:
        return read_csv(self.folder / "runs.csv")

    @cached_property
    def history(self) -> pd.DataFrame:
        """History with every run's cell columns beside it (one row a grid, run and epoch)."""
        history = read_csv(self.folder / "history.csv").drop(columns=["diverged", *_PROGRESS])
        return self.runs.merge(history, on="run", how="left")

    @cached_property
    def staleness(self) -> pd.DataFrame:
        return read_csv(self.folder / "staleness.csv")

    def histograms(self, simulation: str) -> dict[str, np.ndarray]:
        """Arrays of `schedules/<simulation>.npz`."""
        path = self.folder / "schedules" / f"{simulation}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except FileNotFoundError:
            raise ResultError(f"{path} is not there; `snakemake` makes it.") from None

    def grid(self, *names: str) -> pd.DataFrame:
        """The runs of some grids; empty columns dropped."""
        return self.runs[self.runs["grid"].isin(names)].dropna(axis=1, how="all")

    def curves(self, *names: str) -> pd.DataFrame:
        """The histories of some grids."""
        return self.history[self.history["grid"].isin(names)].dropna(axis=1, how="all")

    def published(self, name: str) -> pd.DataFrame:
        return read_csv(self.published_folder / f"{name}.csv")


def over_seeds(
    runs: pd.DataFrame, keys: list[str], value: str = "final_test_accuracy"
) -> pd.DataFrame:
    """Mean, deviation, smallest, largest and number of seeds of `value` for each cell.

    keys: the columns that tell the cells apart. The deviation (ddof 1) of one seed is NaN.
    """
    grouped = runs.groupby(keys, sort=True)[value]
    return grouped.agg(["mean", "std", "min", "max", "count"]).reset_index()


def numbers_of(prefix: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Values as the report's text shows them, under `<prefix>.<name>`."""
    return {f"{prefix}.{name}": _shown(value) for name, value in values.items()}


def _shown(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)
