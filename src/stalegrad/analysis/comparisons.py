"""Intervals over seeds, and Student's paired tests of runs with the same seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.analysis.results import student_half

# The false discovery rate: expected share of false ones among differences called beyond chance.
FALSE_DISCOVERIES = 0.05
# Differences within this share of the largest count as equal: the rest is rounding.
_ROUNDING = 1e-9


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student 95 % interval of a mean; NaN for fewer than two values."""
    found = np.asarray(values, float)
    if len(found) < 2:
        return np.nan, np.nan
    half = student_half(found.std(ddof=1) / np.sqrt(len(found)), len(found))
    return float(found.mean() - half), float(found.mean() + half)


def jackknife(value: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a statistic of all runs, over their seeds; NaN for fewer than two.

    without: the statistic with one seed after the other left out. Tukey's jackknife: the interval
    is centred on the statistic, and equals `mean_interval` if that is a mean over seeds.
    """
    if (count := len(without)) < 2:
        return np.nan, np.nan
    spread = np.std(np.asarray(without, float), ddof=1)
    half = student_half((count - 1) / np.sqrt(count) * spread, count)
    return float(value - half), float(value + half)


def by_seed(runs: pd.DataFrame, cell: Sequence[str], value: str) -> pd.DataFrame:
    """`value` of the runs, one row a cell (told apart by the columns `cell`), one column a seed."""
    return runs.pivot(index=list(cell), columns="seed", values=value)


def paired_tests(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Student's paired test of `first` against `second` in each cell.

    first, second: one row a cell and one column a seed; runs of one seed are pairs. Columns:
    difference, the mean of first less second; statistic (t) and p, two-sided; adjusted, p with the
    false discovery rate controlled over the cells (Benjamini and Hochberg 1995); untested, why a
    cell has none of these three. One pair cannot be tested, nor pairs without spread: all equal, or
    all with the same difference.
    """
    apart = (first - second).astype(float)
    low, high, largest = apart.min(axis=1), apart.max(axis=1), apart.abs().max(axis=1)
    tests = pd.DataFrame({"difference": apart.mean(axis=1), "untested": ""})
    tests.loc[high - low <= _ROUNDING * largest, "untested"] = (
        "that differ by as much in every seed"
    )
    tests.loc[largest == 0, "untested"] = "that are equal in every seed"
    tests.loc[apart.count(axis=1) < 2, "untested"] = "of one seed"
    tests[["statistic", "p", "adjusted"]] = np.nan
    tested = tests.index[tests["untested"] == ""]
    if len(tested):
        pairs = apart.loc[tested].to_numpy()
        found = stats.ttest_1samp(pairs, 0.0, axis=1, nan_policy="omit")
        tests.loc[tested, "statistic"] = np.asarray(found.statistic)
        tests.loc[tested, "p"] = np.asarray(found.pvalue)
        tests.loc[tested, "adjusted"] = stats.false_discovery_control(tests.loc[tested, "p"])
    return tests


def compare(first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str]) -> str:
    """The result of `paired_tests` in words; names: what first and second are called."""
    tests = paired_tests(first, second)
    why = tests.loc[tests["untested"] != "", "untested"].value_counts(sort=False)
    untested = ", ".join(f"{reason} ({count})" for reason, count in why.items())
    tested = tests[tests["untested"] == ""]
    if tested.empty:
        alone = set(why.index) <= {"of one seed"}
        reason = "from one seed" if alone else f"of cells {untested}"
        return f"Paired over seeds: cannot tell {reason}."
    seeds = (first - second).count(axis=1).max()
    beyond = tested[tested["adjusted"] <= FALSE_DISCOVERIES]["difference"]
    above, below = int((beyond > 0).sum()), int((beyond < 0).sum())
    cells = "1 cell" if len(tested) == 1 else f"{len(tested)} cells"
    return (
        f"Paired over {seeds} seeds, {names[0]} is above {names[1]} beyond chance in {above} of "
        f"{cells} and below in {below}; {_clearest(tested)}."
        + (f" Not tested: cells {untested}." if untested else "")
    )


def _clearest(tested: pd.DataFrame) -> str:
    row = tested.iloc[tested["p"].to_numpy().argmin()]
    found = f"t = {row['statistic']:.2f}, p {_p(row['p'])}"
    if len(tested) == 1:
        return found
    return f"where it is clearest {found}, adjusted {_p(row['adjusted'])}"


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"


def compare_runs(
    runs: pd.DataFrame,
    others: pd.DataFrame,
    names: tuple[str, str],
    *,
    cell: Sequence[str],
    value: str,
    on: Sequence[str] | None = None,
) -> str:
    """`compare` for `value` of each run and of its counterpart in `others` with the same seed.

    cell: the columns that identify the cells of `runs`; on: the columns in which counterparts agree
    (None: all of `cell`). A cell without a counterpart is left out.
    """
    on = [*(cell if on is None else on), "seed"]
    both = runs.merge(others[[*on, value]], on=on, suffixes=("", "_other"))
    return compare(by_seed(both, cell, value), by_seed(both, cell, f"{value}_other"), names)


def compare_kinds(
    runs: pd.DataFrame, column: str, kinds: Mapping[Any, str], cell: Sequence[str], value: str
) -> str:
    """`compare` for `value` of runs that differ in `column` alone.

    kinds: the two entries of `column` and what they are called; cell: the columns that identify
    cells; `column` is ignored among them.
    """
    cell = [key for key in cell if key != column]
    first, second = (runs[runs[column] == kind] for kind in kinds)
    name, other = kinds.values()
    return compare_runs(first, second, (name, other), cell=cell, value=value)
