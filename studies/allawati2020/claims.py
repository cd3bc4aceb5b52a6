"""The claims of allawati2020, each against our runs.

`criteria.csv` has the criteria that were rewritten after runs had been made, and why.

Equation 3 writes staleness as m - M(t), which is negative; its absolute value is meant. M(t) counts
the update made at t, so that theorem 2 counts just after the update that the gradient triggers; but
the paper's example of the first two updates counts just before it. So each claim is judged under
both counts, and holds if it does under one of them throughout, unless it says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from stalegrad.analysis.claims import (
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    Finding,
    Threshold,
    claim,
    verdict_of,
)
from stalegrad.analysis.comparisons import by_seed, compare
from stalegrad.analysis.nulls import ChangedResults, Null, View, changed, whatever
from stalegrad.analysis.results import StudyResults
from stalegrad.staleness.compute_times import Constant, Pareto
from stalegrad.staleness.renewal import expected_staleness

from .tables import (
    CLOSE,
    CLUSTER,
    at_moments,
    by_update,
    cases,
    error_curves,
    error_ratio,
    label,
    simulated,
    tuned,
)

EXACT = 0.01  # a relative distance that a finite simulation leaves to what is exact
COUNTS = ("before", "after")
QUARTERS = 5  # points of time, 0 included
LATE = 20  # of the fifty updates of Figure 2 these last ones are the steady state

# ---- Results in which claims are false, and the paper's formulas in place of ours ----

DRAWS = 20
MEASURED = ["mean_before", "mean_after", "update_rate"]


def _other_clusters(query: str, columns: Sequence[str], base: Mapping[str, object] = {}) -> View:
    """Clusters have the replicates of a cluster that is alike but for `columns`.

    query: which rows of `staleness.csv` are changed. base: the level of each column that all are
    taken to be at; none given: clusters that are alike change places at random.
    """

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        rows = results.staleness.reset_index(drop=True)
        there = rows.query(query)
        measured = rows[MEASURED].to_numpy()
        taken = measured.copy()
        described = [c for c in there if c in CLUSTER or c == "arrivals" or "compute" in c]
        alike = ["simulation", *(c for c in described if c not in columns)]
        for _, group in there.groupby(alike, dropna=False):
            clusters = group.groupby("index").groups
            if base:
                chosen = (group[list(base)] == pd.Series(base)).all(axis=1)
                givers = list(group.loc[chosen, "index"].unique()) * len(clusters)
            else:
                givers = list(chance.permutation(list(clusters)))
            for taker, giver in zip(clusters, givers, strict=False):
                taken[clusters[taker]] = measured[clusters[giver]]
        return changed(results, staleness=rows.assign(**dict(zip(MEASURED, taken.T, strict=True))))

    return view


def _formula(column: str, before: float = 0.0, after: float = 0.0, rate: float = 1.0) -> View:
    """Every replicate measures the formula `column` of `simulated`.

    before, after: what is added under each count, in units of 1/K. rate: of updates, over Lemma
    1's.
    """

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        rows = results.staleness.copy()
        for simulation, these in rows.groupby("simulation"):
            table = simulated(results, str(simulation))
            of = table.loc[these["index"]]
            k = of["minibatches_per_update"].to_numpy()
            rows.loc[these.index, "mean_before"] = of[column].to_numpy() + before / k
            rows.loc[these.index, "mean_after"] = of[column].to_numpy() + after / k
            rows.loc[these.index, "update_rate"] = rate * of["rate"].to_numpy()
        return changed(results, staleness=rows)

    return view


def _shortest_rounds(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Pareto times never settle: staleness is the theorem's with the shortest round as mu."""
    rows = results.staleness.copy()
    pareto = rows["compute_time"] == "pareto"
    n, k, t_c = (rows.loc[pareto, column] for column in CLUSTER)
    shortest = rows.loc[pareto, "compute_time_loc"] + rows.loc[pareto, "compute_time_scale"]
    for count in COUNTS:
        rows.loc[pareto, f"mean_{count}"] = expected_staleness(n, k, t_c, shortest)
    return changed(results, staleness=rows)


THEOREM = _formula("theorem")
FORMULA = Null("the formula itself is measured, whichever way one counts", THEOREM)
NO_TIME = Null(
    "staleness is that without communication time at every T_c",
    _other_clusters("simulation == 'error_map'", ["communication_time"], {"communication_time": 0}),
)
NO_WORKERS = Null(
    "staleness at each n is that at an n drawn at random",
    _other_clusters("simulation == 'fig1'", ["workers"]),
    DRAWS,
)


@dataclass(frozen=True)
class _OtherCourses(ChangedResults):
    """Results in which the first updates of Figure 2 have other means."""

    courses: Mapping[str, np.ndarray] = field(default_factory=dict)

    def arrays(self, simulation: str) -> dict[str, np.ndarray]:
        there = self.base.arrays(simulation)
        return there | dict(self.courses) if simulation == "fig2" else there


