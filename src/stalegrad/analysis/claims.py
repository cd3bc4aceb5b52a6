"""Claims: tests of sentences in a paper, one function a claim, in a study's module `claims`.

A claim's docstring opens with the sentence it tests, in quotation marks. The function takes a
study's results and the value of its threshold, and returns a `Finding`. It asks for cells that may
be missing with `results.with_all`.

`judge` turns findings into verdicts. Before a criterion judges us, it is tried itself:

- on a null, results in which the sentence is false by construction (the floor);
- on the best agreement that can be had at all, such as one seed of ours in place of the print (the
  ceiling), and on the paper's own numbers;
- at half and at double its threshold, and with each seed left out (robustness).

The verdict is 'cannot tell' where a grid is thinned, seeds are too few, data are missing, a null
passes or the ceiling does not. It is 'partly' where one seed, or the interval of the statistic
over seeds, decides it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd

from stalegrad.analysis.comparisons import jackknife
from stalegrad.analysis.nulls import ChangedResults, Null, View, without
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning.sources import quotation
from stalegrad.planning.studies import study_module

REPRODUCED, PARTLY = "reproduced", "partly"
NOT_REPRODUCED, CANNOT_TELL = "not reproduced", "cannot tell"
VERDICTS = (REPRODUCED, PARTLY, NOT_REPRODUCED, CANNOT_TELL)
COLUMNS = (
    *("study", "claim", "quote", "where", "verdict", "statistic", "value", "threshold"),
    *("low", "high", "reason", "paired", "grids", "files", "shows"),
    *("floor", "null", "ceiling", "best", "printed", "printed_verdict", "robustness"),
)
STABLE = "stable"
_NOT_TRIED = "not tried: "

# A null that passes a criterion more often than this makes its verdict worthless.
NULL_PASSES = 0.05
# Of more seeds, such as a hundred replicates of a simulation, a group at a time is left out.
GROUPS = 10


@dataclass(frozen=True)
class Threshold:
    """What a claim's statistic is held against.

    value: a statistic on its `side` ('at most', 'at least', 'below' or 'above') meets the claim.
    where: what must meet it, in words that follow the value ('points either way, in every cell').
    moves: how half and double are meant. `amount`: of the value. `factor`: of its logarithm (a
    ratio of 4 becomes 2 and 16). `share`: of its odds (a share of 0.5 becomes 1/3 and 2/3).
    """

    side: str
    value: float
    where: str = ""
    moves: str = "amount"

    def __post_init__(self) -> None:
        if self.side not in _SIDES or self.moves not in _MOVES:
            raise ConfigError(
                f"A threshold is {self.side!r} {self.value} and moves as {self.moves!r}; the side "
                f"must be one of {', '.join(_SIDES)}, and 'moves' one of {', '.join(_MOVES)}."
            )

    def __str__(self) -> str:
        return f"{self.side} {self.value:g} {self.where}".strip()

    def meets(self, value: float) -> bool:
        """Whether a statistic is on the side of the threshold where the claim holds."""
        return bool(_SIDES[self.side](value, self.value))

    def moved(self, times: float) -> float:
        """The value at `times` (1/2 or 2) the threshold."""
        return float(_MOVES[self.moves](self.value, times))


_SIDES: dict[str, Callable[[float, float], bool]] = {
    "at most": lambda value, limit: value <= limit,
    "at least": lambda value, limit: value >= limit,
    "below": lambda value, limit: value < limit,
    "above": lambda value, limit: value > limit,
}
_MOVES: dict[str, Callable[[float, float], float]] = {
    "amount": lambda value, times: value * times,
    "factor": lambda value, times: value**times,
    "share": lambda value, times: times * value / (1 - value + times * value),
}


@dataclass(frozen=True)
class Finding:
    """What a claim found.

    verdict: one of VERDICTS. statistic: what was measured, in words; value: its value, which the
    threshold of the claim, if it has one, is compared with. reason: one sentence. threshold: what
    the value is held against, where the claim has no `Threshold`. low, high: the 95 % interval, if
    it is another than that of leaving out one seed after the other. paired: what `compare` says, if
    the claim compares cells whose runs pair; shown beside the verdict, of which it decides nothing.
    """

    verdict: str
    statistic: str
    value: float
    reason: str
    threshold: str = ""
    low: float = np.nan
    high: float = np.nan
    paired: str = ""


def cannot_tell(reason: str) -> Finding:
    """The finding of a claim for which the results give no statistic."""
    return Finding(CANNOT_TELL, "", np.nan, reason)


class Claim(Protocol):
    """A function that `claim` has marked: beside what it computes, what it needs."""

    __name__: str
    claim: dict[str, Any]

    def __call__(self, results: StudyResults, /, *threshold: float) -> Finding: ...


def claim(
    *,
    where: str,
    threshold: Threshold | None = None,
    null: Null | str = "None was given.",
    ceiling: Null | str = "None was given.",
    printed: View | str = "The paper prints no numbers for it.",
    full_grid: bool = False,
    seeds: int = 1,
    exact: Sequence[str] = (),
    shows: Sequence[str] = (),
) -> Callable[[Callable[..., Finding]], Claim]:
    """Mark a function as a claim. It is called with the results, and the value of its threshold if
    it has one.

    where: the place in the paper. threshold: what its statistic is held against. null: results in
    which the sentence is false, on which it must fail. ceiling: results that agree as well as can
    be, on which it must not fail. printed: the paper's own numbers in place of ours. A text in
    place of these three says why there are none. full_grid: a thinned grid cannot answer it. seeds:
    the least it needs of every grid that it reads, except the grids in `exact`, in which nothing is
    random. shows: names of the study's figures and tables in which the claim can be seen.

    Raises ConfigError, when the module is imported, for a function without a quotation.
    """

    def mark(function: Callable[..., Finding]) -> Claim:
        marked = cast(Claim, function)
        marked.claim = {
            "quote": quotation(inspect.getdoc(function), function.__module__, function.__name__),
            "where": where,
            "threshold": threshold,
            "null": null,
            "ceiling": ceiling,
            "printed": printed,
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
    for name, function in claims_of(results.home).items():
        reading = _Reading(results.home, results.preset, results.folder, results)
        finding, trial = _judged(function, reading)
        threshold = function.claim["threshold"]
        rows.append(
            {
                "study": results.study,
                "claim": name,
                "quote": function.claim["quote"],
                "where": function.claim["where"],
                **vars(finding),
                "threshold": finding.threshold if threshold is None else str(threshold),
                "grids": " ".join(sorted(reading.read)),
                "files": " ".join(sorted(reading.files)),
                "shows": " ".join(function.claim["shows"]),
                **trial,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True)
class _Reading(ChangedResults):
    """Results that record what a claim reads.

    base: the results themselves, so that all claims share what has been read. read: grids, of which
    a claim needs enough seeds. files: all else, as `Plan.outputs` names it; of a landscape its
    grid.
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


