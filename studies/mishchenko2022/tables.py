"""The numbers of mishchenko2022: what the formulas say beside what was simulated and trained."""

import json
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.analysis.results import StudyResults, student_half
from stalegrad.analysis.tables import Table
from stalegrad.clusters._profiles import seconds_per_gradient
from stalegrad.io.errors import ResultError
from stalegrad.problems.chain import Chain

MINIBATCH, ASYNCHRONOUS, ADAPTIVE = "minibatch", "asynchronous", "delay-adaptive"
METHODS = (MINIBATCH, ASYNCHRONOUS, ADAPTIVE)
NON_CONVEX, CONVEX, STRONGLY = "non-convex", "convex", "strongly convex"
CLASSES = (NON_CONVEX, CONVEX, STRONGLY)
# What the theorems on the slide 'New results' bound, as a power: of K where noise rules, of M
# where it does not. For strongly convex problems the latter is that of -log(error).
POWER_OF_K = {NON_CONVEX: -0.5, CONVEX: -0.5, STRONGLY: -1.0}
POWER_OF_M = {NON_CONVEX: 1.0, CONVEX: 1.0, STRONGLY: -1.0}
# An error that has fallen so far is within reach of the rounding of float32 weights.
ROUNDING = 1e-10
DEPENDENCE, DATA, LABELS = LIMITATIONS = ("noise and delay", "data", "labels")
LIMITATION_KEYS = ["method", "workers", "slowest"]
SLOPE_COLUMNS = ["convexity", "where", "theorem", "slope", "low", "high", "points"]
LEAST_SQUARES = (
    *("experiment", "experiment_minibatch"),
    *("equal_time", "equal_time_larger", "equal_time_minibatch"),
)
SETTING = ["noise", "updates"]  # of the chains at constant delay
# The mean of each distribution of compute times in `budget` and `budget_random`.
MEAN_TIME = {"constant": 1.0, "normal": 1.0, "uniform": 0.5}
SHORT = 14  # delays in the first bar of the printed histogram
SLOW, FIXED = "one worker 100 times slower", "longest delay fixed"


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with a column `method`, one of METHODS."""
    asynchronous = np.where(runs["rule"] == "delay_adaptive", ADAPTIVE, ASYNCHRONOUS)
    # Beside clusters of another kind, which have no barrier, it may be missing.
    barrier = runs["barrier"].eq(True) if "barrier" in runs else False
    return runs.assign(method=np.where(barrier, MINIBATCH, asynchronous))


def with_class(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` of chains with a column `convexity`, one of CLASSES."""
    strong = np.where(runs["strong_convexity"] > 0, STRONGLY, CONVEX)
    return runs.assign(convexity=np.where(runs["penalty"] == "square", strong, NON_CONVEX))


def budget(results: StudyResults) -> Table:
    """Gradients in the simulated seconds S and the longest delay, by formula and by simulation."""
    headings = {
        "profile": "speeds",
        "slowest": r"$s_{\max}$",
        "minibatch_formula": r"$M/s_{\max}$",
        "minibatch": "counted",
        "asynchronous_formula": r"$\sum 1/s_m$",
        "asynchronous": "counted",
        "improvement_formula": "gain",
        "improvement": "counted",
        "delay_formula": r"$\sum s_{\max}/s_m$",
        "delay": r"$\tau_{\max}$",
    }
    formats = {c: "{:.3f}" for c in headings if "delay" not in c and c not in ("profile",)}
    formats |= {"slowest": "{:g}", "delay_formula": "{:.1f}"}
    return Table(counted(results, "budget"), headings, formats)


def counted(results: StudyResults, simulation: str) -> pd.DataFrame:
    """One row a cluster of the simulation: gradients a second of either method and the longest
    delay as they were counted, and by the formulas of the slides with the mean times s_m."""
    rows = results.staleness.query("simulation == @simulation")
    out = []
    keys = ["profile", "slowest", "compute_time"]
    for (profile, slowest, times), here in rows.groupby(keys, sort=False):
        workers = int(here["workers"].iloc[0])
        seconds = MEAN_TIME[times] * seconds_per_gradient(profile, workers, slowest)
        waits = here["barrier"].astype(bool)
        never, wait = here[~waits].iloc[0], here[waits].iloc[0]
        found = {"asynchronous": never["update_rate"], "minibatch": wait["update_rate"] * workers}
        out.append(
            {
                "profile": profile,
                "slowest": slowest,
                "compute_time": times,
                "workers": workers,
                "minibatch_formula": workers / seconds.max(),
                "minibatch": found["minibatch"],
                "asynchronous_formula": (1 / seconds).sum(),
                "asynchronous": found["asynchronous"],
                "improvement_formula": (seconds.max() / seconds).mean(),
                "improvement": found["asynchronous"] / found["minibatch"],
                "delay_formula": (seconds.max() / seconds).sum(),
                # Counted as on the slides: x_k = x_{k-1} - step * gradient at x_{k - tau}.
                "delay": never["largest"] + 1,
            }
        )
    return pd.DataFrame(out)


def slowest_worker_delays(results: StudyResults) -> pd.DataFrame:
    """One row a cluster: the mean delay of its slowest worker's gradients, and the formula."""
    rows = results.staleness.query("simulation == 'slowest_worker'")
    arrays = results.arrays("slowest_worker")
    out = []
    for _, row in rows.iterrows():
        index, workers = int(row["index"]), int(row["workers"])
        seconds = seconds_per_gradient(row["profile"], workers, row["slowest"])
        own = arrays[f"worker_{index}"] == workers - 1
        delay = np.arange(len(own)) + 1 - arrays[f"read_version_{index}"]
        out.append(
            {
                "profile": row["profile"],
                "slowest": row["slowest"],
                "compute_time": row["compute_time"],
                "delay": delay[own].mean(),
                "formula": (seconds.max() / seconds).sum(),
            }
        )
    return pd.DataFrame(out)


def histogram_fit(results: StudyResults) -> pd.DataFrame:
    """One row a cluster of the simulation `histogram`: the share of delays of at most 14, the
    longest (mean over replicates), and `distance`, of their logarithms from the printed ones (the
    geometric mean of the two printed longest) in sum."""
    printed = results.published("delays").set_index("quantity")["value"]
    longest = np.exp(np.log(printed["longest"]).mean())
    arrays = results.arrays("histogram")
    rows = results.staleness.query("simulation == 'histogram'")
    out = []
    for (index, slowest, times), here in rows.groupby(["index", "slowest", "compute_time"]):
        counts = arrays[f"histogram_{index}"].sum(axis=0)
        share = counts[:SHORT].sum() / counts.sum()  # bin 0 is a delay of 1, as the slides count
        mean = (here["largest"] + 1).mean()
        out.append(
            {
                "slowest": slowest,
                "compute_time": times,
                "share": share,
                "longest": mean,
                "distance": abs(np.log(share / printed["share_at_most_14"]))
                + abs(np.log(mean / longest)),
            }
        )
    return pd.DataFrame(out)


