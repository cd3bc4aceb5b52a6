"""The claims of lamour2023, each against our runs.

`criteria.csv` has each criterion beside the one that it replaces, and why; all were written before
the runs that they judge. The cells that the spread of worker speeds is calibrated on are judged by
none (`_uncalibrated`). Accuracies are in per cent and differences in points, unless a claim says
otherwise.
"""

import numpy as np
import pandas as pd

from stalegrad.analysis.claims import (
    Finding,
    Threshold,
    cannot_tell,
    claim,
    verdict_of,
)
from stalegrad.analysis.comparisons import compare_kinds, compare_runs, mean_interval
from stalegrad.analysis.nulls import Null, same_as, whatever
from stalegrad.analysis.results import StudyResults, student_half
from stalegrad.io.errors import ResultError

from .tables import (
    GAUSSIAN_KEYS,
    NEAR_CHANCE,
    OTHER_MOMENTA,
    SLOW_LABELS,
    TABLE2_KEYS,
    TABLE3_KEYS,
    TABLE4_KEYS,
    aliased_equals_off,
    barriers_by_seed,
    class_shares,
    compensated_runs,
    compensation_gain,
    gaussian_runs,
    in_percent,
    initial_weights,
    l2_and_momentum,
    label_drop,
    models_runs,
    slow_worker_drop,
    table1_runs,
    table2_cells,
    table2_runs,
    table3_cells,
    table4_cells,
)
from .views import (
    PERCENT,
    as_printed,
    momenta_exchanged,
    prints_exchanged,
    seed_as_print,
    slow_exchanged,
    taken_from,
)

SLOW_CELL = ["delay_ms", "workers"]  # what tells cells with one slow worker and split labels apart
TABLE_II = ["table2", "table2_undelayed"]
OFF = "grid == 'table2' and delayed == 'one' and partition == 'labels'"
TRAINS = (0.0, 0.5, 0.9, 0.95)  # the momenta that lead to convergence
ALIKE = 3.0  # points; single runs of a split-dataset cell differ by less
ROUNDED = 0.005  # points, of the print
NARROW = 5.0  # points either way, from which a prediction interval tells much
BARRIER = 0.1  # nats of test loss; where runs end it is about 0.3

PRINTS = Null("the printed numbers are taken", as_printed)
A_SEED = Null("one of our seeds stands in place of the print", seed_as_print, draws=9)
NO_PARTITION_EFFECT = Null(
    "partitions are exchanged at random", whatever(["partition"], TABLE_II), draws=20
)
NO_SLOW_EFFECT = Null(
    "which of the two has a slow worker is exchanged at random",
    whatever(["delayed"], ["table2"]),
    draws=20,
)
NO_MOMENTUM_EFFECT = Null(
    "momenta are exchanged at random", whatever(["momentum"], ["momentum"]), draws=20
)
NO_COMPENSATION = Null(
    "compensation does nothing: a run has the outcome of some seed without it",
    taken_from("grid == 'table4'", OFF, SLOW_CELL),
    draws=20,
)
AGAINST_ITSELF = "None: the printed numbers do not meet it either."


def _no_worker_effect(*grids: str) -> Null:
    words = "numbers of workers are exchanged at random"
    return Null(words, whatever(["workers", "machine_ms"], grids), draws=20)


def _uncalibrated(cells: pd.DataFrame) -> pd.DataFrame:
    """Rows of Table II without the cell that the spread is calibrated on."""
    calibrated = (cells["mode"] == "async") & (cells["delayed_workers"] == "none")
    calibrated &= (cells["workers"] == 5) & (cells["partition"] == "labels")
    return cells[~calibrated]


@claim(
    where="section IV, sSGD and aSGD",
    threshold=Threshold("at most", ALIKE, "points on average over five cells"),
    null=Null(
        "asynchronous workers without delay end as with one slow worker at 90 ms",
        taken_from(
            "grid == 'table2_undelayed' and not synchronous",
            "grid == 'table2' and delayed == 'one' and delay_ms == 90",
            ["workers", "partition", "seed"],
        ),
    ),
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table2"],
)
def synchronous_like_asynchronous_without_delay(results: StudyResults, most: float) -> Finding:
    """'using sSGD, which ensures update and worker synchronization, does not differ greatly from
    aSGD with no delays'

    The absolute difference of mean accuracies, averaged over the cells of workers and partition but
    the calibrated one, is at most 3 points.
    """
    cells = table2_cells(results).query("delayed_workers == 'none'")
    wide = _uncalibrated(cells).pivot(index=["workers", "partition"], columns="mode", values="mean")
    apart = (wide["sync"] - wide["async"]).dropna()
    worst = apart.abs().idxmax()
    value = float(apart.abs().mean())
    return Finding(
        verdict_of([value <= most]),
        "mean absolute difference of synchronous and asynchronous accuracy, points",
        value,
        f"Furthest apart, by {apart[worst]:+z.1f} points, are {worst[0]} workers with split "
        f"{worst[1]}.",
        paired=compare_kinds(
            table2_runs(results).query("delayed_workers == 'none'"),
            "mode",
            {"sync": "synchronous accuracy", "async": "asynchronous"},
            TABLE2_KEYS,
            "accuracy",
        ),
    )


@claim(
    where="section IV, Data partitioning and Delays",
    threshold=Threshold("at least", 5, "points in every cell"),
    null=NO_PARTITION_EFFECT,
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table2"],
)
def split_labels_lower_accuracy(results: StudyResults, least: float) -> Finding:
    """'the Split Labels has a negative impact on the accuracy whereas the Split Dataset enables
    some compensation'

    With a slow worker, split labels end at least 5 points below split dataset in every cell.
    """
    drop = label_drop(table2_cells(results), "mean")["points"]
    return Finding(
        verdict_of([drop.min() >= least]),
        "smallest mean accuracy lost to split labels with a slow worker, points",
        float(drop.min()),
        f"The loss is {drop.min():.1f} to {drop.max():.1f} points over {len(drop)} cells, and "
        f"{drop.mean():.1f} on average.",
        paired=compare_kinds(
            table2_runs(results).query("delayed_workers == 'one'"),
            "partition",
            {"dataset": "accuracy with a split dataset", "labels": "that with split labels"},
            TABLE2_KEYS,
            "accuracy",
        ),
    )