def _judged(function: Claim, reading: _Reading) -> tuple[Finding, dict[str, Any]]:
    """The claim's finding, its verdict held to what the results can support, and its trial."""
    try:
        finding = _found(function, reading)
        unfit = _unfit(function, reading)
    except ResultError as error:
        missing = f"The results it needs are not there ({' '.join(str(error).split())})."
        return cannot_tell(missing), {"robustness": f"{_NOT_TRIED}results are missing"}
    if reading.preset == "smoke":
        return _cannot(finding, unfit), {"robustness": f"{_NOT_TRIED}this is the smoke preset"}
    trial, doubt = _tried(function, reading)
    finding, others = _over_seeds(function, reading, finding)
    flips = _flips(function, reading.base, finding, others)
    trial["robustness"] = "; ".join(flips) or STABLE
    if unfit or doubt:
        return _cannot(finding, unfit or doubt), trial
    return _held(finding, function.claim["threshold"], others), trial


def _found(function: Claim, results: StudyResults, times: float = 1.0) -> Finding:
    """What a claim finds in results, with `times` its threshold.

    Only a ResultError means that results are missing. Any other error is a mistake in the claim,
    and is raised with the claim's name.
    """
    threshold = function.claim["threshold"]
    try:
        return function(results, *([] if threshold is None else [threshold.moved(times)]))
    except ResultError:
        raise
    except Exception as error:
        error.add_note(f"This was raised by the claim {results.study}.{function.__name__}.")
        raise


def _cannot(finding: Finding, because: str) -> Finding:
    reason = f"Here {because}; as it stands: {finding.verdict}. {finding.reason}"
    return replace(finding, verdict=CANNOT_TELL, reason=reason)


def _unfit(function: Claim, results: _Reading) -> str:
    """Why the results cannot support a verdict; empty if they can."""
    needs, found = function.claim, _seeds(results, function.claim["exact"])
    if results.preset == "smoke":
        return "the smoke preset trains on a few images, and its numbers mean nothing"
    if needs["full_grid"] and results.preset != "paper":
        return f"the {results.preset} preset runs a thinned grid, and this needs the whole"
    if found < needs["seeds"]:
        there = "is one seed" if found == 1 else f"are {found} seeds"
        return f"there {there}, and this needs {needs['seeds']}"
    return ""


def _seeds(results: _Reading, exact: frozenset[str]) -> int:
    """The least number of seeds among the grids that were read and are not exact."""
    try:
        read = results.read - exact
        runs = results.base.grid(*read) if read else results.base.runs
        return int(runs.groupby("grid")["seed"].nunique().min())
    except ResultError:  # a study of simulations alone has replicates instead
        rows = results.base.staleness
        return int(rows["replicate"].nunique() if "replicate" in rows else rows["replicates"].min())


