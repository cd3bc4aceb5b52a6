"""The claims of jain2018, each against our runs. Thresholds were set before the runs were made."""

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad.claims import (
    CANNOT_TELL,
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    Finding,
    claim,
    mean_interval,
    share_interval,
    share_verdict,
    verdict_of,
)
from stalegrad.results import StudyResults, over_seeds
from stalegrad.tables.jain2018 import (
    COLLAPSED,
    PUBLISHED_ADAM,
    TOLERANCE,
    best_cells,
    delay_kinds,
    fig1,
    fig2_cells,
    heuristic,
    largest_trained_rate,
    warmup,
)

HALF_DECADE = 10**-2.5
COMPARABLE = 0.01  # accuracies this close are 'comparable'


@claim(where="section 2, Figure 1")
def delay_centred_at_workers_less_one(results: StudyResults) -> Finding:
    """'the number of updates on the server before gradient t' arrives fits a normal distribution
    centered at N - 1'

    The centre: the mean delay lies within 1 % of N - 1 for every N.
    """
    table = fig1(results).frame
    off = (table["difference"] / table["published"]).abs()
    worst = table.loc[off.idxmax()]
    error = 1.96 * worst["mean_error"] / worst["published"]
    return Finding(
        verdict_of(list(off <= 0.01)),
        "largest relative distance of the mean delay from N - 1",
        off.max(),
        "at most 0.01 for every N",
        f"The mean delay differs from N - 1 by at most {off.max():.2%} (N = "
        f"{worst['workers']:.0f}).",
        off.max() - error,
        off.max() + error,
    )


@claim(where="section 2, Figure 1")
def delay_fits_a_normal(results: StudyResults) -> Finding:
    """'the number of updates on the server before gradient t' arrives fits a normal distribution'

    The shape: the distance (Kolmogorov-Smirnov) from the normal fit is at most 0.05 for every N.
    """
    table = fig1(results).frame
    distance = table["normal_distance"]
    worst = table.loc[distance.idxmax()]
    return Finding(
        verdict_of(list(distance <= 0.05)),
        "largest Kolmogorov-Smirnov distance from the normal fit",
        distance.max(),
        "at most 0.05 for every N",
        f"The distance is largest, {distance.max():.3f}, at N = {worst['workers']:.0f}, and "
        f"{table['normal_distance'].iloc[-1]:.3f} at N = {table['workers'].iloc[-1]:.0f}.",
    )


@claim(where="section 2")
def constant_delay_stands_for_asynchrony(results: StudyResults) -> Finding:
    """'constant-delay synchronous SGD is a faithful simulation of gradient delay in fully
    asynchronous SGD'

    Training with N workers of N(1, 0.2^2) times and with constant delay N - 1 ends on the same
    side of collapse, and where both train within 0.01, in at least 90 % of the cells.
    """
    cells = delay_kinds(results)
    same = (cells["constant"] >= COLLAPSED) == (cells["random"] >= COLLAPSED)
    close = (cells["constant"] - cells["random"]).abs() <= COMPARABLE
    agree = same & (close | (cells["constant"] < COLLAPSED))
    return Finding(
        share_verdict(agree.mean()),
        "share of cells in which constant and random delay agree",
        agree.mean(),
        "at least 0.9 (partly from 0.5)",
        f"{agree.sum()} of {len(agree)} cells agree; the largest difference between two trained "
        f"cells is {_largest_gap(cells):.4f}.",
        *share_interval(agree),
    )


def _largest_gap(cells: pd.DataFrame) -> float:
    both = cells[(cells >= COLLAPSED).all(axis=1)]
    return float((both["constant"] - both["random"]).abs().max())


@claim(where="section 3, first sentence", full_grid=True)
def best_at_low_rate_and_small_batch(results: StudyResults) -> Finding:
    """'Asynchronous SGD simulated at different submission delays shows best performance at low
    learning rates (lr = 10^-3) and low batch sizes (b = 64, b = 128)'

    At each delay above 0, the better of the two cells with rate 10^-3 and batch 64 or 128 is within
    0.005 of the best cell.
    """
    cells = _delayed(fig2_cells(results))
    best = cells.groupby("delay")["mean"].max()
    named = cells[np.isclose(cells["lr"], 1e-3) & cells["batch_size"].isin([64, 128])]
    short = best - named.groupby("delay")["mean"].max()
    return Finding(
        verdict_of(list(short <= 0.005)),
        "largest shortfall of the named cells from the best cell of their delay",
        short.max(),
        "at most 0.005 at every delay",
        f"The named cells fall short of the best by {short.min():.4f} to {short.max():.4f}.",
    )