@claim(
    where="section IV, Data partitioning and Delays",
    threshold=Threshold("at most", 5.8, "points from the printed average"),
    null=NO_PARTITION_EFFECT,
    ceiling=A_SEED,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["averages", "table2"],
)
def split_labels_cost_28_points(results: StudyResults, most: float) -> Finding:
    """'an average decrease in accuracy between label and dataset splitting of 27.8% with standard
    deviation (std) of 8%'

    Our average, over the nine cells that give the published average, is at most 5.8 points from
    that: two of its standard errors.
    """
    ours = label_drop(table2_cells(results), "mean")["points"].mean()
    theirs = label_drop(results.published("table2"), PERCENT)["points"].mean()
    return Finding(
        verdict_of([abs(ours - theirs) <= most]),
        "distance of the average loss to split labels from the printed cells', points",
        float(abs(ours - theirs)),
        f"The printed cells with a slow worker average {theirs:.1f} points, ours {ours:.1f}.",
    )


@claim(
    where="section IV, Data partitioning and Delays",
    threshold=Threshold("at least", 5, "points on average"),
    null=NO_SLOW_EFFECT,
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table2"],
)
def one_slow_worker_lowers_accuracy(results: StudyResults, least: float) -> Finding:
    """'introducing a delay on only one worker instead of the entire cluster results in a decrease
    in accuracy'

    The mean loss over the cells of delay, workers and partition where both converge is at least
    5 points.
    """
    drops = slow_worker_drop(table2_cells(results), "mean")
    drop = drops.loc[drops["failed"] == 0, "points"]
    value = float(drop.mean())
    return Finding(
        verdict_of([value >= least]),
        "mean accuracy lost to one slow worker, points",
        value,
        f"{(drop > 0).sum()} of {len(drop)} cells where both converge end lower.",
        paired=compare_kinds(
            table2_runs(results).query("delay_ms > 0"),
            "delayed_workers",
            {"all": "accuracy with delay on all", "one": "that with one slower worker"},
            TABLE2_KEYS,
            "accuracy",
        ),
    )


@claim(
    where="section IV, Data partitioning and Delays",
    threshold=Threshold("at most", 7.6, "per cent from the printed average"),
    null=NO_SLOW_EFFECT,
    ceiling=A_SEED,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["averages", "table2"],
)
def one_slow_worker_costs_11_per_cent(results: StudyResults, most: float) -> Finding:
    """'a decrease in accuracy of approximately 11% with an std of 6% compared to the scenario where
    all workers are slowed down'

    Our average relative decrease, over the cells where both converge, is at most 7.6 per cent from
    that of the printed cells: two of its standard errors. (Relative, because the printed cells give
    11 only so.)
    """
    cells = (table2_cells(results), "mean"), (results.published("table2"), PERCENT)
    drops = [slow_worker_drop(table, column) for table, column in cells]
    kept, printed = (drop.loc[drop["failed"] == 0, "relative"] for drop in drops)
    ours, theirs = kept.mean(), printed.mean()
    return Finding(
        verdict_of([abs(ours - theirs) <= most]),
        "distance of the average relative decrease from the printed cells', per cent",
        float(abs(ours - theirs)),
        f"The printed cells that converge average {theirs:.1f} % with a deviation of "
        f"{printed.std():.1f}, ours {ours:.1f} %.",
    )


@claim(
    where="section IV, Data partitioning and Delays",
    threshold=Threshold("at least", 0.5, "for 5 and for 10 workers"),
    null=Null(
        "where all stop together a slow worker costs nothing",
        taken_from(
            "grid == 'stop' and not run_on and delay_ms > 0",
            "grid == 'stop' and not run_on and delay_ms == 0",
            ["workers", "seed"],
        ),
    ),
    ceiling=Null(
        "to stop together changes nothing",
        taken_from(
            "grid == 'stop' and not run_on",
            "grid == 'stop' and run_on",
            ["workers", "delay_ms", "seed"],
        ),
    ),
    full_grid=True,
    seeds=3,
    shows=["stop"],
)
def outdated_gradients_of_the_slow_worker(results: StudyResults, least: float) -> Finding:
    """'This can be attributed to the influence of outdated gradients from the "slow" worker'

    What one slow worker costs with split labels, against no delay, is at least half as much where
    all workers stop with the first, so that outdated gradients are left and nobody trains alone, as
    where each goes on to its own end. Of 5 and 10 workers, those whom it costs 5 points there.
    """
    runs = in_percent(results.grid("stop"))
    means = runs.groupby(["workers", "run_on", "delay_ms"])["accuracy"].mean().unstack()
    cost = (means[0.0] - means[90.0]).unstack("run_on")
    costs = "; ".join(
        f"{n} workers: {row[True]:+z.1f} points where each goes on, {row[False]:+z.1f} where all "
        f"stop together"
        for n, row in cost.iterrows()
    )
    share = (cost[False] / cost[True])[cost[True] >= 5]
    if share.empty:
        return cannot_tell(f"A slow worker costs 5 points nowhere: {costs}.")
    return Finding(
        verdict_of([share.min() >= least]),
        "least share of the cost of one slow worker that is left where all stop together",
        float(share.min()),
        f"A slow worker costs, with {costs}.",
        paired=compare_kinds(
            runs[~runs["run_on"].astype(bool)],
            "delay_ms",
            {
                0.0: "accuracy without delay",
                90.0: "that with one slow worker, all stopping together",
            },
            ["workers", "delay_ms"],
            "accuracy",
        ),
    )


@claim(
    where="section V",
    threshold=Threshold("at least", 10, "points in every seed"),
    null=_no_worker_effect(*TABLE_II),
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table2", "delay"],
)
def delay_hurts_most_in_large_clusters(results: StudyResults, least: float) -> Finding:
    """'asynchronous SGD implementations can be subject to delay amongst workers which seriously
    deteriorates the model performance, especially in large clusters'

    Against no delay, the delayed cells of Table II (each delay, on all or on one, both partitions)
    lose at least 10 points more on average with 10 workers than with 2, in every seed.
    """
    runs = table2_runs(results).query("mode == 'async' and workers != 5")
    cell = ["seed", "workers", "partition"]
    plain = runs.query("delayed_workers == 'none'").set_index(cell)["accuracy"]
    delayed = runs.query("delayed_workers != 'none'").set_index(cell)["accuracy"]
    lost = (plain.reindex(delayed.index) - delayed).groupby(["seed", "workers"]).mean().unstack()
    more = lost[10] - lost[2]
    return Finding(
        verdict_of([more.min() >= least]),
        "points lost with 10 workers less those lost with 2, the least of the seeds",
        float(more.min()),
        f"Lost with 2 workers: {lost[2].mean():.1f} points on average, with 10: "
        f"{lost[10].mean():.1f}.",
    )


