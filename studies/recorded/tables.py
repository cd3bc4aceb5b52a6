"""The numbers of the study `recorded`: what the traces hold, beside the papers' formulas.

Staleness is counted before the gradient's own update, unless it says `after`. Seconds are those of
the wall clock.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.analysis.recordings import fit_trace, staleness_of
from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.simulations import normal_distance
from stalegrad.analysis.tables import Table
from stalegrad.io.errors import ResultError
from stalegrad.io.traces import APPLIED, Trace

ACCURACY = 0.85  # to which the clock runs
CELL = ["delayed", "delay_ms", "partition"]
PROCESSES = ("workers", "delay_ms", "delayed", "straggler", "synchronous", "start")


# ---- of one trace ----


def shares(staleness: np.ndarray) -> np.ndarray:
    """The share of gradients of each staleness 0, 1, ... up to the largest."""
    return np.bincount(staleness) / len(staleness)


def distance_from_normal(staleness: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of staleness from its normal fit, as in jain2018."""
    return normal_distance(shares(staleness), staleness.mean(), staleness.std())


def variation_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of two distributions on 0, 1, ..., each as its shares."""
    length = max(len(one), len(other))
    pad = [np.pad(each, (0, length - len(each))) for each in (one, other)]
    return float(np.abs(pad[0] - pad[1]).sum() / 2)


def rounds(trace: Trace) -> list[np.ndarray]:
    """Seconds between the arrivals of each worker's gradients, one array a worker."""
    c = trace.columns
    return [np.diff(c["arrived"][c["worker"] == w]) for w in range(trace.workers)]


def mean_rounds(trace: Trace) -> np.ndarray:
    """Seconds [workers] that each worker takes for a gradient, from its first weights on."""
    c = trace.columns
    out = []
    for w in range(trace.workers):
        mine = c["worker"] == w
        out.append((c["arrived"][mine][-1] - c["read"][mine][0]) / mine.sum())
    return np.array(out)


def compute_seconds(trace: Trace) -> float:
    """The measured mu: mean seconds of a computation."""
    return float((trace.columns["end"] - trace.columns["start"]).mean())


def communication_seconds(trace: Trace) -> float:
    """The measured T_c: what a round takes beside its computation, on average over gradients."""
    done = np.bincount(trace.columns["worker"], minlength=trace.workers)
    return float(np.average(mean_rounds(trace), weights=done)) - compute_seconds(trace)


def gradients_a_second(trace: Trace) -> float:
    applied = trace.columns[APPLIED]
    return float((trace.arrivals - 1) / (applied[-1] - applied[0]))


# ---- of the study ----


def recorded_runs(results: StudyResults, *grids: str) -> pd.DataFrame:
    """Replays with the name of their `recording`, and what its processes did (PROCESSES)."""
    runs = results.grid(*grids)
    names = runs["file"].map(lambda file: Path(file).name.removesuffix(".csv.gz"))
    about = {name: _processes(results.recording(name)) for name in names.unique()}
    told = pd.DataFrame([about[name] for name in names], index=runs.index)
    return runs.drop(columns=[c for c in PROCESSES if c in runs]).assign(recording=names).join(told)


def _processes(trace: Trace) -> dict[str, object]:
    known = json.loads(trace.about["processes"])
    told = {key: known[key] for key in PROCESSES}
    # Nobody is delayed where there is no delay.
    return told | {"delayed": told["delayed"] if told["delay_ms"] else "none"}


def saturated(results: StudyResults) -> pd.DataFrame:
    """recording, workers and seed of those in which all share the data without delay."""
    runs = recorded_runs(results, "saturated").drop_duplicates("recording")
    return runs[["recording", "workers", "seed"]].sort_values(
        ["workers", "seed"], ignore_index=True
    )


