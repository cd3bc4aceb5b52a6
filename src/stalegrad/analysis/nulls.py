"""Results as they would be if a claim were false, and as the paper printed them.

A criterion is tried on such results before it judges ours (`analysis.claims`). What it gives on a
null is its floor: what agreement costs nothing. All here return results that read like a study's
own, made from its runs alone; no value is invented.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from stalegrad.analysis.results import StudyResults, cell_columns
from stalegrad.io.errors import ResultError
from stalegrad.io.traces import Trace

# How often results are drawn again where chance decides which run stands for which.
DRAWS = 20

# Makes other results of a study's own.
View = Callable[[StudyResults, np.random.Generator], StudyResults]


@dataclass(frozen=True)
class Null:
    """Results in which a claim is false by construction.

    words: what is true instead, as a sentence says it ('momentum has no effect'). view: makes them.
    draws: how often; one where nothing is left to chance.
    """

    words: str
    view: View
    draws: int = 1


@dataclass(frozen=True)
class ChangedResults(StudyResults):
    """Results of which some tables are others.

    base: the results that all else is read from. tables: `runs`, `history`, `staleness`,
    `published/<name>`, `traces/<name>` or `trajectories/<name>`, and what stands there instead.
    recordings: those that are others, by name.
    """

    base: StudyResults
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    recordings: Mapping[str, Trace] = field(default_factory=dict)

    @cached_property
    def runs(self) -> pd.DataFrame:
        return self.tables["runs"] if "runs" in self.tables else self.base.runs

    @cached_property
    def history(self) -> pd.DataFrame:
        return self.tables["history"] if "history" in self.tables else self.base.history

    @cached_property
    def staleness(self) -> pd.DataFrame:
        return self.tables["staleness"] if "staleness" in self.tables else self.base.staleness

    def grid(self, *names: str) -> pd.DataFrame:
        # Where the runs are those of `base`, so is every choice of them.
        return self.base.grid(*names) if self.runs is self.base.runs else super().grid(*names)

    def curves(self, *names: str) -> pd.DataFrame:
        whole = self.history is self.base.history
        return self.base.curves(*names) if whole else super().curves(*names)

    def published(self, name: str) -> pd.DataFrame:
        there = self.tables.get(f"published/{name}")
        return self.base.published(name) if there is None else there

    def trace(self, name: str) -> pd.DataFrame:
        there = self.tables.get(f"traces/{name}")
        return self.base.trace(name) if there is None else there

    def recording(self, name: str) -> Trace:
        return self.recordings.get(name) or self.base.recording(name)

    def trajectory(self, name: str) -> pd.DataFrame:
        there = self.tables.get(f"trajectories/{name}")
        return self.base.trajectory(name) if there is None else there

    def arrays(self, simulation: str) -> dict[str, np.ndarray]:
        return self.base.arrays(simulation)

    def landscape(self, name: str) -> tuple[dict[str, np.ndarray], pd.DataFrame, pd.DataFrame]:
        return self.base.landscape(name)


def changed(results: StudyResults, **tables: pd.DataFrame) -> StudyResults:
    """`results` with other tables; `published_<name>=` is the paper's table of that name."""
    named = {key.replace("published_", "published/", 1): table for key, table in tables.items()}
    return ChangedResults(results.home, results.preset, results.folder, results, named)


def with_recordings(results: StudyResults, recordings: Mapping[str, Trace]) -> StudyResults:
    """`results` with other recordings, by name."""
    home, preset, folder = results.home, results.preset, results.folder
    return ChangedResults(home, preset, folder, results, recordings=recordings)


def without(results: StudyResults, seeds: Collection[int]) -> StudyResults:
    """`results` without some seeds, and of simulations without these replicates.

    A grid or simulation that has no others keeps them.
    """
    return _Without(results.home, results.preset, results.folder, results, seeds=frozenset(seeds))


@dataclass(frozen=True)
class _Without(ChangedResults):
    seeds: frozenset[int] = frozenset()

    @cached_property
    def runs(self) -> pd.DataFrame:
        return self._left(self.base.runs, "grid", "seed")

    @cached_property
    def history(self) -> pd.DataFrame:
        return self._left(self.base.history, "grid", "seed")

    @cached_property
    def staleness(self) -> pd.DataFrame:
        return self._left(self.base.staleness, "simulation", "replicate")

    def trace(self, name: str) -> pd.DataFrame:
        return self._left(self.base.trace(name).assign(_all=0), "_all", "seed")

    def trajectory(self, name: str) -> pd.DataFrame:
        return self._left(self.base.trajectory(name).assign(_all=0), "_all", "seed")

    def _left(self, frame: pd.DataFrame, of: str, seed: str) -> pd.DataFrame:
        if seed not in frame:
            return frame
        kept = ~frame[seed].isin(self.seeds)
        others = kept.groupby(frame[of]).transform("any")
        return frame[kept | ~others].drop(columns="_all", errors="ignore")