@claim(
    where="section IV, Data partitioning and Delays; Figure 6",
    threshold=Threshold("above", 0.7, "of the runs"),
    null=_no_worker_effect("large"),
    ceiling="None: a run is near chance or it is not, and no share is printed.",
    full_grid=True,
    seeds=3,
    shows=["models"],
)
def larger_model_vanishes_with_workers(results: StudyResults, least: float) -> Finding:
    """'during training of a more complex model ... increasing the number of workers in 0-delayed
    aSGD can lead to gradient vanishing'

    The share of asynchronous runs of the larger model, without delay and with split dataset, that
    end near chance (at most 15) is higher with 10 workers than with 2 by more than 0.7.
    """
    runs = models_runs(results).query("problem == 'large_cnn' and mode == 'async'")
    vanished = runs["accuracy"] <= NEAR_CHANCE
    shares = vanished.groupby(runs["workers"]).mean()
    value = float(shares[10] - shares[2])
    return Finding(
        verdict_of([value > least]),
        "share of runs near chance with 10 workers less that with 2",
        value,
        "Near chance end "
        + ", ".join(
            f"{vanished[runs['workers'] == n].sum()} of {(runs['workers'] == n).sum()} runs with "
            f"{n} workers"
            for n in shares.index
        )
        + ".",
    )


@claim(
    where="section IV, Data partitioning and Delays; Figure 6",
    threshold=Threshold("at most", ALIKE, "points, and no run near chance"),
    null=Null(
        "synchronous runs end as asynchronous ones", same_as({"synchronous": False}, ["large"]), 20
    ),
    ceiling=Null(
        "numbers of synchronous workers are exchanged at random",
        whatever(["workers", "machine_ms"], ["large"]),
        20,
    ),
    full_grid=True,
    seeds=3,
    shows=["models"],
)
def larger_model_synchronous_unchanged(results: StudyResults, most: float) -> Finding:
    """'whereas there is no significant change for sSGD'

    Mean accuracies of synchronous runs of the larger model with 2, 5 and 10 workers lie within 3
    points of each other, and none ends near chance (at most 15), which would part them further.
    """
    runs = models_runs(results).query("problem == 'large_cnn' and mode == 'sync'")
    means = runs.groupby("workers")["accuracy"].mean()
    lost = int((runs["accuracy"] <= NEAR_CHANCE).sum())
    # A run near chance counts as what parts it from one that has trained.
    apart = float(means.max() - means.min()) if not lost else 100 - NEAR_CHANCE
    return Finding(
        verdict_of([apart <= most]),
        "largest difference between numbers of synchronous workers, points",
        apart,
        "Mean accuracy: "
        + ", ".join(f"{n} workers {value:.1f}" for n, value in means.items())
        + f"; {lost} of {len(runs)} runs end near chance.",
    )


@claim(
    where="section IV, Delay compensation; Table IV",
    threshold=Threshold("above", 0, "points"),
    null=Null(
        "compensation does nothing",
        taken_from("grid == 'table4_aliased'", OFF, [*SLOW_CELL, "seed"]),
    ),
    ceiling=Null(
        "the backup is a copy",
        taken_from(
            "grid == 'table4_aliased'", "grid == 'table4'", [*SLOW_CELL, "compensation", "seed"]
        ),
    ),
    printed=as_printed,
    shows=["table4", "faults"],
)
def published_compensation_acts(results: StudyResults, least: float) -> Finding:
    """'modifying the distributed framework in order to compensate for slowed-down workers, by using
    the delay compensation algorithm, can improve accuracy'

    As the authors' code had it, with a backup that is a reference to the live weights: some run of
    Table IV has another accuracy than the same run without compensation.
    """
    apart = aliased_equals_off(results)
    if apart.empty:
        raise ResultError("there is no run without compensation to compare with")
    gain, loss = apart["final_test_accuracy_difference"], apart["final_test_loss_difference"].abs()
    largest = float(100 * gain.abs().max())
    return Finding(
        verdict_of([largest > least]),
        "largest absolute difference in accuracy from the same run without compensation, points",
        largest,
        f"Of {len(apart)} runs {((loss > 0) | (gain != 0)).sum()} differ from the run without "
        f"compensation; the largest difference in test loss is {loss.max():.3g}.",
    )


@claim(
    where="section IV, Delay compensation",
    threshold=Threshold("at least", ALIKE, "points for each lambda"),
    null=NO_COMPENSATION,
    ceiling=AGAINST_ITSELF,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table4"],
)
def working_compensation_helps(results: StudyResults, least: float) -> Finding:
    """'delay compensation is actually a feasible solution for the problems that arise with outdated
    gradients'

    With a backup that is a copy, the mean gain over the cells of Table IV is at least 3 points for
    each constant lambda.
    """
    runs, off = in_percent(results.grid("table4")), _slow_labels(results)
    on = [*SLOW_CELL, "seed"]
    both = runs[[*on, "compensation", "accuracy"]].merge(
        off[[*on, "accuracy"]], on=on, suffixes=("", "_off")
    )
    both = both.assign(gain=both["accuracy"] - both["accuracy_off"])
    gains = both.groupby("compensation")["gain"].mean()
    trained = both[(both["accuracy"] > NEAR_CHANCE) & (both["accuracy_off"] > NEAR_CHANCE)]
    lost = int((both["accuracy"] <= NEAR_CHANCE).sum())
    lost_off = int((both["accuracy_off"] <= NEAR_CHANCE).sum())
    return Finding(
        verdict_of([gains.min() >= least]),
        "mean gain over all cells at the worse lambda, points",
        float(gains.min()),
        "The mean gain is "
        + ", ".join(f"{gain:+z.1f} at lambda = {s:g}" for s, gain in gains.items())
        + f"; near chance end {lost} of {len(both)} runs with it and {lost_off} without; where "
        f"neither does, it gains {trained['gain'].mean():+z.1f} points.",
        paired=compare_runs(
            runs,
            off,
            ("accuracy with working compensation", "that without"),
            cell=["compensation", *SLOW_CELL],
            on=SLOW_CELL,
            value="accuracy",
        ),
    )


