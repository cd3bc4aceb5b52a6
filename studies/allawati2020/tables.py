"""The closed forms of allawati2020 beside simulation, and the two cases of its Figure 3.

Everywhere `before` and `after` say whether staleness is counted just before or just after the
update that the gradient's arrival triggers.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.tables import Table
from stalegrad.staleness import renewal
from stalegrad.staleness.compute_times import (
    DISTRIBUTIONS,
    Constant,
    Distribution,
    Exponential,
    Gamma,
    Normal,
    Pareto,
    Uniform,
)

# 'Until it is close to its limit': relative distance.
CLOSE = 0.05
# Errors of regression above this count as this, those of runs that diverged too.
LARGEST_ERROR = 1e12
# Fractions of the simulated time that all runs reach, at which the two cases are compared.
MOMENTS = (0.25, 0.5, 0.75, 1.0)

# The table of countings is printed for so many workers.
COUNTED_WORKERS = 10

CLUSTER = ["workers", "minibatches_per_update", "communication_time"]


def simulated(results: StudyResults, simulation: str) -> pd.DataFrame:
    """One row a cluster of a simulation: closed forms, and means over replicates.

    replicates, theorem (Theorem 2), rate (Lemma 1), exact (`renewal.exact_staleness_before`, NaN
    for constant times with communication), variation (`squared_variation`), mean_before, mean_after
    and update_rate with their standard errors `<column>_error`, and relative_before and
    relative_after: the simulated mean over the theorem, less one. `compute_time` becomes a
    distribution.
    """
    rows = results.staleness[results.staleness["simulation"] == simulation]
    measured = ["mean_before", "mean_after", "update_rate"]
    by_cluster = rows.groupby("index")
    clusters = rows.drop_duplicates("index").set_index("index").sort_index()
    table = clusters[[*CLUSTER, "arrivals"]].copy()
    table["compute_time"] = [compute_time(row) for row in clusters.to_dict("records")]
    table["replicates"] = by_cluster.size()
    table[measured] = by_cluster[measured].mean()
    errors = by_cluster[measured].sem().add_suffix("_error")
    table = pd.concat([table, errors], axis=1)
    described = table[[*CLUSTER, "compute_time"]].itertuples(index=False)
    table[["theorem", "rate", "exact", "variation"]] = [_closed_forms(*each) for each in described]
    table["relative_before"] = table["mean_before"] / table["theorem"] - 1
    table["relative_after"] = table["mean_after"] / table["theorem"] - 1
    return table


@cache
def _closed_forms(
    workers: int, k: int, t_c: float, distribution: Distribution
) -> tuple[float, float, float, float]:
    """Theorem 2, Lemma 1, the form with the own worker apart, and the squared variation."""
    mean = distribution.mean
    return (
        renewal.expected_staleness(workers, k, t_c, mean),
        renewal.update_rate(workers, k, mean),
        renewal.exact_staleness_before(workers, k, t_c, mean, own_renewals(distribution, t_c)),
        squared_variation(distribution),
    )


def compute_time(row: Mapping[str, Any]) -> Distribution:
    """The distribution that a row of `staleness.csv` describes."""
    prefix = "compute_time_"
    keys = {key.removeprefix(prefix): row[key] for key in row if key.startswith(prefix)}
    cls = DISTRIBUTIONS[row["compute_time"]]
    return cls(**{k: float(v) for k, v in keys.items() if k in cls.__annotations__ and v == v})


def continuous(distribution: Distribution) -> stats.rv_continuous | None:
    """scipy's distribution of a compute time; None of the constant."""
    match distribution:
        case Exponential(loc=loc, scale=scale):
            return stats.expon(loc, scale)
        case Gamma(a=a, loc=loc, scale=scale):
            return stats.gamma(a, loc, scale)
        case Pareto(b=b, loc=loc, scale=scale):
            return stats.pareto(b, loc, scale)
        case Uniform(loc=loc, scale=scale):
            return stats.uniform(loc, scale)
        case Normal(loc=loc, scale=scale):
            return stats.truncnorm(-loc / scale, np.inf, loc, scale)
    return None