def _courses(course: Callable[[np.ndarray, float], np.ndarray]) -> View:
    """Each course of Figure 2 is what `course` makes of its means and of the theorem."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        there = results.arrays("fig2")
        courses = {
            f"by_update_{index}": course(there[f"by_update_{index}"], theorem)
            for index, theorem in simulated(results, "fig2")["theorem"].items()
        }
        return _OtherCourses(results.home, results.preset, results.folder, results, courses=courses)

    return view


NO_START = Null(
    "every update has the staleness of the last twenty",
    _courses(lambda means, theorem: np.full(len(means), means[-LATE:].mean())),
)

# ---- What a claim finds, under both counts ----


def _off(table: pd.DataFrame, of: str = "theorem") -> dict[str, pd.Series]:
    """Relative distance of the simulated mean from a column of `simulated`, under each count."""
    return {count: (table[f"mean_{count}"] / table[of] - 1).abs() for count in COUNTS}


def _under_one_count(
    off: Mapping[str, pd.Series], threshold: float, parts: pd.Series | None = None
) -> tuple[str, float, str]:
    """Verdict, largest distance and count, of the count under which that is least.

    It is partly where under some count all of one part is within the threshold; parts: the part of
    each row.
    """
    largest = {count: float(found.max()) for count, found in off.items()}
    best = min(largest, key=lambda count: largest[count])
    verdict = REPRODUCED if largest[best] <= threshold else NOT_REPRODUCED
    if verdict == NOT_REPRODUCED and parts is not None:
        some = (found.groupby(parts).max().min() <= threshold for found in off.values())
        verdict = PARTLY if any(some) else NOT_REPRODUCED
    return verdict, largest[best], best


def _largest(off: Mapping[str, pd.Series]) -> str:
    """'4.3 % counted after the update, 2.9 % before it', for a reason."""
    return f"{off['after'].max():.2%} counted after the update, {off['before'].max():.2%} before it"


def _with_time(table: pd.DataFrame) -> pd.Series:
    return table["communication_time"] > 0


def _lattice(table: pd.DataFrame) -> pd.Series:
    return table["compute_time"].map(lambda each: isinstance(each, Constant))


def _settled(table: pd.DataFrame) -> pd.Series:
    """Clusters in which the mean of a compute time is not made of rounds rarer than we simulate."""
    heavy = table["compute_time"].map(lambda each: isinstance(each, Pareto) and each.b < 2)
    return ~heavy


def _clusters(results: StudyResults, *simulations: str) -> pd.DataFrame:
    return pd.concat([simulated(results, name) for name in simulations], ignore_index=True)


# ---- Section 3: rate and limit ----


@claim(
    where="section 3, Lemma 1, equation 4",
    threshold=Threshold("at most", EXACT, "for every cluster"),
    null=Null(
        "a cluster makes as many updates as one with other n and K, drawn at random",
        _other_clusters("simulation == 'error_map'", ["workers", "minibatches_per_update"]),
        DRAWS,
    ),
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["theory_vs_simulation"],
)
def update_rate(results: StudyResults, threshold: float) -> Finding:
    """'the limit of the expected rate at which the master updates the optimization parameter is
    n/(K mu)'

    The simulated rate is within 1 % of it for every n, K and T_c of Figure 1 and the error map.
    """
    table = _clusters(results, "fig1", "error_map")
    off = (table["update_rate"] / table["rate"] - 1).abs()
    return Finding(
        REPRODUCED if off.max() <= threshold else NOT_REPRODUCED,
        "largest relative distance of the update rate from n/(K mu)",
        off.max(),
        f"Over {len(table)} clusters the rate differs from n/(K mu) by at most {off.max():.2%}, on "
        f"average by {off.mean():.2%}.",
    )


@claim(
    where="section 4, Figure 1",
    threshold=Threshold("at most", CLOSE, "for every n, under one count"),
    null=NO_WORKERS,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["fig1", "theory_vs_simulation"],
)
def figure_1(results: StudyResults, threshold: float) -> Finding:
    """'Simulation vs. theoretical results for expected staleness with K = 10, T_c = 1' (Figure 1)

    Under one count the simulated mean is within 5 % of the theorem for every n.
    """
    table = simulated(results, "fig1")
    verdict, value, count = _under_one_count(_off(table), threshold)
    after, before = table["relative_after"], table["relative_before"]
    return Finding(
        verdict,
        "largest relative distance of the simulated mean from the theorem",
        value,
        f"The mean lies {after.min():+z.1%} to {after.max():+z.1%} from the theorem counted after "
        f"the update, {before.min():+z.1%} to {before.max():+z.1%} counted before it; the nearer "
        f"count is {count}.",
    )


@claim(
    where="section 3, Theorem 2, equation 5",
    threshold=Threshold("at most", EXACT, "for every cluster, under one count"),
    null=NO_TIME,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["theory_vs_simulation", "counting", "error_map"],
)
def theorem_2_is_exact(results: StudyResults, threshold: float) -> Finding:
    """'Then in the limit E[tau] = (n/K) (T_c + mu)/mu'

    An equality: under one count the simulated mean is within 1 % of it in every cluster of the
    error map. Partly, if under some count it is in all without communication time, or in all with
    it: at T_c > 0 a worker does not know the update of its own last gradient, at T_c = 0 it does.
    """
    table = simulated(results, "error_map")
    off, late = _off(table), _with_time(table)
    verdict, value, _ = _under_one_count(off, threshold, late)
    early = {count: found[~late] for count, found in off.items()}
    later = {count: found[late] for count, found in off.items()}
    return Finding(
        verdict,
        "largest relative distance of the simulated mean from the theorem",
        value,
        f"Without communication time it is off by at most {_largest(early)}; with it by at most "
        f"{_largest(later)}.",
    )


@claim(
    where="section 3, Corollary 3, equation 6",
    threshold=Threshold("at most", CLOSE, "for every n >= 10 and T_c, under one count"),
    null=NO_TIME,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["counting", "error_map"],
)
def corollary_3(results: StudyResults, threshold: float) -> Finding:
    """'For the SGD and minibatch SGD schemes, the limit of the expected gradient staleness is
    n (T_c + mu)/mu'

    With K = 1 and at least 10 workers, the fewest in the paper's figures, the simulated mean is
    within 5 % of it at every T_c under one count. Partly, if under some count it is without
    communication time, or throughout with it.
    """
    table = simulated(results, "error_map")
    table = table[(table["minibatches_per_update"] == 1) & (table["workers"] >= 10)]
    off, late = _off(table), _with_time(table)
    verdict, value, _ = _under_one_count(off, threshold, late)
    later = {count: found[late] for count, found in off.items()}
    return Finding(
        verdict,
        "largest relative distance of the simulated mean from the corollary",
        value,
        f"Over {len(table)} clusters it is {_largest(off)}, and with communication time "
        f"{_largest(later)}.",
    )


@claim(
    where="section 3, Theorem 2, equation 5",
    threshold=Threshold("at most", EXACT, "for every cluster, under both counts"),
    null=Null(
        "staleness is that of theorem 2, and 1/K less before", _formula("theorem", before=-1.0)
    ),
    ceiling=Null("the formula itself is measured", _formula("exact", after=1.0)),
    printed="The paper does not print this formula.",
    shows=["counting", "theory_vs_simulation", "distributions"],
)
def own_worker_set_apart(results: StudyResults, threshold: float) -> Finding:
    """'the limit of E[tau(t)] in terms of other system's parameters such as n, mu, and T_c'

    Not the paper's formula, but ours in its place: before the update
    ((n - 1)(1 + T_c/mu) + 1 + m(T_c))/K for T_c > 0 and (n - 1)/K for T_c = 0, and 1/K more after
    it. Under both counts the simulated mean is within 1 % of it, over all clusters of Figure 1, the
    error map, the countings and the distributions but constant times with communication and Pareto
    times of shape below 2, whose means so many arrivals do not settle.
    """
    table = _clusters(results, "fig1", "error_map", "counting", "distributions")
    table = table[_settled(table) & table["exact"].notna()]
    after = table["exact"] + 1 / table["minibatches_per_update"]
    off = {
        "before": (table["mean_before"] / table["exact"] - 1).abs(),
        "after": (table["mean_after"] / after - 1).abs(),
    }
    value = max(found.max() for found in off.values())
    names = table["compute_time"].map(label).nunique()
    return Finding(
        REPRODUCED if value <= threshold else NOT_REPRODUCED,
        "largest relative distance of the simulated mean from the formula",
        value,
        f"Over {len(table)} clusters with {names} distributions it is {_largest(off)}.",
    )


@claim(
    where="section 3, after Theorem 2",
    threshold=Threshold("above", EXACT, "from the theorem and from the simulated mean"),
    null=Null("theorem and simulated mean are the rate of updates times T_c + mu", THEOREM),
    ceiling=Null("updates are made at 0.9 of the rate of Lemma 1", _formula("theorem", rate=0.9)),
    printed="The paper prints no rate that was measured.",
    shows=["error_map", "distributions"],
)
def littles_law_is_not_applicable(results: StudyResults, threshold: float) -> Finding:
    """'Little's Law is applicable for queues without preemption, while our system allows preemption
    (...) Hence, Little's Law is not applicable in this context'

    If it is not, what the law gives, the measured rate of updates times the latency T_c + mu, is
    neither the theorem nor the staleness: over the error map and the distributions with a variance
    its largest relative distances from both are above 1 %. Partly, if one of the two is. Of the
    simulated mean the count that is nearer is taken.
    """
    table = _clusters(results, "error_map", "distributions")
    table = table[np.isfinite(table["variation"])]
    mean = table["compute_time"].map(lambda each: each.mean)
    table = table.assign(law=table["update_rate"] * (table["communication_time"] + mean))
    from_theorem = (table["theorem"] / table["law"] - 1).abs().max()
    from_mean = min(found.max() for found in _off(table, "law").values())
    return Finding(
        verdict_of([from_theorem > threshold, from_mean > threshold]),
        "smaller of the distances of the law from the theorem and from the simulated mean",
        min(from_theorem, from_mean),
        f"Rate times latency is within {from_theorem:.2%} of theorem 2 everywhere, and up to "
        f"{from_mean:.1%} from the mean staleness: the law, and with it the theorem, is about a "
        f"latency that starts at an arbitrary moment, and a gradient's starts when its own worker "
        f"has just finished one.",
    )


# ---- Section 3: what staleness depends on ----


@claim(
    where="section 3, after Corollary 3; sections 1.3 and 5",
    threshold=Threshold("at most", CLOSE, "for every n"),
    null=NO_WORKERS,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["fig1"],
)
def linear_in_workers(results: StudyResults, threshold: float) -> Finding:
    """'gradient staleness scales linearly with the number of workers'

    Under one count the rise of the mean from the fewest workers of Figure 1 to each other number is
    within 5 % of that of the theorem.
    """
    table = simulated(results, "fig1").sort_values("workers")
    rise = table[["mean_before", "mean_after", "theorem"]].diff().cumsum().iloc[1:]
    verdict, value, _ = _under_one_count(_off(rise), threshold)
    slope = np.polyfit(table["workers"], table["mean_after"], 1)[0]
    theory = np.polyfit(table["workers"], table["theorem"], 1)[0]
    return Finding(
        verdict,
        "largest relative distance of the rise over workers from that of the theorem",
        value,
        f"The slope is {slope:.4f} a worker, the theorem's {theory:.4f}.",
    )


@claim(
    where="section 3, Theorem 2, equation 5",
    threshold=Threshold("at most", EXACT, "for every K, under both counts"),
    null=Null(
        "staleness at each K is that at a K drawn at random",
        _other_clusters("simulation == 'apart'", ["minibatches_per_update"]),
        DRAWS,
    ),
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["apart"],
)
def inverse_in_minibatches_per_update(results: StudyResults, threshold: float) -> Finding:
    """'Then in the limit E[tau] = (n/K) (T_c + mu)/mu'

    K alone: K times the mean is within 1 % of its value at K = 1, for K from 1 to n, divisors of n
    or not, under both counts.
    """
    table = simulated(results, "apart")
    usual = table["compute_time"] == table["compute_time"].iloc[0]
    table = table[usual].set_index("minibatches_per_update").sort_index()
    times_k = table[["mean_before", "mean_after"]].mul(table.index, axis=0)
    off = (times_k / times_k.loc[1] - 1).abs()
    value = float(off.max().max())
    return Finding(
        REPRODUCED if value <= threshold else NOT_REPRODUCED,
        "largest relative distance of K times the mean from its value at K = 1",
        value,
        f"With {table['workers'].iloc[0]} workers, K times the mean is "
        f"{times_k['mean_before'].min():.3f} to {times_k['mean_before'].max():.3f} before the "
        f"update and {times_k['mean_after'].min():.3f} to {times_k['mean_after'].max():.3f} after.",
    )


@claim(
    where="section 3, Theorem 2, equation 5",
    threshold=Threshold("at most", CLOSE, "under one count"),
    null=Null(
        "staleness at each mu is that at a mu drawn at random",
        _other_clusters(
            "simulation == 'apart' and minibatches_per_update == 5", ["compute_time_loc"]
        ),
        DRAWS,
    ),
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["apart"],
)
def falls_with_the_mean_compute_time(results: StudyResults, threshold: float) -> Finding:
    """'the limit of E[tau(t)] in terms of other system's parameters such as n, mu, and T_c'

    mu alone, moved by a shift: under one count the slope of the mean over T_c/mu is within 5 % of
    n/K.
    """
    table = simulated(results, "apart")
    table = table[table["minibatches_per_update"] == 5]
    ratio = table["communication_time"] / table["compute_time"].map(lambda each: each.mean)
    theory = table["workers"].iloc[0] / 5
    slopes = {count: np.polyfit(ratio, table[f"mean_{count}"], 1)[0] for count in COUNTS}
    off = {count: pd.Series([abs(slope / theory - 1)]) for count, slope in slopes.items()}
    verdict, value, _ = _under_one_count(off, threshold)
    return Finding(
        verdict,
        "relative distance of the slope of staleness over T_c/mu from n/K",
        value,
        f"Over {len(table)} means from {(1 / ratio.max()):.3g} to {(1 / ratio.min()):.3g} times "
        f"T_c the slope is {slopes['after']:.3f}, n/K is {theory:g}.",
    )


@claim(
    where="section 3, after Corollary 3",
    threshold=Threshold("above", 0.0, "for every n and K, under both counts"),
    null=NO_TIME,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["distributions", "error_map"],
)
def grows_with_communication(results: StudyResults, threshold: float) -> Finding:
    """'Theorem 2 and Corollary 3 show that as the staleness increases with communication time'

    For every n and K of the error map and under both counts, staleness grows with every step of
    T_c. Partly, if for some n and K. The statistic is the smallest step over that of the theorem.
    """
    smallest = []
    for _, here in simulated(results, "error_map").groupby(["workers", "minibatches_per_update"]):
        ordered = here.sort_values("communication_time")
        rise = ordered[["mean_before", "mean_after", "theorem"]].diff().iloc[1:]
        smallest.append(min((rise[f"mean_{count}"] / rise["theorem"]).min() for count in COUNTS))
    grown = [step > threshold for step in smallest]
    return Finding(
        verdict_of(grown),
        "smallest step of staleness over T_c, over that of the theorem",
        min(smallest),
        f"It grows with every step of T_c, under both counts, for {sum(grown)} of {len(grown)} "
        f"pairs of n and K.",
    )


@claim(
    where="section 1.3",
    threshold=Threshold("at most", CLOSE, "for every n and K, under one count"),
    null=NO_TIME,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["distributions", "error_map"],
)
def proportional_to_communication(results: StudyResults, threshold: float) -> Finding:
    """'The expected staleness is also proportional to the communication time'

    For every n and K of the error map the slope of a straight line through the means over T_c is
    within 5 % of n/(K mu), under one count. By equation 5 the line starts at n/K and not at 0, so
    that staleness over T_c itself cannot be constant.
    """
    slopes = []
    for _, here in simulated(results, "error_map").groupby(["workers", "minibatches_per_update"]):
        time = here["communication_time"]
        fits = {f"mean_{count}": np.polyfit(time, here[f"mean_{count}"], 1)[0] for count in COUNTS}
        slopes.append(fits | {"rate": here["rate"].iloc[0]})
    table = pd.DataFrame(slopes)
    off = _off(table, "rate")
    verdict, value, _ = _under_one_count(off, threshold)
    return Finding(
        verdict,
        "largest relative distance of the slope over T_c from n/(K mu)",
        value,
        f"Over {len(table)} pairs of n and K it is {_largest(off)}. A line in T_c that "
        f"starts at n/K is proportional to T_c + mu.",
    )


# ---- Section 4: any distribution ----


def _spread(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Largest mean over the smallest, less one, at each T_c and under each count."""
    by_time = table.groupby("communication_time")[["mean_before", "mean_after"]]
    spread = by_time.max() / by_time.min() - 1
    return {count: spread[f"mean_{count}"] for count in COUNTS}