def _tried(function: Claim, reading: _Reading) -> tuple[dict[str, Any], str]:
    """The criterion on its null, at its ceiling and on the printed numbers, as columns of a row,
    and why its verdict is worthless; that is empty where it is not."""
    trial: dict[str, Any] = {}
    doubt = ""
    null, ceiling, printed = (function.claim[key] for key in ("null", "ceiling", "printed"))
    passed, trial["floor"], trial["null"] = _on(function, reading, null)
    if passed.count(REPRODUCED) > NULL_PASSES * len(passed):
        doubt = (
            f"the criterion is met {passed.count(REPRODUCED)} of {len(passed)} times by results "
            f"in which {null.words}"
        )
    passed, trial["ceiling"], trial["best"] = _on(function, reading, ceiling)
    if passed and passed.count(NOT_REPRODUCED) > len(passed) / 2:
        doubt = f"the criterion is not met even where {ceiling.words}"
    own = printed if isinstance(printed, str) else Null("the printed numbers are taken", printed)
    passed, trial["printed"], words = _on(function, reading, own)
    trial["printed_verdict"] = passed[0] if passed else words
    return trial, doubt


def _on(function: Claim, reading: _Reading, null: Null | str) -> tuple[list[str], float, str]:
    """Verdicts of a claim on other results, the median of its values there, and what they are."""
    if isinstance(null, str):
        return [], np.nan, null
    chance = np.random.default_rng(0)
    try:
        found = [
            _found(function, null.view(reading.base, chance)) for _ in range(max(1, null.draws))
        ]
    except ResultError as error:
        return [], np.nan, f"{null.words}: results are missing ({' '.join(str(error).split())})"
    verdicts = [finding.verdict for finding in found]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts)
    values = pd.Series([finding.value for finding in found], dtype=float)
    return verdicts, values.median(), f"{null.words}: {verdicts[0] if len(found) == 1 else counts}"


def _over_seeds(
    function: Claim, reading: _Reading, finding: Finding
) -> tuple[Finding, dict[str, Finding]]:
    """The finding with its interval over seeds, and what is found without each of them."""
    others = {}
    for seeds in _left_out(reading):
        name = f"without seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        try:
            others[name] = _found(function, without(reading.base, seeds))
        except ResultError:  # the claim needs this seed, such as that of a landscape
            continue
    if np.isnan(finding.low):
        low, high = jackknife(finding.value, [other.value for other in others.values()])
        finding = replace(finding, low=low, high=high)
    return finding, others


def _left_out(reading: _Reading) -> list[list[int]]:
    """The seeds, or else replicates, of what a claim read, in at most `GROUPS` groups of about one
    size; none where there is only one."""
    if reading.read:
        runs = reading.base.grid(*reading.read)
        seeds = runs.groupby("grid")["seed"].unique()
    elif "staleness.csv" in reading.files and "replicate" in reading.base.staleness:
        seeds = reading.base.staleness.groupby("simulation")["replicate"].unique()
    else:
        return []
    several = sorted({int(seed) for found in seeds if len(found) > 1 for seed in found})
    groups = [several[first::GROUPS] for first in range(GROUPS)]
    return [group for group in groups if group]


def _flips(
    function: Claim, results: StudyResults, finding: Finding, others: Mapping[str, Finding]
) -> list[str]:
    """What changes the verdict: half or double the threshold, or one seed left out."""
    moved = dict(others)
    if function.claim["threshold"] is not None:
        moved["at half the threshold"] = _found(function, results, 0.5)
        moved["at double the threshold"] = _found(function, results, 2.0)
    return [
        f"{other.verdict} {what}"
        for what, other in moved.items()
        if other.verdict != finding.verdict
    ]


def _held(finding: Finding, threshold: Threshold | None, others: Mapping[str, Finding]) -> Finding:
    """The finding; `partly` where one seed decides it, or where its interval reaches the other side
    of the threshold."""
    if finding.verdict not in (REPRODUCED, NOT_REPRODUCED):
        return finding
    because = ""
    if flips := [what for what, other in others.items() if other.verdict != finding.verdict]:
        because = f"{' and '.join(flips)} the verdict is another"
    elif threshold is not None and not np.isnan(finding.low):
        sides = {threshold.meets(value) for value in (finding.low, finding.value, finding.high)}
        if len(sides) > 1:
            because = "the interval over seeds reaches the other side of the threshold"
    if not because:
        return finding
    reason = f"As it stands: {finding.verdict}, but {because}. {finding.reason}"
    return replace(finding, verdict=PARTLY, reason=reason)


def fragile(robustness: object) -> bool:
    """Whether another threshold or one seed less would change the verdict, by an entry of the
    column `robustness`; where that is empty it is not known."""
    tried = isinstance(robustness, str) and not robustness.startswith(_NOT_TRIED)
    return tried and robustness not in ("", STABLE)


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
