"""The numbers of the study `policies`: how long each method takes to a target, at which rate."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.tables import Table
from stalegrad.clusters._profiles import seconds_per_gradient
from stalegrad.io.errors import ResultError
from stalegrad.problems.chain import Chain

SYNCHRONOUS, ASYNCHRONOUS, SCALED = "synchronous", "asynchronous", "step over staleness"
BACKUP, BOUNDED, FRESH = "backup workers", "bounded staleness", "fresh gradients"
DROP, DROP_PAPER, BUFFER = "drop", "drop, R by theory", "buffer"
FEDAVG, FEDASYNC, FEDBUFF = (f"{kind}, local" for kind in (SYNCHRONOUS, ASYNCHRONOUS, BUFFER))
# In the order of the tables; those with local steps last.
METHODS = (
    *(SYNCHRONOUS, BACKUP, BOUNDED, ASYNCHRONOUS, SCALED, DROP, DROP_PAPER, FRESH, BUFFER),
    *(FEDAVG, FEDASYNC, FEDBUFF),
)
EQUAL, ONE_SLOW, SPREAD = CLUSTERS = ("equal", "one slow", "spread")
RANDOM, LABELS = SPLITS = ("random", "labels")
QUADRATIC, LENET5, LARGE_CNN = PROBLEMS = ("quadratic", "lenet5", "large_cnn")
NETWORKS = (LENET5, LARGE_CNN)
# What a run has to get to: a squared gradient of at most, or a test accuracy of at least.
LEAST_GRADIENT = 1e-4
ACCURACY = {
    LENET5: {RANDOM: 0.85, LABELS: 0.7},
    LARGE_CNN: {RANDOM: 0.65, LABELS: 0.6},
}
CASE = ["split", "cluster", "method"]
FACTORS = ["profile", "slowest"]
SGD, MOMENTUM, ADAM, MUON = OPTIMIZERS = ("SGD", "momentum", "Adam", "Muon")
COMPARABLE = 0.01  # of accuracy, as in the other studies


def grids_of(*problems: str) -> list[str]:
    """The grids of some problems, one a cluster."""
    return [f"{p}_{cluster.replace(' ', '_')}" for p in problems for cluster in CLUSTERS]


def with_method(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the columns method, cluster and split: one of METHODS, CLUSTERS and SPLITS."""
    keys = [key for key in ("workers", "barrier", "policy", "rule", "local_steps") if key in runs]
    kinds = runs[keys].drop_duplicates()
    kinds = kinds.assign(method=[_method(row) for row in kinds.to_dict("records")])
    named = runs[keys].merge(kinds, on=keys, how="left")["method"].to_numpy()
    cluster = np.where(runs["profile"] == "geometric", SPREAD, ONE_SLOW)
    return runs.assign(
        method=named,
        cluster=np.where(runs["slowest"] == 1, EQUAL, cluster),
        split=np.where(runs["partition"] == "labels", LABELS, RANDOM),
    )


def _method(run: Mapping[str, Any]) -> str:
    local = run.get("local_steps", 1) > 1
    if not isinstance(run.get("policy"), str):
        if run["barrier"]:
            return FEDAVG if local else SYNCHRONOUS
        return SCALED if run["rule"] == "staleness_scaled" else ASYNCHRONOUS
    policy = json.loads(run["policy"])
    if policy["name"] == "buffer":
        if local:
            return FEDASYNC if policy["gradients"] == 1 else FEDBUFF
        return BUFFER
    if policy["name"] == "drop":
        return DROP if policy["threshold"] >= run["workers"] else DROP_PAPER
    return {"backup": BACKUP, "bounded": BOUNDED, "fresh": FRESH}[policy["name"]]