@claim(
    where="section 4, second paragraph",
    threshold=Threshold("at most", CLOSE, "at every T_c, under one count"),
    null=Null(
        "each distribution has the staleness of a T_c drawn at random",
        _other_clusters("simulation == 'distributions'", ["communication_time"]),
        DRAWS,
    ),
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["distributions"],
)
def any_distribution(results: StudyResults, threshold: float) -> Finding:
    """'any distribution model will provide the same results as we made no assumptions on the
    distribution type'

    Among the distributions with a variance that are not constant, the largest mean at one T_c is at
    most 5 % above the smallest, at every T_c and under one count. Partly, if at some T_c.
    """
    table = simulated(results, "distributions")
    table = table[np.isfinite(table["variation"]) & ~_lattice(table)]
    off = _spread(table)
    times = off["after"].index.to_series()
    verdict, value, count = _under_one_count(off, threshold, times)
    each = ", ".join(f"{spread:.1%} at T_c = {time:g}" for time, spread in off[count].items())
    names = table["compute_time"].map(label)
    return Finding(
        verdict,
        "largest mean staleness over the smallest, less one",
        value,
        f"Counted {count} the update, {names.nunique()} distributions lie apart by {each}; the "
        f"largest mean is that of {names[table[f'mean_{count}'].idxmax()]}.",
    )