def squared_variation(distribution: Distribution) -> float:
    """Variance over the square of the mean: 0 of a constant, infinite where there is no variance"""
    scipys = continuous(distribution)
    return 0.0 if scipys is None else float(scipys.var() / scipys.mean() ** 2)


def own_renewals(distribution: Distribution, time: float) -> float:
    """Mean number of rounds that a worker completes within `time`.

    NaN for constant times with communication: in lockstep the closed forms do not hold.
    """
    match distribution:
        case Exponential(loc=loc, scale=scale):
            return renewal.renewal_function_gamma(time, 1.0, loc, scale)
        case Gamma(a=a, loc=loc, scale=scale):
            return renewal.renewal_function_gamma(time, a, loc, scale)
    if (times := continuous(distribution)) is None:
        return 0.0 if time == 0 else math.nan
    return renewal.renewal_function(time, times.cdf)


def label(distribution: Distribution) -> str:
    match distribution:
        case Exponential(loc=loc):
            return "shifted exponential" if loc else "exponential"
        case Gamma(a=a):
            return f"gamma, shape {a:g}"
        case Constant():
            return "constant"
        case Pareto(b=b):
            return f"Pareto, shape {b:g}"
        case Uniform(loc=loc, scale=scale):
            return f"uniform, {loc:g} to {loc + scale:g}"
        case Normal(loc=loc, scale=scale):
            return f"normal, deviation {scale:.3g}" if loc else "half normal"


def theory_vs_simulation(results: StudyResults) -> Table:
    """Figure 1 in numbers."""
    columns = ["theorem", "mean_before", "mean_before_error", "mean_after", "mean_after_error"]
    columns += ["exact", "relative_before", "relative_after", "rate", "update_rate"]
    table = simulated(results, "fig1").sort_values("workers", ignore_index=True)
    headings = {
        "workers": "$n$",
        "theorem": "theorem",
        "mean_before": "before",
        "mean_after": "after",
        "exact": "own worker apart",
        "relative_before": "error, before",
        "relative_after": "error, after",
        "rate": "$n/(K\\mu)$",
        "update_rate": "updates a second",
    }
    formats = dict.fromkeys(("theorem", "mean_before", "mean_after", "exact"), "{:.4f}")
    formats |= dict.fromkeys(("relative_before", "relative_after"), "{:+z.4f}")
    formats |= dict.fromkeys(("rate", "update_rate"), "{:.4f}")
    return Table(table[["workers", *columns]], headings, formats)


def apart(results: StudyResults) -> Table:
    """Staleness over K alone and over mu alone.

    mean_compute_time: mu; times_<counting>: the simulated mean over the theorem.
    """
    table = simulated(results, "apart")
    table["mean_compute_time"] = [each.mean for each in table["compute_time"]]
    keys = ["minibatches_per_update", "mean_compute_time"]
    table = table.sort_values(keys, ignore_index=True)
    for counted in ("before", "after"):
        table[f"times_{counted}"] = table[f"mean_{counted}"] / table["theorem"]
    columns = [*keys, "theorem", "mean_before", "mean_after", "exact"]
    columns += ["times_before", "times_after"]
    headings = {
        "minibatches_per_update": "$K$",
        "mean_compute_time": "$\\mu$",
        "theorem": "theorem",
        "mean_before": "before",
        "mean_after": "after",
        "exact": "own worker apart",
        "times_before": "before / theorem",
        "times_after": "after / theorem",
    }
    formats = dict.fromkeys(["theorem", *columns[3:]], "{:.4f}") | {"mean_compute_time": "{:g}"}
    return Table(table[columns], headings, formats)


