"""The study `policies`: its times to a target, its bounds and its claims, on made-up results."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import home_of, of_study

from stalegrad.analysis.claims import NOT_REPRODUCED, REPRODUCED, claims_of
from stalegrad.analysis.nulls import Null, changed
from stalegrad.analysis.results import StudyResults, collect
from stalegrad.io.errors import ResultError
from stalegrad.planning.cell import Cell
from stalegrad.planning.config import Preset, load_study
from stalegrad.planning.expand import study_cells

HOME = home_of("policies")
CLAIMS = claims_of(HOME)
tables = of_study("policies", "tables")

# Seconds to the target where all that is claimed holds and all that is asked is answered with yes;
# methods on each of CLUSTERS. The same for all problems.
CLAIMED = {
    tables.SYNCHRONOUS: (50, 5000, 5000),
    tables.BACKUP: (20, 22, 2000),
    tables.BOUNDED: (15, 18, 30),
    tables.ASYNCHRONOUS: (30, 35, 60),
    tables.SCALED: (25, 30, 55),
    tables.DROP: (26, 30, 50),
    tables.FRESH: (28, 33, 70),
    tables.BUFFER: (27, 32, 65),
    tables.FEDAVG: (50, 5000, 5000),
    tables.FEDASYNC: (60, 70, 90),
    tables.FEDBUFF: (40, 50, 60),
}


@cache
def grids(preset: str = "paper") -> dict[str, list[Cell]]:
    """Each grid with three seeds."""
    study = load_study(HOME)
    return study_cells(study, preset, Preset(title="", seeds=3, bundle_size=1), "a test")


def claimed_seconds(row: pd.Series) -> float:
    if row["grid"] != "heterogeneity":
        return CLAIMED[row["method"]][tables.CLUSTERS.index(row["cluster"])]
    spread = row["slowest"] if row["profile"] == "geometric" else 1.0
    if row["method"] == tables.ASYNCHRONOUS:
        return 60 * spread**0.5
    if row["method"] in (tables.SYNCHRONOUS, tables.BOUNDED):
        return 50 * row["slowest"]
    return 50 * optimal(row["profile"], row["slowest"])


def optimal(profile: str, slowest: float) -> float:
    """The best time of a hundred workers over a, with sigma^2 / eps = 4."""
    m = np.arange(1, 101)
    seconds = (
        slowest ** ((m - 1) / 99) if profile == "geometric" else np.where(m == 100, slowest, 1)
    )
    return float((m / np.cumsum(1 / seconds) * (1 + 4 / m)).min())


def claimed_accuracy(row: pd.Series) -> float:
    """After the last epoch, at the best rate."""
    if row["grid"] == "gap":
        return 0.9 + 0.04 * (row["rule"] == "gap_aware" and row["momentum"] > 0)
    if row["grid"] == "optimizers":
        loss = {"muon": 0.0 if row["delay"] < 256 else 0.5, "adam": 0.02}
        return 0.95 - (loss.get(row["rule"], 0.05) if row["delay"] else 0.0)
    if row["split"] == tables.LABELS and row["method"] in (
        tables.DROP,
        tables.FRESH,
        tables.BACKUP,
    ):
        return 0.8
    return 0.95 if row["method"] == tables.BACKUP else 0.92


def made_up(folder: Path) -> StudyResults:
    """Results in which a run gets to its target as claimed at the rate in the middle, and later at
    others; accuracy grows with the time spent until then, and goes on to its end."""
    chosen = grids()
    rows = []
    for name, cells in chosen.items():
        frame = pd.DataFrame([{"grid": name, "cell": c, **c.columns()} for c in cells])
        if name not in ("optimizers", "gap"):
            frame = tables.with_method(frame)
        momentum = frame["momentum"].fillna(0.0)
        place = frame.groupby([frame["rule"], momentum])["lr"].rank(method="dense")
        middle = place.groupby([frame["rule"], momentum]).transform("median").round()
        for (_, row), away in zip(frame.iterrows(), (place - middle).abs(), strict=True):
            rows += _history(row, int(away))
    for name, table in zip(("runs", "history"), collect(chosen, [pd.DataFrame(rows)]), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    return StudyResults(HOME, "paper", folder)


def _history(row: pd.Series, away: int) -> list[dict]:
    cell, out = row["cell"], []
    network = row["problem"] != "chain"
    trained = row["grid"] in ("optimizers", "gap")
    wanted = 1.0 if trained else claimed_seconds(row) * (1 + away) * (1 + 0.01 * row["seed"])
    final = claimed_accuracy(row) - 0.01 * away if network else np.nan
    target = 0.85
    if network and not trained:
        target = tables.ACCURACY[row["problem"]][row["split"]]
    for epoch in range(1, cell.epochs + 1):
        progress = 2 * epoch / cell.epochs
        values = {"gradient_square": tables.LEAST_GRADIENT / progress}
        if network:
            early, late = target * progress, target + (final - target) * (progress - 1)
            last = epoch == cell.epochs
            values = {"test_accuracy": final if last or trained else min(early, max(late, target))}
        out.append(
            {
                "run": cell.hash,
                "epoch": epoch,
                "updates": epoch,
                "simulated_seconds": wanted * progress,
                "mean_staleness": 1.0,
                "max_staleness": 2,
                "train_loss": 1.0,
                **values,
                "diverged": False,
            }
        )
    return out


@pytest.fixture(scope="module")
def as_claimed(tmp_path_factory) -> StudyResults:
    return made_up(tmp_path_factory.mktemp("claimed"))


# ---- numbers ----


def test_the_time_to_a_target_is_read_between_two_epochs(as_claimed):
    """Half way in accuracy is half way in time; the logarithm of a gradient likewise."""
    runs = as_claimed.grid("lenet5_equal").head(1)
    epochs = [1, 2, 3]
    rows = [
        {"epoch": e, "simulated_seconds": s, "test_accuracy": a}
        for e, s, a in zip(epochs, [10.0, 20.0, 30.0], [0.65, 0.8, 0.9], strict=True)
    ]
    history = runs.merge(pd.DataFrame(rows), how="cross", suffixes=("_", ""))
    (found,) = tables.times(
        changed(as_claimed, runs=runs, history=history), "lenet5_equal"
    ).itertuples()
    assert found.split == tables.RANDOM
    assert (found.seconds, found.passes) == pytest.approx((25.0, 2.5))
    runs = as_claimed.grid("quadratic_equal").head(1)
    frame = pd.DataFrame(rows).drop(columns="test_accuracy")
    frame["gradient_square"] = [1e-2, 1e-3, 1e-5]
    history = runs.merge(frame, how="cross", suffixes=("_", ""))
    (found,) = tables.times(
        changed(as_claimed, runs=runs, history=history), "quadratic_equal"
    ).itertuples()
    assert (found.seconds, found.passes) == pytest.approx((25.0, 2.5))


def test_a_target_that_is_there_after_one_epoch_or_never(as_claimed):
    runs = as_claimed.grid("quadratic_equal").head(2)
    first, second = runs["run"]
    rows = [
        {"run": run, "epoch": e, "simulated_seconds": 10.0 * e, "gradient_square": g}
        for run, values in ((first, [1e-6, 1e-7]), (second, [1.0, np.nan]))
        for e, g in zip((1, 2), values, strict=True)
    ]
    history = runs.merge(pd.DataFrame(rows), on="run", suffixes=("_", ""))
    found = tables.times(changed(as_claimed, runs=runs, history=history), "quadratic_equal")
    assert found.set_index("run")["seconds"].to_dict() == {first: 10.0, second: np.inf}
    assert found.set_index("run")["passes"].to_dict() == {first: 1.0, second: np.inf}


def test_the_best_rate_needs_every_seed():
    """A rate at which one of three seeds fails is not chosen, however soon the others are there."""
    runs = pd.DataFrame(
        {
            "method": "a",
            "lr": [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0],
            "seconds": [8.0, 1.0, 27.0, 1.0, 1.0, np.inf, 9.0, 9.0, 9.0],
            "passes": 1.0,
        }
    )
    (row,) = tables.best(runs, ["method"]).itertuples()
    assert (row.lr, row.low, row.high, row.edge) == (1.0, 1.0, 27.0, True)
    assert row.seconds == pytest.approx(6.0)


def test_bounds_by_hand(as_claimed):
    """L = 1, a = (f(0) - f*) / eps, sigma^2 / eps = 4; of n = 100 alike the best is to use all, and
    with one 1,000 times slower 99 of them."""
    rows = tables.bounds(as_claimed).set_index(tables.FACTORS)
    a = 0.12376237623762376 / 1e-4
    alike = rows.loc[("one_slow", 1.0)]
    assert alike.tolist() == pytest.approx([a * 1.04] * 3)
    slow = rows.loc[("one_slow", 1000.0)]
    assert slow["optimal"] == pytest.approx(a * (1 + 4 / 99))
    assert slow["asynchronous"] == pytest.approx(a * 1.04 * 100 / 99.001)
    assert slow["synchronous"] == pytest.approx(1000 * a * 1.04)
    spread = rows.loc[("geometric", 1000.0)]
    first = 1 / np.cumsum(1000.0 ** (-np.arange(100) / 99))
    m = np.arange(1, 101)
    assert spread["optimal"] == pytest.approx(a * optimal("geometric", 1000.0))
    assert m[(m * first * (1 + 4 / m)).argmin()] == 10


def test_every_run_has_the_method_of_its_policy(as_claimed):
    runs = tables.with_method(as_claimed.grid("lenet5_spread"))
    assert set(runs["method"]) == set(CLAIMED)
    assert set(runs["cluster"]) == {tables.SPREAD}
    known = {
        tables.DROP: {"name": "drop", "stop": False, "threshold": 20},
        tables.FRESH: {"gradients": 5, "name": "fresh"},
    }
    for method, policy in known.items():
        (found,) = runs[runs["method"] == method]["policy"].unique()
        assert json.loads(found) == policy
    local = runs.groupby("method")["local_steps"].unique().str[0]
    assert set(local[local == 5].index) == {tables.FEDAVG, tables.FEDASYNC, tables.FEDBUFF}
    far = tables.with_method(as_claimed.grid("heterogeneity"))
    assert far[far["method"] == tables.DROP_PAPER]["policy"].str.contains('"threshold": 4').all()


def test_the_table_that_says_which_when(as_claimed):
    """Bounded staleness is the fastest in what is claimed; the others are so much slower."""
    table = tables.slowdowns(as_claimed)
    for cluster in tables.CLUSTERS:
        column = table[tables.RANDOM, cluster]
        at = tables.CLUSTERS.index(cluster)
        best = min(times[at] for times in CLAIMED.values())
        for method, times in CLAIMED.items():
            assert column[method] == pytest.approx(times[at] / best, rel=0.02), (method, cluster)
    printed = tables.which_when(as_claimed).latex()
    assert printed.count(r"\\") == len(CLAIMED) + 1


def test_an_optimizer_survives_up_to_the_first_delay_that_costs_more(as_claimed):
    survived = tables.survived(as_claimed)
    assert survived.to_dict() == {"SGD": 0, "momentum": 0, "Adam": 0, "Muon": 64}
    runs = as_claimed.runs.copy()
    again = (runs["grid"] == "optimizers") & (runs["rule"] == "muon") & (runs["delay"] == 16)
    runs.loc[again, "final_test_accuracy"] = 0.5
    assert tables.survived(changed(as_claimed, runs=runs))["Muon"] == 4


# ---- claims ----


@pytest.mark.parametrize("name", CLAIMS)
def test_results_as_claimed_reproduce_every_claim(name, as_claimed):
    finding = found(name, as_claimed)
    assert finding.verdict == REPRODUCED, finding.reason


@pytest.mark.parametrize("name", CLAIMS)
def test_no_null_meets_its_claim(name, as_claimed):
    null = CLAIMS[name].claim["null"]
    assert isinstance(null, Null)
    chance = np.random.default_rng(1)
    verdicts = [
        found(name, null.view(as_claimed, chance)).verdict for _ in range(min(3, null.draws))
    ]
    assert verdicts.count(REPRODUCED) <= len(verdicts) // 3, verdicts


@pytest.mark.parametrize(
    "name", [n for n, c in CLAIMS.items() if isinstance(c.claim["ceiling"], Null)]
)
def test_every_ceiling_meets_its_claim(name, as_claimed):
    ceiling = CLAIMS[name].claim["ceiling"]
    at_best = ceiling.view(as_claimed, np.random.default_rng(1))
    assert found(name, at_best).verdict == REPRODUCED


@pytest.mark.parametrize(
    ("name", "method", "factor"),
    [
        (
            "asynchronous_is_suboptimal",
            tables.ASYNCHRONOUS,
            lambda row: 50 * optimal(row["profile"], row["slowest"]) / row["claimed"],
        ),
        ("dropping_is_optimal", tables.DROP_PAPER, lambda row: row["slowest"] ** 0.5),
        ("fresh_gradients_are_optimal", tables.FRESH, lambda row: row["slowest"] ** 0.5),
        ("dropping_beats_asynchronous", tables.ASYNCHRONOUS, lambda row: 0.01),
        ("backup_workers_mitigate_a_straggler", tables.BACKUP, lambda row: 1000),
        ("backup_workers_converge_faster", tables.ASYNCHRONOUS, lambda row: 0.1),
        ("bounded_staleness_is_faster", tables.BOUNDED, lambda row: 10),
        ("buffer_beats_synchronous", tables.FEDBUFF, lambda row: 50),
        ("buffer_beats_asynchronous", tables.FEDBUFF, lambda row: 10),
    ],
)
def test_the_opposite_is_not_reproduced(name, method, factor, as_claimed):
    history = with_times(as_claimed, method, factor)
    assert found(name, changed(as_claimed, history=history)).verdict == NOT_REPRODUCED


def with_times(results: StudyResults, method: str, factor: Callable) -> pd.DataFrame:
    """The history, in which a method takes `factor` times as long."""
    history = results.history.copy()
    clusters = history["grid"].isin(["heterogeneity", *tables.grids_of(*tables.PROBLEMS)])
    runs = tables.with_method(history[clusters]).query("method == @method")
    each = runs.drop_duplicates("run")
    each = each.assign(claimed=[claimed_seconds(row) for _, row in each.iterrows()])
    times = dict(zip(each["run"], [factor(row) for _, row in each.iterrows()], strict=True))
    slower = runs["simulated_seconds"] * runs["run"].map(times)
    history.loc[runs.index, "simulated_seconds"] = slower
    return history


def test_a_method_that_never_gets_there_is_slower_than_any(as_claimed):
    history = as_claimed.history.copy()
    there = history[history["grid"].isin(tables.grids_of("quadratic"))]
    backup = tables.with_method(there).query("method == @tables.BACKUP").index
    history.loc[backup, "gradient_square"] = 1.0
    table = tables.tuned(changed(as_claimed, history=history), "quadratic").set_index(tables.CASE)
    assert np.isinf(table.loc[(tables.RANDOM, tables.EQUAL, tables.BACKUP), "slowdown"])
    assert table["slowdown"].min() == 1.0


def test_a_thinned_grid_says_what_is_missing(as_claimed):
    runs = as_claimed.runs
    thin = changed(as_claimed, runs=runs[~runs["workers"].isin([32])])
    with pytest.raises(ResultError, match="workers is 32"):
        found("momentum_helps_gap_aware", thin)


def found(name: str, results: StudyResults):
    threshold = CLAIMS[name].claim["threshold"]
    return CLAIMS[name](results, threshold.value)
