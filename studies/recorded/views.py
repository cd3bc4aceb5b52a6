"""Results in which a claim of this study is false, or met as well as can be."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from stalegrad.analysis.nulls import View, changed, taking, taking_of, with_recordings
from stalegrad.analysis.recordings import staleness_of
from stalegrad.analysis.results import StudyResults
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.io.errors import ResultError
from stalegrad.io.traces import APPLIED, Trace
from stalegrad.schedule import Workload, count_within
from stalegrad.staleness.compute_times import Normal

from .tables import (
    CELL,
    clock,
    compute_seconds,
    gradients_a_second,
    improvement,
    mean_rounds,
    pairs,
    real_runs,
    recorded_runs,
    rounds,
    saturated,
    simulated_runs,
)

Change = Callable[[Trace, np.random.Generator], Trace]


def of_saturated(change: Change) -> View:
    """The recordings without delay are changed."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        names = saturated(results)["recording"]
        return with_recordings(results, {n: change(results.recording(n), chance) for n in names})

    return view


def _with(trace: Trace, **columns: np.ndarray) -> Trace:
    return replace(trace, columns={**trace.columns, **columns})


def _with_staleness(trace: Trace, staleness: np.ndarray) -> Trace:
    number = np.arange(trace.arrivals)
    return _with(trace, version=number - np.minimum(staleness, number))


def _with_rounds(trace: Trace, draw: Callable[[np.ndarray], np.ndarray]) -> Trace:
    arrived = trace.columns["arrived"].copy()
    for worker, times in enumerate(rounds(trace)):
        mine = np.flatnonzero(trace.columns["worker"] == worker)
        arrived[mine[1:]] = arrived[mine[0]] + np.cumsum(draw(times))
    return _with(trace, arrived=arrived)


def _with_rate(trace: Trace, rate: float) -> Trace:
    return _with(trace, **{APPLIED: trace.columns[APPLIED] * gradients_a_second(trace) / rate})


def half_as_stale(trace: Trace, chance: np.random.Generator) -> Trace:
    return _with_staleness(trace, staleness_of(trace) // 2)


def exponential_staleness(trace: Trace, chance: np.random.Generator) -> Trace:
    mean = staleness_of(trace).mean()
    return _with_staleness(trace, chance.exponential(mean, trace.arrivals).astype(int))


def monte_carlo_order(trace: Trace, chance: np.random.Generator) -> Trace:
    """The arrivals of jain2018's Monte Carlo simulation, as many as were recorded."""
    times = Normal(loc=1.0, scale=0.2)
    made = HubAndSpoke(workers=trace.workers, compute_time=times).simulate(
        Workload((trace.arrivals,), 1), chance
    )
    return _with(trace, version=made.read_version.astype(int))


def exponential_times(trace: Trace, chance: np.random.Generator) -> Trace:
    return _with_rounds(trace, lambda times: chance.exponential(times.mean(), len(times)))


def normal_times(trace: Trace, chance: np.random.Generator) -> Trace:
    return _with_rounds(
        trace, lambda times: chance.normal(times.mean(), times.std() or 1e-9, len(times))
    )


def half_the_computing(trace: Trace, chance: np.random.Generator) -> Trace:
    start, end = trace.columns["start"], trace.columns["end"]
    return _with(trace, end=start + (end - start) / 2)


def without_pause(trace: Trace, chance: np.random.Generator) -> Trace:
    """The rate is that of workers that compute all the time."""
    return _with_rate(trace, trace.workers / compute_seconds(trace))


def no_communication(trace: Trace, chance: np.random.Generator) -> Trace:
    """A round is a computation, and staleness, counted after the update, is n."""
    mu, worker = compute_seconds(trace), trace.columns["worker"]
    before = count_within(worker, trace.workers)
    stale = np.full(trace.arrivals, trace.workers - 1)
    timed = _with(trace, read=mu * before, arrived=mu * (before + 1))
    return _with_staleness(timed, stale)


def half_the_simulated_workers(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    rows = results.staleness
    doubled = rows["workers"].where(rows["simulation"] != "monte_carlo", 2 * rows["workers"])
    return changed(results, staleness=rows.assign(workers=doubled))


def other_seed_as_constant(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Runs of constant delay have the outcomes of the recorded order of another seed."""
    constant, real = results.grid("constant"), recorded_runs(results, "saturated")
    seeds = sorted(real["seed"].unique())
    after = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    left = constant.assign(workers=constant["delay"] + 1, seed=constant["seed"].map(after))
    return taking_of(results, left, real, ["workers", "lr", "seed"])


def real_as_simulated(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Simulated cells have the outcomes of a recorded run each."""
    first = real_runs(results).sort_values("seed").drop_duplicates(CELL)
    return taking_of(results, simulated_runs(results), first, CELL)


def like_split_data(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Recorded runs of ten workers end like one with split data and no delay."""
    real = real_runs(results)
    there = real[(real["partition"] == "dataset") & (real["delayed"] == "none")]
    if there.empty:
        raise ResultError("there is no recording of split data without delay")
    source = pd.Series(results.runs.index, index=results.runs.index)
    source.loc[real.index] = there.index[0]
    return taking(results, source)


def at_chance(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    ten = results.runs["grid"] == "ten"
    accuracy = results.runs["final_test_accuracy"].mask(ten, 0.1)
    return changed(results, runs=results.runs.assign(final_test_accuracy=accuracy))


def as_slow_as_synchronous(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Asynchronous recordings have the outcomes and times of synchronous ones."""
    runs = recorded_runs(results, "straggler")
    barrier = runs["synchronous"].astype(bool)
    key = ["straggler", "seed"]
    return taking_of(results, runs[~barrier], runs[barrier], key)


def as_fast_as_the_formula(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Asynchronous recordings take the synchronous seconds over the paper's improvement."""
    same = as_slow_as_synchronous(results, chance)
    times = clock(results)
    factor = {}
    for row in times[~times["synchronous"].astype(bool)].itertuples():
        factor[row.run] = improvement(results.recording(row.recording))
    history = same.history
    seconds = history["simulated_seconds"] / history["run"].map(factor).fillna(1.0)
    return changed(same, history=history.assign(simulated_seconds=seconds))


def rates_of_a_barrier(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Gradients of asynchronous recordings are applied as slowly as those of synchronous ones."""

    def change(asynchronous: Trace, barrier: Trace) -> dict[str, Trace]:
        return {"asynchronous": _with_rate(asynchronous, gradients_a_second(barrier))}

    return _pairs(results, change)


def rounds_of_the_slowest(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """A synchronous round takes as long as its slowest worker, an asynchronous one its own."""

    def change(asynchronous: Trace, barrier: Trace) -> dict[str, Trace]:
        each = mean_rounds(asynchronous)
        return {
            "asynchronous": _with_rate(asynchronous, float((1 / each).sum())),
            "barrier": _with_rate(barrier, len(each) / float(each.max())),
        }

    return _pairs(results, change)


def _pairs(
    results: StudyResults, change: Callable[[Trace, Trace], dict[str, Trace]]
) -> StudyResults:
    others: dict[str, Trace] = {}
    for free, waiting in pairs(results):
        made = change(results.recording(free.recording), results.recording(waiting.recording))
        kinds = {"asynchronous": free.recording, "barrier": waiting.recording}
        others |= {kinds[kind]: trace for kind, trace in made.items()}
    return with_recordings(results, others)