@claim(
    where="section IV, Delay compensation",
    threshold=Threshold("below", 2, "from each"),
    null=NO_COMPENSATION,
    ceiling=AGAINST_ITSELF,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table4", "averages"],
)
def compensation_gains_as_quoted(results: StudyResults, most: float) -> Finding:
    """'can improve accuracy 7% for lambda=2 and 3% for lambda=5. 16% if considering only cases
    where accuracy improved'

    With a backup that is a copy, over the cells of Table IV: the mean gain at each lambda, and that
    of the cells that gain, is less than 2 from what is quoted: half of what sets 7 apart from 3.
    (The first two in points, the last relative, as the printed cells give 3 and 16.)
    """
    cells = table4_cells(results).query("kind == 'working'")
    gains = compensation_gain(cells, "mean")
    means = gains["points"].groupby("compensation_lambda").mean()
    improved = gains.loc[gains["points"] > 0, "relative"]
    ours = [means[2.0], means[5.0], improved.mean() if len(improved) else 0.0]
    off = np.abs(np.subtract(ours, [7, 3, 16]))
    return Finding(
        verdict_of([off.max() < most]),
        "largest distance from 7, 3 and 16",
        float(off.max()),
        f"The mean gain is {ours[0]:+z.1f} points at lambda = 2 and {ours[1]:+z.1f} at lambda = 5; "
        f"{len(improved)} of {len(gains)} cells gain, on average {ours[2]:.1f} %.",
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("at least", 0.5, moves="share"),
    null=NO_MOMENTUM_EFFECT,
    ceiling="None: the sentence says all that could be agreed with.",
    full_grid=True,
    seeds=3,
    shows=["momentum"],
)
def momentum_099_diverges(results: StudyResults, least: float) -> Finding:
    """'four momentums led to convergence, while the momentum of 0.99 caused divergence'

    Three workers without delay: mean accuracies at 0, 0.5, 0.9 and 0.95 are at least 0.5, and what
    that at 0.99 leaves to 1 is, too.
    """
    means = results.grid("momentum").groupby("momentum")["final_test_accuracy"].mean()
    value = float(min(means[list(TRAINS)].min(), 1 - means[0.99]))
    return Finding(
        verdict_of([value >= least]),
        "least of the accuracies of the four, and of 1 less that at 0.99",
        value,
        "Mean accuracy: " + ", ".join(f"{m:g}: {a:.3f}" for m, a in means.items()) + ".",
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("at most", 1, "of 3 points and of a barrier of 0.1"),
    null=Null("the run called 0.5 is that of 0.95", momenta_exchanged(0.5, 0.95)),
    ceiling="None: the paper shows it by two lines that lie on each other.",
    full_grid=True,
    seeds=3,
    shows=["momentum", "barriers"],
)
def momentum_05_like_none(results: StudyResults, most: float) -> Finding:
    """'when a momentum of 0.5 was applied, the convergence was nearly identical to that without
    momentum'

    Three workers without delay: mean accuracies at 0.5 and 0 differ by at most 3 points on average
    over epochs, and no seed has a barrier of more than 0.1 of test loss between their ends.
    """
    curves = results.curves("momentum")
    means = 100 * curves.groupby(["epoch", "momentum"])["test_accuracy"].mean().unstack()
    apart = means[0.5] - means[0.0]
    barrier = _between(results, 0.0, 0.5).max()
    value = float(max(apart.abs().mean() / ALIKE, barrier / BARRIER))
    return Finding(
        verdict_of([value <= most]),
        "larger of the mean difference in accuracy, in 3 points, and the barrier, in 0.1",
        value,
        f"The difference is {apart.iloc[0]:+z.1f} points after the first epoch, "
        f"{apart.iloc[-1]:+z.1f} after the last and {apart.abs().mean():.1f} on average; the "
        f"highest barrier {barrier:.3f}.",
        paired=compare_kinds(
            curves,
            "momentum",
            {0.5: "accuracy at momentum 0.5", 0.0: "that at 0"},
            ["epoch"],
            "test_accuracy",
        ),
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("at least", 0.8, "of the seeds", moves="share"),
    null=NO_MOMENTUM_EFFECT,
    ceiling="None: the paper has one run of each momentum, and prints no loss.",
    full_grid=True,
    seeds=3,
    shows=["momentum", "fig2"],
)
def momentum_09_in_the_best_minimum(results: StudyResults, least: float) -> Finding:
    """'the momentum of 0.9 led to convergence at the most optimal local minima among all the
    experiments'

    Three workers without delay: of the five momenta, 0.9 has the lowest training loss at the end in
    at least 0.8 of the seeds. (A minimum is one of the training loss; the reason has the others.)
    """
    runs = results.grid("momentum")
    by = {
        name: runs.pivot(index="seed", columns="momentum", values=f"final_{name}")
        for name in ("train_loss", "test_loss", "test_accuracy")
    }
    first = {name: wide.idxmin(axis=1) == 0.9 for name, wide in by.items()}
    first["test_accuracy"] = by["test_accuracy"].idxmax(axis=1) == 0.9
    share = float(first["train_loss"].mean())
    return Finding(
        verdict_of([share >= least]),
        "share of seeds in which 0.9 has the lowest training loss",
        share,
        f"0.9 is first by training loss in {first['train_loss'].sum()} of {len(runs) // 5} seeds, "
        f"by test loss in {first['test_loss'].sum()}, by accuracy in "
        f"{first['test_accuracy'].sum()}. Mean training and test loss: "
        + ", ".join(
            f"{m:g}: {by['train_loss'][m].mean():.3f}, {by['test_loss'][m].mean():.3f}"
            for m in by["train_loss"]
        )
        + ".",
    )


