"""The numbers of mishchenko2022: what the formulas say beside what was simulated and trained."""

from collections.abc import Mapping

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
LIMITATION_KEYS = ["method", "workers", "slowest"]
SLOPE_COLUMNS = ["convexity", "where", "theorem", "slope", "low", "high", "points"]
SETTING = ["noise", "updates"]  # of the chains at constant delay
SLOW, FIXED = "one worker 100 times slower", "longest delay fixed"


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with a column `method`, one of METHODS."""
    asynchronous = np.where(runs["rule"] == "delay_adaptive", ADAPTIVE, ASYNCHRONOUS)
    barrier = runs["barrier"].astype(bool) if "barrier" in runs else False
    return runs.assign(method=np.where(barrier, MINIBATCH, asynchronous))


def with_class(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` of chains with a column `convexity`, one of CLASSES."""
    strong = np.where(runs["strong_convexity"] > 0, STRONGLY, CONVEX)
    return runs.assign(convexity=np.where(runs["penalty"] == "square", strong, NON_CONVEX))


def budget(results: StudyResults) -> Table:
    """Gradients in the simulated seconds S and the longest delay, by formula and by simulation."""
    rows = results.staleness.query("simulation == 'budget'")
    out = []
    for (profile, slowest), here in rows.groupby(["profile", "slowest"], sort=False):
        workers = int(here["workers"].iloc[0])
        seconds = seconds_per_gradient(profile, workers, slowest)
        waits = here["barrier"].astype(bool)
        never, wait = here[~waits].iloc[0], here[waits].iloc[0]
        counted = {"asynchronous": never["update_rate"], "minibatch": wait["update_rate"] * workers}
        out.append(
            {
                "profile": profile,
                "slowest": slowest,
                "workers": workers,
                "minibatch_formula": workers / slowest,
                "minibatch": counted["minibatch"],
                "asynchronous_formula": (1 / seconds).sum(),
                "asynchronous": counted["asynchronous"],
                "improvement_formula": (slowest / seconds).mean(),
                "improvement": counted["asynchronous"] / counted["minibatch"],
                "delay_formula": (slowest / seconds).sum(),
                # Counted as on the slides: x_k = x_{k-1} - step * gradient at x_{k - tau}.
                "delay": never["largest"] + 1,
            }
        )
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
    return Table(pd.DataFrame(out), headings, formats)


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
    """The tuned step of each method, what it reaches, and when its mean error is down to what
    minibatch SGD ends with."""
    cells = tuned_experiment(results)
    best = cells[cells["best"]].set_index("method").loc[list(METHODS)]
    workers = int(results.grid("experiment")["workers"].iloc[0])
    curves = experiment_curves(results)
    target = best.loc[MINIBATCH, "mean"]
    rows = []
    for method, row in best.iterrows():
        line = curves[curves["method"] == method].groupby("epoch")
        means = line[["excess_loss", "seconds_so_far"]].mean()
        # Minibatch SGD itself ends at it, but for the rounding of a mean taken in another order.
        reached = means[means["excess_loss"] <= target * (1 + 1e-9)]
        rows.append(
            {
                "method": method,
                "lr": row["lr"],
                "summed": row["lr"] / workers if method == MINIBATCH else row["lr"],
                "error": row["mean"],
                "low": row["low"],
                "high": row["high"],
                "seconds": row["seconds"],
                "seconds_to_minibatch": (
                    reached["seconds_so_far"].iloc[0] if len(reached) else np.nan
                ),
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
        "seconds": "seconds",
        "seconds_to_minibatch": "to minibatch's end",
        "longest_delay": r"$\tau_{\max}$",
    }
    formats = dict.fromkeys(("error", "low", "high"), "{:.2e}")
    formats |= dict.fromkeys(("seconds", "seconds_to_minibatch", "longest_delay"), "{:.0f}")
    return Table(pd.DataFrame(rows), headings, formats | {"lr": "{:.3g}", "summed": "{:.3g}"})


def experiment_curves(results: StudyResults) -> pd.DataFrame:
    """Histories of the tuned runs of the experiment, with gradients and seconds so far."""
    cells = tuned_experiment(results)
    curves = with_method(results.curves("experiment", "experiment_minibatch"))
    curves = curves.merge(cells.loc[cells["best"], ["method", "lr"]], on=["method", "lr"])
    share = curves["epoch"] / curves["epochs"]
    per_update = np.where(curves["method"] == MINIBATCH, curves["workers"], 1)
    return curves.assign(
        gradients=share * curves["updates"] * per_update,
        seconds_so_far=share * curves["simulated_seconds"],
    )


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


def worker_runs(results: StudyResults) -> pd.DataFrame:
    """Tuned runs without noise of M `workers`, of which one is slow as `pattern` says."""
    kinds = ("", "_strongly", "_fixed_delay", "_fixed_delay_strongly")
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
        rows.append((convexity, f"sigma = {noise:g}", theorem[convexity], *found, len(here)))
    return pd.DataFrame(rows, columns=SLOPE_COLUMNS)


def slopes_in_m(results: StudyResults) -> pd.DataFrame:
    """The power of the number of workers that the least error follows, without noise; columns as of
    `slopes`.

    For strongly convex problems that of -log(error over error at the start), over the M whose
    error is not within reach of rounding. Where fewer than three of these are left, there is no
    interval.
    """
    rows = []
    keys = ["convexity", "strong_convexity", "pattern"]
    for (convexity, modulus, pattern), here in worker_runs(results).groupby(keys):
        decay, where = here["error"], pattern
        if convexity == STRONGLY:
            relative = here["error"] / _excess_at_start(here)
            here = here[relative > ROUNDING]
            decay, where = -np.log(relative[relative > ROUNDING]), f"{pattern}, mu = {modulus:g}"
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
    return chain.constants()["excess_at_start"]


def nesterov_bound(steps: float) -> float:
    """What f - f*, over L |x_0 - x*|^2, cannot be below after so many sequential gradient steps on
    the worst convex L-smooth function: Nesterov 2004, theorem 2.1.7."""
    return 3 / 32 / (steps + 1) ** 2


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
        "delayed": r"delay $\tau$",
        "undelayed": r"none, $K/\tau$ steps",
        "slow_worker": r"$M=4$",
        "slow_tau": r"its $\tau_{\max}$",
    }
    shown = ("ratio_square", "bound", "delayed", "undelayed", "slow_worker")
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