@claim(where="section 3, second sentence", full_grid=True)
def large_batches_and_rates_degrade(results: StudyResults) -> Finding:
    """'Test accuracy significantly degrades at batch sizes larger than 256 and lr >= 10^-2.5'

    At each delay above 0: mean accuracy of the cells with batch above 256 and rate at least
    10^-2.5 is at least 0.1 below that of the cells with batch up to 256 and rate 10^-3.5 to 10^-3.
    """
    cells = _delayed(fig2_cells(results))
    large = cells[(cells["batch_size"] > 256) & (cells["lr"] > 0.99 * HALF_DECADE)]
    rates = cells["lr"].between(0.99 * 10**-3.5, 1.01 * 10**-3)
    small = cells[(cells["batch_size"] <= 256) & rates]
    drop = small.groupby("delay")["mean"].mean() - large.groupby("delay")["mean"].mean()
    return Finding(
        verdict_of(list(drop >= 0.1)),
        "mean drop in accuracy",
        drop.mean(),
        "at least 0.1 at every delay",
        f"The drop is {drop.min():.2f} to {drop.max():.2f}.",
        *mean_interval(drop),
    )


@claim(where="section 3, third sentence")
def rises_with_rate_then_drops(results: StudyResults) -> Finding:
    """'regardless of delay amount, test accuracy scales smoothly upward with lr, then sharply drops
    off'

    For each delay and batch size: up to the best rate no step down by more than 0.02, and past it
    some half decade that loses at least 0.3. Holds for at least 90 % of the curves.
    """
    holds = [
        _rises_then_drops(curve.sort_values("lr")["mean"].to_numpy())
        for _, curve in fig2_cells(results).groupby(["delay", "batch_size"])
    ]
    return Finding(
        share_verdict(np.mean(holds)),
        "share of curves that rise and then drop",
        float(np.mean(holds)),
        "at least 0.9 (partly from 0.5)",
        f"{sum(holds)} of {len(holds)} curves rise to their best rate and then lose at least 0.3 "
        f"within half a decade.",
        *share_interval(holds),
    )


def _rises_then_drops(accuracy: np.ndarray) -> bool:
    top = int(accuracy.argmax())
    rise, fall = np.diff(accuracy[: top + 1]), np.diff(accuracy[top:])
    # Below 0.5 nothing has been learnt yet and chance decides, so only learnt steps can go down.
    learnt = accuracy[:top] >= COLLAPSED
    return bool((rise[learnt] >= -0.02).all() and (fall <= -0.3).any())


@claim(where="section 3, fourth sentence")
def drops_sooner_with_more_delay(results: StudyResults) -> Finding:
    """'SGD with more delay is less resilient to learning rate adjustment, with the test accuracy
    dropping off sooner'

    At each batch size the largest rate that trains never grows with delay, and is smaller at the
    largest delay than at none.
    """
    holds, moves = [], []
    for _, cells in fig2_cells(results).groupby("batch_size"):
        edge = largest_trained_rate(cells, "mean")
        decades = np.log10(edge.to_numpy())
        moves.append(decades[0] - decades[-1])
        holds.append(bool((np.diff(decades) < 0.01).all() and moves[-1] > 0.01))
    return Finding(
        verdict_of(holds),
        "decades by which the largest rate that trains falls from the least to the most delay",
        float(np.mean(moves)),
        "never grows with delay, and falls, at every batch size",
        f"It falls by {min(moves):.1f} to {max(moves):.1f} decades; it never grows with delay at "
        f"{sum(holds)} of {len(holds)} batch sizes.",
        *mean_interval(moves),
    )


@claim(where="Figure 2, cell by cell", full_grid=True)
def figure_2_side_of_collapse(results: StudyResults) -> Finding:
    """'MNIST test accuracy under synchronous and delayed update schemes' (Figure 2)

    At least 90 % of the readable cells lie on the same side of 0.5 as published. Cells that the
    scan leaves unreadable are not counted.
    """
    cells = fig2_cells(results)
    cells = cells[cells["published"].notna()]
    same = (cells["mean"] >= COLLAPSED) == (cells["published"] >= COLLAPSED)
    correlation = stats.spearmanr(cells["mean"], cells["published"]).statistic
    return Finding(
        share_verdict(same.mean()),
        "share of readable cells on the same side of collapse",
        same.mean(),
        "at least 0.9 (partly from 0.5)",
        f"{same.sum()} of {len(same)} readable cells; rank correlation over all of them "
        f"{correlation:.2f}.",
        *share_interval(same),
    )