def taking(results: StudyResults, source: pd.Series) -> StudyResults:
    """`results` in which runs have the outcomes of other runs.

    source: for each row of `results.runs` (its index) the row whose outcomes it has. Of a history,
    all epochs are taken.
    """
    runs = results.runs
    cell = ["grid", "run", *cell_columns(runs)]
    outcomes = [name for name in runs.columns if name not in cell]
    taken = runs.copy()
    taken[outcomes] = runs.loc[source[runs.index], outcomes].set_axis(runs.index)
    return _Taking(
        results.home,
        results.preset,
        results.folder,
        results,
        {"runs": taken},
        source=source[runs.index],
    )


def taking_of(
    results: StudyResults, runs: pd.DataFrame, givers: pd.DataFrame, key: Sequence[str]
) -> StudyResults:
    """`results` in which `runs` have the outcomes of that of `givers` which agrees in the columns
    `key`, if any. Both are rows of `results.runs`, with further columns perhaps."""
    keys = list(key)
    from_key = {tuple(row): index for index, *row in givers[keys].itertuples(name=None)}
    source = pd.Series(results.runs.index, index=results.runs.index)
    for index, *row in runs[keys].itertuples(name=None):
        source.loc[index] = from_key.get(tuple(row), index)
    return taking(results, source)


@dataclass(frozen=True)
class _Taking(ChangedResults):
    source: pd.Series = field(default_factory=lambda: pd.Series(dtype=int))

    @cached_property
    def history(self) -> pd.DataFrame:
        known = ["grid", "run"]
        runs, history = self.base.runs, self.base.history
        cell = [*known, *cell_columns(runs)]
        wanted = runs[cell].reset_index(drop=True)
        taken = runs.loc[self.source, known].reset_index(drop=True).add_prefix("_from_")
        left = pd.concat([wanted, taken], axis=1)
        right = history.drop(columns=cell_columns(runs)).rename(
            columns={name: f"_from_{name}" for name in known}
        )
        both = left.merge(right, on=list(taken.columns), how="left")
        return both[history.columns]


def same_as(base: Mapping[str, Any], grids: Collection[str] = ()) -> View:
    """Runs have the outcomes of a run drawn at random from those at `base` and alike otherwise.

    base: columns and the level of each that all runs are taken to be at ({'delay': 0}). Alike are
    runs of one grid that agree in all columns of the cell but these and the seed. grids: those that
    are changed; none given: all. A run without a counterpart at `base` keeps its own outcomes.

    Raises ResultError, when called, if no run of the grids has a counterpart.
    """
    return _drawn(list(base), base, grids)


def whatever(columns: Sequence[str], grids: Collection[str] = ()) -> View:
    """Runs have the outcomes of a run drawn at random from all that are alike but for `columns`.

    So the level of these columns has no effect, and the spread of the outcomes stays. Alike and
    grids: as in `same_as`.
    """
    return _drawn(list(columns), {}, grids)


def _drawn(columns: list[str], base: Mapping[str, Any], grids: Collection[str]) -> View:
    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        runs = results.runs
        there = runs[runs["grid"].isin(grids)] if grids else runs
        there = there.dropna(subset=[c for c in columns if c in there], how="all")
        alike = [c for c in cell_columns(runs) if c not in (*columns, "seed")]
        group = there.groupby(["grid", *alike], dropna=False, sort=False).ngroup()
        givers = there
        for column, level in base.items():
            givers = givers[givers[column] == level]
        if givers.empty:
            raise ResultError(f"there is no run with {dict(base)} in {', '.join(grids) or 'any'}")
        from_group = {key: rows.to_numpy() for key, rows in _members(group[givers.index])}
        source = pd.Series(runs.index, index=runs.index)
        for key, rows in _members(group):
            if key in from_group:
                source.loc[rows] = chance.choice(from_group[key], len(rows))
        return taking(results, source)

    return view


def _members(group: pd.Series) -> list[tuple[Any, pd.Index]]:
    return [(key, rows.index) for key, rows in group.groupby(group)]