def limitation_runs(results: StudyResults) -> pd.DataFrame:
    """The runs that break an assumption and those that keep it: `limitation`, whether it is
    `broken`, and the `value` it shows in, f - f* at the smallest step or the test accuracy."""
    error, accuracy = "final_excess_loss", "final_test_accuracy"
    grids = (
        ("noise and delay", _smallest_step(results.grid("dependent")), error),
        ("data", _smallest_step(results.grid("different_data")), error),
        ("labels", results.grid("different_labels"), accuracy),
    )
    parts = [
        with_method(runs).assign(
            limitation=limitation, broken=runs["partition"] == "labels", value=runs[value]
        )
        for limitation, runs, value in grids
    ]
    columns = ["limitation", *LIMITATION_KEYS, "seed", "broken", "value"]
    return pd.concat([part[columns] for part in parts], ignore_index=True)


def limitations(results: StudyResults) -> Table:
    """What is left of f - f* where an assumption is broken, beside where it holds, at the smallest
    step; and the test accuracy of LeNet-5 where its workers have labels of their own. Means over
    seeds."""
    keys = ["limitation", *LIMITATION_KEYS]
    means = limitation_runs(results).groupby([*keys, "broken"], sort=False)["value"].mean()
    table = means.unstack("broken").rename(columns={False: "kept", True: "broken"})
    headings = {
        "limitation": "limitation",
        "method": "method",
        "workers": "$M$",
        "slowest": r"$s_{\max}$",
        "kept": "kept",
        "broken": "broken",
    }
    formats = {"kept": "{:.3g}", "broken": "{:.3g}", "slowest": "{:g}"}
    table = table.reset_index().rename_axis(columns=None)
    order = {name: i for i, name in enumerate(("noise and delay", "data", "labels"))}
    table = table.sort_values(keys, key=lambda c: c.map(order) if c.name == keys[0] else c)
    return Table(table[list(headings)].reset_index(drop=True), headings, formats)


def _smallest_step(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["lr"] == runs["lr"].min()]


def lenet(results: StudyResults) -> Table:
    """LeNet-5: the best step of each method, its accuracy and the simulated seconds it took."""
    cells = (
        with_method(results.grid("lenet"))
        .groupby(["method", "lr"], as_index=False)
        .agg(
            accuracy=("final_test_accuracy", "mean"),
            low=("final_test_accuracy", "min"),
            high=("final_test_accuracy", "max"),
            seconds=("simulated_seconds", "mean"),
            longest_delay=("max_staleness", "max"),
        )
    )
    best = cells.loc[cells.groupby("method")["accuracy"].idxmax()].set_index("method")
    table = best.loc[[m for m in METHODS if m in best.index]].reset_index()
    headings = {
        "method": "method",
        "lr": "step",
        "accuracy": "test accuracy",
        "low": "least",
        "high": "most",
        "seconds": "seconds",
        "longest_delay": "longest delay",
    }
    formats = dict.fromkeys(("accuracy", "low", "high"), "{:.4f}")
    return Table(table, headings, formats | {"lr": "{:.3g}", "seconds": "{:.0f}"})


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
    """The trace of virtual iterates with the two bounds of the slides on the squared distance.

    bound: M^2 (G^2 + sigma^2) gamma^2, where gradients are bounded, else NaN. bound_unbounded: 2
    sum_m gamma_m^2 (sigma^2 + |g_m|^2) over the gradients g_m in flight.
    """
    rows = results.trace("virtual")
    variance = rows["noise"] ** 2 / rows["batch_size"]
    square = _gradient_bound(rows) ** 2 + variance
    return rows.assign(
        bound=(rows["workers"] * rows["lr"]) ** 2 * square,
        bound_unbounded=2 * (variance * rows["step_squares"] + rows["promised_squares"]),
    )


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