@claim(where="Figure 2, cell by cell", full_grid=True)
def figure_2_accuracies(results: StudyResults) -> Finding:
    """'Test accuracy after 30 epochs with SGD, momentum = 0.9' (Figure 2)

    Where both train to at least 0.9, at least 90 % of the cells agree within 0.01.
    """
    cells = fig2_cells(results)
    both = cells[(cells["mean"] >= 0.9) & (cells["published"] >= 0.9)]
    difference = both["mean"] - both["published"]
    close = difference.abs() <= TOLERANCE
    return Finding(
        share_verdict(close.mean()),
        "share of trained cells within 0.01 of the published accuracy",
        close.mean(),
        "at least 0.9 (partly from 0.5)",
        f"{close.sum()} of {len(close)}; on average ours is {difference.mean():+.4f} from the "
        f"published.",
        *share_interval(close),
    )


@claim(where="section 3, on Figure 3", full_grid=True)
def adam_is_more_resilient(results: StudyResults) -> Finding:
    """'optimizers which employ per-parameter adaptive learning rates, such as Adam, increase
    resiliency to learning rate and batch size selections'

    At each delay of 32 and more, Adam reaches 0.9 in a larger share of the rates and batch sizes
    that both were given than SGD does.
    """
    shares = {}
    rates = set(results.grid("fig3_adam")["lr"]) & set(results.grid("fig3_sgd")["lr"])
    for rule in ("adam", "sgd"):
        runs = _delayed(results.grid(f"fig3_{rule}"))
        runs = runs[runs["lr"].isin(rates)]
        shares[rule] = (runs["final_test_accuracy"] >= 0.9).groupby(runs["delay"]).mean()
    more = shares["adam"] - shares["sgd"]
    return Finding(
        verdict_of(list(more > 0)),
        "share of cells that reach 0.9, Adam less SGD, mean over delays",
        more.mean(),
        "above 0 at every delay",
        "; ".join(
            f"delay {d}: Adam {shares['adam'][d]:.2f}, SGD {shares['sgd'][d]:.2f}"
            for d in more.index
        )
        + ".",
        *mean_interval(more),
    )


@claim(where="abstract; section 3, last paragraph", full_grid=True)
def adam_comparable_to_one_worker(results: StudyResults) -> Finding:
    """'hand-tuned learning rates and batch sizes using Adam can lead to results comparable (98.21%,
    98.19%, and 97.94% accuracy respectively) to the 1-worker synchronous case'

    Comparable: the best cell at each of delay 32, 128 and 256 is within 0.01 of the best at delay
    0.
    """
    best = best_cells(results, "fig3_adam").set_index("delay")["mean"]
    short = best[0] - best[list(PUBLISHED_ADAM)]
    return Finding(
        verdict_of(list(short <= COMPARABLE)),
        "largest shortfall from the best without delay",
        short.max(),
        "at most 0.01 at delays 32, 128 and 256",
        f"Best without delay {best[0]:.4f}; "
        + ", ".join(f"delay {d}: {best[d]:.4f}" for d in PUBLISHED_ADAM)
        + ".",
    )


@claim(where="section 3, last paragraph", full_grid=True)
def adam_best_accuracies(results: StudyResults) -> Finding:
    """'(98.21%, 98.19%, and 97.94% accuracy respectively)' for delay 32, 128 and 256

    Our best cell at each delay is within 0.005 of the published accuracy.
    """
    best = best_cells(results, "fig3_adam").set_index("delay")["mean"]
    off = pd.Series({d: best[d] - p for d, p in PUBLISHED_ADAM.items()})
    return Finding(
        verdict_of(list(off.abs() <= 0.005)),
        "largest distance from the published accuracy",
        off.abs().max(),
        "at most 0.005 at each delay",
        "Ours less theirs: " + ", ".join(f"delay {d}: {off[d]:+.4f}" for d in off.index) + ".",
    )


@claim(where="section 3, on Figure 3", full_grid=True)
def sgd_fails_past_delay_32(results: StudyResults) -> Finding:
    """'in comparison to SGD, which cannot handle more than 32 delay'

    The best SGD cell is within 0.02 of the best without delay at delay 32, and more than 0.02
    below it at 128 and at 256.
    """
    best = best_cells(results, "fig3_sgd").set_index("delay")["mean"]
    short = best[0] - best
    return Finding(
        verdict_of([short[32] <= 0.02, short[128] > 0.02, short[256] > 0.02]),
        "shortfall of the best SGD cell at delay 256 from the best without delay",
        short[256],
        "at most 0.02 at delay 32, more at 128 and 256",
        ", ".join(f"delay {d}: {best[d]:.4f}" for d in best.index) + ".",
    )


