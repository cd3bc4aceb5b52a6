"""Claims: did it hold? One module a paper, one function a claim.

A claim's docstring opens with the sentence it tests, in quotation marks. The function takes a
study's results and returns a `Finding`; what it holds against is written in it, before any numbers
are seen. `judge` turns findings into verdicts and sees to it that a thinned grid, too few seeds or
missing data never pass for an answer.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.errors import ResultError
from stalegrad.results import StudyResults

REPRODUCED, PARTLY = "reproduced", "partly"
NOT_REPRODUCED, CANNOT_TELL = "not reproduced", "cannot tell"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, CANNOT_TELL)
COLUMNS = (
    *("study", "claim", "quote", "where", "verdict", "statistic", "value", "threshold"),
    *("low", "high", "reason"),
)


@dataclass(frozen=True)
class Finding:
    """What a claim found.

    verdict: one of VERDICTS. statistic: what was measured, in words, and its value, with a 95 %
    interval where there is one. threshold: what it is held against. reason: one sentence.
    """

    verdict: str
    statistic: str
    value: float
    threshold: str
    reason: str
    low: float = np.nan
    high: float = np.nan


Claim = Callable[[StudyResults], Finding]


def claim(*, where: str, full_grid: bool = False, seeds: int = 1) -> Callable[[Claim], Claim]:
    """Mark a function as a claim.

    where: the place in the paper. full_grid: a thinned grid cannot answer it. seeds: how many it
    needs at least.
    """

    def mark(function: Claim) -> Claim:
        function.claim = {"where": where, "full_grid": full_grid, "seeds": seeds}
        return function

    return mark


def claims_of(study: str) -> dict[str, Claim]:
    """The claims of a study by name, in the order they are written; none where it has no module."""
    try:
        module = importlib.import_module(f"stalegrad.claims.{study}")
    except ModuleNotFoundError as error:
        if error.name != f"stalegrad.claims.{study}":
            raise
        return {}
    return {name: f for name, f in vars(module).items() if hasattr(f, "claim")}


def judge(results: StudyResults) -> pd.DataFrame:
    """The verdict on every claim of a study; columns are COLUMNS."""
    rows = []
    reading = _Reading(results.study, results.preset, results.folder, results.published_folder)
    for name, function in claims_of(results.study).items():
        reading.read.clear()
        finding = _within_reach(function, reading)
        rows.append(
            {
                "study": results.study,
                "claim": name,
                "quote": _quote(function),
                "where": function.claim["where"],
                **vars(finding),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class _Reading(StudyResults):
    """Results that note which grids are read of them: a claim is as good as their seeds."""

    read: set[str] = field(default_factory=set)

    def grid(self, *names: str) -> pd.DataFrame:
        self.read.update(names)
        return super().grid(*names)

    def curves(self, *names: str) -> pd.DataFrame:
        self.read.update(names)
        return super().curves(*names)


def _within_reach(function: Claim, results: _Reading) -> Finding:
    """The claim's own finding, or `cannot tell` where the results could not carry any."""
    needs = function.claim
    try:
        finding = function(results)
        found = _seeds(results)
    except (ResultError, LookupError, ValueError) as error:  # the last: a largest of nothing
        reason = f"The results it needs are not there ({' '.join(str(error).split())})."
        return Finding(CANNOT_TELL, "", np.nan, "", reason)
    because = None
    if results.preset == "smoke":
        because = "the smoke preset trains on a few images, and its numbers mean nothing"
    elif needs["full_grid"] and results.preset != "paper":
        because = f"the {results.preset} preset runs a thinned grid, and this needs the whole"
    elif found < needs["seeds"]:
        because = f"there are {found} seeds, and this needs {needs['seeds']}"
    if because is None:
        return finding
    reason = f"Here {because}; as it stands: {finding.verdict}. {finding.reason}"
    return Finding(**vars(finding) | {"verdict": CANNOT_TELL, "reason": reason})


def _seeds(results: _Reading) -> int:
    """Seeds of the grid, among those that were read, that has fewest."""
    try:
        runs = results.grid(*results.read) if results.read else results.runs
        return int(runs.groupby("grid")["seed"].nunique().min())
    except ResultError:  # a study of simulations alone has replicates instead
        rows = results.staleness
        return int(rows["replicate"].nunique() if "replicate" in rows else rows["replicates"].min())


def _quote(function: Claim) -> str:
    first_paragraph = " ".join(inspect.getdoc(function).partition("\n\n")[0].split())
    return first_paragraph[first_paragraph.index("'") + 1 : first_paragraph.rindex("'")]


def verdict_of(holds: Sequence[bool]) -> str:
    """All parts hold: reproduced; some: partly; none: not reproduced; no parts: cannot tell."""
    if len(holds) == 0:
        return CANNOT_TELL
    return REPRODUCED if all(holds) else PARTLY if any(holds) else NOT_REPRODUCED


def share_verdict(share: float, *, most: float = 0.9, some: float = 0.5) -> str:
    """Reproduced where at least `most` of the cases hold, partly from `some` on."""
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
    values = np.asarray(values, float)
    if len(values) < 2:
        return np.nan, np.nan
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def beyond_chance(before: pd.DataFrame, after: pd.DataFrame, level: float = 0.05) -> pd.Series:
    """Of each cell whether `before` less `after` is beyond chance: 1 above, -1 below, 0 neither.

    before, after: one row a cell and one column a seed; runs of one seed are pairs. Student's
    paired test in each cell, and over all cells the false discovery rate held at `level`
    (Benjamini and Hochberg 1995). A cell with fewer than two pairs is 0.
    """
    difference = before - after
    count, mean = difference.count(axis=1), difference.mean(axis=1)
    error = difference.sem(axis=1)
    # Seeds that all differ by the same are as far beyond chance as can be.
    distance = np.divide(
        mean.abs(), error, out=np.where(mean == 0, 0.0, np.inf), where=(error > 0).to_numpy()
    )
    p = 2 * stats.t.sf(distance, np.maximum(count - 1, 1))
    tested = (count >= 2).to_numpy()
    found = pd.Series(0, difference.index)
    if tested.any():
        real = stats.false_discovery_control(p[tested], method="bh") <= level
        found[tested] = np.where(real, np.sign(mean[tested]), 0).astype(int)
    return found


def in_how_many(found: pd.Series) -> str:
    """What `beyond_chance` found, as a sentence on falls (1) and rises (-1)."""
    return (
        f"Beyond chance (paired over seeds, false discovery rate 5 %) it falls in "
        f"{(found == 1).sum()} of {len(found)} cells and rises in {(found == -1).sum()}."
    )