@claim(
    where="section 4, second paragraph",
    threshold=Threshold("at most", CLOSE, "for every shape, under one count"),
    null=Null("the shortest of a Pareto's rounds stands for their mean", _shortest_rounds),
    ceiling=FORMULA,
    printed=THEOREM,
    full_grid=True,
    shows=["distributions"],
)
def heavy_tails_give_the_same(results: StudyResults, threshold: float) -> Finding:
    """'any distribution model will provide the same results as we made no assumptions on the
    distribution type'

    Pareto times without a variance, as far as they can be simulated: after the most gradients that
    were, the mean is within 5 % of that of the shifted exponential for every shape, under one
    count. Partly, if for some shape.
    """
    table = simulated(results, "heavy_tails")
    table = table[table["arrivals"] == table["arrivals"].max()]
    heavy = np.isinf(table["variation"])
    usual, table = table[~heavy].iloc[0], table[heavy]
    table = table.assign(name=table["compute_time"].map(label))
    off = {count: (table[f"mean_{count}"] / usual[f"mean_{count}"] - 1).abs() for count in COUNTS}
    verdict, value, count = _under_one_count(off, threshold, table["name"])
    each = ", ".join(f"{table['name'][i]} {far:.1%}" for i, far in off[count].items())
    return Finding(
        verdict,
        "largest relative distance from the shifted exponential",
        value,
        f"After {usual['arrivals']:,.0f} gradients and counted {count} the update: {each}. The "
        f"limit is there, but not within reach of a simulation.",
    )


