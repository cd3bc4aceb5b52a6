"""Whether runs that are trained again agree with those that are archived.

Vector instructions decide the order of sums, and so the last digits. In a cell that learns,
training forgets these; at the edge of collapse they decide the outcome of a run, as its seed does.
Rounding acts like one more seed, so the seeds tell which cells are steady:

- A cell is steady where at least `SEEDS` seeds of it are archived, none of them diverged, and at
  every epoch of the whole history the seeds lie within `Tolerance.steady` of each other, in each
  measure of how well they do.
- What is recorded of a run of a steady cell, trained again, agrees where it differs from what is
  archived by at most `Tolerance.share` of the seeds' spread at that epoch, or `Tolerance.least`.
  So a run may be what another seed could have been, and no more.
- Of the other cells only the schedule is compared: arrivals, clock and staleness, which no rounding
  of gradients reaches.

One epoch of one seed is not enough: at the edge of collapse one run may learn, and go on learning,
while another collapses.

A whole history has many epochs, and after some of them roundings have grown to what another seed
would do. `against` therefore asks for what is typical of a history:

- A cell is steady where the median over the epochs of the seeds' difference is within
  `Tolerance.steady`; where every step shrinks roundings (`Tolerance.share` is 0), at every epoch.
- A measure agrees where the median over the epochs of its difference is at most `TYPICAL` times
  what is allowed at an epoch; where every step shrinks roundings, where each is allowed.
- Roundings that have grown stay. A history of a network of which `MOST` records are equal in every
  digit and others are not has been changed.

Of the 50 runs of jain2018's Figure 2 at the edge of collapse that AVX2 and AVX-512 kernels have
trained, 11 are of steady cells in this sense, and 5 of these collapse in one of the two histories.
Of the other 6 the median is at most 0.9 times what is allowed, though one has a single epoch with a
test loss of 0.04 against 0.35. Where the cell with the next rate stands in, the median is 6 times
(of all steady cells of Figure 2), 4 (Table III of lamour2023) or 9 (LeNet-5 of mishchenko2022). At
most half of the records of the 50 runs are equal in every digit.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from stalegrad.planning.cell import Cell

SEEDS = 3  # the seeds of the paper preset
SCHEDULE = ("updates", "simulated_seconds", "mean_staleness", "max_staleness")
DIGITS = 1e-8  # of a CSV, which has nine
TYPICAL = 2.0  # times what is allowed at an epoch
MOST = 0.8


@dataclass(frozen=True)
class Tolerance:
    """What a column of the history is held to; shares of its archived mean over seeds.

    steady: the most that seeds of a steady cell differ by; None where it is not asked. share: of
    their difference, how much a run may differ from what is archived; least: what it always may.
    """

    steady: float | None
    share: float
    least: float


# A network amplifies roundings for a while even where it learns. In 18 steady archived cells of
# LeNet-5 the accuracy after an epoch with AVX2 differs from that with AVX-512 by 0.08 of the seeds'
# spread (the median), and by 0.92 at the most. 0.005 of accuracy is twice the deviation of a share
# of 0.95 of 10,000 images. On problems with one minimiser every step shrinks roundings, and
# 0.001 is far more than they come to.
TOLERANCES = {
    "test_accuracy": Tolerance(steady=0.05, share=1.0, least=0.005),
    "test_loss": Tolerance(steady=None, share=1.0, least=0.03),
    "train_loss": Tolerance(steady=None, share=1.0, least=0.02),
    "error": Tolerance(steady=1.0, share=0.0, least=0.001),
    "loss": Tolerance(steady=1.0, share=0.0, least=0.001),
    "excess_loss": Tolerance(steady=1.0, share=0.0, least=0.001),
}


def groups_of(cells: Iterable[Cell]) -> dict[str, str]:
    """Run -> a name that it shares with the runs that differ from it in their seed alone."""
    return {cell.hash: replace(cell, seed=1).hash for cell in cells}


def steady_cells(history: pd.DataFrame, cells: Iterable[Cell]) -> set[str]:
    """The runs of steady cells among `cells`: see above.

    history: of archived runs, one row a run and epoch, as `measured.archived_history` reads it.
    """
    groups = groups_of(cells)
    rows = history[history["run"].isin(groups)]
    by_seed = rows.assign(group=rows["run"].map(groups)).groupby("group")
    steady = (by_seed["run"].nunique() >= SEEDS) & ~by_seed["diverged"].any()
    seen = pd.Series(False, index=steady.index)
    for column in measures(rows):
        if (most := TOLERANCES[column].steady) is not None:
            spread = relative_spread(rows, groups, column).groupby("group").max()
            told = spread.reindex(steady.index)
            steady &= told.isna() | (told <= most)
            seen |= told.notna()
    return {run for run, group in groups.items() if (steady & seen).get(group, False)}


def agreement(
    archived: pd.DataFrame, fresh: pd.DataFrame, cells: Iterable[Cell]
) -> dict[str, list[str]]:
    """Run -> what speaks against it, a sentence each, of every run of `cells` in `fresh`.

    archived: the history of all seeds of these cells; fresh: rows of the same columns, of the first
    epochs at least, and not necessarily all columns. Raises KeyError where a fresh run is not
    archived.
    """
    cells = list(cells)
    groups, steady = groups_of(cells), steady_cells(archived, cells)
    there = archived.set_index(["run", "epoch"])
    allowed = {
        column: allowed_difference(archived, groups, column) for column in measures(archived)
    }
    found: dict[str, list[str]] = {run: [] for run in groups if run in set(fresh["run"])}
    for row in fresh[fresh["run"].isin(groups)].to_dict("records"):
        run, epoch = row["run"], row["epoch"]
        was = there.loc[(run, epoch)]
        for column in sorted(row.keys() & {*SCHEDULE, *(allowed if run in steady else ())}):
            most = DIGITS * abs(was[column])
            if column in allowed:
                most = allowed[column].get((groups[run], epoch), np.nan)
            if np.isnan(most) or abs(row[column] - was[column]) <= most:
                continue
            found[run].append(
                f"{column} is {row[column]:.6g} after epoch {epoch:g}, and {was[column]:.6g} in "
                f"the archive; {most:.2g} is allowed."
            )
        if run in steady and not set(allowed) & {k for k, v in row.items() if v == v}:
            found[run].append(f"nothing that can be compared is recorded after epoch {epoch:g}.")
    return found


def against(
    was: pd.DataFrame, now: pd.DataFrame, seeds: pd.DataFrame, cells: Iterable[Cell]
) -> list[str] | None:
    """What speaks against two whole histories of a run being the same but for rounding.

    was, now: the archived history and a fresh one. seeds: the history of all seeds of the cell,
    that of the run among them; cells: these seeds. A sentence a measure; None where the cell is not
    steady, so that measures cannot be compared.
    """
    groups, run = groups_of(cells), now["run"].iloc[0]
    if seeds["run"].nunique() < SEEDS or seeds["diverged"].any():
        return None
    steady = [
        _typical(column, relative_spread(seeds, groups, column)) <= most
        for column in measures(now)
        if (most := TOLERANCES[column].steady) is not None and seeds[column].notna().any()
    ]
    if not steady or not all(steady):
        return None
    before, after = was.set_index("epoch"), now.set_index("epoch")
    found = []
    for column in measures(now):
        allowed = allowed_difference(seeds, groups, column).xs(groups[run])
        times = ((after[column] - before[column]).abs() / allowed).dropna()
        times = times[times > 0]
        share = TOLERANCES[column].share
        typical = _typical(column, times.reindex(after.index, fill_value=0.0))
        if typical > (TYPICAL if share else 1.0):
            epoch = times.idxmax()
            found.append(
                f"{column} differs from the archive by {typical:.3g} times what is allowed at an "
                f"epoch ({'the median' if share else 'at most'}); after epoch {epoch:g} it is "
                f"{after[column][epoch]:.6g}, and {before[column][epoch]:.6g} in the archive."
            )
    return found


def changed_since(was: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """What speaks against all differences of two histories of a network being roundings."""
    grows = any(TOLERANCES[column].share for column in measures(now))
    if not grows or was["epoch"].tolist() != now["epoch"].tolist():
        return []
    before, after = was.reset_index(drop=True), now.reset_index(drop=True)
    apart = ((before != after) & ~(before.isna() & after.isna())).any(axis=1)
    if not MOST <= 1 - apart.mean() < 1:
        return []
    epochs = ", ".join(f"{epoch:g}" for epoch in after["epoch"][apart])
    return [
        f"{(~apart).sum()} of its {len(apart)} records are equal in every digit and those after "
        f"epoch {epochs} are not, though roundings that have grown stay."
    ]


def schedule_against(was: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """What speaks against two histories of a run having one schedule, which no rounding changes."""
    both = was.merge(now, on="epoch", suffixes=("_was", "_now"))
    found = []
    for column in (column for column in SCHEDULE if column in now):
        before, after = both[f"{column}_was"], both[f"{column}_now"]
        apart = ~((after - before).abs() <= DIGITS * before.abs())
        if apart.any():
            first = apart.idxmax()
            found.append(
                f"{column} is {after[first]:.9g} after epoch {both['epoch'][first]:g}, and "
                f"{before[first]:.9g} in the archive."
            )
    return found


def _typical(column: str, values: pd.Series) -> float:
    """The median over the epochs; where every step shrinks roundings, the largest."""
    return float(values.median() if TOLERANCES[column].share else values.max())


def measures(history: pd.DataFrame) -> list[str]:
    """Those that have a tolerance."""
    return [column for column in TOLERANCES if column in history]


def relative_spread(history: pd.DataFrame, groups: dict[str, str], column: str) -> pd.Series:
    """By group and epoch, the seeds' range as a share of their mean; NaN where nothing is known."""
    seeds = _by_epoch(history, groups, column)
    return (seeds.max() - seeds.min()) / seeds.mean().abs()


def allowed_difference(history: pd.DataFrame, groups: dict[str, str], column: str) -> pd.Series:
    """By group and epoch, how far a run may lie from what is archived."""
    tolerance, seeds = TOLERANCES[column], _by_epoch(history, groups, column)
    least = tolerance.least * seeds.mean().abs()
    return np.maximum(tolerance.share * (seeds.max() - seeds.min()), least)


def _by_epoch(
    history: pd.DataFrame, groups: dict[str, str], column: str
) -> "pd.api.typing.SeriesGroupBy":
    rows = history[history["run"].isin(groups)]
    return rows.assign(group=rows["run"].map(groups)).groupby(["group", "epoch"])[column]