def fitted(results: StudyResults) -> pd.Series:
    """The cluster whose delays are nearest to the printed histogram; that of the experiment."""
    table = histogram_fit(results)
    return table.loc[table["distance"].idxmin()]


def experiment_runs(results: StudyResults) -> pd.DataFrame:
    """The runs of the experiment at the tuned step of each method, with `error`, F - F*."""
    runs = _experiment_runs(results)
    cells = tuned_experiment(results)
    return runs.merge(cells.loc[cells["best"], ["method", "lr"]], on=["method", "lr"])


def _experiment_runs(results: StudyResults) -> pd.DataFrame:
    runs = with_method(results.grid("experiment", "experiment_minibatch"))
    return runs.assign(error=runs["final_excess_loss"].where(~runs["diverged"].astype(bool)))


def tuned_experiment(results: StudyResults) -> pd.DataFrame:
    """Of each method of the experiment and each step: the mean final F - F* over seeds; `best`."""
    cells = (
        _experiment_runs(results)
        .groupby(["method", "lr"], as_index=False)
        .agg(
            mean=("error", lambda e: e.mean() if e.notna().all() else np.inf),
            low=("error", "min"),
            high=("error", "max"),
            seconds=("simulated_seconds", "mean"),
            updates=("updates", "first"),
            longest=("max_staleness", "max"),
            seeds=("seed", "nunique"),
        )
    )
    return cells.assign(best=cells.index.isin(cells.groupby("method")["mean"].idxmin()))


def experiment(results: StudyResults) -> Table:
    """The tuned step of each method and what it reaches, beside the published step and end."""
    cells = tuned_experiment(results).set_index(["method", "lr"])
    best = cells[cells["best"]].reset_index("lr").loc[list(METHODS)]
    published = results.published("experiment").set_index("method")
    workers = int(results.grid("experiment")["workers"].iloc[0])
    rows = []
    for method, row in best.iterrows():
        printed = published.loc[method]
        there = (method, printed["lr"])
        rows.append(
            {
                "method": method,
                "lr": row["lr"],
                "summed": row["lr"] / workers if method == MINIBATCH else row["lr"],
                "error": row["mean"],
                "low": row["low"],
                "high": row["high"],
                "published_step": printed["lr"],
                "at_published_step": cells["mean"].get(there, np.nan),
                "published": printed["excess_loss"],
                "seconds": row["seconds"],
                "longest_delay": row["longest"] + 1,
            }
        )
    headings = {
        "method": "method",
        "lr": "step",
        "summed": "a gradient",
        "error": "$F-F^*$",
        "low": "least",
        "high": "most",
        "published_step": "their step",
        "at_published_step": "$F-F^*$",
        "published": "theirs",
        "seconds": "seconds",
        "longest_delay": r"$\tau_{\max}$",
    }
    errors = ("error", "low", "high", "at_published_step", "published")
    formats = dict.fromkeys(errors, "{:.1e}") | dict.fromkeys(
        ("seconds", "longest_delay"), "{:.0f}"
    )
    steps = dict.fromkeys(("lr", "summed", "published_step"), "{:.3g}")
    return Table(pd.DataFrame(rows), headings, formats | steps)


def rises(results: StudyResults) -> pd.DataFrame:
    """Of each method of the experiment and each step, the mean over seeds of `rise`: the largest
    factor by which the error rises above its least so far, from the second record on."""
    curves = with_method(results.curves("experiment", "experiment_minibatch"))
    curves = curves.sort_values("epoch")
    before = curves.groupby("run")["excess_loss"].transform(lambda e: e.cummin().shift())
    error = curves["excess_loss"].where(~_ever_diverges(curves), np.inf)
    each = curves.assign(rise=error / before)
    largest = each.groupby(["method", "lr", "seed"])["rise"].max()
    return largest.groupby(["method", "lr"]).mean().reset_index()


def last_step_below(cells: pd.DataFrame, method: str, error: float) -> float:
    """The largest step of a method up to which, from its best step on, all end below `error` in
    every seed; NaN where the best one does not. cells: of `tuned_experiment`."""
    here = cells[(cells["method"] == method)].sort_values("lr")
    here = here[here["lr"] >= here.loc[here["best"], "lr"].iloc[0]]
    below = (here["high"] < error) & np.isfinite(here["mean"])
    return float(here["lr"].where(below.cummin().astype(bool)).max())


def experiment_curves(results: StudyResults) -> pd.DataFrame:
    """Histories of the experiment at the steps that the paper prints, with `method` and gradients
    so far: what its figure shows."""
    curves = with_method(results.curves("experiment", "experiment_minibatch"))
    curves = curves.merge(results.published("experiment")[["method", "lr"]], on=["method", "lr"])
    per_update = np.where(curves["method"] == MINIBATCH, curves["workers"], 1)
    return curves.assign(gradients=curves["updates"] * per_update)


def _ever_diverges(curves: pd.DataFrame) -> pd.Series:
    """Whether a record is of a run that has diverged by its end."""
    return curves.groupby(["grid", "run"])["diverged"].transform("max").astype(bool)


def equal_time_curves(results: StudyResults) -> pd.DataFrame:
    """Histories of minibatch and asynchronous SGD on all clusters of least squares, with `method`,
    `cluster_name`, `error` (infinite once diverged) and the `gradients` so far."""
    curves = with_method(results.curves(*LEAST_SQUARES))
    per_update = np.where(curves["method"] == MINIBATCH, curves["workers"], 1)
    return curves.assign(
        cluster_name=_cluster_names(curves),
        error=curves["excess_loss"].where(~_ever_diverges(curves), np.inf),
        gradients=curves["updates"] * per_update,
    )


def _cluster_names(runs: pd.DataFrame) -> pd.Series:
    kinds = runs["profile"].map({"geometric": "spread", "one_slow": "one slow"}.get)
    kinds = kinds.fillna(runs["profile"].str.replace("_slow", " of them slow"))
    names = kinds + runs["slowest"].map(", {:g} times".format)
    names = names.where(runs["slowest"] > 1, "all alike")
    # runs.csv has the distribution as JSON.
    times = runs["compute_time"].map(lambda text: json.loads(text)["name"])
    return names + times.map({"normal": "", "expon": ", exponential"})