def times(results: StudyResults, *grids: str) -> pd.DataFrame:
    """The runs of some grids of one problem, with `seconds` and `passes` over the data until they
    get to the target; infinite where they do not.

    Between the two epochs around that moment, the accuracy, or the logarithm of the squared
    gradient, is taken to go straight.
    """
    runs = with_method(results.grid(*grids))
    curves = results.curves(*grids).sort_values(["run", "epoch"], kind="stable")
    names = curves["run"].unique()
    shape = (len(names), -1)
    if "test_accuracy" in curves:
        by_split = runs["split"].map(ACCURACY[runs["problem"].iloc[0]])
        target = by_split.set_axis(runs["run"])[names].to_numpy()
        height = curves["test_accuracy"]
    else:
        target = np.full(len(names), -np.log(LEAST_GRADIENT))
        height = -np.log(curves["gradient_square"])
    heights = np.nan_to_num(height.to_numpy(float).reshape(shape), nan=-np.inf, posinf=-np.inf)
    clock = curves["simulated_seconds"].to_numpy(float).reshape(shape)
    reached = heights >= target[:, None]
    first, row = reached.argmax(axis=1), np.arange(len(names))
    before = np.maximum(first - 1, 0)
    with np.errstate(invalid="ignore"):  # where it is infinite in both
        rise = heights[row, first] - heights[row, before]
    share = np.where(rise > 0, (target - heights[row, before]) / np.where(rise > 0, rise, 1), 1.0)
    share = np.where(np.isfinite(share), share, 1.0)
    there = reached.any(axis=1)
    seconds = clock[row, before] + share * (clock[row, first] - clock[row, before])
    found = pd.DataFrame(
        {
            "run": names,
            "seconds": np.where(there, seconds, np.inf),
            "passes": np.where(there, 1 + before + share * (first > 0), np.inf),
        }
    )
    return runs.merge(found, on="run", how="left")