@claim(
    where="section 4, second paragraph",
    threshold=Threshold("at most", CLOSE, "at every T_c, under one count"),
    null=Null(
        "with constant times T_c has no effect",
        _other_clusters(
            "simulation == 'communication' and compute_time == 'constant'",
            ["communication_time"],
            {"communication_time": 0},
        ),
    ),
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["distributions"],
)
def constant_times_give_the_same(results: StudyResults, threshold: float) -> Finding:
    """'any distribution model will provide the same results as we made no assumptions on the
    distribution type'

    With constant times the mean is within 5 % of that with shifted exponential ones at every T_c,
    under one count. Partly, if at some T_c.
    """
    table = simulated(results, "communication").set_index("communication_time").sort_index()
    lattice = _lattice(table)
    off = {
        count: (table.loc[lattice, f"mean_{count}"] / table.loc[~lattice, f"mean_{count}"] - 1)
        for count in COUNTS
    }
    off = {count: found.abs() for count, found in off.items()}
    times = off["after"].index.to_series()
    verdict, value, count = _under_one_count(off, threshold, times)
    within = off[count] <= threshold
    return Finding(
        verdict,
        "largest relative distance from the shifted exponential",
        value,
        f"Counted {count} the update they agree at {within.sum()} of {len(within)} values of T_c, "
        f"and are furthest apart at T_c = {off[count].idxmax():g}: staleness is a staircase.",
    )


