"""What the papers assume or conclude, each held to real processes.

`criteria.csv` has each criterion and why; all were written before the recordings that they judge.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from stalegrad.analysis.claims import (
    Finding,
    Threshold,
    cannot_tell,
    claim,
    verdict_of,
)
from stalegrad.analysis.nulls import DRAWS, Null, same_as, whatever
from stalegrad.analysis.recordings import staleness_of
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ResultError
from stalegrad.io.traces import Trace

from .tables import (
    CELL,
    clock,
    communication_seconds,
    compute_seconds,
    constant_cells,
    distance_from_normal,
    gradients_a_second,
    monte_carlo,
    real_runs,
    saturated,
    shares,
    simulated_runs,
    straggler,
    times_from_normal,
    variation_distance,
)
from .views import (
    as_fast_as_the_formula,
    as_slow_as_synchronous,
    at_chance,
    exponential_staleness,
    exponential_times,
    half_as_stale,
    half_the_computing,
    half_the_simulated_workers,
    like_split_data,
    monte_carlo_order,
    no_communication,
    normal_times,
    of_saturated,
    other_seed_as_constant,
    rates_of_a_barrier,
    real_as_simulated,
    rounds_of_the_slowest,
    without_pause,
)

CLOSE = 0.05  # relative, as in the study allawati2020
TRAINED = 0.2  # accuracy, above which a cell tells the two apart
NO_CONVERGENCE = 0.15
HALF_AS_STALE = Null("gradients are half as stale", of_saturated(half_as_stale))
MONTE_CARLO = Null("the paper's simulation is recorded", of_saturated(monte_carlo_order))


def _relative(found: float, expected: float) -> float:
    return abs(found / expected - 1)


def _of_each(results: StudyResults, statistic: Callable[[Trace, int], float]) -> pd.DataFrame:
    """recording, workers, seed and `value`, a statistic of (trace, workers)."""
    table = saturated(results)
    values = [statistic(results.recording(r.recording), r.workers) for r in table.itertuples()]
    return table.assign(value=values)


@claim(
    where="jain2018, section 2",
    threshold=Threshold("at most", CLOSE, "in every recording"),
    null=HALF_AS_STALE,
    ceiling=MONTE_CARLO,
    full_grid=True,
    seeds=2,
    exact=["monte_carlo"],
    shows=["staleness", "recordings"],
)
def delay_is_centred_at_workers_less_one(results: StudyResults, most: float) -> Finding:
    """'the number of updates on the server before gradient t' arrives fits a normal distribution
    centered at N - 1'

    The centre: the mean staleness of workers that share the data lies within 5 % of N - 1.
    """
    table = _of_each(results, lambda t, n: _relative(staleness_of(t).mean(), n - 1))
    worst = table.loc[table["value"].idxmax()]
    value = float(worst["value"])
    return Finding(
        verdict_of([value <= most]),
        "largest relative distance of the mean staleness from N - 1",
        value,
        f"Of {len(table)} recordings it is furthest in one of {worst['workers']} workers, by "
        f"{value:.2%}: a process has one gradient under way at any time.",
    )


@claim(
    where="jain2018, section 2",
    threshold=Threshold("at most", 0.05, "in every recording"),
    null=Null("staleness is exponential", of_saturated(exponential_staleness), draws=DRAWS),
    ceiling=MONTE_CARLO,
    full_grid=True,
    seeds=2,
    shows=["staleness", "recordings"],
)
def delay_fits_a_normal(results: StudyResults, most: float) -> Finding:
    """'the number of updates on the server before gradient t' arrives fits a normal distribution'

    The shape: its Kolmogorov-Smirnov distance from the normal fit is at most 0.05.
    """
    table = _of_each(results, lambda t, n: distance_from_normal(staleness_of(t)))
    value = float(table["value"].max())
    met = int((table["value"] <= most).sum())
    return Finding(
        verdict_of([value <= most]),
        "largest Kolmogorov-Smirnov distance of staleness from the normal fit",
        value,
        f"{met} of {len(table)} recordings are within it; the median distance is "
        f"{table['value'].median():.3f}.",
    )


@claim(
    where="jain2018, section 2",
    threshold=Threshold("at most", 0.05, "in the median recording"),
    null=Null("the times are exponential", of_saturated(exponential_times), draws=DRAWS),
    ceiling=Null("the times are normal", of_saturated(normal_times)),
    full_grid=True,
    seeds=2,
    shows=["recordings"],
)
def times_are_normal(results: StudyResults, most: float) -> Finding:
    """'The time for a worker to process and submit a gradient is assumed to be normally
    distributed'

    The Kolmogorov-Smirnov distance of the times between a worker's gradients, each over the mean of
    its worker, from the normal fit is at most 0.05 in the median recording.
    """
    table = _of_each(results, lambda t, n: times_from_normal(t))
    value = float(table["value"].median())
    return Finding(
        verdict_of([value <= most]),
        "median Kolmogorov-Smirnov distance of times from the normal fit",
        value,
        f"It lies between {table['value'].min():.3f} and {table['value'].max():.3f}.",
    )


@claim(
    where="jain2018, section 2",
    threshold=Threshold("at most", 0.1, "on average over recordings"),
    null=Null("the simulation has half the workers", half_the_simulated_workers),
    ceiling=MONTE_CARLO,
    full_grid=True,
    seeds=2,
    shows=["staleness", "recordings"],
)
def monte_carlo_has_the_delays(results: StudyResults, most: float) -> Finding:
    """'we conduct a Monte-Carlo simulation of N workers submitting gradients asynchronously to a
    parameter server'

    The total variation distance of recorded staleness from that of the simulation is at most 0.1 on
    average.
    """
    table = _of_each(
        results, lambda t, n: variation_distance(shares(staleness_of(t)), monte_carlo(results, n))
    )
    value = float(table["value"].mean())
    return Finding(
        verdict_of([value <= most]),
        "mean total variation distance from the Monte Carlo simulation",
        value,
        f"Between {table['value'].min():.2f} and {table['value'].max():.2f} of the gradients would "
        f"have to be of another staleness.",
    )


@claim(
    where="jain2018, section 2",
    threshold=Threshold("at most", 1.0, "point on average"),
    null=Null("constant delay is no delay", same_as({"delay": 0}, ["constant"])),
    ceiling=Null("another recorded order stands for constant delay", other_seed_as_constant),
    full_grid=True,
    seeds=2,
    shows=["staleness"],
)
def constant_delay_stands_for_recorded_order(results: StudyResults, most: float) -> Finding:
    """'constant-delay synchronous SGD is a faithful simulation of gradient delay in fully
    asynchronous SGD'

    Replays of recorded orders and runs with the constant delay N - 1 end within 1 point of each
    other on average over learning rates, workers and seeds, of those in which one of the two ends
    above 20 %.
    """
    table = constant_cells(results)
    table = table[table[["recorded", "constant"]].max(axis=1) > TRAINED]
    if table.empty:
        return cannot_tell("No run trained.")
    off = 100 * (table["constant"] - table["recorded"])
    value = float(off.abs().mean())
    worst = table.loc[off.abs().idxmax()]
    return Finding(
        verdict_of([value <= most]),
        "mean absolute difference of accuracy, constant delay and recorded order, points",
        value,
        f"Over {len(table)} pairs constant delay ends {off.mean():+.1f} points away; furthest "
        f"apart are {worst['workers']:.0f} workers at learning rate {worst['lr']:g}, with "
        f"{worst['recorded']:.1%} recorded and {worst['constant']:.1%} constant.",
    )


@claim(
    where="allawati2020, section 3, Lemma 1",
    threshold=Threshold("at most", CLOSE, "in every recording"),
    null=Null("workers compute half the time", of_saturated(half_the_computing)),
    ceiling=Null("workers compute without pause", of_saturated(without_pause)),
    full_grid=True,
    seeds=2,
    shows=["recordings"],
)
def update_rate_is_lemma_1(results: StudyResults, most: float) -> Finding:
    """'the limit of the expected rate at which the master updates the optimization parameter is
    n/(K mu)'

    The rate of updates is within 5 % of n/(K mu) in every recording, with the measured mean time mu
    of a computation.
    """
    table = _of_each(results, lambda t, n: _relative(gradients_a_second(t), n / compute_seconds(t)))
    value = float(table["value"].max())
    return Finding(
        verdict_of([value <= most]),
        "largest relative distance of the update rate from n/(K mu)",
        value,
        f"It is between {table['value'].min():.0%} and {value:.0%} away: real workers wait for "
        f"weights between computations.",
    )


@claim(
    where="allawati2020, section 3, Theorem 2",
    threshold=Threshold("at most", CLOSE, "in every recording"),
    null=HALF_AS_STALE,
    ceiling=Null("messages take no time", of_saturated(no_communication)),
    full_grid=True,
    seeds=2,
    shows=["recordings"],
)
def staleness_is_theorem_2(results: StudyResults, most: float) -> Finding:
    """'Then in the limit E[tau] = (n/K) (T_c + mu)/mu'

    The mean staleness, counted after the update, is within 5 % of it in every recording, with
    measured mu and T_c.
    """

    def off(trace: Trace, n: int) -> float:
        mu = compute_seconds(trace)
        return _relative(
            staleness_of(trace).mean() + 1, n * (communication_seconds(trace) + mu) / mu
        )

    table = _of_each(results, off)
    value = float(table["value"].max())
    return Finding(
        verdict_of([value <= most]),
        "largest relative distance of mean staleness from Theorem 2",
        value,
        f"It is between {table['value'].min():.0%} and {value:.0%} away: workers that wait for "
        f"weights have staleness n however long messages take.",
    )


@claim(
    where="the study lamour2023, Table II",
    threshold=Threshold("at most", 3.0, "points on average over cells"),
    null=Null(
        "simulated cells are exchanged at random",
        whatever(["delay_ms", "delayed", "partition"], ["ten_simulated"]),
        draws=DRAWS,
    ),
    ceiling=Null("a recorded run stands for the simulation", real_as_simulated),
    full_grid=True,
    seeds=2,
    shows=["real_cells", "cells"],
)
def real_cells_end_like_simulated(results: StudyResults, most: float) -> Finding:
    """'during the simulation the workers would independently receive delays'

    Recorded and simulated cells of ten workers end within 3 points of each other on average.
    """
    means = [
        runs.groupby(CELL)["final_test_accuracy"].mean()
        for runs in (real_runs(results), simulated_runs(results))
    ]
    off = (100 * (means[0] - means[1])).dropna()
    if off.empty:
        raise ResultError("no cell of ten workers is both recorded and simulated")
    worst = off.abs().idxmax()
    value = float(off.abs().mean())
    return Finding(
        verdict_of([value <= most]),
        "mean absolute difference of recorded and simulated accuracy, points",
        value,
        f"Over {len(off)} cells the recorded ones end {off.mean():+.1f} points away; furthest "
        f"apart is {worst[0]} at {worst[1]:.0f} ms with split {worst[2]}, by {off[worst]:+.1f}.",
    )


@claim(
    where="lamour2023, section V",
    threshold=Threshold("at least", 0.5, "of the runs", moves="share"),
    null=Null("they end like split data without delay", like_split_data),
    ceiling=Null("they end at chance", at_chance),
    full_grid=True,
    seeds=2,
    shows=["real_cells", "cells"],
)
def real_ten_workers_collapse(results: StudyResults, least: float) -> Finding:
    """'asynchronous SGD implementations can be subject to delay amongst workers which seriously
    deteriorates the model performance, especially in large clusters'

    In the strict sense: of the recorded runs of ten workers with split labels and one slow worker
    at least half end below 15 %.
    """
    runs = real_runs(results).query("partition == 'labels' and delayed == 'one'")
    accuracy = runs["final_test_accuracy"]
    value = float((accuracy < NO_CONVERGENCE).mean())
    return Finding(
        verdict_of([value >= least]),
        "share of recorded runs with split labels and a slow worker that end below 15 %",
        value,
        f"{len(runs)} runs end between {accuracy.min():.1%} and {accuracy.max():.1%}.",
    )


@claim(
    where="mishchenko2022, 'Asynchronous SGD is faster'",
    threshold=Threshold("at most", 0.5, "in every pair"),
    null=Null("asynchronous workers wait too", as_slow_as_synchronous),
    ceiling=Null("the improvement is that of the formula", as_fast_as_the_formula),
    full_grid=True,
    seeds=2,
    shows=["straggler"],
)
def asynchronous_is_faster_by_the_clock(results: StudyResults, most: float) -> Finding:
    """'Asynchronous SGD is faster'

    With one worker 10 and 100 times slower the asynchronous recording has a test accuracy of 85 %
    in at most half of the seconds that the synchronous one takes.
    """
    table = clock(results)
    wide = table.pivot(index=["straggler", "seed"], columns="synchronous", values="seconds")
    wide = wide.dropna(how="all")
    if wide.empty:
        return cannot_tell("No recording reaches an accuracy of 85 %.")
    ratio = wide[False].fillna(np.inf) / wide[True].fillna(np.inf)
    value = float(ratio.fillna(np.inf).max())
    return Finding(
        verdict_of([value <= most]),
        "largest ratio of seconds to 85 %, asynchronous over synchronous",
        value,
        f"It is between {ratio.min():.2f} and {value:.2f} in {len(ratio)} pairs.",
    )


@claim(
    where="mishchenko2022, 'Improvement'",
    threshold=Threshold("at most", 0.25, "in every pair"),
    null=Null("asynchronous workers wait for the slowest", rates_of_a_barrier),
    ceiling=Null("rounds take what the formula says", rounds_of_the_slowest),
    full_grid=True,
    seeds=2,
    shows=["straggler"],
)
def improvement_is_the_formula(results: StudyResults, most: float) -> Finding:
    """'Improvement: 1/M times the sum over m of s_max / s_m'

    The ratio of gradients a second, asynchronous over synchronous, is within 25 % of it, with the
    measured mean rounds of the workers.
    """
    table = straggler(results).frame
    off = (table["improvement"] / table["formula"] - 1).abs()
    worst = table.loc[off.idxmax()]
    return Finding(
        verdict_of([off.max() <= most]),
        "largest relative distance of the improvement from the formula",
        float(off.max()),
        f"Furthest apart is a straggler of {worst['straggler']:.0f}: {worst['improvement']:.1f} "
        f"times the gradients, by formula {worst['formula']:.1f}.",
    )