@claim(where="Figure 3, caption", full_grid=True)
def adam_converges_sooner(results: StudyResults) -> Finding:
    """'Using Adam instead of SGD, LeNet convergence is reached within 20 epochs even with delayed
    gradients for many batch sizes'

    At each delay of 32 and more, Adam reaches 0.97 within 20 epochs at two batch sizes or more.
    """
    curves = _delayed(results.curves("fig3_adam"))
    cells = over_seeds(curves, ["delay", "batch_size", "lr", "epoch"], "test_accuracy")
    reached = cells[cells["mean"] >= 0.97].groupby("delay")["batch_size"].nunique()
    batches = reached.reindex(sorted(curves["delay"].unique()), fill_value=0)
    return Finding(
        verdict_of(list(batches >= 2)),
        "fewest batch sizes at which Adam reaches 0.97, over delays",
        float(batches.min()),
        "at least 2 at every delay",
        ", ".join(f"delay {d}: {n} batch sizes" for d, n in batches.items()) + ".",
    )


@claim(where="Figure 3, caption", full_grid=True)
def sgd_takes_longer(results: StudyResults) -> Finding:
    """'SGD takes significantly longer to converge in the presence of substantial gradient delay'

    At each delay of 32 and more, the best SGD cell needs at least twice as many epochs to 0.95 as
    the best Adam cell (or never gets there).
    """
    epochs = {rule: _epochs_to(results, f"fig3_{rule}", 0.95) for rule in ("adam", "sgd")}
    ratio = epochs["sgd"] / epochs["adam"]
    return Finding(
        verdict_of(list(ratio >= 2)),
        "smallest ratio of epochs to 0.95, SGD to Adam",
        float(ratio.min()),
        "at least 2 at every delay",
        "; ".join(
            f"delay {d}: Adam {epochs['adam'][d]:g}, SGD {epochs['sgd'][d]:g} epochs"
            for d in ratio.index
        )
        + ".",
    )


def _epochs_to(results: StudyResults, grid: str, accuracy: float) -> pd.Series:
    """For each delay above 0, the fewest epochs in which any cell's mean reaches `accuracy`."""
    curves = _delayed(results.curves(grid))
    cells = over_seeds(curves, ["delay", "batch_size", "lr", "epoch"], "test_accuracy")
    reached = cells[cells["mean"] >= accuracy].groupby("delay")["epoch"].min()
    return reached.reindex(sorted(curves["delay"].unique())).fillna(np.inf)


@claim(where="section 3, second paragraph")
def warmup_helps_only_at_first(results: StudyResults) -> Finding:
    """'learning rate warmup only initially improves test accuracy but quickly falls off as soon as
    the full learning rate is applied'

    Over the cells whose full rate collapses without warm-up: accuracy before the full rate applies
    is at least 0.1 higher with warm-up in at least 90 % of them, and the final accuracy is
    collapsed nonetheless in at least 90 %.
    """
    table = warmup(results).frame.pivot(index=["delay", "lr"], columns="start")
    collapsed = table[table[("final", "neither")] < COLLAPSED]
    if collapsed.empty:
        return Finding(
            CANNOT_TELL, "", np.nan, "", "No cell collapses without warm-up, so nothing is tested."
        )
    helps = collapsed[("during", "warm-up")] - collapsed[("during", "neither")] >= 0.1
    falls = collapsed[("final", "warm-up")] < COLLAPSED
    verdict = verdict_of([helps.mean() >= 0.9, falls.mean() >= 0.9])
    return Finding(
        verdict,
        "share of collapsing cells that warm-up helps at first and that fall all the same",
        (helps & falls).mean(),
        "each part in at least 90 % of the cells",
        f"Of {len(collapsed)} cells that collapse at the full rate, {helps.sum()} do better during "
        f"warm-up and {falls.sum()} are collapsed at the end.",
        *share_interval(helps & falls),
    )


@claim(where="section 3, last paragraph", full_grid=True)
def halving_heuristic(results: StudyResults) -> Finding:
    """'The heuristic we use to achieve this is roughly to halve the learning rate and halve the
    batch size when the number of workers is doubled'

    Along the path from 1 to 257 workers no cell is more than 0.01 below the path's best, and the
    path ends higher than fixed rate and batch size do.
    """
    table = heuristic(results).frame
    spread = table["mean"].max() - table["mean"].min()
    gain = table["mean"].iloc[-1] - table["mean_fixed"].iloc[-1]
    holds = [spread <= COMPARABLE, gain > 0]
    return Finding(
        REPRODUCED if all(holds) else PARTLY if any(holds) else NOT_REPRODUCED,
        "spread of accuracy along the path",
        float(spread),
        "at most 0.01, and above the fixed setting at the most workers",
        f"Accuracy along the path is {table['mean'].min():.4f} to {table['mean'].max():.4f}; at "
        f"{table['workers'].iloc[-1]} workers it is {gain:+.4f} from the fixed setting.",
    )


def _delayed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["delay"] > 0]