def equal_time_runs(results: StudyResults) -> pd.DataFrame:
    """One row a cluster and asynchronous method: simulated seconds in which its mean error over
    seeds gets down to what minibatch SGD ends with, at the step that is soonest; never: infinite.

    Columns: cluster_name, method, lr, gradients, seconds; minibatch's minibatch_lr, target and
    minibatch_seconds; ratio, of the latter seconds to the former; formula, (1/M) sum s_max / s_m
    with the mean times of a gradient; formula_rounds, with the mean time of a round for s_max;
    reached, the mean error of the last record over the target.
    """
    curves = equal_time_curves(results)
    keys = ["cluster_name", "method", "lr", "epoch"]
    columns = ["error", "gradients", "simulated_seconds", "updates"]
    means = curves.groupby(keys, as_index=False)[columns].mean()
    last = means[means["epoch"] == means.groupby(keys[:3])["epoch"].transform("max")]
    rows = []
    for name, ends in last.groupby("cluster_name", sort=False):
        waiting = ends[ends["method"] == MINIBATCH]
        best = waiting.loc[waiting["error"].idxmin()]
        cluster = curves[curves["cluster_name"] == name].iloc[0]
        profile, workers, slowest = cluster[["profile", "workers", "slowest"]]
        speeds = seconds_per_gradient(profile, int(workers), slowest)
        round_seconds = best["simulated_seconds"] / best["updates"]
        for method in (ASYNCHRONOUS, ADAPTIVE):
            here = means[(means["cluster_name"] == name) & (means["method"] == method)]
            tried = [
                (*_reached(line, best["error"]), lr) for lr, line in here.groupby("lr", sort=False)
            ]
            seconds, gradients, lr = min(tried)
            rows.append(
                {
                    "cluster_name": name,
                    "method": method,
                    "lr": lr,
                    "gradients": gradients,
                    "seconds": seconds,
                    "minibatch_lr": best["lr"],
                    "target": best["error"],
                    "minibatch_seconds": best["simulated_seconds"],
                    "ratio": best["simulated_seconds"] / seconds,
                    "formula": (speeds.max() / speeds).mean(),
                    "formula_rounds": (round_seconds / speeds).mean(),
                }
            )
    return pd.DataFrame(rows)


def _reached(line: pd.DataFrame, target: float) -> tuple[float, float]:
    """Seconds and gradients at which a curve of mean errors first is at the target, between two
    records along the straight line of its logarithm; infinite if it never is."""
    line = line.sort_values("epoch")
    below = np.flatnonzero(line["error"].to_numpy() <= target)
    if len(below) == 0:
        return np.inf, np.inf
    first = below[0]
    if first == 0:
        return float(line["simulated_seconds"].iloc[0]), float(line["gradients"].iloc[0])
    two = line.iloc[first - 1 : first + 1]
    logs = np.log(two["error"].to_numpy())
    share = (logs[0] - np.log(target)) / (logs[0] - logs[1]) if np.isfinite(logs[0]) else 1.0
    times = two[["simulated_seconds", "gradients"]].to_numpy()
    seconds, gradients = times[0] + share * (times[1] - times[0])
    return float(seconds), float(gradients)


def equal_time(results: StudyResults) -> Table:
    """How many times longer minibatch SGD takes to its final error than asynchronous SGD does."""
    table = equal_time_runs(results)
    headings = {
        "cluster_name": "cluster",
        "method": "method",
        "minibatch_lr": "minibatch's step",
        "target": "its $F-F^*$",
        "lr": "step",
        "gradients": "gradients",
        "ratio": "times faster",
        "formula_rounds": r"$\frac1M\sum s_{\max}/s_m$",
        "formula": "of mean speeds",
    }
    formats = {"target": "{:.1e}", "gradients": "{:,.0f}", "ratio": "{:.3g}"}
    formats |= dict.fromkeys(("lr", "minibatch_lr", "formula", "formula_rounds"), "{:.3g}")
    return Table(table, headings, formats)


def least_errors(results: StudyResults, *grids: str) -> pd.DataFrame:
    """Runs of chains with `convexity` and `error`, the least over the records of a run of what its
    theorem bounds: |grad f|^2 (non-convex) or f - f*; infinite where the run diverged."""
    curves = with_class(results.curves(*grids))
    error = curves["gradient_square"]
    if "excess_loss" in curves:
        error = error.where(curves["convexity"] == NON_CONVEX, curves["excess_loss"])
    least = curves.assign(error=error).groupby(["grid", "run"], as_index=False)["error"].min()
    runs = with_class(results.grid(*grids)).merge(least, on=["grid", "run"])
    return runs.assign(error=runs["error"].where(~runs["diverged"].astype(bool), np.inf))