@claim(
    where="section IV, Momentum; Figures 1 and 2",
    threshold=Threshold("at least", BARRIER, "of test loss"),
    null=Null("the run called 0.95 is that of 0.5", momenta_exchanged(0.5, 0.95)),
    ceiling="None: the paper prints no barrier.",
    full_grid=True,
    shows=["barriers", "fig2", "projection"],
)
def momentum_095_in_another_minimum(results: StudyResults, least: float) -> Finding:
    """'a momentum of 0.95 resulted in the model converging to a different local minimum'

    The lowest barrier on the straight line from where 0.95 ended to where each of 0, 0.5 and 0.9
    did is above the highest between those three by at least 0.1 of test loss, on average over
    three seeds.
    """
    pairs = barriers_by_seed(results)
    other = (pairs["first"] == 0.95) | (pairs["second"] == 0.95)
    lowest = pairs[other].groupby("seed")["barrier"].min()
    among = pairs[~other].groupby("seed")["barrier"].max()
    apart = lowest - among
    return Finding(
        verdict_of([apart.mean() >= least]),
        "lowest barrier to 0.95 less the highest among the others, mean over seeds",
        float(apart.mean()),
        f"The lowest barrier between 0.95 and another is {lowest.min():.2f} to {lowest.max():.2f} "
        f"over seeds, the highest among the others {among.min():.2f} to {among.max():.2f}.",
        "",
        *mean_interval(apart),
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("above", 0.5, "of the cells", moves="share"),
    null=Null(
        "momenta are exchanged at random",
        taken_from(f"({OFF}) or grid == 'table3'", f"({OFF}) or grid == 'table3'", SLOW_CELL),
        draws=20,
    ),
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table3", "momentum"],
)
def momentum_09_is_best(results: StudyResults, least: float) -> Finding:
    """'using the momentum of 0.9 leads to optimal solutions for most delays and worker sizes'

    With one slow worker and split labels, 0.9 has the best mean accuracy of 0, 0.5, 0.9 and 0.99 in
    more than half of the cells of delay and workers.
    """
    others = table3_cells(results)
    two = table2_cells(results).query(SLOW_LABELS)
    both = pd.concat([others, two.assign(momentum=0.9)])
    wide = both.pivot(index=SLOW_CELL, columns="momentum", values="mean").dropna()
    best = wide.idxmax(axis=1) == 0.9
    return Finding(
        verdict_of([best.mean() > least]),
        "share of cells in which momentum 0.9 is best",
        float(best.mean()),
        f"0.9 is best in {best.sum()} of {len(best)} cells; means over cells: "
        + ", ".join(f"{m:g}: {value:.1f}" for m, value in wide.mean().items())
        + ".",
        paired=compare_runs(
            in_percent(results.grid("table3")),
            _slow_labels(results),
            ("accuracy at another momentum", "that at 0.9"),
            cell=["momentum", *SLOW_CELL],
            on=SLOW_CELL,
            value="accuracy",
        ),
    )


@claim(
    where="section IV, Momentum; Table III",
    threshold=Threshold("at least", ALIKE, "points on average"),
    null=Null(
        "momenta of 0 and 0.5 are exchanged at random",
        taken_from(
            "grid == 'table3' and momentum < 0.9", "grid == 'table3' and momentum < 0.9", SLOW_CELL
        ),
        draws=20,
    ),
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table3"],
)
def momentum_05_better_than_none(results: StudyResults, least: float) -> Finding:
    """'using a momentum of 0.5 instead of 0.0 seems to improve accuracy'

    With one slow worker and split labels, by at least 3 points on average over delays and workers.
    """
    wide = table3_cells(results).pivot(index=SLOW_CELL, columns="momentum", values="mean")
    gain = wide[0.5] - wide[0.0]
    return Finding(
        verdict_of([gain.mean() >= least]),
        "mean gain of momentum 0.5 over none, points",
        float(gain.mean()),
        f"0.5 ends higher than none in {(gain > 0).sum()} of {len(gain)} cells.",
        paired=compare_kinds(
            in_percent(results.grid("table3")),
            "momentum",
            {0.5: "accuracy at momentum 0.5", 0.0: "that at 0"},
            SLOW_CELL,
            "accuracy",
        ),
    )


@claim(
    where="section IV, Momentum; Table III",
    threshold=Threshold("at most", NEAR_CHANCE, "per cent in every cell"),
    null=Null("momenta are exchanged at random", whatever(["momentum"], ["table3"]), draws=20),
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table3"],
)
def momentum_099_random_in_larger_clusters(results: StudyResults, most: float) -> Finding:
    """'a decrease in the stability of the convergence shown by the random classification performed
    by clusters of sizes 5 and 10 for any delay'

    At momentum 0.99 with 5 and 10 workers, mean accuracy is at most 15 in every cell.
    """
    cells = table3_cells(results).query("momentum == 0.99 and workers >= 5")
    random = cells["mean"] <= NEAR_CHANCE
    return Finding(
        verdict_of([cells["mean"].max() <= most]),
        "largest mean accuracy at momentum 0.99, per cent",
        float(cells["mean"].max()),
        f"{random.sum()} of {len(cells)} cells are near chance; "
        f"{int(cells['no_convergence'].sum())} of {int(cells['count'].sum())} runs end at exactly "
        f"10 %.",
    )


@claim(
    where="section V; Tables V to VII",
    threshold=Threshold("at least", 10, "points in every seed"),
    null=_no_worker_effect("tables5-7"),
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["tables5to7"],
)
def momentum_needs_care_in_large_clusters(results: StudyResults, least: float) -> Finding:
    """'has to be used with care in large worker clusters as this would exacerbate outdated
    gradient-related issues'

    Tables V to VII: from momentum 0.5 to 0.9 and 0.99, 10 workers lose at least 10 points more than
    2 on average over delays and partitions, in every seed.
    """
    runs = in_percent(results.grid("tables5-7")).query("workers != 5")
    cell = ["seed", "workers", "delay_ms", "partition"]
    wide = runs.pivot(index=cell, columns="momentum", values="accuracy")
    wide = wide.reindex(columns=[0.5, 0.9, 0.99])  # of which a thinned preset has some
    lost = wide[[0.9, 0.99]].rsub(wide[0.5], axis=0)
    means = lost.mean(axis=1).groupby(["seed", "workers"]).mean().unstack()
    more = means[10] - means[2]
    by_momentum = lost.groupby("workers").mean()
    return Finding(
        verdict_of([more.min() >= least]),
        "points lost to momentum with 10 workers less those lost with 2, the least of the seeds",
        float(more.min()),
        "From momentum 0.5 are lost, with 2 and with 10 workers, "
        + ", ".join(
            f"{by_momentum.loc[2, m]:+z.1f} and {by_momentum.loc[10, m]:+z.1f} points at {m:g}"
            for m in by_momentum
        )
        + ".",
    )


@claim(
    where="Tables II to VII, NC",
    threshold=Threshold("at least", 0.5, "more of our seeds", moves="share"),
    null=Null(
        "the prints of ten workers at momentum 0.9 are exchanged at random",
        prints_exchanged("workers == 10 and momentum == 0.9"),
        draws=20,
    ),
    ceiling=A_SEED,
    printed="The print is what it is held against.",
    full_grid=True,
    seeds=3,
    shows=["table2", "table4", "tables5to7"],
)
def cells_without_convergence(results: StudyResults, least: float) -> Finding:
    """'NC = No Convergence, equivalent to test accuracies of 10 %, due to non-convergence of the
    model during training'

    Of the cells printed NC at momenta up to 0.9, all of ten workers, the share of our seeds that
    end near chance (at most 15) is higher by at least 0.5 than in all other ten-worker cells at
    momentum 0.9. (Momentum 0.99 has a claim of its own.)
    """
    runs = _printed_runs(results)
    runs = runs[(runs["workers"] == 10) & (runs["momentum"] == 0.9)]
    printed = runs["published"] <= NEAR_CHANCE
    ours = runs["accuracy"] <= NEAR_CHANCE
    if not printed.any():
        return cannot_tell("No cell stands without convergence.")
    cells = runs.loc[printed, "cell"].nunique()
    value = float(ours[printed].mean() - ours[~printed].mean())
    return Finding(
        verdict_of([value >= least]),
        "share of our seeds near chance in the cells printed NC less that in the others",
        value,
        f"In the {cells} cells printed NC {ours[printed].sum()} of {printed.sum()} runs end near "
        f"chance, in the others {ours[~printed].sum()} of {(~printed).sum()}.",
    )


