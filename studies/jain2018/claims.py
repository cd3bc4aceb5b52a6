"""The claims of jain2018, each against our runs.

`criteria.csv` has for each claim the criterion that it had before the runs were made and the one
that it has now, and why it was changed.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from stalegrad.analysis.claims import (
    Finding,
    Threshold,
    cannot_tell,
    claim,
    share_verdict,
    verdict_of,
)
from stalegrad.analysis.comparisons import compare, compare_kinds, compare_runs, jackknife
from stalegrad.analysis.nulls import DRAWS, Null, changed, same_as, taking, whatever, without
from stalegrad.analysis.results import (
    StudyResults,
    over_seeds,
    rank_correlation,
    with_all,
)
from stalegrad.analysis.simulations import normal_distance
from stalegrad.io.errors import ResultError

from .tables import (
    COLLAPSED,
    HALF_DECADE,
    PUBLISHED_ADAM,
    ROUNDING,
    TOLERANCE,
    after_epochs,
    best_cells,
    compensated_runs,
    contested,
    delay_kind_runs,
    fig1,
    fig1_medians,
    fig2_cells,
    gradient_noise,
    heuristic,
    largest_trained_rate,
    late_runs,
    warmup_runs,
    where_delay_decides,
)

ACCURACY = "final_test_accuracy"
LEARNT = 0.9  # a run has learnt that gets to this test accuracy
LEVELS = (0.9, 0.95, 0.97)  # of test accuracy, on the way to convergence
ADAGRAD_DELAYS = (32, 128)
PATH_DELAYS = (31, 127, 256)  # of the heuristic's path, at the numbers of workers of the text
NO_TABLE = "It is the print itself that ours is held against."
SEEN_IN_PRINT = "What the print gives shows whether it can be met."


# ---- results in which sentences are false, or as true as can be


def _taken(
    results: StudyResults,
    chance: np.random.Generator,
    to: pd.DataFrame,
    of: pd.DataFrame,
    keys: list[str],
) -> StudyResults:
    """`results` in which the runs `to` have the outcomes of runs `of` that agree in `keys`.

    to, of: rows of `results.runs`. Among several one is drawn; a run without any is left out.
    Raises ResultError if all are.
    """
    pairs = to[keys].reset_index().merge(of[keys].reset_index(), on=keys, suffixes=("", "_of"))
    if pairs.empty:
        raise ResultError(f"there are no two runs to compare that agree in {', '.join(keys)}")
    pairs = pairs.sample(frac=1, random_state=chance).drop_duplicates("index").set_index("index")
    runs = results.runs
    kept = runs[~runs.index.isin(to.index.difference(pairs.index))]
    source = pd.Series(kept.index, index=kept.index)
    source[pairs.index] = pairs["index_of"]
    return taking(changed(results, runs=kept), source)


def _as_printed(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """The runs of Figure 2 have the published accuracy; cells that cannot be read are left out."""
    runs, keys = results.runs.copy(), ["delay", "batch_size", "lr"]
    ours = runs["grid"] == "fig2"
    cells = runs.loc[ours, keys].merge(fig2_cells(results)[[*keys, "published"]], how="left")
    runs.loc[ours, ACCURACY] = cells["published"].to_numpy()
    return changed(results, runs=runs[~ours | runs[ACCURACY].notna()])


def _own_seed_as_print(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """The runs of one seed of Figure 2 take the place of the print, and are left out of ours."""
    runs = results.grid("fig2")
    seed = runs["seed"].min()
    one = runs[runs["seed"] == seed].rename(columns={ACCURACY: "test_accuracy"})
    table = one[["delay", "batch_size", "lr", "test_accuracy"]].assign(legibility="clear")
    return without(changed(results, published_fig2=table), [int(seed)])


def _grid(results: StudyResults, grid: str, **cell: object) -> pd.DataFrame:
    """Rows of `results.runs` of a grid that have these values."""
    runs = results.runs
    there = runs["grid"] == grid
    for key, value in cell.items():
        there &= runs[key] == value
    return runs[there]


def _sgd_as_adam(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    adam, sgd = (_grid(results, f"fig3_{rule}") for rule in ("adam", "sgd"))
    return _taken(results, chance, adam, sgd, ["delay", "batch_size", "lr", "seed"])


def _rules_swapped(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Two runs of Adam and of SGD that are alike exchange their outcomes, or not, by a coin."""
    adam, sgd = (_grid(results, f"fig3_{rule}").reset_index() for rule in ("adam", "sgd"))
    pairs = adam.merge(sgd, on=["delay", "batch_size", "lr", "seed"])[["index_x", "index_y"]]
    first, second = pairs[chance.random(len(pairs)) < 0.5].to_numpy().T
    source = pd.Series(results.runs.index, index=results.runs.index)
    source[first], source[second] = second, first
    return taking(results, source)


SGD_AS_ADAM = Null("Adam does what SGD did", _sgd_as_adam)
RULES_SWAPPED = Null("Adam and SGD are the same", _rules_swapped, DRAWS)
NO_DELAY_ADAM = Null(
    "no delay takes anything from Adam", same_as({"delay": 0}, ["fig3_adam"]), DRAWS
)


# ---- section 2


