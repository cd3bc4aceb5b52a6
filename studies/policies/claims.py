"""What the papers on policies, buffers and optimizers say in their abstracts, and our questions.

`criteria.csv` has each criterion and why; all were written before the runs that they judge.
"""

from collections.abc import Callable, Collection, Mapping

import numpy as np
import pandas as pd

from stalegrad.analysis.claims import (
    Finding,
    Threshold,
    cannot_tell,
    claim,
    verdict_of,
)
from stalegrad.analysis.nulls import (
    DRAWS,
    Null,
    View,
    changed,
    same_as,
    taking,
    taking_of,
    whatever,
)
from stalegrad.analysis.results import StudyResults, with_all
from stalegrad.io.errors import ResultError

from .tables import (
    ADAM,
    ASYNCHRONOUS,
    BACKUP,
    BOUNDED,
    CLUSTERS,
    COMPARABLE,
    DROP,
    DROP_PAPER,
    FACTORS,
    FEDASYNC,
    FEDAVG,
    FEDBUFF,
    FRESH,
    LABELS,
    MUON,
    NETWORKS,
    ONE_SLOW,
    PROBLEMS,
    RANDOM,
    SPREAD,
    SYNCHRONOUS,
    at_best_rate,
    bounds,
    by_method,
    far_apart,
    gap_runs,
    grids_of,
    over_optimum,
    situation,
    survived,
    tuned,
    with_method,
)

SAME_ORDER = 2.0  # a factor, up to which two times count as the same up to constants
EVERY = tuple(grids_of(*PROBLEMS))
NO_METHOD = ["barrier", "policy", "rule", "local_steps"]
A_DIRECTION = "It says which is faster; no number is the best there is."


def any_method(*grids: str) -> Null:
    """The method makes no difference to a run on the same cluster with the same rate."""
    view = whatever(NO_METHOD, grids)
    return Null("each run has the outcome of some method, drawn at random", view, draws=DRAWS)