def counting(results: StudyResults) -> Table:
    """jain2018's N - 1 and allawati2020's n, and what is left at T_c > 0.

    residual_<counting>: simulated mean less theorem; residual_exact: `exact` less theorem.
    """
    table = simulated(results, "counting").sort_values(
        ["communication_time", "minibatches_per_update", "workers"], ignore_index=True
    )
    plain = (table["minibatches_per_update"] == 1) & (table["communication_time"] == 0)
    table["jain2018"] = (table["workers"] - 1.0).where(plain)
    for counted in ("before", "after"):
        table[f"residual_{counted}"] = table[f"mean_{counted}"] - table["theorem"]
    table["residual_exact"] = table["exact"] - table["theorem"]
    columns = [*CLUSTER, "jain2018", "theorem", "mean_before", "mean_before_error", "mean_after"]
    columns += ["residual_before", "residual_after", "residual_exact"]
    headings = {
        "workers": "$n$",
        "minibatches_per_update": "$K$",
        "communication_time": "$T_c$",
        "jain2018": "$N-1$",
        "theorem": "theorem",
        "mean_before": "before",
        "mean_after": "after",
        "residual_before": "before $-$ theorem",
        "residual_exact": "(closed form)",
        "residual_after": "after $-$ theorem",
    }
    formats = {"communication_time": "{:g}", "jain2018": "{:g}", "theorem": "{:.3f}"}
    formats |= dict.fromkeys(("mean_before", "mean_after"), "{:.3f}")
    formats |= dict.fromkeys(("residual_before", "residual_after", "residual_exact"), "{:+z.4f}")
    # How it depends on n is plain; the report prints one.
    layout = table[table["workers"] == COUNTED_WORKERS]
    return Table(table[columns], headings, formats, layout)


def distributions(results: StudyResults) -> Table:
    """Relative error of the theorem for each distribution (rows) and T_c (columns).

    <counting>_<T_c>: simulated mean over theorem, less one; error_<T_c>: its standard error.
    """
    rows = simulated(results, "distributions")
    rows["distribution"] = rows["compute_time"].map(label)
    table = pd.DataFrame({"distribution": rows["distribution"].unique()})
    headings, formats = {"distribution": "compute time"}, {}
    for t_c, here in rows.groupby("communication_time"):
        here = here.set_index("distribution").loc[table["distribution"]].reset_index()
        for counted in ("before", "after"):
            name = f"{counted}_{t_c:g}"
            table[name] = here[f"relative_{counted}"]
            headings[name] = f"{counted}, $T_c={t_c:g}$"
            formats[name] = "{:+z.4f}"
        table[f"error_{t_c:g}"] = here["mean_after_error"] / here["theorem"]
    return Table(table, headings, formats)


def by_update(results: StudyResults, simulation: str, index: int) -> pd.DataFrame:
    """One row an update from the start: update (from 1), and mean staleness before with its error.

    mean, error: over replicates (as many as `replicates`), of the mean over the update's gradients.
    """
    arrays = results.arrays(simulation)
    rows = results.staleness.query("simulation == @simulation and index == @index")
    mean, deviation = arrays[f"by_update_{index}"], arrays[f"by_update_deviation_{index}"]
    count = int(rows["replicates"].iloc[0])
    update = np.arange(1, len(mean) + 1)
    error = deviation / np.sqrt(count)
    return pd.DataFrame({"update": update, "mean": mean, "error": error, "replicates": count})


