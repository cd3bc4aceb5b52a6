"""One item of a spot check held to the archive: a run trained afresh, or points of a landscape.

A run agrees to the byte where all that decides a digit is the same, else by `analysis.agreement`,
which allows what roundings and seeds explain. Which cells are steady is asked twice: of the
archive, and of the archive with the fresh run in place of the archived one. Otherwise an archived
run that is wrong would make its cell look as if its seeds disagreed.

A run is held in full where one of these compares all that is recorded of it. At the edge of
collapse, where rounding decides what becomes of a run, only its schedule can be compared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from stalegrad.analysis.agreement import SEEDS, TOLERANCES, against, changed_since, schedule_against
from stalegrad.io.files import csv_text
from stalegrad.planning.cell import Cell

# What a point of a landscape may differ by: the loss is a mean over the test set in float32, as a
# share of itself; the accuracy, some images whose two likeliest classes are a rounding apart.
LOSS_TOLERANCE, ACCURACY_TOLERANCE = 1e-4, 1e-3


@dataclass(frozen=True)
class Held:
    """What came of holding one item to the archive: fields of `check.csv`, see COLUMNS.

    archived, fresh: both histories as CSV where they disagree, else what is recorded last.
    """

    agrees: bool
    to_the_byte: bool
    in_full: bool
    reason: str
    archived: str
    fresh: str


def hold(
    archived: pd.DataFrame, fresh: pd.DataFrame, seeds: Iterable[Cell], *, same_digits: bool
) -> Held:
    """Hold a run trained afresh to the archive.

    archived: the history of its seeds, and perhaps of other runs; fresh: its own; seeds: the cells
    that differ from it in their seed alone, itself among them. same_digits: whether what it was
    archived by gives the same digits as what trained it now.
    """
    seeds, run = list(seeds), fresh["run"].iloc[0]
    # A trajectory has the columns of the cell too, which its hash stands for. One that was archived
    # before a cell got another field lacks that.
    described = {name for cell in seeds for name in cell.columns()}
    fresh = fresh[[name for name in fresh if name not in described]]
    archived = archived[archived["run"].isin([cell.hash for cell in seeds])]
    pair = _Pair(archived[archived["run"] == run][list(fresh)], fresh)
    if pair.equal:
        return pair.held([], to_the_byte=True, in_full=True, found="Every digit is the same.")
    if same_digits:
        said = (
            "The same code, libraries and vector instructions give every digit again, and here "
            f"{pair.first_difference}."
        )
        return pair.held([said], in_full=True)
    return _by_the_rule(pair, archived, fresh, seeds)


def _by_the_rule(
    pair: "_Pair", archived: pd.DataFrame, fresh: pd.DataFrame, seeds: list[Cell]
) -> Held:
    run = fresh["run"].iloc[0]
    wrong = [*schedule_against(pair.was, fresh), *changed_since(pair.was, fresh)]
    diverged = archived.groupby("run")["diverged"].any()
    if len(diverged) >= SEEDS and diverged.all():
        if not fresh["diverged"].any():
            wrong.append("It diverged in the archive, with all seeds, and does not here.")
        return pair.held(wrong, in_full=True, found="It diverges, as all seeds of its cell do.")
    exchanged = pd.concat([archived[archived["run"] != run], fresh], ignore_index=True)
    by_archive = against(pair.was, fresh, archived, seeds)
    if by_archive is None and pair.on_the_edge:
        found = (
            "Its schedule is the same. Rounding decides what becomes of it, for seeds of its cell "
            "disagree, and it collapses or diverges in one of the two histories."
        )
        return pair.held(wrong, found=found)
    compared = [
        said
        for said in (by_archive, against(pair.was, fresh, exchanged, seeds))
        if said is not None
    ]
    if len(pair.was) != len(fresh):
        wrong.append(f"It has {len(fresh)} records, and {len(pair.was)} in the archive.")
    if compared:
        found = "It lies within what roundings and the spread of seeds explain."
        return pair.held([*wrong, *sum(compared, [])], in_full=True, found=found)
    found = "Its schedule is the same; its seeds disagree, so its measures are not compared."
    return pair.held(wrong, found=found)


@dataclass(frozen=True)
class _Pair:
    """Two histories of one run, with the same columns: archived, and trained afresh."""

    was: pd.DataFrame
    now: pd.DataFrame

    @cached_property
    def _differences(self) -> pd.DataFrame:
        """Row by row and column by column, whether the two differ; only of the same rows."""
        was, now = self.was.reset_index(drop=True), self.now.reset_index(drop=True)
        return (was != now) & ~(was.isna() & now.isna())

    @cached_property
    def equal(self) -> bool:
        epochs = [frame["epoch"].tolist() for frame in (self.was, self.now)]
        return epochs[0] == epochs[1] and not self._differences.any(axis=None)

    @cached_property
    def first_difference(self) -> str:
        """In words, of two histories that are not equal."""
        if self.was["epoch"].tolist() != self.now["epoch"].tolist():
            return f"are {len(self.now)} records where the archive has {len(self.was)}"
        row = int(self._differences.any(axis=1).to_numpy().argmax())
        column = str(
            self._differences.columns[int(self._differences.iloc[row].to_numpy().argmax())]
        )
        was, now = self.was[column].iloc[row], self.now[column].iloc[row]
        return (
            f"{column} is {now:.9g} after epoch {self.now['epoch'].iloc[row]:g}, and {was:.9g} in "
            f"the archive"
        )

    @cached_property
    def on_the_edge(self) -> bool:
        """Whether one of the two diverges where the other goes on, or learns where it does not."""
        if self.was["diverged"].any() or self.now["diverged"].any():
            return len(self.was) != len(self.now) or (
                self.was["diverged"].any() != self.now["diverged"].any()
            )
        if "test_accuracy" not in self.now:
            return False
        both = self.was.merge(self.now, on="epoch", suffixes=("", "_now"))
        accuracies = both[["test_accuracy", "test_accuracy_now"]]
        return bool((accuracies.min(axis=1) < 0.5 * accuracies.max(axis=1)).any())

    def held(
        self,
        wrong: list[str],
        *,
        to_the_byte: bool = False,
        in_full: bool = False,
        found: str = "",
    ) -> Held:
        """wrong: sentences on what does not agree; found: said where there are none."""
        wrong = list(dict.fromkeys(wrong))
        shown = csv_text if wrong else _last
        reason = " ".join([*wrong[:3], *_further(len(wrong) - 3)]) if wrong else found
        return Held(not wrong, to_the_byte, in_full, reason, shown(self.was), shown(self.now))


def _further(count: int) -> list[str]:
    return [f"And {count} more such."] if count > 0 else []


def _last(history: pd.DataFrame) -> str:
    """What is recorded last of how well a run does, in words."""
    if history.empty:
        return "nothing"
    row = history.iloc[-1]
    if row["diverged"]:
        return f"diverged in epoch {row['epoch']:g}"
    measures = [name for name in TOLERANCES if name in history and row[name] == row[name]]
    return f"after epoch {row['epoch']:g}: " + ", ".join(f"{m} {row[m]:.6g}" for m in measures)


def hold_points(places: list[str], was: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> Held:
    """Hold metrics [N] of points, called `places`, to those that are archived."""
    against = []
    for name, values in now.items():
        most = ACCURACY_TOLERANCE
        if name != "test_accuracy":
            most = LOSS_TOLERANCE * np.abs(was[name])
        both_nan = np.isnan(was[name]) & np.isnan(values)
        close = (np.abs(was[name] - values) <= most) | both_nan
        if not close.all():
            worst = int(np.argmin(close))
            against.append(
                f"{name} at the point {places[worst]} is {values[worst]:.6g}, and "
                f"{was[name][worst]:.6g} in the archive; {int((~close).sum())} of {len(close)} "
                f"points differ by more than rounding."
            )
    equal = all(np.array_equal(was[name], now[name], equal_nan=True) for name in now)
    reason = "Every digit is the same." if equal else "Its points differ by rounding alone."
    shown = (
        ", ".join(f"{name} {values.mean():.6g} on average" for name, values in of.items())
        for of in ({name: was[name] for name in now}, now)
    )
    return Held(not against, equal, True, " ".join(against) or reason, *shown)