def tuned(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The runs at the step whose mean error over seeds is least, for each combination of keys."""
    means = runs.groupby([*keys, "lr"], as_index=False)["error"].mean()
    best = means.loc[means.groupby(keys)["error"].idxmin(), [*keys, "lr"]]
    return runs.merge(best, on=[*keys, "lr"])


def slowing_runs(results: StudyResults) -> pd.DataFrame:
    """Tuned runs of 16 workers one of which slows down, with the longest delay `tau`."""
    runs = least_errors(results, "slowing", "once")
    # Where one worker answers once, it has no factor; its delay is the number of updates.
    runs["slowest"] = np.where(runs["grid"] == "once", np.inf, runs["slowest"])
    runs = tuned(runs, ["convexity", "noise", "slowest"])
    return runs.assign(tau=runs["max_staleness"] + 1)


def horizon_runs(results: StudyResults) -> pd.DataFrame:
    """Tuned runs of `updates` K each, which is also the K of those that diverged before."""
    runs = least_errors(results, "horizon")
    runs["updates"] = runs["epochs"] * runs["epoch_samples"] // runs["batch_size"]
    return tuned(runs, ["convexity", "noise", "updates"])


def constant_delay_runs(results: StudyResults) -> pd.DataFrame:
    """Tuned runs at constant delay with `tau`, the `updates` K of each, `error`, f - f* after them,
    and `relative`, the error over that of the same seed without delay (tau = 1)."""
    runs = results.grid("constant_delay", "constant_delay_silent")
    runs["updates"] = runs["epochs"] * runs["epoch_samples"] // runs["batch_size"]
    runs["tau"] = runs["delay"].astype(int) + 1
    runs["error"] = runs["final_excess_loss"].where(~runs["diverged"].astype(bool), np.inf)
    runs = tuned(runs, [*SETTING, "tau"])
    keys = [*SETTING, "seed"]
    undelayed = runs.loc[runs["tau"] == 1, [*keys, "error"]].rename(columns={"error": "undelayed"})
    runs = runs.merge(undelayed, on=keys)
    return runs.assign(relative=runs["error"] / runs["undelayed"])


def worker_runs(results: StudyResults, *, between: bool = True) -> pd.DataFrame:
    """Tuned runs without noise of M `workers`, of which one is slow as `pattern` says. between:
    with the steps of `workers_between` too, eight a decade; without, there are four."""
    kinds = ["", "_strongly", "_fixed_delay", "_fixed_delay_strongly", *["_between"] * between]
    runs = least_errors(results, *(f"workers{kind}" for kind in kinds))
    runs["pattern"] = np.where(runs["grid"].str.contains("fixed"), FIXED, SLOW)
    return tuned(runs, ["convexity", "strong_convexity", "pattern", "workers"])


def slope(x: pd.Series, y: pd.Series) -> tuple[float, float, float]:
    """Least-squares slope of log y over log x with its 95 % interval (Student).

    Of two points there is no interval, and of one no slope: NaN. Raises ResultError where several
    points have one x, as where a preset thins the grid.
    """
    if len(x) < 2:
        return np.nan, np.nan, np.nan
    if x.nunique() < 2:
        raise ResultError(f"all {len(x)} runs have the same {x.name}, and a slope takes two")
    fit = stats.linregress(np.log(x), np.log(y))
    half = student_half(fit.stderr, len(x) - 1)
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def slope_over_seeds(runs: pd.DataFrame, x: str) -> tuple[float, float, float]:
    """The mean of the seeds' own slopes of log `error` over log `x`, with its 95 % interval.

    Runs of one seed have their noise in common, so it is seeds that are independent, not runs. Of
    one seed: its slope, with the interval of `slope`.
    """
    each = [slope(here[x], here["error"]) for _, here in runs.groupby("seed")]
    if len(each) == 1:
        return each[0]
    slopes = pd.Series([value for value, *_ in each])
    half = student_half(slopes.sem(), len(slopes))
    return float(slopes.mean()), float(slopes.mean() - half), float(slopes.mean() + half)


def slopes_in_tau(results: StudyResults) -> pd.DataFrame:
    """The power of the longest delay that the least error follows; columns as of `slopes`."""
    return _slopes_by_noise(slowing_runs(results), "tau", dict.fromkeys(CLASSES, 0.0))


def slopes_in_k(results: StudyResults) -> pd.DataFrame:
    """The power of the number of updates that the least error follows; columns as of `slopes`."""
    return _slopes_by_noise(horizon_runs(results), "updates", POWER_OF_K)


def _slopes_by_noise(runs: pd.DataFrame, x: str, theorem: Mapping[str, float]) -> pd.DataFrame:
    rows = []
    for (convexity, noise), here in runs.groupby(["convexity", "noise"]):
        found = slope_over_seeds(here, x)
        rows.append((convexity, _sigma(noise), theorem[convexity], *found, len(here)))
    return pd.DataFrame(rows, columns=SLOPE_COLUMNS)


def slopes_in_m(results: StudyResults, *, between: bool = True) -> pd.DataFrame:
    """The power of the number of workers that the least error follows, without noise; columns as of
    `slopes`. between: as in `worker_runs`.

    For strongly convex problems that of -log(error over error at the start), over the M whose
    error is not within reach of rounding. Where fewer than three of these are left, there is no
    interval.
    """
    rows = []
    keys = ["convexity", "strong_convexity", "pattern"]
    for (convexity, modulus, pattern), here in worker_runs(results, between=between).groupby(keys):
        decay, where = here["error"], pattern
        if convexity == STRONGLY:
            relative = here["error"] / _excess_at_start(here)
            fell = (relative > ROUNDING) & (relative < 1)
            here = here[fell]
            decay, where = -np.log(relative[fell]), f"{pattern}, mu = {modulus:g}"
        found = slope(here["workers"], decay)
        rows.append((convexity, where, POWER_OF_M[convexity], *found, len(here)))
    return pd.DataFrame(rows, columns=SLOPE_COLUMNS)


def slopes_at_constant_delay(results: StudyResults) -> pd.DataFrame:
    """The powers that the error at constant delay follows: of K at each tau with noise, and of tau
    without; columns as of `slopes`, `of` among them."""
    runs = constant_delay_runs(results)
    noisy, silent = runs[runs["noise"] > 0], runs[runs["noise"] == 0]
    rows = [
        ("K", CONVEX, f"sigma = {noise:g}, constant tau = {tau}", POWER_OF_K[CONVEX])
        + (*slope_over_seeds(here, "updates"), len(here))
        for (noise, tau), here in noisy.groupby(["noise", "tau"])
    ]
    power = slope(silent["tau"], silent["error"])
    rows.append(("tau", CONVEX, "no noise, constant tau", 1.0, *power, len(silent)))
    return pd.DataFrame(rows, columns=["of", *SLOPE_COLUMNS])


def slopes(results: StudyResults) -> Table:
    """Powers of tau, K and M that the error follows, beside those of the theorems.

    low and high: the 95 % interval, over seeds where there are several, else of the regression
    line; points: the runs that the power is fitted to.
    """
    parts = {"tau": slopes_in_tau, "K": slopes_in_k, "M": slopes_in_m}
    every = [part(results).assign(of=name) for name, part in parts.items()]
    table = pd.concat([*every, slopes_at_constant_delay(results)])
    headings = {
        "of": "power of",
        "convexity": "problem",
        "where": "",
        "theorem": "theorem",
        "slope": "measured",
        "low": r"95\,\% from",
        "high": "to",
        "points": "points",
    }
    formats = dict.fromkeys(("slope", "low", "high"), "{:+z.3f}") | {"theorem": "{:+z.1f}"}
    return Table(table[["of", *SLOPE_COLUMNS]].reset_index(drop=True), headings, formats)


def _excess_at_start(runs: pd.DataFrame) -> float:
    first = runs.iloc[0]
    chain = Chain(
        dimension=int(first["dimension"]),
        smoothness=float(first["smoothness"]),
        strong_convexity=float(first["strong_convexity"]),
    )
    return _known_at_start(chain)["excess"]


def nesterov_bound(steps: float) -> float:
    """What f - f*, over L |x_0 - x*|^2, cannot be below after so many sequential gradient steps on
    the worst convex L-smooth function: Nesterov 2004, theorem 2.1.7."""
    return 3 / 32 / (steps + 1) ** 2


def start_error(runs: pd.DataFrame) -> pd.Series:
    """Of each run of a chain, with `convexity`: what its theorem bounds, at the start."""
    return _by_chain(runs, _known_at_start, "error")


def start_loss(runs: pd.DataFrame) -> pd.Series:
    """f at the start of each run of a chain of class convex or strongly convex."""
    return start_error(runs) + _by_chain(runs, _known_at_start, "least")


def start_gradient(runs: pd.DataFrame) -> pd.Series:
    """|grad f|^2 at the start of each run of a chain."""
    return _by_chain(runs, _known_at_start, "gradient")


def _by_chain(
    runs: pd.DataFrame, known: Callable[[Chain], Mapping[str, float]], name: str
) -> pd.Series:
    fields = ["penalty", "dimension", "smoothness", "strong_convexity"]
    filled = runs.assign(strong_convexity=runs.get("strong_convexity", 0.0)).fillna(
        {"strong_convexity": 0.0}
    )
    each = {
        key: known(Chain(penalty=key[0], dimension=int(key[1]), smoothness=key[2],
                         strong_convexity=key[3]))[name]
        for key in filled[fields].drop_duplicates().itertuples(index=False, name=None)
    }  # fmt: skip
    return pd.Series(
        [each[key] for key in filled[fields].itertuples(index=False, name=None)], index=runs.index
    )


@cache
def _known_at_start(chain: Chain) -> Mapping[str, float]:
    """error, what the theorem bounds; gradient, |grad f|^2; excess, f - f* (of `geman_mcclure` at
    least so much: f* is at most f at even links); distance |x_0 - x*| and least f*, NaN where
    they are not known.
    """
    constants = chain.constants()
    pull = (chain.smoothness - chain.strong_convexity) / 4
    if chain.penalty == "square":
        excess = constants["excess_at_start"]
        known = {"error": excess, "gradient": pull**2, "excess": excess}
        least = pull / 2 - excess  # at 0 one link is stretched, by 1
        return known | {"distance": constants["distance_at_start"], "least": least}
    links = chain.dimension + 1
    even = links * _geman_mcclure(1 / links)
    gradient = (pull / 4) ** 2  # one link is stretched, by 1, where the slope is a quarter
    excess = pull * (_geman_mcclure(1.0) - even)
    unknown = dict.fromkeys(("distance", "least"), np.nan)
    return {"error": gradient, "gradient": gradient, "excess": excess} | unknown


def _geman_mcclure(link: float) -> float:
    return link**2 / (2 * (1 + link**2))


def rate_bound(runs: pd.DataFrame, workers: pd.Series | float) -> pd.Series:
    """The bound of the slide 'New results' with all constants 1, for runs of chains with
    `convexity` and the number of `updates` K. Whatever is in the place of `workers` takes that of
    M. No smaller than ROUNDING of the error at the start.
    """
    sigma, steps, smooth = runs["noise"], runs["updates"], runs["smoothness"]
    excess, distance = (_by_chain(runs, _known_at_start, name) for name in ("excess", "distance"))
    modulus = runs["strong_convexity"].where(runs["strong_convexity"] > 0)
    bounds = {
        NON_CONVEX: sigma * np.sqrt(smooth * excess / steps) + workers * smooth * excess / steps,
        CONVEX: sigma * distance / np.sqrt(steps) + workers * smooth * distance**2 / steps,
        STRONGLY: sigma**2 / (modulus * steps)
        + excess * np.exp(-modulus * steps / (smooth * workers)),
    }
    chosen = pd.concat(bounds, axis=1)
    parts = [chosen.loc[runs["convexity"] == name, name] for name in CLASSES]
    bound = pd.concat(parts).loc[runs.index]
    return bound.clip(lower=ROUNDING * start_error(runs))


def rate_ratios(results: StudyResults, *classes: str) -> pd.DataFrame:
    """Ratios of error to bound (`rate_bound`), each at the step that makes it least. classes: of
    some CLASSES (none given: all).

    Columns: convexity; of, 'K' or 'M', what varies; what, 'least' over records of the mean over
    seeds, 'mean' of f - f* over all iterates (convex problems), or 'serial', the least of SGD
    without delay (its bound has M = 1); where; updates, workers, noise; error, bound, start, and
    ratio. Rows whose bound is not below the error at the start are left out: there it says nothing.
    """
    chosen = list(classes or CLASSES)
    parts = [
        _horizon_ratios(results, "horizon", chosen),
        _horizon_ratios(results, "horizon_serial", chosen),
        _worker_ratios(results, chosen),
    ]
    table = pd.concat(parts, ignore_index=True)
    return table[table["bound"] < table["start"]].reset_index(drop=True)


def _horizon_ratios(results: StudyResults, grid: str, classes: list[str]) -> pd.DataFrame:
    curves = with_class(results.curves(grid))
    curves = curves[curves["convexity"].isin(classes)]
    square, excess = curves["gradient_square"], curves["excess_loss"]
    error = excess.where(curves["convexity"] != NON_CONVEX, square)
    curves = curves.assign(
        error=error.where(~_ever_diverges(curves), np.inf),
        updates=curves["epochs"] * curves["epoch_samples"] // curves["batch_size"],
        whole=curves["train_loss"].where(~_ever_diverges(curves), np.inf),
    )
    keys = ["convexity", "noise", "updates", "lr"]
    means = curves.groupby([*keys, "epoch"])["error"].mean().unstack("epoch")
    chains = curves.drop_duplicates(keys).set_index(keys).loc[means.index].reset_index()
    kinds = {"serial": means.min(axis=1)}
    workers = 1.0
    if grid == "horizon":
        workers = chains["concurrency"]
        # The mean loss over an epoch's gradients, at the weights they were computed at.
        whole = curves.groupby(keys)["whole"].mean().loc[means.index]
        least = _by_chain(chains, _known_at_start, "least").to_numpy()
        kinds = {
            "least": means.min(axis=1),
            "mean": (whole - least).where(whole.index.get_level_values(0) == CONVEX),
        }
    found = chains[["convexity", "noise", "updates", "smoothness", "strong_convexity"]].assign(
        of="K",
        workers=workers,
        start=start_error(chains),
        bound=rate_bound(chains, workers),
        where=chains["noise"].map(_sigma),
    )
    rows = pd.concat(
        [found.assign(what=name, error=value.to_numpy()) for name, value in kinds.items()]
    ).dropna(subset="error")
    rows = rows.reset_index(drop=True)
    rows = rows.loc[rows.groupby(["what", *keys[:3]])["error"].idxmin()]
    return rows.assign(ratio=rows["error"] / rows["bound"])


def _sigma(noise: float) -> str:
    return f"sigma = {noise:g}"


def _worker_ratios(results: StudyResults, classes: list[str]) -> pd.DataFrame:
    runs = worker_runs(results)
    runs = runs[runs["convexity"].isin(classes)]
    runs["updates"] = runs["epochs"] * runs["epoch_samples"] // runs["batch_size"]
    runs = runs.assign(start=start_error(runs), bound=rate_bound(runs, runs["workers"]))
    strong = runs["convexity"] == STRONGLY
    modulus = runs["strong_convexity"].map(", mu = {:g}".format).where(strong, "")
    columns = ["convexity", "noise", "updates", "workers", "error", "bound", "start"]
    columns += ["smoothness", "strong_convexity"]
    return runs[columns].assign(
        of="M", what="least", where=runs["pattern"] + modulus, ratio=runs["error"] / runs["bound"]
    )


def bounds(results: StudyResults) -> Table:
    """Of each theorem and way of trying it, the largest ratio of the error to the bound."""
    ratios = rate_ratios(results)
    keys = ["convexity", "of", "what", "where"]
    largest = ratios.loc[ratios.groupby(keys)["ratio"].idxmax()]
    parts = [
        largest,
        constant_delay_ratios(results).assign(convexity=CONVEX, of="tau"),
        minibatch_ratios(results).assign(convexity=CONVEX, of="M"),
    ]
    table = pd.concat([part[[*keys, "error", "bound", "ratio"]] for part in parts])
    headings = {
        "convexity": "problem",
        "of": "over",
        "what": "error",
        "where": "",
        "ratio": "over the bound",
    }
    table = table.sort_values("ratio").drop_duplicates(keys, keep="last").sort_values(keys)
    return Table(table[[*keys, "ratio"]].reset_index(drop=True), headings, {"ratio": "{:.3f}"})


def constant_delay_ratios(results: StudyResults) -> pd.DataFrame:
    """Ratios of the mean final error at constant delay tau to sigma B / sqrt(K) + tau L B^2 / K,
    where that is below the start; `what` is 'serial' without delay. Columns as of `rate_ratios`."""
    runs = constant_delay_runs(results)
    keys = [*SETTING, "tau"]
    means = runs.groupby(keys)["error"].mean()
    chains = with_class(runs.drop_duplicates(keys)).set_index(keys).loc[means.index].reset_index()
    found = chains[[*keys, "convexity"]].assign(
        error=means.to_numpy(),
        start=start_error(chains),
        bound=rate_bound(chains, chains["tau"]),
        what=np.where(chains["tau"] == 1, "serial", "final"),
        where=chains["noise"].map(_sigma),
    )
    found["ratio"] = found["error"] / found["bound"]
    return found[found["bound"] < found["start"]].reset_index(drop=True)


def competitive_runs(results: StudyResults) -> pd.DataFrame:
    """Tuned runs with constant delay M and of minibatch SGD with M `workers`, with `method`, the
    number of gradients `updates` K and `error`, the final f - f*."""
    runs = with_class(with_method(results.grid("competitive", "competitive_minibatch")))
    runs["workers"] = runs["workers"].fillna(runs["delay"] + 1).astype(int)
    runs["updates"] = runs["epochs"] * runs["epoch_samples"] // runs["batch_size"]
    runs["error"] = runs["final_excess_loss"].where(~runs["diverged"].astype(bool), np.inf)
    return tuned(runs, ["method", *SETTING, "workers"])


def competitive(results: StudyResults) -> pd.DataFrame:
    """Of each noise, K and M: the mean final errors of both methods, and `times`, that with
    constant delay over minibatch SGD's."""
    keys = [*SETTING, "workers"]
    means = competitive_runs(results).groupby([*keys, "method"])["error"].mean().unstack("method")
    return means.assign(times=means[ASYNCHRONOUS] / means[MINIBATCH]).reset_index()


def minibatch_ratios(results: StudyResults) -> pd.DataFrame:
    """Ratios of minibatch SGD's mean final error to sigma B / sqrt(K) + M L B^2 / K, where that is
    below the start. Columns as of `rate_ratios`."""
    runs = competitive_runs(results).query("method == @MINIBATCH")
    keys = [*SETTING, "workers"]
    means = runs.groupby(keys)["error"].mean()
    chains = runs.drop_duplicates(keys).set_index(keys).loc[means.index].reset_index()
    found = chains[[*keys, "convexity"]].assign(
        error=means.to_numpy(),
        start=start_error(chains),
        bound=rate_bound(chains, chains["workers"]),
        what=MINIBATCH,
        where=chains["noise"].map(_sigma),
    )
    found["ratio"] = found["error"] / found["bound"]
    return found[found["bound"] < found["start"]].reset_index(drop=True)


def lower_bound(results: StudyResults) -> Table:
    """On chains of 2 K / tau + 1 links, over L |x_0 - x*|^2: `nesterov_bound` of K / tau sequential
    steps, descent with constant delay, descent without delay on K / tau steps, and M = 4 workers of
    which one answers once."""
    by_dimension = {}
    for grid in ("lower_bound", "lower_bound_undelayed", "lower_bound_workers"):
        runs = results.grid(grid)
        runs = runs[~runs["diverged"].astype(bool)]
        by_dimension[grid] = runs.groupby("dimension")["final_excess_loss"].min()
    delayed = results.grid("lower_bound").drop_duplicates("dimension").set_index("dimension")
    slow = results.grid("lower_bound_workers").drop_duplicates("dimension").set_index("dimension")
    rows = []
    for dimension, run in delayed.sort_index().iterrows():
        chain = Chain(dimension=int(dimension)).constants()
        unit = chain["smoothness"] * chain["distance_at_start"] ** 2
        steps = run["epochs"] * run["epoch_samples"]
        tau = run["delay"] + 1
        rows.append(
            {
                "dimension": dimension,
                "tau": tau,
                "steps": steps,
                "ratio_square": (tau / steps) ** 2,
                "start": chain["excess_at_start"] / unit,
                "bound": nesterov_bound(steps / tau),
                "delayed": by_dimension["lower_bound"].get(dimension, np.nan) / unit,
                "undelayed": by_dimension["lower_bound_undelayed"].get(dimension, np.nan) / unit,
                "slow_worker": by_dimension["lower_bound_workers"].get(dimension, np.nan) / unit,
                "slow_tau": slow.loc[dimension, "max_staleness"] + 1,
            }
        )
    headings = {
        "dimension": "$d$",
        "tau": r"$\tau$",
        "ratio_square": r"$\tau^2/K^2$",
        "bound": "lower bound",
        "start": "start",
        "delayed": r"delay $\tau$",
        "undelayed": r"none, $K/\tau$ steps",
        "slow_worker": r"$M=4$",
        "slow_tau": r"its $\tau_{\max}$",
    }
    shown = ("ratio_square", "bound", "start", "delayed", "undelayed", "slow_worker")
    return Table(pd.DataFrame(rows), headings, dict.fromkeys(shown, "{:.2e}"))


def constant_delay_errors(results: StudyResults) -> pd.DataFrame:
    """Of each noise, number of updates and tau: the mean `error` over seeds, and `times` that
    without delay."""
    means = constant_delay_runs(results).groupby([*SETTING, "tau"])["error"].mean()
    return means.to_frame().assign(times=means / means.xs(1, level="tau")).reset_index()


def constant_delay(results: StudyResults) -> Table:
    """The error without delay, and how many times larger it is at each constant delay."""
    errors = constant_delay_errors(results)
    times = errors[errors["tau"] > 1].pivot(index=SETTING, columns="tau", values="times")
    undelayed = errors[errors["tau"] == 1].set_index(SETTING)["error"]
    headings = {"noise": r"$\sigma$", "updates": "$K$", "undelayed": r"$f-f^*$"}
    headings |= {f"times_{tau}": rf"$\tau={tau}$" for tau in times.columns}
    table = times.rename(columns="times_{}".format).assign(undelayed=undelayed).reset_index()
    formats = {name: "{:.3f}" for name in headings if name.startswith("times")}
    return Table(
        table[list(headings)].rename_axis(columns=None),
        headings,
        formats | {"noise": "{:g}", "undelayed": "{:.2e}"},
    )


def largest_gradients(results: StudyResults, grid: str) -> pd.DataFrame:
    """The largest |grad f|^2 over the records of a run and over seeds, over that at the start: a
    row a step, columns (penalty, method); infinite where a run diverged."""
    curves = with_method(results.curves(grid))
    over = curves["gradient_square"] / start_gradient(curves)
    largest = curves.assign(over=over.where(~_ever_diverges(curves), np.inf))
    return largest.pivot_table(
        index="lr", columns=["penalty", "method"], values="over", aggfunc="max"
    )


def limitation_runs(results: StudyResults, *limitations: str) -> pd.DataFrame:
    """The runs that break an assumption and those that keep it, of some of LIMITATIONS (none
    given: all): `limitation`, whether it is `broken`, and the `value` it shows in, f - f* at the
    smallest step, or the test accuracy at the step that is best where the data set is split at
    random."""
    error, accuracy = "final_excess_loss", "final_test_accuracy"
    parts = []
    for limitation in limitations or LIMITATIONS:
        if limitation == LABELS:
            runs = label_runs(results)
        else:
            runs = results.grid({DEPENDENCE: "dependent", DATA: "different_data"}[limitation])
            runs = with_method(runs[runs["lr"] == runs["lr"].min()])
        parts.append(
            runs.assign(
                limitation=limitation,
                broken=runs["partition"] == "labels",
                value=runs[accuracy if limitation == LABELS else error],
            )
        )
    columns = ["limitation", *LIMITATION_KEYS, "lr", "seed", "broken", "value"]
    return pd.concat([part[columns] for part in parts], ignore_index=True)


def label_runs(results: StudyResults) -> pd.DataFrame:
    """LeNet-5's runs with ten workers, with `method`, each at the step of the highest mean accuracy
    on the data set split at random."""
    runs = with_method(results.grid("different_labels", "different_labels_steps"))
    keys = ["method", "slowest"]
    random = runs[runs["partition"] == "dataset"]
    means = random.groupby([*keys, "lr"], as_index=False)["final_test_accuracy"].mean()
    best = means.loc[means.groupby(keys)["final_test_accuracy"].idxmax(), [*keys, "lr"]]
    return runs.merge(best, on=[*keys, "lr"])


def limitations(results: StudyResults, *some: str) -> Table:
    """What is left of f - f* where an assumption is broken, beside where it holds, at the smallest
    step; and the test accuracy of LeNet-5 where its workers have labels of their own, at the step
    that is best where they have not. Means over seeds. some: as in `limitation_runs`."""
    keys = ["limitation", *LIMITATION_KEYS, "lr"]
    means = limitation_runs(results, *some).groupby([*keys, "broken"], sort=False)["value"].mean()
    table = means.unstack("broken").rename(columns={False: "kept", True: "broken"})
    headings = {
        "limitation": "limitation",
        "method": "method",
        "workers": "$M$",
        "slowest": r"$s_{\max}$",
        "lr": "step",
        "kept": "kept",
        "broken": "broken",
    }
    formats = {"kept": "{:.3g}", "broken": "{:.3g}", "slowest": "{:g}", "lr": "{:.3g}"}
    table = table.reset_index().rename_axis(columns=None)
    order = {name: i for i, name in enumerate(LIMITATIONS)}
    table = table.sort_values(keys, key=lambda c: c.map(order) if c.name == keys[0] else c)
    return Table(table[list(headings)].reset_index(drop=True), headings, formats)


def lenet_curves(results: StudyResults) -> pd.DataFrame:
    """Histories of LeNet-5 with `method`; asynchronous SGD's are the long ones at the steps that
    have one."""
    curves = with_method(results.curves("lenet", "lenet_minibatch", "lenet_longer"))
    longest = curves.groupby(["method", "lr"])["epochs"].transform("max")
    return curves[curves["epochs"] == longest]


def lenet(results: StudyResults) -> Table:
    """LeNet-5: minibatch SGD at the step of the highest mean final accuracy, and asynchronous SGD
    at the step with which its mean accuracy over seeds is soonest at that one; where it never is,
    at the step of the highest. `reached`: the simulated seconds until then, infinite for never."""
    curves = lenet_curves(results)
    keys = ["method", "lr", "epoch"]
    means = curves.groupby(keys)[["test_accuracy", "simulated_seconds"]].mean()
    ends = curves[curves["epoch"] == curves["epochs"]].groupby(["method", "lr"])["test_accuracy"]
    ends = ends.agg(["mean", "min", "max"])
    target = ends.loc[MINIBATCH, "mean"].max()
    rows = []
    for method in METHODS:
        tried = []
        for lr, line in means.loc[method].groupby(level="lr"):
            there = line[line["test_accuracy"] >= target - 1e-12]
            reached = there["simulated_seconds"].iloc[0] if len(there) else np.inf
            tried.append((reached, -ends.loc[(method, lr), "mean"], lr))
        reached, _, lr = min(tried)
        end = ends.loc[(method, lr)]
        rows.append(
            {
                "method": method,
                "lr": lr,
                "accuracy": end["mean"],
                "low": end["min"],
                "high": end["max"],
                "seconds": means.loc[(method, lr), "simulated_seconds"].iloc[-1],
                "reached": reached,
            }
        )
    headings = {
        "method": "method",
        "lr": "step",
        "accuracy": "test accuracy",
        "low": "least",
        "high": "most",
        "seconds": "seconds",
        "reached": "to minibatch's end",
    }
    formats = dict.fromkeys(("accuracy", "low", "high"), "{:.4f}") | {"lr": "{:.3g}"}
    seconds = dict.fromkeys(("seconds", "reached"), "{:.0f}")
    return Table(pd.DataFrame(rows), headings, formats | seconds)


def constants(results: StudyResults) -> Table:
    """What is known exactly of the problems: L, mu, sigma, F* and where descent starts."""
    from stalegrad.problems.least_squares import LeastSquares

    first = results.grid("experiment").iloc[0]
    fields = ("rows", "dimension", "data_seed")
    problem = LeastSquares(**{f: int(first[f]) for f in fields}, noise=float(first["noise"]))
    known = problem.constants()
    rows = [
        {
            "problem": "least squares",
            "smoothness": known["smoothness"],
            "strong_convexity": known["strong_convexity"],
            "noise": known["noise_at_start"] / np.sqrt(first["batch_size"]),
            "least_loss": known["least_loss"],
            "excess_at_start": known["excess_at_start"],
        }
    ]
    chains = with_class(results.grid("slowing", "workers_strongly")).sort_values("noise")
    shown = chains.drop_duplicates(["convexity", "strong_convexity", "noise"])
    for _, run in shown.sort_values("convexity", kind="stable").iterrows():
        chain = Chain(
            penalty=run["penalty"],
            dimension=int(run["dimension"]),
            smoothness=float(run["smoothness"]),
            strong_convexity=float(run["strong_convexity"]),
            noise=float(run["noise"]),
        )
        rows.append({"problem": f"chain, {run['convexity']}", **chain.constants()})
    headings = {
        "problem": "problem",
        "smoothness": "$L$",
        "strong_convexity": r"$\mu$",
        "noise": r"$\sigma$",
        "least_loss": "$F^*$",
        "excess_at_start": "$F(x_0)-F^*$",
        "gradient_bound": "$G$",
    }
    columns = [c for c in headings if c != "problem"]
    return Table(pd.DataFrame(rows), headings, dict.fromkeys(columns, "{:.3g}"))


def virtual_rows(results: StudyResults) -> pd.DataFrame:
    """The trace of virtual iterates with bounds on the squared distance.

    bound: the slide's M^2 (G^2 + sigma^2) gamma^2, where gradients are bounded, else NaN.
    bound_unbounded: the slide's 2 sum_m gamma_m^2 (sigma^2 + |g_m|^2) over the gradients g_m in
    flight. bound_lemma_3: 2 sum_m gamma_m^2 (sigma^2 + (M - 1) |grad f|^2), as in lemma 3 of the
    paper, with the gradients of f itself.
    """
    rows = results.trace("virtual")
    variance = rows["noise"] ** 2 / rows["batch_size"]
    square = _gradient_bound(rows) ** 2 + variance
    noise = variance * rows["step_squares"]
    return rows.assign(
        bound=(rows["workers"] * rows["lr"]) ** 2 * square,
        bound_unbounded=2 * (noise + rows["promised_squares"]),
        bound_lemma_3=2 * (noise + (rows["workers"] - 1) * rows["expected_squares"]),
    )


def virtual_means(results: StudyResults) -> pd.DataFrame:
    """Means over seeds of `virtual_rows` at each version, for each method and penalty; and
    bound_equation_5, (M - 1)^2 gamma^2 times the largest mean squared gradient along the run, which
    is what G^2 bounds in equation 5 of the paper's version 1."""
    rows = with_method(virtual_rows(results))
    keys = ["penalty", "method", "version"]
    columns = ["distance_square", "gradient_square", "workers", "lr", "bound"]
    columns += ["bound_unbounded", "bound_lemma_3"]
    means = rows.groupby(keys)[columns].mean().reset_index()
    largest = means.groupby(keys[:2])["gradient_square"].transform("max")
    reach = (means["workers"] - 1) * means["lr"]
    return means.assign(bound_equation_5=reach**2 * largest)


def faults(results: StudyResults) -> Table:
    """Slips of the slides against the paper, and what our runs say of each: rows of `fault`,
    `quantity`, `value`."""
    means = virtual_means(results)
    free = means[means["penalty"] == "square"]
    bounded = means[means["penalty"] == "geman_mcclure"]
    strong = slopes_in_k(results).query("convexity == @STRONGLY")
    strongest = rate_ratios(results, STRONGLY).query("of == 'K' and what == 'least'")
    logs = strongest["ratio"] / np.log(strongest["updates"])
    convex = slopes_in_k(results).query("convexity == @CONVEX")
    rows = [
        ("lemma 3: M - 1 dropped", "distance over the slide's bound, at most",
         (free["distance_square"] / free["bound_unbounded"]).max()),
        ("lemma 3: M - 1 dropped", "distance over the lemma's, at most",
         (free["distance_square"] / free["bound_lemma_3"]).max()),
        ("eq. 5: (M - 1) gamma G in version 1", "squared distance over the slide's bound, at most",
         (bounded["distance_square"] / bounded["bound"]).max()),
        ("eq. 5: (M - 1) gamma G in version 1", "over version 1's, G as measured, at most",
         (bounded["distance_square"] / bounded["bound_equation_5"]).max()),
        ("theorem 3.2: logarithm dropped", "power of K where the slide has -1, at most",
         strong["slope"].max()),
        ("theorem 3.2: logarithm dropped", "error over the slide's bound, at most",
         strongest["ratio"].max()),
        ("theorem 3.2: logarithm dropped", "error over the bound times log K, at most", logs.max()),
        ("one slide has sigma/K for sigma/sqrt K", "power of K, at least", convex["slope"].min()),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["fault", "quantity", "value"])
    return Table(table, {"fault": "slip", "quantity": "", "value": ""}, {"value": "{:.3g}"})


def _gradient_bound(rows: pd.DataFrame) -> pd.Series:
    """G of each row's chain, NaN where its gradient is not bounded."""
    first = rows.iloc[0]
    chain = Chain(
        penalty="geman_mcclure",
        dimension=int(first["dimension"]),
        smoothness=float(first["smoothness"]),
    )
    bounded = rows["penalty"] == "geman_mcclure"
    return bounded.map({True: chain.constants()["gradient_bound"], False: np.nan})