@claim(
    where="section 4, second paragraph",
    threshold=Threshold("at most", 1.0, "for every cluster with T_c > 0"),
    null=NO_TIME,
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["distributions", "counting"],
)
def differ_within_lordens_bound(results: StudyResults, threshold: float) -> Finding:
    """'any distribution model will provide the same results as we made no assumptions on the
    distribution type'

    How far results may depend on it: by Lorden's inequality K times the mean before the update less
    the theorem is between -1 and c^2, c the coefficient of variation. The ratio to that end of the
    bound is at most 1 in every cluster with T_c > 0 of Figure 1, the error map, the countings and
    the distributions that have a variance and are not constant.
    """
    table = _clusters(results, "fig1", "error_map", "counting", "distributions")
    table = table[_with_time(table) & np.isfinite(table["variation"]) & ~_lattice(table)]
    residual = table["minibatches_per_update"] * (table["mean_before"] - table["theorem"])
    ratio = np.maximum(-residual, residual / table["variation"])
    most = table.loc[ratio.idxmax()]
    return Finding(
        REPRODUCED if ratio.max() <= threshold else NOT_REPRODUCED,
        "largest ratio of the residual to Lorden's bound",
        ratio.max(),
        f"Over {len(table)} clusters K times the residual lies {residual.min():+z.2f} to "
        f"{residual.max():+z.2f}; it is nearest to its bound for {label(most['compute_time'])} "
        f"times at T_c = {most['communication_time']:g}.",
    )


# ---- Section 4: the start ----


def _readings(results: StudyResults) -> dict[float, tuple[pd.Series, np.ndarray]]:
    """By T_c, which the paper does not print: the cluster and the means of its first updates."""
    return {
        cluster["communication_time"]: (
            cluster,
            by_update(results, "fig2", int(index))["mean"].to_numpy(),
        )
        for index, cluster in simulated(results, "fig2").iterrows()
    }


