"""Claims: tests of sentences in a paper, one function a claim, in a study's module `claims`.

A claim's docstring opens with the sentence it tests, in quotation marks. The function takes a
study's results and returns a `Finding`. Its threshold is written in it before any numbers are seen.
It asks for cells that may be missing with `results.with_all`. `judge` turns findings into verdicts,
and answers 'cannot tell' where a grid is thinned, seeds are too few or data are missing.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.analysis.results import StudyResults, student_half
from stalegrad.io.errors import ResultError
from stalegrad.planning.sources import quotation
from stalegrad.planning.studies import study_module

REPRODUCED, PARTLY = "reproduced", "partly"
NOT_REPRODUCED, CANNOT_TELL = "not reproduced", "cannot tell"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, CANNOT_TELL)
COLUMNS = (
    *("study", "claim", "quote", "where", "verdict", "statistic", "value", "threshold"),
    *("low", "high", "reason", "paired", "grids", "files", "shows"),
)

# The false discovery rate: expected share of false ones among differences called beyond chance.
FALSE_DISCOVERIES = 0.05
# Differences within this share of the largest count as equal: the rest is rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Finding:
    """What a claim found.

    verdict: one of VERDICTS. statistic: what was measured, in words; value: its value, low and high
    its 95 % interval if there is one. threshold: what it is compared with. reason: one sentence.
    paired: what `compare` says, if the claim compares cells whose runs pair; shown beside the
    verdict, of which it decides nothing.
    """

    verdict: str
    statistic: str
    value: float
    threshold: str
    reason: str
    low: float = np.nan
    high: float = np.nan
    paired: str = ""


def cannot_tell(reason: str) -> Finding:
    """The finding of a claim for which the results give no statistic."""
    return Finding(CANNOT_TELL, "", np.nan, "", reason)


class Claim(Protocol):
    """A function that `claim` has marked: beside what it computes, what it needs."""

    __name__: str
    claim: dict[str, Any]

    def __call__(self, results: StudyResults, /) -> Finding: ...


def claim(
    *,
    where: str,
    full_grid: bool = False,
    seeds: int = 1,
    exact: Sequence[str] = (),
    shows: Sequence[str] = (),
) -> Callable[[Callable[[StudyResults], Finding]], Claim]:
    """Mark a function as a claim.

    where: the place in the paper. full_grid: a thinned grid cannot answer it. seeds: the least it
    needs of every grid that it reads, except the grids in `exact`, in which nothing is random.
    shows: names of the study's figures and tables in which the claim can be seen.

    Raises ConfigError, when the module is imported, for a function without a quotation.
    """

    def mark(function: Callable[[StudyResults], Finding]) -> Claim:
        marked = cast(Claim, function)
        marked.claim = {
            "quote": quotation(inspect.getdoc(function), function.__module__, function.__name__),
            "where": where,
            "full_grid": full_grid,
            "seeds": seeds,
            "exact": frozenset(exact),
            "shows": tuple(shows),
        }
        return marked

    return mark


def claims_of(home: Path) -> dict[str, Claim]:
    """The claims of the study in `home` by name, in the order of the module; empty if the study has
    no module `claims`."""
    if not (home / "claims.py").exists():
        return {}
    module = study_module(home, "claims")
    return {name: f for name, f in vars(module).items() if hasattr(f, "claim")}


def judge(results: StudyResults) -> pd.DataFrame:
    """The verdict on every claim of a study; columns are COLUMNS.

    grids: the grids that the claim read; files: what else it read of the study's results; shows:
    the figures and tables in which it can be seen. Each is a list of names with spaces between.
    """
    rows = []
    reading = _Reading(results.home, results.preset, results.folder)
    for name, function in claims_of(results.home).items():
        reading.read.clear()
        reading.files.clear()
        finding = _within_reach(function, reading)
        rows.append(
            {
                "study": results.study,
                "claim": name,
                "quote": function.claim["quote"],
                "where": function.claim["where"],
                **vars(finding),
                "grids": " ".join(sorted(reading.read)),
                "files": " ".join(sorted(reading.files)),
                "shows": " ".join(function.claim["shows"]),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class _Reading(StudyResults):
    """Results that record what a claim reads.

    read: grids, of which it needs enough seeds. files: all else, as `Plan.outputs` names it; of a
    landscape its grid.
    """

    read: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)

    def grid(self, *names: str) -> pd.DataFrame:
        self.read.update(names)
        return super().grid(*names)

    def curves(self, *names: str) -> pd.DataFrame:
        self.read.update(names)
        return super().curves(*names)

    @property
    def staleness(self) -> pd.DataFrame:
        self.files.add("staleness.csv")
        return super().staleness

    def arrays(self, simulation: str) -> dict[str, np.ndarray]:
        self.files.add(f"schedules/{simulation}.npz")
        return super().arrays(simulation)

    def trace(self, name: str) -> pd.DataFrame:
        self.files.add(f"traces/{name}.csv")
        return super().trace(name)

    def trajectory(self, name: str) -> pd.DataFrame:
        self.files.add(f"trajectories/{name}.csv")
        return super().trajectory(name)

    def landscape(self, name: str) -> tuple[dict[str, np.ndarray], pd.DataFrame, pd.DataFrame]:
        self.files.add(f"landscapes/{name}.npz")
        return super().landscape(name)


def _within_reach(function: Claim, results: _Reading) -> Finding:
    """The claim's own finding, or `cannot tell` if the results cannot support one.

    Only a ResultError means that results are missing. Any other error is a mistake in the claim,
    and is raised with the claim's name.
    """
    needs = function.claim
    try:
        finding = function(results)
        found = _seeds(results, needs["exact"])
    except ResultError as error:
        return cannot_tell(f"The results it needs are not there ({' '.join(str(error).split())}).")
    except Exception as error:
        error.add_note(f"This was raised by the claim {results.study}.{function.__name__}.")
        raise
    because = None
    if results.preset == "smoke":
        because = "the smoke preset trains on a few images, and its numbers mean nothing"
    elif needs["full_grid"] and results.preset != "paper":
        because = f"the {results.preset} preset runs a thinned grid, and this needs the whole"
    elif found < needs["seeds"]:
        there = "is one seed" if found == 1 else f"are {found} seeds"
        because = f"there {there}, and this needs {needs['seeds']}"
    if because is None:
        return finding
    reason = f"Here {because}; as it stands: {finding.verdict}. {finding.reason}"
    return Finding(**vars(finding) | {"verdict": CANNOT_TELL, "reason": reason})


def _seeds(results: _Reading, exact: frozenset[str]) -> int:
    """The least number of seeds among the grids that were read and are not exact."""
    try:
        read = results.read - exact
        runs = results.grid(*read) if read else results.runs
        return int(runs.groupby("grid")["seed"].nunique().min())
    except ResultError:  # a study of simulations alone has replicates instead
        rows = results.staleness
        return int(rows["replicate"].nunique() if "replicate" in rows else rows["replicates"].min())


def verdict_of(holds: Sequence[bool]) -> str:
    """All parts hold: reproduced; some: partly; none: not reproduced; no parts: cannot tell."""
    if len(holds) == 0:
        return CANNOT_TELL
    return REPRODUCED if all(holds) else PARTLY if any(holds) else NOT_REPRODUCED


def share_verdict(share: float, *, most: float = 0.9, some: float = 0.5) -> str:
    """Reproduced if a share of at least `most` of the cases holds, partly from `some` on."""
    if np.isnan(share):
        return CANNOT_TELL
    return REPRODUCED if share >= most else PARTLY if share >= some else NOT_REPRODUCED


def share_interval(holds: Sequence[bool]) -> tuple[float, float]:
    """Clopper-Pearson 95 % interval of a share of cases."""
    if len(holds) == 0:
        return np.nan, np.nan
    interval = stats.binomtest(int(np.sum(holds)), len(holds)).proportion_ci()
    return float(interval.low), float(interval.high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student 95 % interval of a mean; NaN for fewer than two values."""
    found = np.asarray(values, float)
    if len(found) < 2:
        return np.nan, np.nan
    half = student_half(found.std(ddof=1) / np.sqrt(len(found)), len(found))
    return float(found.mean() - half), float(found.mean() + half)


def seed_interval(
    runs: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]
) -> tuple[float, float]:
    """95 % interval of a statistic of all runs, over their seeds; NaN for fewer than two.

    Tukey's jackknife: the change as one seed after the other is left out. The interval is centred
    on the statistic, and equals `mean_interval` if that is a mean over seeds.
    """
    seeds = runs["seed"].unique()
    if (count := len(seeds)) < 2:
        return np.nan, np.nan
    without = np.array([statistic(runs[runs["seed"] != seed]) for seed in seeds])
    half = student_half((count - 1) / np.sqrt(count) * without.std(ddof=1), count)
    return float(statistic(runs) - half), float(statistic(runs) + half)


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