@claim(
    where="section V",
    threshold=Threshold("at least", 1.5, "at every number of workers", moves="factor"),
    null=Null(
        "without a partition runs take as long as with one",
        taken_from(
            "grid == 'unpartitioned'",
            "grid == 'table2_undelayed' and not synchronous and partition == 'dataset'",
            ["workers"],
        ),
    ),
    ceiling="None: the paper prints no times of it.",
    shows=["table2"],
)
def partitions_save_time(results: StudyResults, least: float) -> Finding:
    """'Randomly assigning the data points to different workers ... speed up the training time
    compared to no data partitioning training'

    Simulated time for the same epochs is at least 1.5 times shorter with a split dataset at every
    number of workers.
    """
    whole = results.grid("unpartitioned").groupby("workers")["simulated_seconds"].mean()
    split = results.grid("table2_undelayed")
    split = split[~split["synchronous"].astype(bool) & (split["partition"] == "dataset")]
    ratio = (whole / split.groupby("workers")["simulated_seconds"].mean()).dropna()
    return Finding(
        verdict_of([ratio.min() >= least]),
        "smallest ratio of training times",
        float(ratio.min()),
        "By counting: without a partition n workers compute n times as many gradients. "
        + ", ".join(f"{n} workers take {r:.1f} times as long" for n, r in ratio.items())
        + ".",
    )


@claim(
    where="Tables II to VII, cell by cell",
    threshold=Threshold("at least", 0.9, "of the cells", moves="share"),
    null=Null("printed cells are exchanged at random within each table", prints_exchanged(), 20),
    ceiling=A_SEED,
    printed="The print is what it is held against.",
    full_grid=True,
    seeds=3,
    shows=["table2", "table3", "table4", "tables5to7"],
)
def tables_cell_by_cell(results: StudyResults, least: float) -> Finding:
    """'Test accuracies for aSGD with different delays' (of Table IV; here of Tables II to VII)

    At least 90 % of the printed cells lie inside the Student 95 % prediction interval of our seeds.
    (Printed cells are single runs. Those with compensation are held against our runs without.)
    """
    runs = _printed_runs(results)
    cells = runs.groupby("cell")["accuracy"].agg(["mean", "std", "count"])
    cells["published"] = runs.groupby("cell")["published"].first()
    half = student_half(cells["std"] * np.sqrt(1 + 1 / cells["count"]), cells["count"])
    apart = (cells["mean"] - cells["published"]).abs()
    cells = cells.assign(covered=apart <= half + ROUNDED, narrow=half <= NARROW)
    covered, narrow = cells["covered"], cells["narrow"]
    return Finding(
        verdict_of([covered.mean() >= least]),
        "share of printed cells inside the 95 % prediction interval of our seeds",
        float(covered.mean()),
        f"{covered.sum()} of {len(cells)} printed cells are inside; of the {narrow.sum()} whose "
        f"interval is no wider than {NARROW:g} points either way {(covered & narrow).sum()}. The "
        f"median distance from our mean is {apart.median():.1f} points.",
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("at least", 0.8, "of seeds and momenta", moves="share"),
    null=NO_MOMENTUM_EFFECT,
    ceiling="None: the paper prints neither norm nor loss.",
    full_grid=True,
    seeds=3,
    shows=["momentum"],
)
def momentum_is_no_regulariser(results: StudyResults, least: float) -> Finding:
    """'It doesn't serve directly as a regularization factor like L1 or L2'

    Three workers without delay: the weights' norm and the gap of test and training loss at the end,
    both of which a regulariser makes smaller, are both larger than without momentum in at least 0.8
    of the seeds and of momenta 0.5, 0.9 and 0.95.
    """
    runs = results.grid("momentum")
    gap = runs["final_test_loss"] - runs["final_train_loss"]
    runs = runs.assign(gap=gap, norm=runs["final_weight_norm"])
    wide = runs.pivot(index="seed", columns="momentum", values=["norm", "gap"])
    more = {kind: wide[kind].sub(wide[kind][0.0], axis=0) for kind in ("norm", "gap")}
    both = (more["norm"] > 0) & (more["gap"] > 0)
    share = float(both[list(OTHER_MOMENTA)].to_numpy().mean())
    gain = _at_equal_training_loss(results)
    return Finding(
        verdict_of([share >= least]),
        "share of seeds and momenta with both a larger norm and a larger gap than none",
        share,
        "Mean norm and gap: "
        + ", ".join(
            f"{m:g}: {wide['norm'][m].mean():.1f}, {wide['gap'][m].mean():.3f}"
            for m in (0.0, *OTHER_MOMENTA)
        )
        + "; at the training loss that none ends at, the test loss is lower by "
        + ", ".join(f"{gain[m]:+z.3f} at {m:g}" for m in OTHER_MOMENTA)
        + ".",
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("at most", 0.5, "of what L2 does, at every momentum and decay"),
    null=Null(
        "momentum does what L2 does",
        taken_from(
            f"grid == 'momentum' and momentum in {OTHER_MOMENTA}",
            "grid == 'weight_decay' and weight_decay > 0",
            ["seed"],
        ),
        draws=20,
    ),
    ceiling="None: the paper prints neither norm nor loss.",
    full_grid=True,
    seeds=3,
    shows=["momentum", "regularisation"],
)
def momentum_unlike_l2(results: StudyResults, most: float) -> Finding:
    """'It doesn't serve directly as a regularization factor like L1 or L2'

    Three workers without delay: none of the momenta 0.5, 0.9 and 0.95 lowers both the norm of the
    weights and the gap of test and training loss by more than half of what L2 lowers them by. At
    the end and at equal training loss, where L2 lowers both beyond chance.
    """
    cells = l2_and_momentum(results).dropna().groupby(["reading", "weight_decay", "momentum"])
    shares, lowers = {}, {}
    for name in ("norm", "gap"):
        l2 = cells[f"l2_{name}"]
        shares[name] = cells[f"momentum_{name}"].mean() / l2.mean()
        lowers[name] = l2.mean() > student_half(l2.sem(), l2.count())
    share = pd.DataFrame(shares).min(axis=1)[pd.DataFrame(lowers).all(axis=1)]
    if share.empty:
        return cannot_tell("At no decay does L2 lower both norm and gap beyond chance.")
    return Finding(
        verdict_of([share.max() <= most]),
        "largest share that momentum has of what L2 lowers norm and gap by, the smaller of the two",
        float(share.max()),
        _l2_words(share),
    )