@claim(
    where="section 4, on Figure 2",
    threshold=Threshold("at most", 0.05, "at T_c = 0 and at T_c = 1"),
    null=NO_START,
    ceiling=Null(
        "the first two updates have the printed numbers",
        _courses(lambda means, theorem: np.append([0.0, 1.0], means[2:])),
    ),
    printed=_courses(lambda means, theorem: np.append([0.0, 1.0], means[2:])),
    shows=["fig2"],
)
def first_two_updates(results: StudyResults, threshold: float) -> Finding:
    """'the first update of the optimization parameter to will evaluate w(2) using staleness-free
    gradients (...) Therefore, tau(2)=1'

    Counted just before the update, as these two numbers are: the mean staleness of the first update
    is within 0.05 of 0 and that of the second within 0.05 of 1, with T_c = 0 and with T_c = 1.
    Partly, if with one of them.
    """
    off = {
        t_c: np.abs(course[:2] - [0, 1]).max() for t_c, (_, course) in _readings(results).items()
    }
    each = " and ".join(
        f"{course[0]:.3f} and {course[1]:.3f} at T_c = {t_c:g}"
        for t_c, (_, course) in _readings(results).items()
    )
    return Finding(
        verdict_of([far <= threshold for far in off.values()]),
        "largest distance of the first two means from 0 and 1",
        max(off.values()),
        f"Counted before, the first two updates have {each}; counted after, as theorem 2 must be, "
        f"each is larger by 1/K.",
    )


@claim(
    where="section 4, on Figure 2",
    threshold=Threshold("at most", 10, "with a rise at every update before, at T_c = 0 and 1"),
    null=NO_START,
    ceiling="The means of an update are over all replicates, so that none can stand for the print.",
    shows=["fig2", "transient"],
)
def rises_in_a_few_iterations(results: StudyResults, threshold: float) -> Finding:
    """'gradient staleness increases till it fluctuates around some value (...) Observe the
    transient behavior in the first few iterations'

    Up to the first update whose mean is within 5 % of that of the last twenty, each mean is above
    the one before; and this update is one of the first ten of fifty, with T_c = 0 and with T_c = 1.
    Partly, if with one of them.
    """
    reached = {}
    for t_c, (_, course) in _readings(results).items():
        first = int(np.argmax(np.abs(course / course[-LATE:].mean() - 1) <= CLOSE))
        rises = first > 0 and bool((np.diff(course[: first + 1]) > 0).all())
        reached[t_c] = first + 1.0 if rises else np.inf
    each = " and ".join(f"update {at:.0f} at T_c = {t_c:g}" for t_c, at in reached.items())
    return Finding(
        verdict_of([at <= threshold for at in reached.values()]),
        "update until which staleness rises to 5 % of its later value",
        max(reached.values()),
        f"Staleness, counted before, rises at every update until {each}.",
    )


@claim(
    where="section 4, on Figure 2",
    threshold=Threshold("at most", EXACT, "at T_c = 0 and at T_c = 1, under one count each"),
    null=Null(
        "staleness stays where the second update has it",
        _courses(lambda means, theorem: np.append(means[:1], np.full(len(means) - 1, means[1]))),
    ),
    ceiling=Null(
        "staleness is the theorem's from the third update on",
        _courses(
            lambda means, theorem: np.append(means[:2], np.full(len(means) - 2, float(theorem)))
        ),
    ),
    shows=["fig2"],
)
def fluctuates_around_the_limit(results: StudyResults, threshold: float) -> Finding:
    """'eventually the system reaches its steady-state and the average staleness per iteration
    fluctuates around the theoretical limit we derived'

    Around it: the mean of the last twenty of fifty updates is within 1 % of the limit, with T_c = 0
    and with T_c = 1, each under one count. Partly, if with one of them.
    """
    off = {}
    said = []
    for t_c, (cluster, course) in _readings(results).items():
        late = course[-LATE:].mean()
        counted = {"before": late, "after": late + 1 / cluster["minibatches_per_update"]}
        relative = {count: mean / cluster["theorem"] - 1 for count, mean in counted.items()}
        off[t_c] = min(abs(far) for far in relative.values())
        said.append(
            f"at T_c = {t_c:g} {relative['before']:+z.1%} before the update and "
            f"{relative['after']:+z.1%} after it"
        )
    return Finding(
        verdict_of([far <= threshold for far in off.values()]),
        "relative distance of the mean of the last twenty updates from the limit",
        max(off.values()),
        f"From the limit it is {'; '.join(said)}.",
    )


# ---- Section 4: the two cases ----

CASE_1 = {"minibatches_per_update": 10, "compute_time_loc": 0.8, "compute_time_scale": 1.2}
# The columns of a cell of the grid in which the two cases differ.
OF_CASE = ("minibatches_per_update", "batch_size", "compute_time")