def best(runs: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """A row for each of `keys`, of what `times` gives: the learning rate at which the target comes
    soonest, and there the geometric mean over seeds of `seconds` and `passes`, infinite where a
    seed does not get there, with the least and the largest of `seconds`; no rate where none does.
    edge: that rate is the smallest or the largest that was tried."""
    logs = runs.assign(seconds_log=np.log(runs["seconds"]), passes_log=np.log(runs["passes"]))
    tried = (
        logs.groupby([*keys, "lr"], observed=True)
        .agg(
            seconds=("seconds_log", "mean"),
            passes=("passes_log", "mean"),
            low=("seconds", "min"),
            high=("seconds", "max"),
        )
        .reset_index()
    )
    tried[["seconds", "passes"]] = np.exp(tried[["seconds", "passes"]])
    rates = tried["lr"].groupby([tried[key] for key in keys])
    tried["edge"] = tried["lr"].isin([runs["lr"].min(), runs["lr"].max()]) & (
        rates.transform("size") > 1
    )
    chosen = tried.sort_values("seconds", kind="stable").groupby(keys, sort=False).head(1)
    never = np.isinf(chosen["seconds"])
    return chosen.assign(lr=chosen["lr"].mask(never), edge=chosen["edge"] & ~never)


def tuned(results: StudyResults, problem: str) -> pd.DataFrame:
    """`best` of each method on each cluster and split, with `slowdown`, seconds over those of the
    fastest method there; NaN where none gets to the target."""
    found = best(times(results, *grids_of(problem)), CASE)
    fastest = found.groupby(["split", "cluster"])["seconds"].transform("min")
    ratio = found["seconds"] / fastest.where(np.isfinite(fastest))
    return found.assign(problem=problem, slowdown=ratio).reset_index(drop=True)


def by_method(results: StudyResults, problem: str) -> pd.DataFrame:
    """Seconds to the target: a row for each split and cluster, a column for each method."""
    return tuned(results, problem).pivot(
        index=["split", "cluster"], columns="method", values="seconds"
    )


def situation(table: pd.DataFrame, split: str, cluster: str) -> pd.Series:
    """The row of a table that has one for each split and cluster.

    Raises ResultError where it is missing, as when a preset thins the grid.
    """
    if (split, cluster) not in table.index:
        raise ResultError(f"there is no run of data split by {split} on the cluster '{cluster}'")
    return table.loc[(split, cluster)]


def slowdowns(results: StudyResults) -> pd.DataFrame:
    """Which method, when: a row a method, a column for each split and cluster; the geometric mean
    of `slowdown` over the problems in which some method gets to the target."""
    every = pd.concat([tuned(results, problem) for problem in PROBLEMS])
    logs = np.log(every["slowdown"]).groupby([every["method"], every["split"], every["cluster"]])
    table = np.exp(logs.mean()).unstack(["split", "cluster"])
    order = [(split, cluster) for split in SPLITS for cluster in CLUSTERS]
    return table.reindex(
        index=[m for m in METHODS if m in table.index],
        columns=pd.MultiIndex.from_tuples([each for each in order if each in table.columns]),
    )


def which_when(results: StudyResults) -> Table:
    """`slowdowns` as the report prints them; infinite ones are dashes."""
    table = slowdowns(results)
    named = table.set_axis(
        [f"{split}_{cluster.replace(' ', '_')}" for split, cluster in table.columns], axis=1
    )
    frame = named.reset_index()
    heads = {
        name: f"{split}, {cluster}"
        for name, (split, cluster) in zip(named.columns, table.columns, strict=True)
    }
    layout = frame.replace(np.inf, np.nan)
    return Table(frame, {"method": "method", **heads}, dict.fromkeys(heads, "{:.2f}"), layout)


def targets(results: StudyResults) -> Table:
    """`tuned` of all problems."""
    every = pd.concat([tuned(results, problem) for problem in PROBLEMS])
    order = {name: i for i, name in enumerate([*SPLITS, *CLUSTERS, *METHODS])}
    frame = every[["problem", *CASE, "lr", "edge", "seconds", "low", "high", "passes", "slowdown"]]
    frame = frame.sort_values(
        ["problem", *CASE], key=lambda column: column.map(order).fillna(column), kind="stable"
    )
    headings = {
        "problem": "problem",
        "split": "split",
        "cluster": "cluster",
        "method": "method",
        "lr": "rate",
        "seconds": "seconds",
        "passes": "epochs",
        "slowdown": "slowdown",
    }
    formats = {"lr": "{:g}", "seconds": "{:.4g}", "passes": "{:.2f}", "slowdown": "{:.2f}"}
    return Table(frame, headings, formats, frame.replace(np.inf, np.nan))


# ---- a problem whose constants are known ----


def far_apart(results: StudyResults) -> pd.DataFrame:
    """`best` of the grid `heterogeneity`: a row for each method, profile and slowest worker."""
    return best(times(results, "heterogeneity"), [*FACTORS, "method"])


def bounds(results: StudyResults) -> pd.DataFrame:
    """What the papers state, less a constant that is the same for all, in seconds: for each profile
    and slowest worker the best time of any method, and those of asynchronous and of minibatch SGD.

    Maranjyan, Tyurin and Richtarik 2025, equations 2 to 4, with tau_i the seconds of worker i from
    the fastest on, and a = L (f(x_0) - f*) / eps:

        best          min over m of m / (sum over i <= m of 1 / tau_i) * a (1 + sigma^2 / (m eps))
        asynchronous  the same at m = n
        synchronous   tau_n a (1 + sigma^2 / (n eps))
    """
    runs = results.grid("heterogeneity")
    workers, noise = int(runs["workers"].iloc[0]), float(runs["noise"].iloc[0])
    chain = Chain(
        dimension=int(runs["dimension"].iloc[0]), smoothness=float(runs["smoothness"].iloc[0])
    )
    known = chain.constants()
    steps = known["smoothness"] * known["excess_at_start"] / LEAST_GRADIENT
    count = np.arange(1, workers + 1)
    needed = steps * (1 + noise**2 / (count * LEAST_GRADIENT))
    rows = []
    for profile, slowest in runs[FACTORS].drop_duplicates().itertuples(index=False):
        seconds = seconds_per_gradient(profile, workers, slowest)
        of_fastest = count / np.cumsum(1 / seconds) * needed
        rows.append(
            {
                "profile": profile,
                "slowest": slowest,
                "optimal": of_fastest.min(),
                "asynchronous": of_fastest[-1],
                "synchronous": seconds[-1] * needed[-1],
            }
        )
    return pd.DataFrame(rows)


def over_optimum(results: StudyResults, method: str) -> pd.DataFrame:
    """The rows of `bounds` with `seconds`, those of a method, and `ratio`, over the best time."""
    found = far_apart(results).query("method == @method")[[*FACTORS, "seconds"]]
    both = bounds(results).merge(found, on=FACTORS)
    return both.assign(ratio=both["seconds"] / both["optimal"])


# ---- optimizers ----


def with_optimizer(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the column optimizer, one of OPTIMIZERS."""
    named = runs["rule"].map({"sgd": SGD, "adam": ADAM, "muon": MUON})
    momentum = (runs["rule"] == "sgd") & (runs["momentum"] > 0)
    return runs.assign(optimizer=named.mask(momentum, MOMENTUM))


def tried(results: StudyResults) -> pd.DataFrame:
    """optimizer, delay, lr: mean, least and largest accuracy over seeds."""
    runs = with_optimizer(results.grid("optimizers"))
    keys = ["optimizer", "delay", "lr"]
    accuracy = runs.groupby(keys)["final_test_accuracy"]
    return accuracy.agg(["mean", "min", "max"]).reset_index()


def at_best_rate(results: StudyResults) -> pd.DataFrame:
    """optimizer, delay: the rows of `tried` at the best learning rate there, with `lost`, how much
    less accurate that is than without delay."""
    rows = tried(results).sort_values("mean", ascending=False, kind="stable")
    rows = rows.groupby(["optimizer", "delay"], sort=False).head(1)
    undelayed = rows[rows["delay"] == 0].set_index("optimizer")["mean"]
    rows = rows.assign(lost=rows["optimizer"].map(undelayed) - rows["mean"])
    return rows.sort_values(["optimizer", "delay"]).reset_index(drop=True)


def survived(results: StudyResults, most: float = COMPARABLE) -> pd.Series:
    """By optimizer, the largest delay up to which it loses at most so much at each."""
    rows = at_best_rate(results)
    lost = rows.assign(fails=rows["lost"] > most)
    fails = lost.groupby("optimizer")["fails"].cumsum()
    return lost[fails == 0].groupby("optimizer")["delay"].max().reindex(OPTIMIZERS)


def survival(results: StudyResults) -> Table:
    """`survived`, the accuracy without delay and what is lost at each delay."""
    rows = at_best_rate(results).astype({"delay": int})
    lost = rows.pivot(index="optimizer", columns="delay", values="lost").reindex(OPTIMIZERS)
    best_mean = rows[rows["delay"] == 0].set_index("optimizer")["mean"]
    frame = pd.DataFrame({"optimizer": OPTIMIZERS})
    frame["undelayed"] = frame["optimizer"].map(best_mean)
    frame["survived"] = frame["optimizer"].map(survived(results))
    delays = [delay for delay in lost.columns if delay > 0]
    for delay in delays:
        frame[f"lost_{delay}"] = frame["optimizer"].map(lost[delay])
    headings = {"optimizer": "optimizer", "undelayed": "accuracy", "survived": "survives"}
    headings |= {f"lost_{delay}": f"at {delay}" for delay in delays}
    formats = {"undelayed": "{:.3f}", "survived": "{:g}"}
    formats |= {f"lost_{delay}": "{:.3f}" for delay in delays}
    return Table(frame, headings, formats)


def gap_runs(results: StudyResults) -> pd.DataFrame:
    """workers, rule, momentum: the best mean accuracy over seeds of any rate."""
    runs = results.grid("gap")
    mean = runs.groupby(["workers", "rule", "momentum", "lr"])["final_test_accuracy"].mean()
    return mean.groupby(["workers", "rule", "momentum"]).max().rename("accuracy").reset_index()


def momentum(results: StudyResults) -> Table:
    """`gap_runs`, momentum beside none, and what it adds."""
    frame = gap_runs(results).pivot(
        index=["workers", "rule"], columns="momentum", values="accuracy"
    )
    frame = frame.set_axis(["none" if m == 0 else "momentum" for m in frame.columns], axis=1)
    frame = frame.assign(gain=frame["momentum"] - frame["none"]).reset_index()
    frame["rule"] = frame["rule"].replace({"sgd": "SGD", "gap_aware": "gap-aware"})
    headings = {
        "workers": "workers",
        "rule": "rule",
        "none": "without",
        "momentum": "momentum 0.9",
        "gain": "gain",
    }
    formats = {"none": "{:.3f}", "momentum": "{:.3f}", "gain": "{:+.3f}"}
    return Table(frame, headings, formats)