@claim(
    where="section IV, Momentum; section V",
    threshold=Threshold("at least", 1.5, "times as long", moves="factor"),
    null=Null("the run called 0.9 is that without momentum", momenta_exchanged(0.0, 0.9)),
    ceiling="None: the paper shows it in a figure.",
    full_grid=True,
    shows=["fig2", "barriers"],
)
def momentum_explores_wider(results: StudyResults, least: float) -> Finding:
    """'It can explore a wider range of the loss landscape and potentially converge to a better
    local minimum'

    From the same weights, the path in the plane of the loss landscape is at least 1.5 times as long
    with momentum 0.9 as without, on average over three seeds. (That the minimum is better is a
    claim of its own.)
    """
    _, points, _ = results.landscape("ends")
    points = points.sort_values(["run", "epoch"])
    moved = points.groupby("run")[["pc1", "pc2"]].diff()
    points = points.assign(length=np.hypot(moved["pc1"], moved["pc2"]))
    lengths = points.groupby(["seed", "momentum"])["length"].sum().unstack()
    ratio = lengths[0.9] / lengths[0.0]
    means = lengths.mean()
    return Finding(
        verdict_of([ratio.mean() >= least]),
        "length of the path at momentum 0.9 over that without, mean over seeds",
        float(ratio.mean()),
        "Mean length: " + ", ".join(f"{m:g}: {means[m]:.2f}" for m in means.index) + ".",
        "",
        *mean_interval(ratio),
    )


@claim(
    where="section V",
    threshold=Threshold("at least", 10, "points in every seed"),
    null=NO_PARTITION_EFFECT,
    ceiling=PRINTS,
    printed=as_printed,
    full_grid=True,
    seeds=3,
    shows=["table2"],
)
def split_dataset_helps_overcome(results: StudyResults, least: float) -> Finding:
    """'Randomly assigning the data points to different workers instead of assigning specific
    classes helps overcome the decrease in accuracy'

    What a slow worker costs against no delay, on average over delays with 2 and 10 workers, is at
    least 10 points less with split dataset than with split labels, in every seed.
    """
    runs = table2_runs(results).query("mode == 'async' and workers != 5")
    cell = ["seed", "workers", "partition"]
    plain = runs.query("delayed_workers == 'none'").set_index(cell)["accuracy"]
    slow = runs.query("delayed_workers == 'one'").set_index(cell)["accuracy"]
    cost = (plain.reindex(slow.index) - slow).groupby(["seed", "partition"]).mean().unstack()
    saved = cost["labels"] - cost["dataset"]
    return Finding(
        verdict_of([saved.min() >= least]),
        "points of the cost of a slow worker that split dataset saves, the least of the seeds",
        float(saved.min()),
        f"A slow worker costs {cost['labels'].mean():.1f} points with split labels and "
        f"{cost['dataset'].mean():.1f} with split dataset.",
    )


@claim(
    where="section IV, Momentum",
    threshold=Threshold("at least", 0.8, "of the seeds", moves="share"),
    null=Null("momenta are exchanged at random", whatever(["momentum"], ["tuning"]), draws=20),
    ceiling="None: the paper prints no result of its tuning.",
    full_grid=True,
    seeds=3,
    shows=["momentum"],
)
def momentum_09_from_tuning(results: StudyResults, least: float) -> Finding:
    """'This value was actually obtained after running hyperparameter tuning on the classic
    non-distributed model'

    One worker that draws from the whole set: 0.9 has the best final accuracy of 0, 0.5, 0.9, 0.95
    and 0.99 in at least 0.8 of the seeds. (How it was tuned is not printed.)
    """
    runs = in_percent(results.grid("tuning"))
    wide = runs.pivot(index="seed", columns="momentum", values="accuracy")
    best = wide.idxmax(axis=1) == 0.9
    return Finding(
        verdict_of([best.mean() >= least]),
        "share of seeds in which 0.9 is best with one worker",
        float(best.mean()),
        "Mean accuracy: "
        + ", ".join(f"{m:g}: {value:.2f}" for m, value in wide.mean().items())
        + ".",
    )


@claim(
    where="section III; Table I",
    threshold=Threshold("at most", 15, "points"),
    null=Null(
        "labels are not split",
        taken_from(
            "grid == 'table2' and workers == 10 and delayed == 'one' and partition == 'labels'",
            "grid == 'table2' and workers == 10 and delayed == 'one' and partition == 'dataset'",
            ["delay_ms", "seed"],
        ),
    ),
    ceiling=A_SEED,
    printed="The print is what it is held against.",
    full_grid=True,
    seeds=3,
    shows=["table1", "recall"],
)
def table_1_recalls(results: StudyResults, most: float) -> Finding:
    """'Classification report performed on the test set showing the accuracies in % for each of the
    classes resulting from the training of 10 workers with 90 ms delay applied to the first worker'

    Sorted by size, the recalls of Table I are at most 15 points from the mean of our seeds' on
    average over classes. (Classes are dealt at random, so that only their order compares.)
    """
    shares = class_shares(table1_runs(results), "final_")
    recall = 100 * shares.pivot(index="seed", columns="class", values="recall").to_numpy()
    ours = np.sort(recall, axis=1).mean(axis=0)
    theirs = np.sort(results.published("table1")["recall_percent"].to_numpy())
    value = float(np.abs(ours - theirs).mean())
    return Finding(
        verdict_of([value <= most]),
        "mean distance of the sorted recalls of Table I from ours, points",
        value,
        f"The lowest three recalls are {', '.join(f'{r:.0f}' for r in theirs[:3])} % printed and "
        f"{', '.join(f'{r:.0f}' for r in ours[:3])} % in ours, the highest three "
        f"{', '.join(f'{r:.0f}' for r in theirs[-3:])} and "
        f"{', '.join(f'{r:.0f}' for r in ours[-3:])} %.",
    )