def monte_carlo(results: StudyResults, workers: int) -> np.ndarray:
    """The shares of staleness in the paper's Monte Carlo simulation of so many workers."""
    rows = results.staleness.query("simulation == 'monte_carlo' and workers == @workers")
    if rows.empty:
        raise ResultError(f"there is no Monte Carlo simulation of {workers} workers")
    counts = results.arrays("monte_carlo")[f"histogram_{rows['index'].iloc[0]}"].sum(axis=0)
    return np.trim_zeros(counts / counts.sum(), "b")


def recordings(results: StudyResults) -> Table:
    """One row a recording without delay: counts, rates and the distances of distributions."""
    rows = []
    for of in saturated(results).itertuples():
        trace = results.recording(of.recording)
        staleness, mu = staleness_of(trace), compute_seconds(trace)
        t_c, rate = communication_seconds(trace), gradients_a_second(trace)
        rows.append(
            {
                "recording": of.recording,
                "workers": of.workers,
                "seed": of.seed,
                "mean_staleness": staleness.mean(),
                "largest_staleness": staleness.max(),
                "deviation": staleness.std(),
                "compute_ms": 1e3 * mu,
                "communication_ms": 1e3 * t_c,
                "rate": rate,
                "lemma_1": of.workers / mu,
                "lemma_1_with_waiting": of.workers / (mu + t_c),
                "theorem_2": of.workers * (t_c + mu) / mu,
                "staleness_from_normal": distance_from_normal(staleness),
                "times_from_normal": times_from_normal(trace),
                "from_monte_carlo": variation_distance(
                    shares(staleness), monte_carlo(results, of.workers)
                ),
                "from_fitted": variation_distance(
                    shares(staleness), shares(fit_trace(trace).simulated().staleness_before)
                ),
            }
        )
    headings = {
        "workers": "$N$",
        "mean_staleness": "staleness",
        "deviation": "deviation",
        "compute_ms": r"$\mu$",
        "communication_ms": "$T_c$",
        "rate": "rate",
        "lemma_1": "lemma 1",
        "theorem_2": "theorem 2",
        "staleness_from_normal": "normal",
        "from_monte_carlo": "Monte Carlo",
        "from_fitted": "fitted",
    }
    formats = dict.fromkeys(headings, "{:.2f}") | {
        "workers": "{:d}",
        "rate": "{:.0f}",
        "lemma_1": "{:.0f}",
        "theorem_2": "{:.1f}",
    }
    return Table(pd.DataFrame(rows), headings, formats)


def times_from_normal(trace: Trace) -> float:
    """Kolmogorov-Smirnov distance of the times between a worker's gradients, each over the mean of
    its worker, from the normal fit."""
    times = np.concatenate([r / r.mean() for r in rounds(trace)])
    return float(stats.kstest(times, "norm", (times.mean(), times.std())).statistic)


def constant_cells(results: StudyResults) -> pd.DataFrame:
    """Final accuracy of each replay of a recorded order, and of constant delay N - 1 with the same
    learning rate and seed: workers, lr, seed, recorded, constant."""
    key = ["workers", "lr", "seed"]
    real = recorded_runs(results, "saturated")[[*key, "final_test_accuracy"]]
    constant = results.grid("constant").assign(workers=lambda r: r["delay"] + 1)
    constant = constant[[*key, "final_test_accuracy"]]
    both = real.merge(constant, on=key, suffixes=("_r", "_c"))
    names = {"final_test_accuracy_r": "recorded", "final_test_accuracy_c": "constant"}
    return both.rename(columns=names).sort_values(key, ignore_index=True)


def real_runs(results: StudyResults) -> pd.DataFrame:
    """The replays of ten workers, with what tells cells apart (CELL)."""
    return recorded_runs(results, "ten")


def simulated_runs(results: StudyResults) -> pd.DataFrame:
    """The runs of ten simulated workers, with what tells cells apart (CELL)."""
    runs = results.grid("ten_simulated")
    return runs.assign(delayed=runs["delayed"].where(runs["delay_ms"] > 0, "none"))