def transient_updates(results: StudyResults) -> pd.DataFrame:
    """Updates from the start until mean staleness stays within CLOSE of its limit, by cluster.

    Means are taken over replicates and, against their noise, over the updates made in one mean
    compute time, n/K, around each. limit: `exact`, counted before; updates: the first from which on
    no mean is further away (NaN where one in the last quarter of the simulation is); latencies: the
    time of this update, by Lemma 1, in units of T_c + mu; resolution: largest standard error of the
    mean of one update, over the limit; index: of the cluster in its simulation.
    """
    table = simulated(results, "transient")
    table["limit"] = table["exact"]
    latency = table["communication_time"] + [d.mean for d in table["compute_time"]]
    for index, limit in table["limit"].items():
        course = by_update(results, "transient", index)
        window = max(1, round(table.at[index, "rate"] * table.at[index, "compute_time"].mean))
        smooth = course["mean"].rolling(window, center=True, min_periods=1).mean()
        far = np.flatnonzero((smooth / limit - 1).abs() > CLOSE)
        needed = far[-1] + 2 if len(far) else 1
        table.loc[index, "updates"] = needed if needed <= 0.75 * len(course) else math.nan
        table.loc[index, "resolution"] = (course["error"] / limit).max()
    table["latencies"] = table["updates"] / table["rate"] / latency
    columns = [*CLUSTER, "limit", "updates", "latencies", "resolution", "rate", "index"]
    return table.reset_index().sort_values([*CLUSTER[::-1]], ignore_index=True)[columns]


def transient(results: StudyResults) -> Table:
    """`transient_updates` as a table."""
    table = transient_updates(results).drop(columns=["rate", "index"])
    headings = {
        "workers": "$n$",
        "minibatches_per_update": "$K$",
        "communication_time": "$T_c$",
        "limit": "limit",
        "updates": "updates",
        "latencies": "in units of $T_c+\\mu$",
    }
    formats = {"communication_time": "{:g}", "limit": "{:.2f}", "updates": "{:.0f}"}
    return Table(table, headings, formats | {"latencies": "{:.2f}"})


def cases(results: StudyResults) -> Table:
    """Staleness and update times of the two cases of Figure 3: closed form, simulation, training.

    trained_after: over the training runs, their start included; counted just after, to which the
    last of K gradients adds one.
    """
    table = simulated(results, "fig3").sort_values("theorem", ignore_index=True)
    runs = results.grid("fig3").groupby("minibatches_per_update")
    trained = runs["mean_staleness"].mean()
    batch = runs["batch_size"].first()
    k = table["minibatches_per_update"]
    table.insert(0, "case", np.arange(1, len(table) + 1))
    table["batch_size"] = k.map(batch)
    table["mean_compute_time"] = [each.mean for each in table["compute_time"]]
    table["trained_after"] = k.map(trained) + 1 / k
    table["seconds"] = 1 / table["rate"]
    table["simulated_seconds"] = 1 / table["update_rate"]
    columns = ["case", "batch_size", "minibatches_per_update", "mean_compute_time", "theorem"]
    columns += ["mean_before", "mean_after", "mean_after_error", "trained_after"]
    columns += ["seconds", "simulated_seconds"]
    headings = {
        "case": "case",
        "batch_size": "$b$",
        "minibatches_per_update": "$K$",
        "mean_compute_time": "$\\mu$",
        "theorem": "theorem",
        "mean_before": "before",
        "mean_after": "after",
        "trained_after": "after, in training",
        "seconds": "$K\\mu/n$",
        "simulated_seconds": "seconds an update",
    }
    formats = dict.fromkeys(("mean_before", "mean_after", "trained_after"), "{:.3f}")
    formats |= {"theorem": "{:g}", "seconds": "{:g}", "simulated_seconds": "{:.4f}"}
    return Table(table[columns], headings, formats | {"mean_compute_time": "{:g}"})