def _counted_after(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    table = results.staleness
    return changed(results, staleness=table.assign(mean_before=table["mean_after"]))


def _without_memory(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Each arrival is of any worker, so that the delay is geometric with the mean N - 1."""
    table = results.staleness.copy()
    for workers in table["workers"].unique():
        rest = 1 - 1 / workers
        share = rest ** np.arange(60 * workers) / workers
        distance = normal_distance(share, workers - 1, workers * np.sqrt(rest))
        table.loc[table["workers"] == workers, "normal_distance"] = distance
    return changed(results, staleness=table)


@claim(
    where="section 2, Figure 1",
    threshold=Threshold("at most", 0.01, "for every N"),
    null=Null("the gradient's own update is counted", _counted_after),
    ceiling="The mean is N - 1 for any compute times, by counting.",
    printed="The figure prints no numbers beside N - 1.",
    shows=["fig1"],
)
def delay_centred_at_workers_less_one(results: StudyResults, threshold: float) -> Finding:
    """'the number of updates on the server before gradient t' arrives fits a normal distribution
    centered at N - 1'

    The centre: mean and median of the delay both lie within 1 % of N - 1 for every N. (The mean
    does for any compute times; the median does where the distribution is symmetric.)
    """
    table = fig1(results).frame
    table["median"] = table["workers"].map(fig1_medians(results))
    off = (table[["mean", "median"]].sub(table["published"], axis=0)).abs()
    off = off.div(table["published"], axis=0)
    worst = table.loc[off.max(axis=1).idxmax()]
    return Finding(
        verdict_of(list(off.max(axis=1) <= threshold)),
        "largest relative distance of mean or median delay from N - 1",
        float(off.max(axis=None)),
        f"They are furthest from N - 1 at N = {worst['workers']:.0f}, with a mean of "
        f"{worst['mean']:.5f} and a median of {worst['median']:g}.",
    )


@claim(
    where="section 2, Figure 1",
    threshold=Threshold("at most", 0.05, "for every N"),
    null=Null("compute times have no memory", _without_memory),
    ceiling="A rounded normal distribution has distance 0.",
    printed="The figure prints no distance.",
    shows=["fig1"],
)
def delay_fits_a_normal(results: StudyResults, threshold: float) -> Finding:
    """'the number of updates on the server before gradient t' arrives fits a normal distribution'

    The shape: the distance (Kolmogorov-Smirnov) from the normal fit is at most 0.05 for every N
    (of those whose histogram holds all staleness that was seen).
    """
    table = fig1(results).frame.dropna(subset="normal_distance")
    if table.empty:
        return cannot_tell("Staleness went beyond the last bin of every histogram.")
    distance = table["normal_distance"]
    worst = table.loc[distance.idxmax()]
    return Finding(
        verdict_of(list(distance <= threshold)),
        "largest Kolmogorov-Smirnov distance from the normal fit",
        distance.max(),
        f"The distance is largest, {distance.max():.3f}, at N = {worst['workers']:.0f}, and "
        f"{table['normal_distance'].iloc[-1]:.3f} at N = {table['workers'].iloc[-1]:.0f}.",
    )


def _kinds_alike(other_delay: bool) -> Callable[..., StudyResults]:
    """Runs with random delay have the outcomes of runs with constant delay: with one of their mean,
    or with any other."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        names = ["asynchronous", "asynchronous_many"]
        runs = results.runs[results.runs["grid"].isin(names)]
        random = runs["cluster"] == "hub_and_spoke"
        runs = runs.assign(mean_delay=runs["delay"].fillna(runs["workers"] - 1))
        to, of = runs[random], runs[~random]
        if not other_delay:
            return _taken(results, chance, to, of, ["mean_delay", "lr"])
        delays = chance.permutation(sorted(of["mean_delay"].unique()))
        shifted = dict(zip(delays, np.roll(delays, 1), strict=True))
        of = of.assign(mean_delay=of["mean_delay"].map(shifted))
        return _taken(results, chance, to, of, ["mean_delay", "lr"])

    return view


@claim(
    where="section 2",
    threshold=Threshold("at most", 0.1, "at the edge of collapse"),
    null=Null("random delay is like another constant delay", _kinds_alike(True), DRAWS),
    ceiling=Null("random delay is constant delay of another seed", _kinds_alike(False), DRAWS),
    full_grid=True,
    seeds=3,
    shows=["asynchronous"],
)
def constant_delay_stands_for_asynchrony(results: StudyResults, threshold: float) -> Finding:
    """'constant-delay synchronous SGD is a faithful simulation of gradient delay in fully
    asynchronous SGD'

    Run by run and at the edge of collapse alone: for each N, the largest rate at which constant
    delay trains in most seeds, and the next above. Two runs agree if they end on the same side of
    0.5 and, where both train, within 0.01. A run with constant and one with random delay agree at
    most 0.1 less often than two seeds with constant delay do.
    """
    runs = delay_kind_runs(results)
    cells = [cell for _, here in runs.groupby("mean_delay") for cell in _at_the_edge(here)]
    cells = [cell for cell in cells if len(cell["constant"]) > 1 and len(cell["random"])]
    if not cells:
        return cannot_tell("There is one seed, or one kind of delay.")
    within = [_agreeing(cell["constant"], cell["constant"], same=True) for cell in cells]
    across = [_agreeing(cell["constant"], cell["random"]) for cell in cells]
    short = float(np.mean(within) - np.mean(across))
    return Finding(
        verdict_of([short <= threshold]),
        "agreement of two seeds with constant delay, less that of constant with random delay",
        short,
        f"At {len(cells)} cells on the edge, runs with constant and with random delay agree in "
        f"{np.mean(across):.0%} of the pairs, two seeds with constant delay in "
        f"{np.mean(within):.0%}.",
        paired=compare_kinds(
            runs,
            "kind",
            {"constant": "accuracy with constant delay", "random": "that with random delay"},
            ["mean_delay", "batch_size", "lr"],
            ACCURACY,
        ),
    )


def _at_the_edge(runs: pd.DataFrame) -> list[dict[str, np.ndarray]]:
    """For one N, the final accuracies by kind of delay at the largest rate at which constant delay
    trains in most seeds, and at the next; where none trains, at the smallest rate."""
    constant = runs[runs["kind"] == "constant"]
    trains = (constant[ACCURACY] >= COLLAPSED).groupby(constant["lr"]).mean() > 0.5
    rates = sorted(trains.index)
    edge = max((i for i, rate in enumerate(rates) if trains[rate]), default=-1)
    return [
        {
            kind: runs.loc[(runs["kind"] == kind) & (runs["lr"] == rate), ACCURACY].to_numpy()
            for kind in ("constant", "random")
        }
        for rate in rates[max(edge, 0) : edge + 2]
    ]


def _agreeing(first: np.ndarray, second: np.ndarray, *, same: bool = False) -> float:
    """Share of pairs, one of each, that agree; same: the two are one, and none is its own pair."""
    sides = (first[:, None] >= COLLAPSED) == (second >= COLLAPSED)
    close = np.abs(first[:, None] - second) <= TOLERANCE + ROUNDING
    agree = sides & (close | (first[:, None] < COLLAPSED))
    if same:
        agree = agree[~np.eye(len(first), dtype=bool)]
    return float(agree.mean())


# ---- section 3: Figure 2


@claim(
    where="section 3, first sentence",
    threshold=Threshold("at most", TOLERANCE, "at every delay"),
    null=Null("rate and batch size do nothing", whatever(["lr", "batch_size"], ["fig2"]), DRAWS),
    ceiling=SEEN_IN_PRINT,
    printed=_as_printed,
    full_grid=True,
    shows=["fig2"],
)
def best_at_low_rate_and_small_batch(results: StudyResults, threshold: float) -> Finding:
    """'Asynchronous SGD simulated at different submission delays shows best performance at low
    learning rates (lr = 10^-3) and low batch sizes (b = 64, b = 128)'

    At each delay above 0, the better of the two cells with rate 10^-3 and batch 64 or 128 is within
    0.01 of the best cell.
    """
    cells = _delayed(fig2_cells(results))
    best = cells.groupby("delay")["mean"].max()
    named = cells[np.isclose(cells["lr"], 1e-3) & cells["batch_size"].isin([64, 128])]
    short = (best - named.groupby("delay")["mean"].max()).dropna()
    return Finding(
        verdict_of(list(short <= threshold + ROUNDING)),
        "largest shortfall of the named cells from the best cell of their delay",
        short.max(),
        f"The named cells fall short of the best by {short.min():.4f} to {short.max():.4f}.",
    )


@claim(
    where="section 3, second sentence",
    threshold=Threshold("at least", 0.1, "at every delay, for each factor"),
    null=Null("rate and batch size do nothing", whatever(["lr", "batch_size"], ["fig2"]), DRAWS),
    ceiling=SEEN_IN_PRINT,
    printed=_as_printed,
    full_grid=True,
    shows=["fig2"],
)
def large_batches_and_rates_degrade(results: StudyResults, threshold: float) -> Finding:
    """'Test accuracy significantly degrades at batch sizes larger than 256 and lr >= 10^-2.5'

    Each of the two at matched levels of the other, at each delay above 0: at rates from 10^-2.5,
    batches above 256 lose at least 0.1 against those up to 256; at batches above 256, rates from
    10^-2.5 lose at least 0.1 against those of 10^-3.5 to 10^-3.
    """
    runs = _delayed(results.grid("fig2"))
    drops = _degraded(runs)
    seeds = _each_seed(runs, lambda here: _degraded(here).stack())
    return Finding(
        verdict_of(list((drops >= threshold - ROUNDING).stack())),
        "smallest drop in accuracy over delays, by batch size or by rate",
        drops.min(axis=None),
        f"Large batches lose {drops['batch'].min():.2f} to {drops['batch'].max():.2f} at equal "
        f"rates, large rates {drops['rate'].min():.2f} to {drops['rate'].max():.2f} at equal "
        f"batches.",
        paired=compare(
            seeds, 0 * seeds, ("accuracy at small batches or rates", "that at large ones")
        ),
    )


def _degraded(runs: pd.DataFrame) -> pd.DataFrame:
    """For each delay, what large batches lose at equal rates (`batch`), and large rates at equal
    batches (`rate`); means over the other factor."""
    big, fast = runs["batch_size"] > 256, runs["lr"] > 0.99 * 10**-2.5
    slow = runs["lr"].between(0.99 * 10**-3.5, 1.01 * 10**-3)

    def lost(small: pd.Series, large: pd.Series, matched: str) -> pd.Series:
        small, large = (
            runs[part].groupby(["delay", matched])[ACCURACY].mean() for part in (small, large)
        )
        return (small - large).groupby("delay").mean()

    return pd.DataFrame(
        {
            "batch": lost(fast & ~big, fast & big, "lr"),
            "rate": lost(big & slow, big & fast, "batch_size"),
        }
    ).dropna()


@claim(
    where="section 3, third sentence",
    threshold=Threshold("at least", 0.9, "of the curves (partly from 0.5)", "share"),
    null=Null("the rate does nothing", whatever(["lr"], ["fig2"]), DRAWS),
    ceiling=SEEN_IN_PRINT,
    printed=_as_printed,
    full_grid=True,
    seeds=3,
    shows=["fig2"],
)
def rises_with_rate_then_drops(results: StudyResults, threshold: float) -> Finding:
    """'regardless of delay amount, test accuracy scales smoothly upward with lr, then sharply drops
    off'

    For each delay and batch size: up to the best rate no step down by more than 0.01, and past it
    some half decade that loses at least 0.3. Holds for at least 90 % of the curves.
    """
    holds = [
        _rises_then_drops(curve.sort_values("lr")["mean"].to_numpy())
        for _, curve in fig2_cells(results).groupby(["delay", "batch_size"])
    ]
    return Finding(
        share_verdict(float(np.mean(holds)), most=threshold),
        "share of curves that rise and then drop",
        float(np.mean(holds)),
        f"{sum(holds)} of {len(holds)} curves rise to their best rate and then lose at least 0.3 "
        f"within half a decade.",
    )


def _rises_then_drops(accuracy: np.ndarray) -> bool:
    top = int(accuracy.argmax())
    rise = np.diff(accuracy[: top + 1])
    # Below 0.5 nothing has been learnt yet and chance decides, so only learnt steps can go down.
    learnt = accuracy[:top] >= COLLAPSED
    return bool((rise[learnt] >= -TOLERANCE - ROUNDING).all() and _drops_sharply(accuracy))


def _drops_sharply(accuracy: np.ndarray) -> bool:
    """Whether, past the best rate, accuracy falls by 0.3 from one rate to the next."""
    return bool((np.diff(accuracy[accuracy.argmax() :]) <= -0.3 + ROUNDING).any())


@claim(
    where="section 3, fourth sentence",
    threshold=Threshold("at least", 0.9, "of the batch sizes (partly from 0.5)", "share"),
    null=Null("the delay does nothing", whatever(["delay"], ["fig2"]), DRAWS),
    ceiling=SEEN_IN_PRINT,
    printed=_as_printed,
    full_grid=True,
    seeds=3,
    shows=["front", "fig2"],
)
def drops_sooner_with_more_delay(results: StudyResults, threshold: float) -> Finding:
    """'SGD with more delay is less resilient to learning rate adjustment, with the test accuracy
    dropping off sooner'

    The largest rate that trains never grows with delay, and is smaller at the largest delay than at
    none, at 90 % of the batch sizes and more (so at each of five). Where no rate trains, half a
    decade below the smallest counts.
    """
    holds, moves = [], []
    for _, cells in fig2_cells(results).groupby("batch_size"):
        decades = _edge(cells, "mean").to_numpy()
        moves.append(decades[0] - decades[-1])
        holds.append(bool((np.diff(decades) < 0.01).all() and moves[-1] > 0.01))
    edges = _each_seed(results.grid("fig2"), _edges)
    none, most = (edges.xs(delay, level="delay") for delay in (0, edges.index.levels[-1].max()))
    return Finding(
        share_verdict(float(np.mean(holds)), most=threshold),
        "share of batch sizes at which the largest rate that trains falls with delay",
        float(np.mean(holds)),
        f"It falls by {min(moves):.1f} to {max(moves):.1f} decades; it never grows with delay at "
        f"{sum(holds)} of {len(holds)} batch sizes.",
        paired=compare(
            none, most, ("the largest rate that trains without delay", "that with the most")
        ),
    )


def _edge(cells: pd.DataFrame, column: str) -> pd.Series:
    """For each delay, log10 of the largest rate that trains; of none, half a decade below all."""
    edge = largest_trained_rate(cells, column).reindex(sorted(cells["delay"].unique()))
    return np.log10(edge.fillna(cells["lr"].min() / HALF_DECADE)).rename_axis("delay")


def _edges(runs: pd.DataFrame) -> pd.Series:
    """`_edge` for each batch size and delay."""
    return pd.DataFrame(
        {batch: _edge(here, ACCURACY) for batch, here in runs.groupby("batch_size")}
    ).unstack()


DELAY_BLIND = Null("the delay does nothing", same_as({"delay": 0}, ["fig2"]), DRAWS)
OWN_SEED = Null("one of our seeds stands for the print", _own_seed_as_print)


@claim(
    where="Figure 2, cell by cell",
    threshold=Threshold("at least", 0.9, "where delay decides (partly from 0.5)", "share"),
    null=DELAY_BLIND,
    ceiling=OWN_SEED,
    printed=NO_TABLE,
    full_grid=True,
    shows=["fig2", "fig2_agreement", "rounding"],
)
def figure_2_side_of_collapse(results: StudyResults, threshold: float) -> Finding:
    """'MNIST test accuracy under synchronous and delayed update schemes' (Figure 2)

    At least 90 % of the readable cells lie on the same side of 0.5 as published: of those at the
    rates and batch sizes at which the published side changes with delay. At all others a predictor
    that knows nothing of delay agrees as well.
    """
    cells = fig2_cells(results)
    cells = cells[cells["published"].notna()]
    same, everywhere = _same_side(where_delay_decides(cells)), _same_side(cells)
    return Finding(
        share_verdict(same.mean(), most=threshold),
        "share of cells, where delay decides, on the same side of collapse",
        same.mean(),
        f"{same.sum()} of {len(same)} where delay decides; {everywhere.sum()} of "
        f"{len(everywhere)} readable cells; rank correlation "
        f"{rank_correlation(cells['mean'], cells['published']):.2f}.",
    )


def _same_side(cells: pd.DataFrame) -> pd.Series:
    return (cells["mean"] >= COLLAPSED) == (cells["published"] >= COLLAPSED)


@claim(
    where="Figure 2, cell by cell",
    threshold=Threshold("at least", 0.9, "where delay decides (partly from 0.5)", "share"),
    null=DELAY_BLIND,
    ceiling=OWN_SEED,
    printed=NO_TABLE,
    full_grid=True,
    shows=["fig2", "fig2_difference", "fig2_agreement"],
)
def figure_2_accuracies(results: StudyResults, threshold: float) -> Finding:
    """'Test accuracy after 30 epochs with SGD, momentum = 0.9' (Figure 2)

    At least 90 % of the readable cells at which delay decides (as above) agree: within 0.01 where
    the published accuracy is at least 0.9, and else on the same side of 0.5. Of the cells that
    reach 0.9 in print alone a predictor that knows nothing of delay agrees in as many.
    """
    cells = fig2_cells(results)
    decided = where_delay_decides(cells)
    agree = _close(decided).where(decided["published"] >= LEARNT, _same_side(decided))
    learnt = cells[cells["published"] >= LEARNT]
    return Finding(
        share_verdict(agree.mean(), most=threshold),
        "share of cells, where delay decides, that agree in accuracy or in collapse",
        agree.mean(),
        f"{agree.sum()} of {len(agree)}; of all cells that reach {LEARNT:g} in print "
        f"{_close(learnt).sum()} of {len(learnt)} are within {TOLERANCE:g}.",
    )


def _close(cells: pd.DataFrame) -> pd.Series:
    return (cells["mean"] - cells["published"]).abs() <= TOLERANCE + ROUNDING


@claim(
    where="abstract",
    threshold=Threshold("above", 0.5),
    null=Null("rate and batch size do nothing", whatever(["lr", "batch_size"], ["fig2"]), DRAWS),
    ceiling=SEEN_IN_PRINT,
    printed=_as_printed,
    full_grid=True,
    shows=["fig2"],
)
def rate_and_batch_are_the_major_factors(results: StudyResults, threshold: float) -> Finding:
    """'learning rate and batch size selection are the majorizing factors in whether delayed
    gradients significantly reduce test accuracy'

    Of the cells of Figure 2 that train without delay, rate and batch size together explain more
    than half of the variance of whether they collapse with one (variance of the means over delays).
    What the amount of delay explains by itself is then less than half.
    """
    cells = fig2_cells(results)
    without_delay = cells[cells["delay"] == 0].set_index(["batch_size", "lr"])["mean"]
    cells = _delayed(cells).join(without_delay.rename("without"), on=["batch_size", "lr"])
    cells = cells[cells["without"] >= COLLAPSED]
    lost = (cells["mean"] < COLLAPSED).astype(float)
    if not lost.var() > 0:
        return cannot_tell("Delay makes all cells collapse, or none.")
    both, delay = (
        lost.groupby([cells[key] for key in keys]).transform("mean").var() / lost.var()
        for keys in (("lr", "batch_size"), ("delay",))
    )
    return Finding(
        verdict_of([both > threshold]),
        "share of the variance of collapse that rate and batch size explain",
        both,
        f"Of {len(lost)} cells that train without delay {lost.sum():.0f} collapse with it; rate "
        f"and batch size explain {both:.0%} of that variance, the amount of delay {delay:.0%}.",
    )


# ---- section 3: Adam and SGD


@claim(
    where="section 3, second paragraph",
    threshold=Threshold("above", 0.0, "at every delay, in every seed"),
    null=RULES_SWAPPED,
    ceiling=NO_DELAY_ADAM,
    full_grid=True,
    shows=["fig3"],
)
def adam_is_more_resilient(results: StudyResults, threshold: float) -> Finding:
    """'optimizers which employ per-parameter adaptive learning rates, such as Adam (Kingma & Ba,
    2014), increase resiliency to learning rate and batch size selections'

    Of the rates and batch sizes (of those that both were given) with which an optimizer reaches 0.9
    without delay, a larger share still does with Adam than with SGD, at each delay of 32 and more
    and in every seed.
    """
    both = _given_to_both(results.grid("fig3_adam", "fig3_sgd"))
    return _resilience(both, "adam", "sgd", threshold)


def _resilience(runs: pd.DataFrame, rule: str, other: str, threshold: float) -> Finding:
    """What is left with delay of the settings with which each of two rules learns without.

    runs: with `rule`, `delay`, `batch_size`, `lr`, `seed` and the final accuracy.
    """
    mine, others = (_each_seed(runs[runs["rule"] == r], _left_with_delay) for r in (rule, other))
    more = (mine - others).fillna(0.0)
    shown = [each.mean(axis=1).map(_share) for each in (mine, others)]
    names = (f"the share left with {rule}", f"that with {other}")
    return Finding(
        verdict_of(list(more.min(axis=1) > threshold)),
        f"share of settings left with {rule} less that with {other}, least over delays and seeds",
        more.min(axis=None),
        "; ".join(
            f"delay {d}: {rule} {share}, {other} {other_share}"
            for d, share, other_share in zip(mine.index, *shown, strict=True)
        )
        + ".",
        paired=compare(mine, others, names),
    )


def _share(value: float) -> str:
    return "none to begin with" if np.isnan(value) else f"{value:.2f}"


def _left_with_delay(runs: pd.DataFrame) -> pd.Series:
    """For each delay, the share of rates and batch sizes that learn, of those that do without."""
    learns = runs.pivot(index=["batch_size", "lr"], columns="delay", values=ACCURACY) >= LEARNT
    return learns[learns[0]].drop(columns=0).mean()


def _given_to_both(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs at the rates and batch sizes that each rule among them was given."""
    rules = runs["rule"].nunique()
    for key in ("lr", "batch_size"):
        runs = runs[runs.groupby(key)["rule"].transform("nunique") == rules]
    return runs


@claim(
    where="section 3, last paragraph",
    threshold=Threshold("at most", TOLERANCE, "at delays 32, 128 and 256"),
    null=SGD_AS_ADAM,
    ceiling=NO_DELAY_ADAM,
    printed="The accuracy of one worker is not printed.",
    full_grid=True,
    seeds=3,
    shows=["best_adam", "fig3"],
)
def adam_comparable_to_one_worker(results: StudyResults, threshold: float) -> Finding:
    """'hand-tuned learning rates and batch sizes using Adam can lead to results comparable (98.21%,
    98.19%, and 97.94% accuracy respectively) to the 1-worker synchronous case'

    Comparable: the best cell at each of delay 32, 128 and 256 is within 0.01 of the best at delay
    0.
    """
    runs = _best_runs(results, "fig3_adam")
    best = runs.mean()
    short = best[0] - best[list(PUBLISHED_ADAM)]
    return Finding(
        verdict_of(list(short <= threshold + ROUNDING)),
        "largest shortfall from the best without delay",
        short.max(),
        f"Best without delay {best[0]:.4f}; "
        + ", ".join(f"delay {d}: {best[d]:.4f}" for d in PUBLISHED_ADAM)
        + ".",
        paired=_without_delay_and_with(runs),
    )


@claim(
    where="section 3, last paragraph",
    threshold=Threshold("at most", TOLERANCE, "at each delay"),
    null=SGD_AS_ADAM,
    ceiling=NO_DELAY_ADAM,
    printed=NO_TABLE,
    full_grid=True,
    seeds=3,
    shows=["best_adam"],
)
def adam_best_accuracies(results: StudyResults, threshold: float) -> Finding:
    """'(98.21%, 98.19%, and 97.94% accuracy respectively)' for delay 32, 128 and 256

    Our best cell at each delay is at most 0.01 below the published accuracy. It may be above: the
    sentence says what can be reached.
    """
    runs = _best_runs(results, "fig3_adam")[list(PUBLISHED_ADAM)] - pd.Series(PUBLISHED_ADAM)
    above = runs.mean()
    return Finding(
        verdict_of(list(-above <= threshold + ROUNDING)),
        "largest shortfall from the published accuracy",
        -above.min(),
        "Ours less theirs: " + ", ".join(f"delay {d}: {above[d]:+z.4f}" for d in above.index) + ".",
    )


def _best_runs(results: StudyResults, grid: str) -> pd.DataFrame:
    """Final accuracy of each seed (rows) at the best cell of each delay (columns), among them 0
    and those of which the paper prints an accuracy."""
    best = best_cells(results, grid)[["delay", "batch_size", "lr"]]
    with_all(best, "delay", (0, *PUBLISHED_ADAM))
    runs = results.grid(grid).merge(best)
    return runs.pivot(index="seed", columns="delay", values=ACCURACY)


@claim(
    where="section 3, second paragraph",
    threshold=Threshold("above", TOLERANCE, "at delays 128 and 256"),
    null=Null("the delay does nothing", same_as({"delay": 0}, ["fig3_sgd"]), DRAWS),
    ceiling="A run that collapses is further below than any threshold.",
    full_grid=True,
    seeds=3,
    shows=["best_adam", "fig3"],
)
def sgd_fails_past_delay_32(results: StudyResults, threshold: float) -> Finding:
    """'in comparison to SGD, which cannot handle more than 32 delay'

    The best SGD cell at delay 128 and that at 256 are more than 0.01 below the best without delay.
    """
    runs = _best_runs(results, "fig3_sgd")
    best = runs.mean()
    short = best[0] - best[[128, 256]]
    return Finding(
        verdict_of(list(short > threshold + ROUNDING)),
        "smaller shortfall of the best SGD cells at delay 128 and 256 from the best without delay",
        short.min(),
        "Best cells: " + ", ".join(f"delay {d}: {best[d]:.4f}" for d in best.index) + ".",
        paired=_without_delay_and_with(runs),
    )


def _without_delay_and_with(best: pd.DataFrame) -> str:
    """`compare` for the best cell without delay and those with; best: as of `_best_runs`."""
    delayed = best.drop(columns=0).T
    alone = pd.DataFrame({seed: best.loc[seed, 0] for seed in best.index}, delayed.index)
    return compare(alone, delayed, ("the best without delay", "the best with delay"))


@claim(
    where="Figure 3, caption",
    threshold=Threshold("above", 0.5, "of the pairs of delay and batch size", "share"),
    null=RULES_SWAPPED,
    ceiling=NO_DELAY_ADAM,
    full_grid=True,
    shows=["fig3"],
)
def adam_converges_sooner(results: StudyResults, threshold: float) -> Finding:
    """'Using Adam instead of SGD, LeNet convergence is reached within 20 epochs even with delayed
    gradients for many batch sizes'

    Of the pairs of delay (32 and more) and batch size, in more than half the best rate of Adam
    reaches 0.97 within 20 epochs, and in fewer epochs than the best rate of SGD.
    """
    key = ["delay", "batch_size"]
    adam, sgd = (
        _epochs_to(_delayed(results.curves(f"fig3_{rule}")), 0.97, key) for rule in ("adam", "sgd")
    )
    sooner = adam < sgd.reindex(adam.index).fillna(np.inf)
    within = adam.notna()
    return Finding(
        verdict_of([sooner.mean() > threshold]),
        "share of delays and batch sizes at which Adam reaches 0.97, and sooner than SGD",
        sooner.mean(),
        f"Of {len(sooner)} pairs of delay and batch size Adam reaches it at {within.sum()}, and "
        f"sooner than SGD at {sooner.sum()}; SGD reaches it at {sgd.notna().sum()}.",
    )


@claim(
    where="Figure 3, caption",
    threshold=Threshold("at least", 0.9, "of the curves (partly from 0.5)", "share"),
    null=Null("the rate does nothing", whatever(["lr"], ["fig3_adam"]), DRAWS),
    ceiling="A curve that collapses within one step meets it.",
    full_grid=True,
    shows=["fig3"],
)
def adam_drops_off_at_larger_rates(results: StudyResults, threshold: float) -> Finding:
    """'there remains a sharp dropoff in accuracy at larger learning rates'

    For each delay of 32 and more and each batch size, Adam's final accuracy falls, past the best
    rate, by at least 0.3 from one rate to the next. Holds for at least 90 % of the curves.
    """
    cells = over_seeds(_delayed(results.grid("fig3_adam")), ["delay", "batch_size", "lr"])
    holds = [
        _drops_sharply(curve.sort_values("lr")["mean"].to_numpy())
        for _, curve in cells.groupby(["delay", "batch_size"])
    ]
    return Finding(
        share_verdict(float(np.mean(holds)), most=threshold),
        "share of Adam's curves that drop sharply past their best rate",
        float(np.mean(holds)),
        f"{sum(holds)} of {len(holds)} curves lose at least 0.3 from one rate to the next.",
    )


@claim(
    where="Figure 3, caption",
    threshold=Threshold("at least", 2.0, "at every delay", "factor"),
    null=RULES_SWAPPED,
    ceiling="SGD may never get there, which counts as all epochs.",
    full_grid=True,
    shows=["fig3"],
)
def sgd_takes_longer(results: StudyResults, threshold: float) -> Finding:
    """'SGD takes significantly longer to converge in the presence of substantial gradient delay'

    At each delay of 32 and more, the epochs that SGD needs over those that Adam needs, each with
    the best of its cells: the median over the levels 0.9, 0.95 and 0.97 and over seeds is at least
    2. A run that never gets there counts as all epochs trained.
    """
    adam, sgd = (_epochs_to_levels(_delayed(results.curves(f"fig3_{r}"))) for r in ("adam", "sgd"))
    ratio = (sgd / adam).median(axis=1)
    needed = {name: epochs.median(axis=1) for name, epochs in (("Adam", adam), ("SGD", sgd))}
    return Finding(
        verdict_of(list(ratio >= threshold - ROUNDING)),
        "median ratio of epochs, SGD to Adam, least over delays",
        float(ratio.min()),
        "Epochs needed, medians: "
        + "; ".join(
            f"delay {d}: Adam {needed['Adam'][d]:g}, SGD {needed['SGD'][d]:g}" for d in ratio.index
        )
        + ".",
        paired=compare(
            sgd.T.groupby(level="seed").mean().T,
            adam.T.groupby(level="seed").mean().T,
            ("SGD's number of epochs", "Adam's"),
        ),
    )


def _epochs_to_levels(curves: pd.DataFrame) -> pd.DataFrame:
    """Epochs that the best cell of each delay (rows) needs to each of LEVELS, in each seed
    (columns); all that were trained where it never gets there."""
    trained = curves["epoch"].max()
    return pd.DataFrame(
        {
            (level, seed): _epochs_to(here, level, ["delay"]).fillna(trained)
            for level in LEVELS
            for seed, here in curves.groupby("seed")
        }
    ).rename_axis(columns=["level", "seed"])


def _epochs_to(curves: pd.DataFrame, accuracy: float, key: list[str]) -> pd.Series:
    """For each `key`, the fewest epochs in which the mean of any of its cells reaches `accuracy`.

    NaN where none does.
    """
    cells = over_seeds(curves, ["delay", "batch_size", "lr", "epoch"], "test_accuracy")
    reached = cells[cells["mean"] >= accuracy].groupby(key)["epoch"].min()
    return reached.reindex(cells.groupby(key).size().index)


@claim(
    where="abstract",
    threshold=Threshold("at most", TOLERANCE, "at delays 32, 128 and 256, for each"),
    null=Null(
        "rate and batch size cannot be selected",
        whatever(["lr", "batch_size"], ["fig3_adam", "fig3_sgd"]),
        DRAWS,
    ),
    ceiling=Null("the delay does nothing", same_as({"delay": 0}, ["fig3_adam", "fig3_sgd"]), DRAWS),
    full_grid=True,
    seeds=3,
    shows=["fig3", "best_adam"],
)
def careful_selection_or_adaptive_rates(results: StudyResults, threshold: float) -> Finding:
    """'Careful selection of learning rate and batch size, or use of adaptive learning rate methods,
    is effective in minimizing the delayed gradient problem up to a large (n = 257) number of
    workers'

    Each of the two: the best cell of SGD, and that of Adam, at each of delay 32, 128 and 256 is
    within 0.01 of its best at delay 0. (Section 3 says the opposite of SGD beyond 32.)
    """
    means = {rule: _best_runs(results, f"fig3_{rule}").mean() for rule in ("sgd", "adam")}
    short = {rule: (best[0] - best[list(PUBLISHED_ADAM)]).max() for rule, best in means.items()}
    return Finding(
        verdict_of([each <= threshold + ROUNDING for each in short.values()]),
        "largest shortfall from the best without delay, SGD or Adam",
        max(short.values()),
        f"SGD falls short by {short['sgd']:.4f} at most, Adam by {short['adam']:.4f}.",
    )


# ---- section 3: warm-up and the heuristic


def _warmed_as(best: bool) -> Callable[..., StudyResults]:
    """Runs with warm-up have the outcomes of those without: of the same rate, or of the smallest,
    at which they train."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        runs = _grid(results, "warmup", ramp_epochs=0)
        to, of = (runs[runs["warmup_epochs"].gt(0) == warm] for warm in (True, False))
        if best:
            of = of[of["lr"] == of["lr"].min()]
        return _taken(results, chance, to, of, ["delay", "seed"] + ["lr"] * (not best))

    return view


def _warmed(results: StudyResults, collapsed: bool) -> pd.DataFrame:
    """Contested runs with warm-up beside those of the same seed without (`_neither`).

    collapsed: only cells whose mean without warm-up is collapsed.
    """
    runs = contested(warmup_runs(results))
    cell = ["delay", "lr"]
    warmed, neither = (runs[runs["start"] == start] for start in ("warm-up", "neither"))
    if collapsed:
        ends = neither.groupby(cell)["final"].transform("mean")
        neither = neither[ends < COLLAPSED]
    return warmed.merge(neither, on=[*cell, "seed"], suffixes=("", "_neither"))


@claim(
    where="section 3, second paragraph",
    threshold=Threshold("at least", 0.9, "of the contested runs (partly from 0.5)", "share"),
    null=Null("warm-up does nothing", _warmed_as(best=False)),
    ceiling="A run that learns during warm-up and collapses after it meets it.",
    full_grid=True,
    shows=["warmup"],
)
def warmup_helps_only_at_first(results: StudyResults, threshold: float) -> Finding:
    """'learning rate warmup only initially improves test accuracy but quickly falls off as soon as
    the full learning rate is applied'

    Over the runs with warm-up at rates within half a decade of the edge of collapse, and that
    collapse without it: at least 90 % have an accuracy before the full rate applies that is at
    least 0.1 above that without warm-up, and are collapsed at the end nonetheless.
    """
    runs = _warmed(results, collapsed=True)
    if runs.empty:
        return cannot_tell("No contested cell collapses without warm-up, so nothing is tested.")
    helps = runs["during"] - runs["during_neither"] >= 0.1 - ROUNDING
    falls = runs["final"] < COLLAPSED
    return Finding(
        share_verdict((helps & falls).mean(), most=threshold),
        "share of contested runs that warm-up helps at first and that collapse all the same",
        (helps & falls).mean(),
        f"Of {len(runs)} runs at the edge that collapse without warm-up, {helps.sum()} do better "
        f"during it, {falls.sum()} are collapsed at the end, and {(helps & falls).sum()} are both.",
        paired=_beside(runs, "during", "accuracy during warm-up"),
    )


@claim(
    where="section 3, second paragraph",
    threshold=Threshold("at least", 0.9, "of the contested runs (partly from 0.5)", "share"),
    null=Null("a warmed-up rate is as good as the smallest", _warmed_as(best=True)),
    ceiling=Null("warm-up does nothing", _warmed_as(best=False)),
    full_grid=True,
    shows=["warmup"],
)
def schedule_has_little_effect(results: StudyResults, threshold: float) -> Finding:
    """'Learning rate schedule likely has little effect in mitigating delayed gradient noise'

    Over the runs with warm-up at rates within half a decade of the edge of collapse, at least 90 %
    end at most 0.01 above the run of the same seed without it.
    """
    runs = _warmed(results, collapsed=False)
    gain = runs["final"] - runs["final_neither"]
    little = gain <= TOLERANCE + ROUNDING
    return Finding(
        share_verdict(little.mean(), most=threshold),
        "share of contested runs whose final accuracy warm-up does not raise",
        little.mean(),
        f"{little.sum()} of {len(little)} runs at the edge gain at most {TOLERANCE:g} by warm-up; "
        f"the largest gain is {gain.max():.2f}.",
        paired=_beside(runs, "final", "accuracy with warm-up"),
    )


def _beside(runs: pd.DataFrame, value: str, name: str) -> str:
    """`compare` for a value of `_warmed` runs and of those without warm-up."""
    with_it, without_it = (
        runs.pivot(index=["delay", "lr"], columns="seed", values=column)
        for column in (value, f"{value}_neither")
    )
    return compare(with_it, without_it, (name, "that without"))


def _path_as_fixed(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    path, fixed = (_grid(results, grid) for grid in ("heuristic", "no_heuristic"))
    return _taken(results, chance, path, fixed, ["delay", "seed"])


@claim(
    where="section 3, last paragraph",
    threshold=Threshold("at most", TOLERANCE, "with 32, 128 and 257 workers"),
    null=Null("rate and batch size stay fixed", _path_as_fixed),
    ceiling="Runs without delay are within it of themselves.",
    full_grid=True,
    shows=["heuristic"],
)
def halving_heuristic(results: StudyResults, threshold: float) -> Finding:
    """'The heuristic we use to achieve this is roughly to halve the learning rate and halve the
    batch size when the number of workers is doubled'

    'This' are results comparable to one worker with 32, 128 and 257: there the path of the
    heuristic is at most 0.01 below Adam's best cell without delay.
    """
    table = with_all(heuristic(results).frame, "delay", PATH_DELAYS).set_index("workers")
    alone = best_cells(results, "fig3_adam").set_index("delay")["mean"][0]
    named = table[table["delay"].isin(PATH_DELAYS)]
    short = alone - named["mean"]
    lowest = table["mean"].idxmin()
    return Finding(
        verdict_of(list(short <= threshold + ROUNDING)),
        "largest shortfall from Adam's best cell without delay",
        float(short.max()),
        f"Without delay {alone:.4f}; "
        + ", ".join(f"{n} workers: {m:.4f}" for n, m in named["mean"].items())
        + f". The path is lowest, {table['mean'][lowest]:.4f}, at {lowest}; the fixed setting has "
        f"{table['mean_fixed'].iloc[-1]:.4f} at {table.index[-1]}.",
        paired=compare_runs(
            results.grid("heuristic"),
            results.grid("no_heuristic"),
            ("accuracy with halved rate and batch size", "that with both fixed"),
            cell=["delay"],
            value=ACCURACY,
        ),
    )


# ---- what is said of the reason of the collapse, and against it


def _at_random_times(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """What was recorded of the weights of a run stands in another order."""
    rows = results.trajectory("variance")
    order = rows.groupby("run", sort=False)["epoch"].transform(
        lambda epochs: chance.permutation(len(epochs))
    )
    columns = ["gradient_variance", "mean_gradient_square"]
    shuffled = rows.assign(_order=order).sort_values(["run", "_order"], kind="stable")
    rows = rows.sort_values("run", kind="stable")
    rows[columns] = shuffled[columns].to_numpy()
    return changed(results, **{"trajectories/variance": rows})


@claim(
    where="section 3, on the drop",
    threshold=Threshold("above", 1.0, "at every delay and rate, as it is and against the mean"),
    null=Null("the time does nothing", _at_random_times, DRAWS),
    ceiling="Variance that falls along each run meets it.",
    full_grid=True,
    shows=["start"],
)
def gradients_vary_most_at_the_start(results: StudyResults, threshold: float) -> Finding:
    """'gradients are more variant near the start of training'

    At every delay and rate at which most seeds still train at the end, the variance of the
    minibatch gradient is larger in the first epoch than in the later ones; and so is its multiple
    of the squared mean gradient, which is the other thing that can be meant.
    """
    rows = results.trajectory("variance")
    ratios = _early_to_late(gradient_noise(results))
    if ratios.empty:
        return cannot_tell("No run of the trajectory 'variance' trains.")
    seeds = sorted(rows["seed"].unique()) if rows["seed"].nunique() > 1 else []
    others = [
        _early_to_late(gradient_noise(without(results, [seed]))).min(axis=None) for seed in seeds
    ]
    value = ratios.min(axis=None)
    low, high = jackknife(value, others)
    return Finding(
        verdict_of([bool((ratios[reading] > threshold).all()) for reading in ratios]),
        "smallest ratio, first epoch to later ones, of the variance or of it against the mean",
        value,
        f"Over {len(ratios)} delays and rates that train, the variance in the first epoch is "
        f"{ratios['variance'].min():.2g} to {ratios['variance'].max():.2g} times that in later "
        f"ones; against the squared mean gradient {ratios['noise'].min():.2g} to "
        f"{ratios['noise'].max():.2g} times.",
        low=low,
        high=high,
    )


def _early_to_late(noise: pd.DataFrame) -> pd.DataFrame:
    """First epoch over later ones, of `gradient_noise` where it trains: `variance`, and `noise`,
    the variance over the squared mean gradient (infinite where that is lost in noise)."""
    noise = noise[noise["trains"]]
    noise = noise.assign(noise=noise["variance"] / noise["signal"].clip(lower=0))
    early, late = (
        noise[noise["late"] == when].set_index(["delay", "lr"])[["variance", "noise"]]
        for when in (False, True)
    )
    return early / late


def _late_as(start: bool) -> Callable[..., StudyResults]:
    """Runs with the delay after the first epoch have the outcomes of those with it from the start,
    or of those without any."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        to = _grid(results, "late_delay")
        if start:
            of = _grid(results, "warmup", warmup_epochs=0, ramp_epochs=0)
            return _taken(results, chance, to, of, ["delay", "lr", "seed"])
        of = _grid(results, "fig2", delay=0, batch_size=to["batch_size"].iloc[0])
        return _taken(results, chance, to, of, ["lr", "seed"])

    return view


@claim(
    where="section 3, on the drop",
    threshold=Threshold("above", 0.5, "of the runs", "share"),
    null=Null("the start does nothing", _late_as(start=True)),
    ceiling=Null("the delay does nothing after the start", _late_as(start=False)),
    full_grid=True,
    seeds=3,
    shows=["remedies"],
)
def delay_after_the_start_is_harmless(results: StudyResults, threshold: float) -> Finding:
    """'One plausible explanation for low test accuracy at high learning rates in delayed SGD is
    that gradients are more variant near the start of training, so delayed updates add significant
    noise to the parameter search'

    If so, the collapse goes away where the first epoch is without delay. Of the runs that train
    without delay and collapse with it from the start, more than half train where it begins after
    the first epoch.
    """
    runs = late_runs(results)
    runs = runs[(runs["without"] >= COLLAPSED) & (runs["with"] < COLLAPSED)]
    if runs.empty:
        return cannot_tell("No run collapses with delay and trains without.")
    trains = runs["late"] >= COLLAPSED
    cells = trains.groupby([runs["delay"], runs["lr"]]).agg(["sum", "size"])
    return Finding(
        verdict_of([trains.mean() > threshold]),
        "share of collapsing runs that train where the delay begins after the first epoch",
        trains.mean(),
        f"{trains.sum()} of {len(trains)} runs: "
        + "; ".join(
            f"delay {d}, rate {lr:.2g}: {row['sum']} of {row['size']}"
            for (d, lr), row in cells.iterrows()
        )
        + ".",
    )


def _compensated_as(sgd: bool) -> Callable[..., StudyResults]:
    """Compensated runs have the outcomes of those of SGD with the delay, or without."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        to = _grid(results, "compensation")
        if sgd:
            of = _grid(results, "warmup", warmup_epochs=0, ramp_epochs=0)
            return _taken(results, chance, to, of, ["delay", "lr"])
        of = _grid(results, "fig2", delay=0, batch_size=to["batch_size"].iloc[0])
        return _taken(results, chance, to, of, ["lr", "seed"])

    return view


@claim(
    where="abstract",
    threshold=Threshold("above", 0.5, "of the cells, the better of the two kinds", "share"),
    null=Null("compensation does nothing", _compensated_as(sgd=True), DRAWS),
    ceiling=Null("compensation undoes the delay", _compensated_as(sgd=False)),
    full_grid=True,
    seeds=3,
    shows=["remedies"],
)
def delay_compensation_helps(results: StudyResults, threshold: float) -> Finding:
    """'Delay compensation, such as that detailed by Zheng et al. (2016a), as well as various
    warm-start schemes, can help convergence'

    Of the cells at the edge of collapse in which SGD loses more than 0.01 to the delay, in more
    than half DC-ASGD, constant or adaptive, ends more than 0.01 above SGD in every seed.
    """
    runs = compensated_runs(results)
    means = runs.groupby(["delay", "lr"])[["without", "with"]].transform("mean")
    runs = runs[means["without"] - means["with"] > TOLERANCE + ROUNDING]
    if runs.empty:
        return cannot_tell("SGD loses nothing to the delay, so nothing is tested.")
    gains = runs[["dc", "dc_adaptive"]].sub(runs["with"], axis=0)
    least = gains.groupby([runs["delay"], runs["lr"]]).min()
    helped = (least > TOLERANCE + ROUNDING).mean()
    return Finding(
        verdict_of([helped.max() > threshold]),
        "share of cells that compensation helps in every seed, the better of the two kinds",
        helped.max(),
        f"Of {len(least)} cells the constant one helps {helped['dc'] * len(least):.0f} and the "
        f"adaptive {helped['dc_adaptive'] * len(least):.0f}; mean gains {gains['dc'].mean():+z.3f} "
        f"and {gains['dc_adaptive'].mean():+z.3f}.",
    )


def _adagrad_and_sgd(results: StudyResults) -> pd.DataFrame:
    """Runs of the two at the delays and the batch size that Adagrad was given, after as many
    epochs; `final_test_accuracy` is the accuracy then."""
    adagrad = with_all(results.grid("adagrad"), "delay", (0, *ADAGRAD_DELAYS))
    sgd = after_epochs(results, "fig3_sgd", int(adagrad["epochs"].max()))
    for key in ("delay", "batch_size"):
        sgd = sgd[sgd[key].isin(adagrad[key])]
    return pd.concat([adagrad, sgd.assign(**{ACCURACY: sgd["test_accuracy"]})])


def _sgd_as_adagrad(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """Of runs of Adagrad at a rate that SGD was given too; `final_test_accuracy` after as many
    epochs."""
    both = _adagrad_and_sgd(results)
    sgd = both[both["rule"] == "sgd"].set_index(["delay", "lr", "seed"])[ACCURACY]
    runs = results.runs.copy()
    here = runs["grid"] == "adagrad"
    keys = pd.MultiIndex.from_frame(runs.loc[here, ["delay", "lr", "seed"]])
    runs.loc[here, ACCURACY] = sgd.reindex(keys).to_numpy()
    return changed(results, runs=runs[~here | runs[ACCURACY].notna()])


@claim(
    where="section 1, on Dean et al.",
    threshold=Threshold("above", 0.0, "at every delay, in every seed"),
    null=Null("Adagrad does what SGD did", _sgd_as_adagrad),
    ceiling=Null("no delay takes anything from it", same_as({"delay": 0}, ["adagrad"]), DRAWS),
    full_grid=True,
    seeds=3,
)
def adagrad_is_more_robust(results: StudyResults, threshold: float) -> Finding:
    """'Adagrad adaptive learning rate optimization greatly increased the robustness of Downpour
    SGD'

    Said of Dean et al. (2012). Of the rates with which an optimizer reaches 0.9 without delay, a
    larger share still does with Adagrad than with SGD, at each delay and in every seed.
    """
    return _resilience(_adagrad_and_sgd(results), "adagrad", "sgd", threshold)


@claim(
    where="section 3, on Goyal et al.",
    threshold=Threshold("above", 0.5, "of the minibatches and rates", "share"),
    null=Null("warm-up does nothing", whatever(["warmup_epochs"], ["large_minibatch"]), DRAWS),
    ceiling="Warm-up may lower the error of each run.",
    full_grid=True,
    seeds=3,
)
def warmup_helps_without_delay(results: StudyResults, threshold: float) -> Finding:
    """'a gradual warmup schedule is used effectively to reduce test error for synchronous minibatch
    SGD with large minibatch sizes and proportionally scaled learning rates'

    Said of Goyal et al. (2017). In more than half of the cells of large minibatch and rate, all
    without delay, the accuracy with warm-up is above that without in every seed.
    """
    runs = results.grid("large_minibatch")
    cell = ["batch_size", "lr", "seed"]
    warm = runs["warmup_epochs"] > 0
    gain = (runs[warm].set_index(cell)[ACCURACY] - runs[~warm].set_index(cell)[ACCURACY]).unstack(
        "seed"
    )
    better = (gain > 0).all(axis=1)
    return Finding(
        verdict_of([better.mean() > threshold]),
        "share of minibatches and rates at which warm-up lowers the error in every seed",
        better.mean(),
        f"It does at {better.sum()} of {len(better)}; mean gains: "
        + "; ".join(
            f"batch {batch}, rate {lr:.2g}: {mean:+z.3f}"
            for (batch, lr), mean in gain.mean(axis=1).items()
        )
        + ".",
    )


def _delayed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["delay"] > 0]


def _each_seed(runs: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    """What each seed's runs give, one column a seed, with the statistic's own rows."""
    return pd.DataFrame({seed: statistic(here) for seed, here in runs.groupby("seed")})