@claim(
    where="section IV, Data partitioning and Delays; Figures 3 and 4",
    threshold=Threshold("at least", BARRIER, "of test loss in every seed"),
    null=Null(
        "whether a worker is slow is exchanged at random in each seed", slow_exchanged, draws=20
    ),
    ceiling="None: the curves of the figures are not printed as numbers.",
    full_grid=True,
    shows=["fig3", "fig4"],
)
def slow_workers_harm_training(results: StudyResults, least: float) -> Finding:
    """'demonstrates that slow workers have a negative impact on the training process'

    10 workers with split labels, recorded ten times an epoch as for Figures 3 and 4: over the
    second half of training the test loss with one slow worker at 90 ms is above that without delay
    by at least 0.1, in every seed.
    """
    curves = results.trajectory("training")
    curves = curves[~curves["synchronous"].astype(bool)]
    late = curves[curves["epoch"] > curves["epoch"].max() / 2]
    loss = late.groupby(["seed", late["delay_ms"] > 0])["test_loss"].mean().unstack()
    apart = loss[True] - loss[False]
    return Finding(
        verdict_of([apart.min() >= least]),
        "test loss with one slow worker less that without, the least of the seeds",
        float(apart.min()),
        f"Mean test loss is {loss[True].mean():.2f} with a slow worker and "
        f"{loss[False].mean():.2f} without; it is higher with one in {(apart > 0).sum()} of "
        f"{len(apart)} seeds.",
    )


@claim(
    where="section IV, Data partitioning and Delays",
    threshold=Threshold("at least", 0.25, "of the variance", moves="share"),
    null=Null(
        "initialisations are exchanged at random",
        whatever(["initialisation"], ["weights"]),
        draws=20,
    ),
    ceiling="None: all runs of the paper start from the same weights.",
    full_grid=True,
    seeds=3,
    shows=["weights"],
)
def impacted_by_the_initial_conditions(results: StudyResults, least: float) -> Finding:
    """'The convergence could also be impacted by the initial conditions and non-explicit delays
    induced by concurrent processes in the CPU'

    Ten asynchronous workers from the authors' weights and from four others: of the variance of
    their accuracies, pooled over both partitions with and without a slow worker, at least 0.25 lies
    between initialisations (one-way analysis of variance).
    """
    runs = initial_weights(results)
    cells = runs.groupby(["partition", "delay_ms", "start_from"])["accuracy"]
    seeds = runs["seed"].nunique()
    within = cells.var(ddof=1).mean()
    means = cells.mean().groupby(["partition", "delay_ms"])
    between = max(0.0, means.var(ddof=1).mean() - within / seeds)
    total = between + within
    share = float(between / total) if total > 0 else 0.0
    low, high = cells.mean().min(), cells.mean().max()
    return Finding(
        verdict_of([share >= least]),
        "share of the variance of ten-worker accuracies between initialisations",
        share,
        f"Standard deviation between initialisations {np.sqrt(between):.1f} points, between seeds "
        f"of one {np.sqrt(within):.1f}; means of {seeds} seeds range from {low:.1f} to "
        f"{high:.1f} %.",
    )


def _between(results: StudyResults, first: float, second: float) -> pd.Series:
    """The barriers between the ends of two momenta, one a seed."""
    pairs = barriers_by_seed(results)
    ends = {first, second}
    chosen = [{a, b} == ends for a, b in zip(pairs["first"], pairs["second"], strict=True)]
    return pairs.loc[chosen, "barrier"]


def _at_equal_training_loss(results: StudyResults) -> pd.Series:
    """By how much the test loss of each momentum is lower than without, where its training loss is
    what none ends at; mean over seeds. Between two epochs losses are interpolated."""
    curves = results.curves("momentum")
    last = curves["epoch"].max()
    gains = []
    for seed, here in curves.groupby("seed"):
        end = here[(here["momentum"] == 0.0) & (here["epoch"] == last)].iloc[0]
        for momentum in OTHER_MOMENTA:
            run = here[here["momentum"] == momentum].sort_values("train_loss")
            test = np.interp(end["train_loss"], run["train_loss"], run["test_loss"])
            gains.append({"momentum": momentum, "seed": seed, "gain": end["test_loss"] - test})
    return pd.DataFrame(gains).groupby("momentum")["gain"].mean()


def _l2_words(shares: pd.Series) -> str:
    """The decays at which L2 is a regulariser, with the largest share that momentum has of it."""
    parts = []
    for reading, words in (("end", "At the end"), ("equal", "at equal training loss")):
        here = shares[shares.index.get_level_values("reading") == reading]
        largest = here.groupby("weight_decay").max()
        found = ", ".join(f"{share:+z.2f} of {decay:g}" for decay, share in largest.items())
        parts.append(f"{words} {found or 'there is no decay at which L2 lowers both'}")
    return f"Largest shares, negative where momentum raises one of the two. {'; '.join(parts)}."


def _printed_runs(results: StudyResults) -> pd.DataFrame:
    """Our runs of every printed cell that is judged, one row a cell and seed: `cell`, its name;
    `workers`, `momentum`, `accuracy`, and the `published` accuracy."""
    four = compensated_runs(results)
    tables = {
        "table2": (_uncalibrated(table2_runs(results)), TABLE2_KEYS),
        "table3": (in_percent(results.grid("table3")), TABLE3_KEYS),
        "table4": (four[four["kind"] == "as published"], TABLE4_KEYS),
        "tables5-7": (_uncalibrated_gaussian(gaussian_runs(results)), GAUSSIAN_KEYS),
    }
    found = []
    for name, (runs, keys) in tables.items():
        printed = results.published(name)[[*keys, PERCENT]].rename(columns={PERCENT: "published"})
        both = runs.merge(printed, on=keys)
        named = both[keys].astype(str).agg(" ".join, axis=1)
        both = both.assign(cell=f"{name} " + named)
        found.append(both[["cell", "workers", "momentum", "accuracy", "published"]])
    return pd.concat(found, ignore_index=True)


def _uncalibrated_gaussian(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of Tables V to VII without the cells that the spread is calibrated on."""
    calibrated = (runs["workers"] == 5) & (runs["partition"] == "labels")
    return runs[~(calibrated & (runs["momentum"] == 0.9))]


def _slow_labels(results: StudyResults) -> pd.DataFrame:
    """Runs of Table II with one slow worker and split labels, momentum 0.9, no compensation."""
    return table2_runs(results).query(SLOW_LABELS)