@claim(
    where="section 4, last paragraph",
    threshold=Threshold("at most", EXACT, "under one count"),
    null=Null(
        "both cases run as Case 1",
        _other_clusters("simulation == 'fig3'", list(CASE_1), CASE_1),
    ),
    ceiling=FORMULA,
    printed=THEOREM,
    shows=["cases"],
)
def staleness_of_the_two_cases(results: StudyResults, threshold: float) -> Finding:
    """'the expected inter-update time is 2 (...) when using our results, E[tau_1]=1 while
    E[tau_2]=10 in the limit'

    Under one count both staleness and both times between updates are within 1 % of these.
    """
    table = cases(results).frame
    seconds = (table["simulated_seconds"] / 2 - 1).abs()
    off = {
        count: pd.concat([(table[f"mean_{count}"] / [1, 10] - 1).abs(), seconds])
        for count in COUNTS
    }
    verdict, value, count = _under_one_count(off, threshold)
    return Finding(
        verdict,
        "largest relative distance from 1, 10 and 2 seconds",
        value,
        f"Counted {count} the update, simulated staleness is {table[f'mean_{count}'][0]:.3f} and "
        f"{table[f'mean_{count}'][1]:.3f}, seconds between updates "
        f"{table['simulated_seconds'][0]:.3f} and {table['simulated_seconds'][1]:.3f}; over the "
        f"training runs, their start included, staleness after it is "
        f"{table['trained_after'][0]:.2f} and {table['trained_after'][1]:.2f}.",
    )


SAME_ERROR = "the case of a run has no effect on its error"
ONE_CURVE = "The paper prints one pair of curves, at a step that it does not print."


@claim(
    where="section 4, Figure 3",
    threshold=Threshold("above", 1.0, "at every step size and quarter of the time", "factor"),
    null=Null(SAME_ERROR, whatever(OF_CASE, ["fig3"]), 5),
    ceiling=ONE_CURVE,
    seeds=10,
    shows=["fig3", "fig3_ratio"],
)
def case_1_has_the_lower_error(results: StudyResults, threshold: float) -> Finding:
    """'The system in Case 1 achieves a lower error rate than the system in Case 2 in the same
    amount of time'

    At every step size the 95 % interval of the median ratio of errors, Case 2 over Case 1, lies
    above 1 at each quarter of the simulated time. Partly, if at some step size. The paper shows one
    step and does not print it, so each step is a reading with a verdict of its own.
    """
    curves = error_curves(results, points=QUARTERS)
    at = at_moments(error_ratio(curves))
    lowest = at.groupby("lr")["low"].min()
    ahead = at.assign(first=at["low"] > threshold, second=at["high"] < 1)
    by_step = ahead.groupby("lr")[["first", "second"]].sum()
    said = ", ".join(
        f"{lr:g} ({row['first']} of {len(at) // len(by_step)}, Case 2 in {row['second']})"
        for lr, row in by_step.iterrows()
    )
    # Errors differ by factors, so it is their logarithms that are paired.
    paired = at_moments(curves)
    log_2, log_1 = (np.log(by_seed(paired, ["lr", "time"], case)) for case in ("case_2", "case_1"))
    return Finding(
        verdict_of(list(lowest > threshold)),
        "lowest end of the intervals of the ratio of errors, Case 2 over Case 1",
        float(lowest.min()),
        f"Steps, and the quarters of the time at which Case 1 is ahead: {said}.",
        paired=compare(log_2, log_1, ("the log error of Case 2", "that of Case 1")),
    )


@claim(
    where="section 4, Figure 3",
    threshold=Threshold("above", 1.0, "at every quarter of the time", "factor"),
    null=Null(SAME_ERROR, whatever(OF_CASE, ["fig3", "fig3_steps"]), 5),
    ceiling=ONE_CURVE,
    seeds=10,
    shows=["fig3"],
)
def tuned_case_1_has_the_lower_error(results: StudyResults, threshold: float) -> Finding:
    """'The system in Case 1 achieves a lower error rate than the system in Case 2 in the same
    amount of time'

    With the step that is best for each case at that time, the 95 % interval of the median ratio of
    errors, Case 2 over Case 1, lies above 1 at each quarter of the simulated time. Partly, if at
    some.
    """
    curves = at_moments(error_curves(results, ("fig3", "fig3_steps"), points=QUARTERS))
    best = tuned(curves)
    said = ", ".join(
        f"{row['ratio']:.3g} after {time:.0f} s (steps {row['lr_1']:g} and {row['lr_2']:g})"
        for time, row in best.iterrows()
    )
    return Finding(
        verdict_of(list(best["low"] > threshold)),
        "lowest end of the intervals of the ratio of errors, Case 2 over Case 1",
        float(best["low"].min()),
        f"The median ratio is {said}.",
    )