def cells(results: StudyResults) -> Table:
    """Ten workers, recorded and simulated: mean final accuracy (per cent) and number of runs."""
    parts: dict[str, pd.Series] = {}
    for name, runs in (("recorded", real_runs(results)), ("simulated", simulated_runs(results))):
        grouped = runs.assign(percent=100 * runs["final_test_accuracy"]).groupby(CELL)["percent"]
        parts |= {name: grouped.mean(), f"{name}_runs": grouped.count()}
    frame = pd.DataFrame(parts).dropna().reset_index()
    frame["difference"] = frame["recorded"] - frame["simulated"]
    headings = {
        "delayed": "delayed",
        "delay_ms": "ms",
        "partition": "split",
        "recorded": "recorded",
        "recorded_runs": "runs",
        "simulated": "simulated",
        "difference": "difference",
    }
    formats = {"delay_ms": "{:.0f}", "recorded_runs": "{:.0f}"}
    formats |= dict.fromkeys(("recorded", "simulated"), "{:.1f}") | {"difference": "{:+.1f}"}
    return Table(frame, headings, formats)


def clock(results: StudyResults) -> pd.DataFrame:
    """One row a recording with a straggler: recording, straggler, synchronous, seed, and the
    seconds to a test accuracy of ACCURACY at the end of an epoch; NaN where it never comes."""
    runs = recorded_runs(results, "straggler")
    history = results.curves("straggler")
    reached = history[history["test_accuracy"] >= ACCURACY]
    seconds = reached.groupby("run")["simulated_seconds"].min()
    kept = runs[["run", "recording", "straggler", "synchronous", "seed", "final_test_accuracy"]]
    return kept.assign(seconds=kept["run"].map(seconds))


def pairs(results: StudyResults) -> Iterator[tuple[Any, Any]]:
    """The rows of `clock`, asynchronous and synchronous, of a straggler and seed that have both."""
    for _, both in clock(results).groupby(["straggler", "seed"]):
        one = {bool(row.synchronous): row for row in both.itertuples()}
        if len(one) == 2:
            yield one[False], one[True]


def improvement(trace: Trace) -> float:
    """1/M times the sum over m of s_max / s_m, with the measured rounds of the workers."""
    each = mean_rounds(trace)
    return float(np.mean(each.max() / each))


def straggler(results: StudyResults) -> Table:
    """Asynchronous against synchronous, a row a factor and seed: by the clock and by formula."""
    rows = []
    for free, waiting in pairs(results):
        asynchronous, barrier = (results.recording(row.recording) for row in (free, waiting))
        rows.append(
            {
                "straggler": free.straggler,
                "seed": free.seed,
                "asynchronous_rate": gradients_a_second(asynchronous),
                "synchronous_rate": gradients_a_second(barrier),
                "formula": improvement(asynchronous),
                "asynchronous_seconds": free.seconds,
                "synchronous_seconds": waiting.seconds,
                "asynchronous_accuracy": free.final_test_accuracy,
                "synchronous_accuracy": waiting.final_test_accuracy,
            }
        )
    if not rows:
        raise ResultError("there is no pair of an asynchronous and a synchronous recording")
    frame = pd.DataFrame(rows)
    frame["improvement"] = frame["asynchronous_rate"] / frame["synchronous_rate"]
    frame["seconds_ratio"] = frame["asynchronous_seconds"] / frame["synchronous_seconds"]
    headings = {
        "straggler": "slower",
        "asynchronous_rate": "async./s",
        "synchronous_rate": "sync./s",
        "improvement": "ratio",
        "formula": "formula",
        "asynchronous_seconds": "async. s",
        "synchronous_seconds": "sync. s",
    }
    formats = dict.fromkeys(headings, "{:.1f}") | {"straggler": "{:.0f}"}
    return Table(frame, headings, formats)