def as_fast_as(other: str, *methods: str) -> View:
    """Runs of some methods have the outcomes of another on the same cluster, rate and seed."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        there = results.runs[results.runs["grid"].isin(EVERY)]
        if there.empty:
            raise ResultError("there are no runs of the three clusters")
        runs = with_method(there)
        takers, givers = runs[runs["method"].isin(methods)], runs[runs["method"] == other]
        return taking_of(results, takers, givers, ["grid", "split", "lr", "seed"])

    return view


# ---- the best time there can be ----


def _slowing_as(method: str, bound: str) -> View:
    """The times of a method grow with the spread of speeds as one of `bounds` does."""

    def view(results: StudyResults, chance: np.random.Generator) -> StudyResults:
        rows = over_optimum(results, method)
        base = rows[rows["slowest"] == rows["slowest"].min()].iloc[0]
        wanted = base["seconds"] * rows[bound] / base[bound]
        times = rows[FACTORS].assign(times=wanted / rows["seconds"])

        def factor(history: pd.DataFrame) -> pd.Series:
            both = history[FACTORS].merge(times, on=FACTORS, how="left")
            return both["times"].set_axis(history.index)

        return _slower(results, ["heterogeneity"], [method], factor)

    return view


def _slower(
    results: StudyResults,
    grids: Collection[str],
    methods: Collection[str],
    factor: Callable[[pd.DataFrame], pd.Series | float],
) -> StudyResults:
    """Some methods take `factor`, of the rows of their history, times as long in some grids."""
    history = results.history
    rows = with_method(history[history["grid"].isin(grids)])
    rows = rows[rows["method"].isin(methods)]
    clock = history["simulated_seconds"].astype(float)
    clock.loc[rows.index] = clock.loc[rows.index] * factor(rows)
    return changed(results, history=history.assign(simulated_seconds=clock))


def _growth(results: StudyResults, method: str) -> tuple[float, str]:
    """How much more the time over the best time is where it is most than where it is least."""
    ratio = over_optimum(results, method).set_index(FACTORS)["ratio"]
    (profile, slowest), (other, least) = ratio.idxmax(), ratio.idxmin()
    return float(ratio.max() / ratio.min()), (
        f"It is largest with a slowest worker of {slowest:g} ({profile.replace('_', ' ')}) and "
        f"least with one of {least:g} ({other.replace('_', ' ')})."
    )


def _optimal(results: StudyResults, method: str, most: float) -> Finding:
    value, words = _growth(results, method)
    return Finding(
        verdict_of([value <= most]),
        "largest over smallest ratio of its time to the best time possible",
        value,
        f"{words} For asynchronous SGD it is {_growth(results, ASYNCHRONOUS)[0]:.3g}.",
    )


@claim(
    where="Maranjyan, Tyurin and Richtarik 2025, abstract",
    threshold=Threshold("above", SAME_ORDER, "over all clusters", moves="factor"),
    null=Null(
        "asynchronous SGD slows down as the best time does", _slowing_as(ASYNCHRONOUS, "optimal")
    ),
    ceiling=Null("it slows down as its own bound does", _slowing_as(ASYNCHRONOUS, "asynchronous")),
    full_grid=True,
    seeds=3,
    shows=["heterogeneity"],
)
def asynchronous_is_suboptimal(results: StudyResults, least: float) -> Finding:
    """'its performance suffers under arbitrarily heterogeneous computation times across workers,
    leading to suboptimal time complexity'

    The time of asynchronous SGD at its best step, over the best time possible, grows by more than a
    factor of 2 from where it is least to where it is most, among a hundred workers that are apart
    by a factor of up to 1,000.
    """
    value, words = _growth(results, ASYNCHRONOUS)
    bound = bounds(results)
    bound_growth = bound["asynchronous"] / bound["optimal"]
    return Finding(
        verdict_of([value > least]),
        "largest over smallest ratio of its time to the best time possible",
        value,
        f"{words} Its bound grows by {bound_growth.max() / bound_growth.min():.3g}.",
    )


@claim(
    where="Maranjyan, Tyurin and Richtarik 2025, abstract",
    threshold=Threshold("at most", SAME_ORDER, "over all clusters", moves="factor"),
    null=Null("it slows down as minibatch SGD does", _slowing_as(DROP_PAPER, "synchronous")),
    ceiling=Null("it slows down as the best time does", _slowing_as(DROP_PAPER, "optimal")),
    full_grid=True,
    seeds=3,
    shows=["heterogeneity"],
)
def dropping_is_optimal(results: StudyResults, most: float) -> Finding:
    """'Ringmaster ASGD achieves optimal time complexity under arbitrarily heterogeneous and
    dynamically fluctuating worker computation times'

    Gradients of staleness R = sigma^2 / eps and more are dropped. The time over the best time
    possible differs by at most a factor of 2 among all clusters.
    """
    return _optimal(results, DROP_PAPER, most)


@claim(
    where="Tyurin 2024, abstract",
    threshold=Threshold("at most", SAME_ORDER, "over all clusters", moves="factor"),
    null=Null("it slows down as minibatch SGD does", _slowing_as(FRESH, "synchronous")),
    ceiling=Null("it slows down as the best time does", _slowing_as(FRESH, "optimal")),
    full_grid=True,
    seeds=3,
    shows=["heterogeneity"],
)
def fresh_gradients_are_optimal(results: StudyResults, most: float) -> Finding:
    """'these lower bounds, up to constant factors, are matched by the optimal Rennala SGD'

    An update is the mean of K = sigma^2 / eps gradients at the current weights. The time over the
    best time possible differs by at most a factor of 2 among all clusters.
    """
    return _optimal(results, FRESH, most)


@claim(
    where="our question",
    threshold=Threshold("above", 1, "in every cluster with a worker 10 times slower or more"),
    null=Null("each run has the outcome of some method, drawn at random",
              whatever(NO_METHOD, ["heterogeneity"]), draws=DRAWS),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["heterogeneity"],
)  # fmt: skip
def dropping_beats_asynchronous(results: StudyResults, least: float) -> Finding:
    """'Is it faster to drop stale gradients than to apply them?'

    At their best steps, on the quadratic, in every one of six clusters: asynchronous SGD takes
    longer than the faster of two policies that drop, with R = sigma^2 / eps and with R = 2 n.
    """
    table = far_apart(results).query("slowest >= 10")
    seconds = table.pivot(index=FACTORS, columns="method", values="seconds")
    ratio = seconds[ASYNCHRONOUS] / seconds[[DROP, DROP_PAPER]].min(axis=1)
    return Finding(
        verdict_of(list(ratio > least)),
        "smallest ratio of times, asynchronous over dropping",
        float(ratio.min()),
        f"The ratio is {ratio.min():.3g} to {ratio.max():.3g}, above 1 in "
        f"{int((ratio > least).sum())} of {len(ratio)} clusters.",
    )


# ---- three clusters, three problems ----


def _ratios(
    results: StudyResults, slow: str, fast: str, cases: Mapping[str, list[str]], split: str = RANDOM
) -> pd.Series:
    """Times of one method over those of another, by problem and cluster; infinite where only the
    first never gets to the target, 0 where the second does not.

    cases: problem -> clusters.
    """
    found = {}
    for problem, clusters in cases.items():
        seconds = by_method(results, problem)
        for cluster in clusters:
            row = situation(seconds, split, cluster)
            one, other = float(row[slow]), float(row[fast])
            found[problem, cluster] = 0.0 if np.isinf(other) else one / other
    return pd.Series(found)


def _told(ratio: pd.Series) -> str:
    each = (f"{p}, {c}: {value:.3g}" for (p, c), value in ratio.items())
    return "; ".join(each) + "."


@claim(
    where="Chen et al. 2017 (Pan et al.), abstract",
    threshold=Threshold("above", SAME_ORDER, "for every problem", moves="factor"),
    null=Null("backup workers are as fast as none", as_fast_as(SYNCHRONOUS, BACKUP)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["which_when", "targets"],
)
def backup_workers_mitigate_a_straggler(results: StudyResults, least: float) -> Finding:
    """'synchronous optimization with backup workers, can avoid asynchronous noise while mitigating
    for the worst stragglers'

    One worker of ten is 100 times slower. Synchronous SGD that waits for eight takes less than half
    the time of synchronous SGD that waits for all, on each of three problems.
    """
    ratio = _ratios(results, SYNCHRONOUS, BACKUP, {p: [ONE_SLOW] for p in PROBLEMS})
    return Finding(
        verdict_of(list(ratio > least)),
        "smallest ratio of times, all over eight of ten",
        float(ratio.min()),
        _told(ratio),
    )


@claim(
    where="Chen et al. 2017 (Pan et al.), abstract",
    threshold=Threshold("above", 1, "for both networks, with equal workers and with one slow"),
    null=any_method(*grids_of(*NETWORKS)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["which_when", "targets"],
)
def backup_workers_converge_faster(results: StudyResults, least: float) -> Finding:
    """'Our approach is empirically validated and shown to converge faster and to better test
    accuracies'

    The first half: synchronous SGD with two backup workers of ten gets to the target sooner than
    asynchronous SGD, for two networks, with equal workers and with one slow.
    """
    cases = {problem: [CLUSTERS[0], ONE_SLOW] for problem in NETWORKS}
    ratio = _ratios(results, ASYNCHRONOUS, BACKUP, cases)
    return Finding(
        verdict_of(list(ratio > least)),
        "smallest ratio of times, asynchronous over backup workers",
        float(ratio.min()),
        _told(ratio),
    )


@claim(
    where="Chen et al. 2017 (Pan et al.), abstract",
    threshold=Threshold("above", COMPARABLE, "for both networks, with equal workers and one slow"),
    null=any_method(*grids_of(*NETWORKS)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["which_when"],
)
def backup_workers_reach_better_accuracies(results: StudyResults, least: float) -> Finding:
    """'shown to converge faster and to better test accuracies'

    The second half: at the best rate of each, after the same number of gradients, its mean test
    accuracy is more than 0.01 above that of asynchronous SGD.
    """
    gain = []
    for problem in NETWORKS:
        final = best_accuracies(results, problem)
        for cluster in (CLUSTERS[0], ONE_SLOW):
            row = situation(final, RANDOM, cluster)
            gain.append(row[BACKUP] - row[ASYNCHRONOUS])
    return Finding(
        verdict_of([each > least for each in gain]),
        "smallest gain in test accuracy over asynchronous SGD",
        float(min(gain)),
        f"It is {min(gain):+.3f} to {max(gain):+.3f} in {len(gain)} cases.",
    )


def best_accuracies(results: StudyResults, problem: str) -> pd.DataFrame:
    """Final test accuracy at the best rate, mean over seeds: a row for each split and cluster, a
    column for each method."""
    runs = with_method(results.grid(*grids_of(problem)))
    mean = runs.groupby(["split", "cluster", "method", "lr"])["final_test_accuracy"].mean()
    return mean.groupby(["split", "cluster", "method"]).max().unstack("method")


@claim(
    where="Ho et al. 2013, abstract",
    threshold=Threshold("above", 0.5, "of problems and clusters", moves="share"),
    null=any_method(*EVERY),
    ceiling=Null(
        "bounded staleness is a thousand times as fast",
        lambda results, chance: _slower(results, EVERY, [BOUNDED], lambda history: 1e-3),
    ),
    full_grid=True,
    seeds=3,
    shows=["which_when", "targets"],
)
def bounded_staleness_is_faster(results: StudyResults, least: float) -> Finding:
    """'the SSP model achieves faster algorithm convergence on several different ML problems,
    compared to fully-synchronous and asynchronous schemes'

    A lead of at most three gradients: sooner at the target than both, in most of nine cases, three
    problems on three clusters.
    """
    sooner = {}
    for problem in PROBLEMS:
        seconds = by_method(results, problem)
        for cluster in CLUSTERS:
            row = situation(seconds, RANDOM, cluster)
            sooner[problem, cluster] = row[BOUNDED] < row[[SYNCHRONOUS, ASYNCHRONOUS]].min()
    share = float(np.mean(list(sooner.values())))
    where = ", ".join(f"{p} ({c})" for (p, c), value in sooner.items() if value) or "none"
    return Finding(
        verdict_of([share > least]),
        "share of cases in which bounded staleness is fastest of the three",
        share,
        f"They are: {where}.",
    )


@claim(
    where="Nguyen et al. 2022, abstract",
    threshold=Threshold("at least", 3.3, "for every problem", moves="factor"),
    null=Null("a buffer is as fast as a barrier", as_fast_as(FEDAVG, FEDBUFF)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["which_when", "targets"],
)
def buffer_beats_synchronous(results: StudyResults, least: float) -> Finding:
    """'FedBuff is 3.3x more efficient than synchronous FL'

    Ten workers that each take five steps before they send, with speeds spread over two decades:
    synchronous training takes at least 3.3 times as long as a buffer of five.
    """
    ratio = _ratios(results, FEDAVG, FEDBUFF, {p: [SPREAD] for p in PROBLEMS})
    return Finding(
        verdict_of(list(ratio >= least)),
        "smallest ratio of times, synchronous over buffered",
        float(ratio.min()),
        _told(ratio),
    )


@claim(
    where="Nguyen et al. 2022, abstract",
    threshold=Threshold("above", 1, "for every problem and cluster"),
    null=Null("a buffer of five is as fast as one of one", as_fast_as(FEDASYNC, FEDBUFF)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["which_when", "targets"],
)
def buffer_beats_asynchronous(results: StudyResults, least: float) -> Finding:
    """'up to 2.5x more efficient than asynchronous FL'

    With five local steps, a buffer of five gets to the target sooner than applying each difference
    as it comes, both weighted by (1 + staleness)^-1/2, for each problem on each cluster.
    """
    ratio = _ratios(results, FEDASYNC, FEDBUFF, {p: list(CLUSTERS) for p in PROBLEMS})
    return Finding(
        verdict_of(list(ratio > least)),
        "smallest ratio of times, one at a time over buffered",
        float(ratio.min()),
        _told(ratio),
    )


@claim(
    where="our question",
    threshold=Threshold("at most", SAME_ORDER, "over all problems and clusters", moves="factor"),
    null=any_method(*EVERY),
    ceiling=Null("all methods are as fast as asynchronous SGD", as_fast_as(ASYNCHRONOUS, DROP)),
    full_grid=True,
    seeds=3,
    shows=["which_when"],
)
def one_method_does_everywhere(results: StudyResults, most: float) -> Finding:
    """'Is there a method that is never more than twice as slow as the fastest?'

    Data split at random: the slowdown of a method is its time over that of the fastest method on
    the same cluster and problem. The smallest, over methods, of the largest slowdown of nine.
    """
    every = pd.concat([tuned(results, problem) for problem in PROBLEMS])
    worst = every[every["split"] == RANDOM].groupby("method")["slowdown"].max().sort_values()
    told = "; ".join(f"{name} {value:.3g}" for name, value in worst.head(4).items())
    return Finding(
        verdict_of([float(worst.iloc[0]) <= most]),
        "smallest over methods of the largest slowdown",
        float(worst.iloc[0]),
        f"The largest slowdowns of the best four: {told}.",
    )


@claim(
    where="our question",
    threshold=Threshold("above", 0.05, "of accuracy, for both networks and three policies"),
    null=Null("split labels train as random ones do", same_as({"partition": "dataset"}, EVERY)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["which_when"],
)
def policies_that_drop_lose_labels(results: StudyResults, least: float) -> Finding:
    """'Where labels are split, do policies that drop gradients lose what slow workers know?'

    Speeds spread over two decades, a class for each worker: the best mean accuracy of dropping
    stale gradients, of fresh ones alone and of backup workers is each more than 0.05 below that of
    synchronous SGD after as many gradients.
    """
    lost = {}
    for problem in NETWORKS:
        final = situation(best_accuracies(results, problem), LABELS, SPREAD)
        for method in (DROP, FRESH, BACKUP):
            lost[problem, method] = float(final[SYNCHRONOUS] - final[method])
    found = pd.Series(lost)
    return Finding(
        verdict_of(list(found > least)),
        "smallest loss of test accuracy against synchronous SGD",
        float(found.min()),
        _told(found),
    )


@claim(
    where="our question",
    threshold=Threshold("at least", 2.5, "for every problem, of five steps", moves="factor"),
    null=Null("local steps save nothing", lambda results, chance: _as_many_messages(results)),
    ceiling="Five steps save at most a factor of five where each is worth a step of the server.",
    full_grid=True,
    seeds=3,
    shows=["targets"],
)
def local_steps_save_messages(results: StudyResults, least: float) -> Finding:
    """'Do five local steps save messages?'

    Equal workers that all wait for each other: the messages until the target without local steps,
    over those with five, is at least half of five for each problem.
    """
    saved = {}
    for problem in PROBLEMS:
        rows = tuned(results, problem).query("split == @RANDOM and cluster == @CLUSTERS[0]")
        passes = rows.set_index("method")["passes"]
        saved[problem] = 5 * float(passes[SYNCHRONOUS] / passes[FEDAVG])
    found = pd.Series(saved)
    return Finding(
        verdict_of(list(found >= least)),
        "smallest ratio of messages to the target, without over with local steps",
        float(found.min()),
        "; ".join(f"{problem}: {value:.3g}" for problem, value in saved.items()) + ".",
    )


def _as_many_messages(results: StudyResults) -> StudyResults:
    """With five local steps it takes five times the epochs: each record comes five times later."""
    history = results.history
    own = with_method(history[history["grid"].isin(EVERY)]).query("method == @FEDAVG")
    later = (own["epoch"] + 4) // 5
    outcome = [c for c in ("test_accuracy", "gradient_square") if c in own]
    at = own.set_index(["grid", "run", "epoch"])[outcome]
    key = pd.MultiIndex.from_arrays([own["grid"], own["run"], later])
    moved = history.copy()
    moved.loc[own.index, outcome] = at.reindex(key).to_numpy()
    return changed(results, history=moved)


# ---- optimizers ----


@claim(
    where="Zmushko et al. 2026, abstract",
    threshold=Threshold("above", COMPARABLE, "of accuracy"),
    null=Null("the delay makes no difference", same_as({"delay": 0}, ["optimizers"]), draws=DRAWS),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["optimizers", "survival"],
)
def adam_suffers_from_one_step(results: StudyResults, least: float) -> Finding:
    """'while AdamW, the predominant optimizer at the time when PipeDream-2BW was introduced, indeed
    suffers from severe degradation'

    Adam, at its best rate, loses more than 0.01 of accuracy with a delay of one step.
    """
    return _lost(results, ADAM, lambda lost: lost > least)


@claim(
    where="Zmushko et al. 2026, abstract",
    threshold=Threshold("at most", COMPARABLE, "of accuracy"),
    null=Null(
        "Muon has the outcomes of a delay of 256",
        lambda results, chance: _muon_at(results, 256),
    ),
    ceiling=Null("the delay makes no difference", same_as({"delay": 0}, ["optimizers"])),
    full_grid=True,
    seeds=3,
    shows=["optimizers", "survival"],
)
def muon_is_robust_to_one_step(results: StudyResults, most: float) -> Finding:
    """'recent methods like Muon exhibit strong robustness under a one-step delay'

    Muon, at its best rate, loses at most 0.01 of accuracy with a delay of one step.
    """
    return _lost(results, MUON, lambda lost: lost <= most)


def _lost(results: StudyResults, optimizer: str, holds: Callable[[float], bool]) -> Finding:
    rows = at_best_rate(results).set_index(["optimizer", "delay"])["lost"]
    if (optimizer, 1) not in rows.index:
        raise ResultError(f"there is no run of {optimizer} with a delay of one step")
    lost = float(rows[optimizer, 1])
    others = ", ".join(f"{name} {rows[name, 1]:+.4f}" for name, d in rows.index if d == 1)
    return Finding(
        verdict_of([holds(lost)]),
        f"accuracy that {optimizer} loses with a delay of one step",
        lost,
        f"All of them: {others}.",
    )


def _muon_at(results: StudyResults, delay: int) -> StudyResults:
    runs = results.runs
    muon = runs[(runs["grid"] == "optimizers") & (runs["rule"] == "muon") & (runs["delay"] > 0)]
    givers = muon[muon["delay"] == delay]
    if givers.empty:
        raise ResultError(f"there is no run of Muon with a delay of {delay}")
    return taking_of(results, muon, givers, ["lr", "seed"])


@claim(
    where="our question",
    threshold=Threshold("above", 1, "times the delay that the best of the others survives"),
    null=Null("each run has the outcome of some optimizer, drawn at random",
              lambda results, chance: _any_optimizer(results, chance), draws=DRAWS),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["optimizers", "survival"],
)  # fmt: skip
def muon_survives_the_longest_delay(results: StudyResults, least: float) -> Finding:
    """'Which optimizer survives delay?'

    An optimizer survives a delay if, at its best rate there and at all shorter ones, it loses at
    most 0.01 of its accuracy without delay. Muon survives a longer one than SGD, momentum and Adam.
    """
    longest = survived(results)
    if longest.isna().any():
        return cannot_tell("An optimizer is missing.")
    others = longest.drop(MUON)
    ratio = float((longest[MUON] or 0.5) / max(others.max(), 0.5))
    told = ", ".join(f"{name} {value:g}" for name, value in longest.items())
    return Finding(
        verdict_of([ratio > least]),
        "longest delay that Muon survives over that of the best of the others",
        ratio,
        f"They survive: {told}.",
    )


def _any_optimizer(results: StudyResults, chance: np.random.Generator) -> StudyResults:
    """The rates of each optimizer are taken in their order, which all have as many of."""
    runs = results.runs
    there = runs[runs["grid"] == "optimizers"]
    named = there.assign(momentum=there["momentum"].fillna(0.0))
    place = named.groupby(["rule", "momentum", "delay", "seed"])["lr"].rank()
    source = pd.Series(runs.index, index=runs.index)
    for _, group in named.groupby([place, named["delay"]]):
        source.loc[group.index] = chance.choice(group.index.to_numpy(), len(group))
    return taking(results, source)


@claim(
    where="Barkai, Hakimi and Schuster 2020, abstract",
    threshold=Threshold("above", COMPARABLE, "of accuracy, among 32 workers"),
    null=Null("momentum has no effect", lambda results, chance: _without_momentum(results)),
    ceiling=A_DIRECTION,
    full_grid=True,
    seeds=3,
    shows=["momentum"],
)
def momentum_helps_gap_aware(results: StudyResults, least: float) -> Finding:
    """'if GA is applied, momentum becomes beneficial in asynchronous environments, even when the
    number of workers scales up'

    Among 32 workers alike, gap-aware gradients with momentum 0.9 end more than 0.01 more accurate
    than without, each at its best rate.
    """
    runs = with_all(gap_runs(results), "workers", [32])
    gain = runs.set_index(["workers", "rule", "momentum"])["accuracy"].unstack("momentum")
    gain = gain[0.9] - gain[0.0]
    value = float(gain[32, "gap_aware"])
    told = "; ".join(f"{n} workers, {rule}: {each:+.4f}" for (n, rule), each in gain.items())
    return Finding(
        verdict_of([value > least]), "accuracy that momentum adds to gap-aware SGD", value, told
    )


def _without_momentum(results: StudyResults) -> StudyResults:
    """Runs with momentum have the outcomes of one without, at ten times their rate."""
    gap = results.runs[results.runs["grid"] == "gap"]
    times = np.where(gap["momentum"] > 0, 10, 1)
    gap = gap.assign(step=(times * gap["lr"]).round(6))
    plain = gap["momentum"] == 0
    return taking_of(results, gap[~plain], gap[plain], ["workers", "rule", "seed", "step"])
