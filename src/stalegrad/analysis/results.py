"""Results on disk: the tables that every figure, table and claim reads, made from bundles."""

import gzip
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.io.errors import ResultError
from stalegrad.io.traces import Trace, read_trace

if TYPE_CHECKING:
    from stalegrad.planning.cell import Cell

# Columns of a history that describe progress; all others but `diverged` are metrics.
_PROGRESS = ("updates", "simulated_seconds", "mean_staleness", "max_staleness")


def collect(
    grids: Mapping[str, list["Cell"]], histories: Iterable[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`runs` and `history` of a study, from the histories of its bundles (or of an archive).

    runs: one row a grid and run: grid, run, the cell's columns, final_<metric> and final_train_loss
        after the last epoch, best_test_accuracy over epochs, diverged, updates, simulated_seconds,
        mean_staleness, max_staleness. A run that diverged has the values of its last epoch.
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


def _one_history(histories: Iterable[pd.DataFrame], wanted: Mapping[str, "Cell"]) -> pd.DataFrame:
    found: list[pd.DataFrame] = []
    there: set[str] = set()
    for frame in histories:
        # A run in two places (an archive and a bundle) is taken from the first: on another machine
        # it may have diverged at another epoch, so the two must not be mixed.
        new = frame[frame["run"].isin(wanted.keys() - there)]
        there |= set(new["run"])
        found += [new] if len(new) else []  # an empty one would decide the types of columns
    if missing := [run for run in wanted if run not in there]:
        raise ResultError(
            f"{len(missing)} of {len(wanted)} runs have no history, the first {missing[0]} "
            f"({wanted[missing[0]].columns()}); train them with `snakemake`, or with "
            f"`stalegrad run-bundle`."
        )
    history = pd.concat(found, ignore_index=True).drop_duplicates(["run", "epoch"])
    place = {run: i for i, run in enumerate(wanted)}
    history = history.assign(_place=history["run"].map(place))
    return history.sort_values(["_place", "epoch"]).drop(columns="_place").reset_index(drop=True)


# The errors of reading a file that was cut short or is of another kind.
_UNREADABLE = (ValueError, EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


def read_csv(path: Path, *columns: str) -> pd.DataFrame:
    """A result CSV (or csv.gz), which must have `columns`.

    Raises ResultError, which says how to make it, if it is missing, cut short or of another kind.
    """
    with _read(path, "CSV"):
        frame = pd.read_csv(path, dtype={"run": str})
        if lacking := [name for name in columns if name not in frame]:
            raise ValueError(f"it has no column {', '.join(lacking)}")
    return frame


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All of an npz. Raises ResultError as `read_csv`."""
    # np.load leaves a file open that it opened itself and found cut short.
    with _read(path, "npz"), open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


@contextmanager
def _read(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ResultError(f"{path} is not there; `snakemake` makes it.") from None
    except _UNREADABLE as error:
        said = " ".join(str(error).split())
        raise ResultError(
            f"{path} is not a readable {kind} ({said}); put a whole one in its place, or delete it."
        ) from None


@dataclass(frozen=True)
class StudyResults:
    """What figures, tables and claims of one study read.

    home: the study's folder, with the paper's own numbers; folder: `results/<preset>/<study>`;
    preset: its name, which tells whether the grid is thinned.
    """

    home: Path
    preset: str
    folder: Path

    @property
    def study(self) -> str:
        return self.home.name

    @cached_property
    def runs(self) -> pd.DataFrame:
        return read_csv(self.folder / "runs.csv")

    @cached_property
    def history(self) -> pd.DataFrame:
        """History with the cell columns of every run (one row a grid, run and epoch).

        Updates, simulated seconds and staleness are cumulative to the end of the epoch; `diverged`
        and `final_...` are those of the run.

        A run that diverged keeps its last values up to its planned last epoch, so that means over
        seeds include all seeds at every epoch.
        """
        history = read_csv(self.folder / "history.csv").drop(columns="diverged")
        history = _carried_on(history, self.runs)
        return self.runs.drop(columns=[*_PROGRESS]).merge(history, on="run", how="left")

    @cached_property
    def staleness(self) -> pd.DataFrame:
        return read_csv(self.folder / "staleness.csv")

    def arrays(self, simulation: str) -> dict[str, np.ndarray]:
        """The arrays of `schedules/<simulation>.npz`, as `analysis.simulations` names them."""
        return read_arrays(self.folder / "schedules" / f"{simulation}.npz")

    def trace(self, name: str) -> pd.DataFrame:
        """The rows of a trace, as `analysis.virtual_iterates.trace_cells` gives them."""
        return read_csv(self.folder / "traces" / f"{name}.csv")

    def recording(self, name: str) -> Trace:
        """What `stalegrad record` has written to `traces/<name>.csv.gz` in the study's folder.

        Raises ResultError where it is not there, and DataError where it is inconsistent.
        """
        file = self.home / "traces" / f"{name}.csv.gz"
        if not file.exists():
            raise ResultError(f"{file} is not there; `tools/record_traces.py` makes it.")
        return read_trace(file)

    def trajectory(self, name: str) -> pd.DataFrame:
        """Runs recorded several times an epoch, as `training.bundles.train_bundle` writes them."""
        return read_csv(self.folder / "trajectories" / f"{name}.csv")

    def landscape(self, name: str) -> tuple[dict[str, np.ndarray], pd.DataFrame, pd.DataFrame]:
        """Grid, points and lines of a landscape: see `analysis.landscapes.ComputedLandscape`."""
        path = self.folder / "landscapes" / f"{name}.npz"
        points, lines = path.with_suffix(".csv"), path.with_name(f"{name}_lines.csv")
        return read_arrays(path), read_csv(points), read_csv(lines)

    def grid(self, *names: str) -> pd.DataFrame:
        """The runs of some grids; columns that none of them has are dropped.

        They are chosen once: a claim is tried on hundreds of variants of the same results.
        """
        return self._chosen_once("runs", names)

    def curves(self, *names: str) -> pd.DataFrame:
        """The histories of some grids, chosen once as in `grid`."""
        return self._chosen_once("history", names)

    def _chosen_once(self, table: str, names: tuple[str, ...]) -> pd.DataFrame:
        if (table, names) not in self._kept:
            self._kept[table, names] = _chosen(getattr(self, table), names)
        return self._kept[table, names].copy()

    @cached_property
    def _kept(self) -> dict[tuple[str, tuple[str, ...]], pd.DataFrame]:
        return {}

    def published(self, name: str) -> pd.DataFrame:
        """The paper's own numbers of that name."""
        path = self.home / "published" / f"{name}.csv"
        if not path.exists():
            raise ResultError(
                f"{path} is not there; the papers' numbers are part of the repository "
                f"(`git checkout -- {path.parent}` brings it back)."
            )
        return read_csv(path)


def _carried_on(history: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    epochs = runs[runs["diverged"]].drop_duplicates("run").set_index("run")["epochs"]
    last = history[history["run"].isin(epochs.index)].groupby("run").tail(1)
    left = (last["run"].map(epochs) - last["epoch"]).astype(int)
    rest = last.loc[last.index.repeat(left)]
    rest = rest.assign(epoch=rest["epoch"] + rest.groupby("run").cumcount() + 1)
    both = pd.concat([history, rest], ignore_index=True) if len(rest) else history
    return both.sort_values(["run", "epoch"], ignore_index=True)


def cell_columns(runs: pd.DataFrame) -> list[str]:
    """The columns of `StudyResults.runs` that describe a cell, its seed included."""
    outcomes = ("diverged", *_PROGRESS)
    return [
        name
        for name in runs.columns
        if name not in ("grid", "run", *outcomes) and not name.startswith(("final_", "best_"))
    ]


def _chosen(frame: pd.DataFrame, grids: tuple[str, ...]) -> pd.DataFrame:
    there = set(frame["grid"].unique())
    if missing := [grid for grid in grids if grid not in there]:
        raise ResultError(f"runs.csv holds no run of {', '.join(missing)}; `snakemake` makes it.")
    frame = frame[frame["grid"].isin(grids)].dropna(axis=1, how="all")
    # A column that other grids lack was read as floats; whole numbers become integers again.
    cell = frame.columns[: list(frame.columns).index("seed") + 1]
    floats = frame[cell].select_dtypes("float").dropna(axis=1)
    whole = [name for name in floats if (floats[name] % 1 == 0).all()]
    # Not `frame.astype`, which copies each column by itself: claims come here thousands of times.
    return frame.assign(**{name: frame[name].astype(int) for name in whole})


def with_all(runs: pd.DataFrame, column: str, values: Iterable[object]) -> pd.DataFrame:
    """`runs`, whose `column` must contain all of `values`.

    Raises ResultError naming the values that are missing, as when a preset thins the grid.
    """
    there = set(runs[column])
    if lacking := [str(value) for value in values if value not in there]:
        raise ResultError(f"there is no run whose {column} is {', '.join(lacking)}")
    return runs


def over_seeds(
    runs: pd.DataFrame, keys: list[str], value: str = "final_test_accuracy"
) -> pd.DataFrame:
    """Mean, deviation, smallest, largest and number of seeds of `value` for each cell.

    keys: the columns that identify cells. The deviation (ddof 1) of one seed is NaN.
    """
    grouped = runs.groupby(keys, sort=True)[value]
    return grouped.agg(["mean", "std", "min", "max", "count"]).reset_index()


def rank_correlation(ours: pd.Series, theirs: pd.Series) -> float:
    """Spearman's rank correlation, between -1 and 1; NaN if one of the two is constant."""
    if ours.nunique() < 2 or theirs.nunique() < 2:
        return np.nan
    return float(stats.spearmanr(ours, theirs).statistic)


def student_half(error: float | pd.Series, count: int | pd.Series) -> float | pd.Series:
    """Half of Student's 95 % interval of a mean of `count` values with this standard error."""
    return stats.t.ppf(0.975, count - 1) * error