def error_curves(
    results: StudyResults, grids: Sequence[str] = ("fig3",), points: int = 61
) -> pd.DataFrame:
    """Error of every run of Figure 3, or of other grids alike, on one axis of simulated time.

    One row a step size, seed and time, columns case_1 and case_2. The axis goes from 0, where the
    error is 1, to the last time that all runs reach; between the ends of epochs log error is
    interpolated linearly. A run that diverged has LARGEST_ERROR from then on.
    """
    curves = results.curves(*grids).reset_index(drop=True)
    ends = ~curves["run"].duplicated(keep="last")
    end = curves.loc[ends & ~curves["diverged"], "simulated_seconds"].min()
    times = np.linspace(0, end, points)
    error = curves["error"].fillna(np.inf).clip(upper=LARGEST_ERROR)
    logs = np.log(error.mask(ends & curves["diverged"], LARGEST_ERROR)).to_numpy()
    seconds = curves["simulated_seconds"].to_numpy()
    largest = curves["minibatches_per_update"].max()
    cells = curves.groupby(["minibatches_per_update", "lr", "seed"]).indices
    error_of = [
        np.exp(np.interp(times, np.append(0.0, seconds[rows]), np.append(0.0, logs[rows])))
        for rows in cells.values()
    ]
    each = pd.DataFrame(list(cells), columns=["k", "lr", "seed"])
    long = each.loc[each.index.repeat(points)].reset_index(drop=True)
    long["time"] = np.tile(times, len(each))
    long["case"] = np.where(long["k"] == largest, "case_1", "case_2")
    long["error"] = np.concatenate(error_of)
    return long.pivot(index=["lr", "seed", "time"], columns="case", values="error").reset_index()


def error_ratio(curves: pd.DataFrame) -> pd.DataFrame:
    """Error of Case 2 over Case 1 by step size and time: median over seeds with its interval."""
    ratio = (curves["case_2"] / curves["case_1"]).rename("ratio")
    grouped = ratio.groupby([curves["lr"], curves["time"]])
    table = grouped.median().reset_index()
    table[["low", "high"]] = list(grouped.apply(median_interval))
    return table


def median_interval(values: pd.Series) -> tuple[float, float]:
    """95 % interval of a median from order statistics, for any distribution; NaN below 6 values."""
    interval = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def fig3(results: StudyResults) -> Table:
    """Error of the two cases at equal simulated time for each step size (median over seeds)."""
    curves = error_curves(results)
    ratio = error_ratio(curves)
    times = ratio["time"].unique()
    medians = curves.groupby(["lr", "time"])[["case_1", "case_2"]].median()
    rows = []
    for lr, here in ratio.groupby("lr"):
        for moment in MOMENTS:
            at = here.iloc[round(moment * (len(times) - 1))]
            rows.append({"lr": lr, "time": at["time"], **medians.loc[lr, at["time"]]}
                        | dict(at[["ratio", "low", "high"]]))  # fmt: skip
    table = pd.DataFrame(rows)
    table["time"] = table["time"].round().astype(int)
    headings = {
        "lr": "step",
        "time": "seconds",
        "case_1": "error, Case 1",
        "case_2": "error, Case 2",
        "ratio": "ratio",
        "low": "low",
        "high": "high",
    }
    formats = dict.fromkeys(("case_1", "case_2", "ratio", "low", "high"), "{:.3g}")
    return Table(table, headings, formats | {"lr": "{:g}"})


def tuned(curves: pd.DataFrame) -> pd.DataFrame:
    """Median error of each case at its best step size, time by time (index time).

    lr_1, lr_2: the step of each case; ratio, low, high: error of Case 2 over Case 1 at these steps
    and the same seed, median over seeds with its interval.
    """
    medians = curves.groupby(["lr", "time"])[["case_1", "case_2"]].median().reset_index()
    rows = []
    for time, here in medians.groupby("time"):
        best = {case: here.loc[here[case].idxmin()] for case in ("case_1", "case_2")}
        there = curves[curves["time"] == time].set_index(["lr", "seed"])
        first, second = (there.loc[row["lr"], case] for case, row in best.items())
        ratio = second / first
        low, high = median_interval(ratio)
        row = {"time": time, "lr_1": best["case_1"]["lr"], "lr_2": best["case_2"]["lr"]}
        row |= {case: row_of[case] for case, row_of in best.items()}
        rows.append(row | {"ratio": ratio.median(), "low": low, "high": high})
    return pd.DataFrame(rows).set_index("time")


def at_moments(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table at MOMENTS of its column `time`."""
    times = np.sort(table["time"].unique())
    chosen = [times[round(moment * (len(times) - 1))] for moment in MOMENTS]
    return table[table["time"].isin(chosen)]
