"""Results of lamour2023 as they would be if a claim were false, and as the paper printed them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stalegrad.analysis.nulls import ChangedResults, View, changed, taking, without
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ResultError

from .tables import (
    GAUSSIAN_KEYS,
    TABLE2_KEYS,
    TABLE3_KEYS,
    TABLE4_KEYS,
    class_shares,
    compensated_runs,
    gaussian_runs,
    in_percent,
    table1_runs,
    table2_runs,
)

PERCENT = "test_accuracy_percent"
# Each printed table: its keys, and our runs with them.
PRINTED: Mapping[str, tuple[list[str], Callable[[StudyResults], pd.DataFrame]]] = {
    "table2": (TABLE2_KEYS, table2_runs),
    "table3": (TABLE3_KEYS, lambda results: in_percent(results.grid("table3"))),
    "table4": (TABLE4_KEYS, compensated_runs),
    "tables5-7": (GAUSSIAN_KEYS, gaussian_runs),
}


def as_printed(results: StudyResults, _: np.random.Generator) -> StudyResults:
    """Every run of a printed cell has the printed accuracy.

    Runs with working or aliased compensation have that of Table IV, and those of Tables V to VII
    that of lambda = 0. Other runs keep their own.
    """
    printed: dict[tuple[str, str], float] = {}
    aliased = in_percent(results.grid("table4_aliased"))
    aliased = aliased.rename(columns={"compensation": "compensation_lambda"})
    for name, (keys, ours) in PRINTED.items():
        runs = ours(results)
        if name == "table4":
            runs = pd.concat([runs[runs["kind"] == "working"], aliased])
        if name == "tables5-7":
            runs = runs[runs["compensation_lambda"] == 0]
        both = runs.merge(results.published(name)[[*keys, PERCENT]], on=keys)
        printed |= dict(
            zip(zip(both["grid"], both["run"], strict=True), both[PERCENT], strict=True)
        )
    runs = results.runs
    places = pd.Series(list(zip(runs["grid"], runs["run"], strict=True)), index=runs.index)
    accuracy = places.map(printed) / 100
    return changed(
        results,
        runs=runs.assign(final_test_accuracy=accuracy.fillna(runs["final_test_accuracy"])),
    )


def seed_as_print(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """One of our seeds in place of the print, and the others as ours."""
    seeds = _common_seeds(results)
    seed = int(chance.choice(seeds))
    tables = {}
    for name, (keys, ours) in PRINTED.items():
        runs = ours(results)
        if name == "table4":
            runs = runs[runs["kind"] == "as published"]
        runs = runs[runs["seed"] == seed]
        tables[name] = runs[keys].assign(**{PERCENT: runs["accuracy"]})
    shares = class_shares(table1_runs(results).query("seed == @seed"), "final_")
    for name in ("precision", "recall", "f1"):
        shares[f"{name}_percent"] = 100 * shares[name]
    tables["table1"] = shares
    named = {f"published_{name}": table for name, table in tables.items()}
    return changed(without(results, [seed]), **named)


def _common_seeds(results: StudyResults) -> list[int]:
    grids = ("table2", "table2_undelayed", "table3", "tables5-7")
    found = [set(results.grid(name)["seed"]) for name in grids]
    return sorted(set.intersection(*found))


def prints_exchanged(within: str = "") -> View:
    """The printed cells are exchanged at random within each table.

    within: a query that tells which cells; a part of it with a column that a table lacks holds for
    all of its cells. Empty: all.
    """

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        tables = {}
        for name in PRINTED:
            table = results.published(name).copy()
            parts = [part for part in within.split(" and ") if part.split(" ")[0] in table]
            chosen = table.query(" and ".join(parts)).index if parts else table.index
            order = chance.permutation(len(chosen))
            table.loc[chosen, PERCENT] = table.loc[chosen, PERCENT].to_numpy()[order]
            tables[f"published_{name}"] = table
        return changed(results, **tables)

    return view


def taken_from(takers: str, givers: str, on: list[str]) -> View:
    """Runs that the query `takers` names have the outcomes of a run of `givers` that agrees in the
    columns `on`, drawn at random where several do. Raises ResultError if none has one."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        runs = results.runs
        to, of = (runs.query(query).reset_index()[["index", *on]] for query in (takers, givers))
        both = to.merge(of, on=on, suffixes=("", "_giver"))
        if both.empty:
            raise ResultError(f"no run of {givers} agrees with one of {takers}")
        drawn = both.iloc[chance.permutation(len(both))].drop_duplicates("index")
        source = pd.Series(runs.index.to_numpy().copy(), index=runs.index)
        source[drawn["index"]] = drawn["index_giver"].to_numpy()
        return taking(results, source)

    return view


@dataclass(frozen=True)
class _Relabelled(ChangedResults):
    names: Mapping[float, float] = field(default_factory=dict)

    def landscape(self, name: str) -> tuple[dict[str, np.ndarray], pd.DataFrame, pd.DataFrame]:
        grid, points, lines = self.base.landscape(name)
        momentum = points["momentum"].replace(dict(self.names))
        return grid, points.assign(momentum=momentum), lines


def momenta_exchanged(first: float, second: float) -> View:
    """In the landscapes the runs at one momentum are those at the other, and in the grid of the
    momenta the two have changed places."""
    names = {first: second, second: first}

    def view(results: StudyResults, _: np.random.Generator) -> StudyResults:
        def renamed(table: pd.DataFrame) -> pd.DataFrame:
            here = table["grid"] == "momentum"
            return table.assign(
                momentum=table["momentum"].where(~here, table["momentum"].replace(names))
            )

        tables = {"runs": renamed(results.runs), "history": renamed(results.history)}
        return _Relabelled(
            results.home, results.preset, results.folder, results, tables, names=names
        )

    return view


def slow_exchanged(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """In the trajectories of a seed the slow worker is there or not, at random."""
    table = results.trajectory("training")
    swapped = [seed for seed in sorted(table["seed"].unique()) if chance.random() < 0.5]
    longest = table["delay_ms"].max()
    here = table["seed"].isin(swapped) & ~table["synchronous"].astype(bool)
    delay = table["delay_ms"].where(~here, longest - table["delay_ms"])
    return changed(results, **{"trajectories/training": table.assign(delay_ms=delay)})
