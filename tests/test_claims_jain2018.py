"""Every claim of jain2018 on made-up results that meet it, that break it, and that half do."""

import re
from math import isclose
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from helpers import home_of
from made_up import (
    COLLAPSED,
    as_claimed,
    first_of,
    grids,
    results_in,
    write_results,
    write_staleness,
)

from stalegrad.analysis.claims import (
    CANNOT_TELL,
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    claims_of,
    judge,
)
from stalegrad.analysis.comparisons import mean_interval

CLAIMS = claims_of(home_of("jain2018"))
DELAY_CLAIMS = ("delay_centred_at_workers_less_one", "delay_fits_a_normal")
GRIDS = {
    "constant_delay_stands_for_asynchrony": {"asynchronous"},
    **dict.fromkeys(
        (
            "warmup_helps_only_at_first",
            "schedule_has_little_effect",
            "gradual_workers_bring_stability",
        ),
        {"warmup"},
    ),
    "halving_heuristic": {"heuristic", "no_heuristic"},
} | {
    name: {"fig3_adam", "fig3_sgd"}
    for name in (
        "adam_is_more_resilient",
        "adam_comparable_to_one_worker",
        "adam_best_accuracies",
        "sgd_fails_past_delay_32",
        "adam_converges_sooner",
        "adam_drops_off_at_larger_rates",
        "sgd_takes_longer",
        "careful_selection_or_adaptive_rates",
    )
}
# Two do not hold in the paper's own numbers: batch size explains less of Figure 2 than delay does,
# and SGD cannot handle more than 32 delay, be its rate and batch size selected as they may.
AGAINST_ITSELF = ("rate_and_batch_are_the_major_factors", "careful_selection_or_adaptive_rates")


def random_delay(cell):
    return cell.cluster == "hub_and_spoke"


def where(condition, accuracy):
    """`accuracy` (a number, or of cell and epoch) in cells that meet the condition."""
    change = accuracy if callable(accuracy) else lambda cell, epoch: accuracy
    return lambda cell, epoch: change(cell, epoch) if condition(cell) else None


def plus(offset):
    return lambda cell, epoch: as_claimed(cell, epoch) + offset


def flipped(cell, epoch):
    return COLLAPSED if as_claimed(cell, epoch) >= 0.5 else 0.98


def cell_number(cell):
    """Counts the cells of Figure 2 so that any share of them can be chosen."""
    return (round(2 * np.log10(cell.lr)) + cell.batch_size // 64 + cell.delay // 2) % 10


def by_rate_and_batch(cell, epoch):
    """Every delay takes the same, and the more the larger rate and batch size are."""
    taken = (cell.lr > 0.001) * 0.4 + (cell.batch_size > 128) * 0.3
    return 0.99 - taken * (cell.delay > 0)


BREAKS = {
    "constant_delay_stands_for_asynchrony": [
        (where(lambda c: random_delay(c) and c.lr < 0.01, 0.96), NOT_REPRODUCED),
        # The cells that collapse with constant delay, two rates of five, do not with random.
        (where(lambda c: random_delay(c) and c.lr >= 0.01, 0.98), PARTLY),
        (where(lambda c: random_delay(c) and c.lr < 0.01, 0.9701), REPRODUCED),
        # 0.98 less 0.97 is 0.01 and a little; it counts as 0.01.
        (where(lambda c: random_delay(c) and c.lr < 0.01, 0.97), REPRODUCED),
        (where(random_delay, np.nan), NOT_REPRODUCED),
    ],
    "best_at_low_rate_and_small_batch": [
        (where(lambda c: isclose(c.lr, 0.001), 0.9), NOT_REPRODUCED),
        (where(lambda c: isclose(c.lr, 0.001) and c.delay == 8, 0.9), PARTLY),
        # Either of the two batch sizes does.
        (
            where(
                lambda c: isclose(c.lr, 0.001) and c.batch_size <= 128,
                lambda c, e: 0.995 if c.batch_size == 128 else 0.9,
            ),
            REPRODUCED,
        ),
        (where(lambda c: isclose(c.lr, 0.001) and c.delay == 0, 0.9), REPRODUCED),
        (where(lambda c: c.batch_size == 1024 and c.lr > 0.3, 0.999), NOT_REPRODUCED),
    ],
    "large_batches_and_rates_degrade": [
        (where(lambda c: c.lr > 0.003, 0.98), NOT_REPRODUCED),
        (where(lambda c: c.lr > 0.003 and c.delay <= 2, 0.98), PARTLY),
        (where(lambda c: c.batch_size <= 256, 0.1), NOT_REPRODUCED),
    ],
    "rises_with_rate_then_drops": [
        (where(lambda c: c.lr > 0.001, 0.98), NOT_REPRODUCED),  # never drops
        (where(lambda c: c.lr > 0.001 and c.delay <= 2, 0.98), PARTLY),
        # Down by 0.1 at a rate where it had learnt, and up again.
        (where(lambda c: c.lr < 0.0001, lambda c, e: 0.9 if c.lr < 2e-5 else 0.8), NOT_REPRODUCED),
        # Nothing is learnt at these rates, so what chance makes of them does not count.
        (where(lambda c: c.lr < 0.0001, lambda c, e: 0.2 if c.lr < 2e-5 else 0.1), REPRODUCED),
    ],
    "drops_sooner_with_more_delay": [
        (lambda c, e: 0.98 if c.lr < 0.005 else COLLAPSED, NOT_REPRODUCED),  # the same at all
        (where(lambda c: c.batch_size < 300 and c.lr > 0.001, COLLAPSED), PARTLY),
        (where(lambda c: c.delay == 8, 0.98), NOT_REPRODUCED),  # later at the most delay
        (where(lambda c: c.delay == 8, COLLAPSED), REPRODUCED),  # no rate at all trains
        (where(lambda c: c.delay == 0, COLLAPSED), NOT_REPRODUCED),
    ],
    "figure_2_side_of_collapse": [
        (flipped, NOT_REPRODUCED),
        (where(lambda c: cell_number(c) < 3, flipped), PARTLY),
        (where(lambda c: c.lr < 2e-5 and c.batch_size == 64, flipped), REPRODUCED),  # 6 cells
    ],
    "figure_2_accuracies": [
        (plus(-0.02), NOT_REPRODUCED),
        (where(lambda c: cell_number(c) < 3, plus(0.02)), PARTLY),
        (plus(0.01), REPRODUCED),  # for all that 0.977 + 0.01 - 0.977 is a little more
        (lambda c, e: COLLAPSED, CANNOT_TELL),
    ],
    "rate_and_batch_are_the_major_factors": [
        (by_rate_and_batch, REPRODUCED),
        (lambda c, e: 0.99 - 0.1 * c.delay, NOT_REPRODUCED),
        (lambda c, e: 0.99 - c.delay * (0.01 + (c.lr > 0.001) * 0.07), PARTLY),
        (lambda c, e: 0.98, CANNOT_TELL),
    ],
    "adam_is_more_resilient": [
        (where(lambda c: c.rule == "sgd", 0.95), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd" and c.delay == 256, 0.95), PARTLY),
        # SGD alone was given the rate 0.01, which does not count against either.
        (
            first_of(
                where(lambda c: c.rule == "sgd" and c.lr > 0.005, 0.95),
                where(lambda c: c.rule == "adam" and c.lr > 0.002 and c.batch_size == 16, 0.95),
                lambda c, e: COLLAPSED,
            ),
            REPRODUCED,
        ),
        (where(lambda c: c.rule == "adam", np.nan), NOT_REPRODUCED),
    ],
    "adam_comparable_to_one_worker": [
        (where(lambda c: c.delay > 0, 0.95), NOT_REPRODUCED),
        (where(lambda c: c.delay == 256, 0.95), PARTLY),
        (where(lambda c: c.delay > 0 and c.batch_size > 16, COLLAPSED), REPRODUCED),
    ],
    "adam_best_accuracies": [
        (where(lambda c: c.delay > 0, 0.99), NOT_REPRODUCED),  # better is not the same
        (where(lambda c: c.delay == 128, 0.97), PARTLY),
        (where(lambda c: c.delay == 128, 0.985), REPRODUCED),
    ],
    "sgd_fails_past_delay_32": [
        (lambda c, e: 0.98, NOT_REPRODUCED),  # handles all delays
        (where(lambda c: c.delay == 128, 0.98), PARTLY),
        (where(lambda c: c.delay == 32, 0.9), PARTLY),  # fails before
    ],
    "adam_converges_sooner": [
        (where(lambda c: c.rule == "adam", 0.96), NOT_REPRODUCED),
        (where(lambda c: c.batch_size > 16, 0.96), NOT_REPRODUCED),  # one is not many
        (where(lambda c: c.delay == 256 and c.batch_size > 16, 0.96), PARTLY),
        (where(lambda c: c.batch_size > 32, 0.96), REPRODUCED),
    ],
    "adam_drops_off_at_larger_rates": [
        (where(lambda c: c.rule == "adam", 0.98), NOT_REPRODUCED),
        (where(lambda c: c.delay == 128, 0.98), PARTLY),
        # Worse by as much, but step by step.
        (lambda c, e: 0.8 + 0.28 * np.log10(0.00001 / c.lr), NOT_REPRODUCED),
    ],
    "sgd_takes_longer": [
        (lambda c, e: 0.98, NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd" and c.delay == 32, 0.98), PARTLY),
        # Neither gets there: SGD does not take longer.
        (lambda c, e: COLLAPSED, NOT_REPRODUCED),
        # SGD gets there one epoch after Adam at delay 32, which takes two, and in twice as many.
        (where(lambda c: c.rule == "sgd", lambda c, e: 0.96 if e >= 3 else 0.1), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd", lambda c, e: 0.96 if e >= 4 else 0.1), REPRODUCED),
    ],
    "warmup_helps_only_at_first": [
        # Warm-up cures it and does so from the first; does nothing at all; cures it later.
        (where(lambda c: c.warmup_epochs, 0.98), PARTLY),
        (where(lambda c: c.warmup_epochs and c.lr > 0.005, COLLAPSED), PARTLY),
        (
            where(
                lambda c: c.warmup_epochs, lambda c, e: 0.98 if e >= c.warmup_epochs else COLLAPSED
            ),
            NOT_REPRODUCED,
        ),
        (lambda c, e: 0.98, CANNOT_TELL),
        # What gradual introduction of workers does is another question.
        (where(lambda c: c.ramp_epochs, 0.98), REPRODUCED),
    ],
    "schedule_has_little_effect": [
        # It rescues all cells that collapse without, six of nine; those at the largest rate.
        (where(lambda c: c.warmup_epochs, 0.98), NOT_REPRODUCED),
        (where(lambda c: c.warmup_epochs and c.lr > 0.02, 0.98), PARTLY),
        (where(lambda c: c.warmup_epochs and c.lr < 0.005, 0.96), REPRODUCED),  # up by 0.01
        (where(lambda c: c.warmup_epochs, COLLAPSED), REPRODUCED),  # makes nothing better
        (where(lambda c: c.ramp_epochs, 0.99), REPRODUCED),
    ],
    "gradual_workers_bring_stability": [
        (where(lambda c: c.ramp_epochs, COLLAPSED), NOT_REPRODUCED),
        (where(lambda c: c.ramp_epochs and c.lr > 0.02, COLLAPSED), PARTLY),
        # Only at first, that is, while there are few of them.
        (
            where(lambda c: c.ramp_epochs, lambda c, e: 0.9 if e <= 3 else COLLAPSED),
            NOT_REPRODUCED,
        ),
        (lambda c, e: 0.98, CANNOT_TELL),
    ],
    "careful_selection_or_adaptive_rates": [
        (where(lambda c: c.delay == 256, 0.95), NOT_REPRODUCED),
        (where(lambda c: c.rule == "adam" and c.delay == 32, 0.95), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd", 0.9), REPRODUCED),  # the same at all delays
        (where(lambda c: c.rule == "sgd" and c.delay != 128, 0.9), PARTLY),
    ],
    "halving_heuristic": [
        (
            first_of(
                where(lambda c: c.grid == "no_heuristic", 0.985),
                where(lambda c: c.delay == 256, 0.9),
                as_claimed,
            ),
            NOT_REPRODUCED,
        ),
        (where(lambda c: c.grid == "no_heuristic", 0.985), PARTLY),
        (where(lambda c: c.grid == "heuristic" and c.delay == 31, 0.9), PARTLY),
    ],
}


def found(name, folder, change=as_claimed):
    results = write_results(folder, first_of(change, as_claimed), only=GRIDS.get(name, {"fig2"}))
    return CLAIMS[name](results)


@pytest.mark.parametrize("name", [name for name in CLAIMS if name not in DELAY_CLAIMS])
def test_what_the_paper_says_meets_every_claim(name, tmp_path):
    """On the paper's own Figure 2 and on curves made up to do what its text says."""
    wanted = PARTLY if name in AGAINST_ITSELF else REPRODUCED
    finding = found(name, tmp_path)
    assert finding.verdict == wanted, finding
    assert np.isfinite(finding.value)
    assert not re.search(r"\b(nan|inf)\b", finding.reason)


@pytest.mark.parametrize(
    ("name", "case"), [(name, i) for name, cases in BREAKS.items() for i in range(len(cases))]
)
def test_a_verdict_follows_the_data(name, case, tmp_path):
    change, verdict = BREAKS[name][case]
    finding = found(name, tmp_path, change)
    assert finding.verdict == verdict, finding
    assert not re.search(r"\b(nan|inf)\b", finding.reason)
    assert not np.isinf(finding.value)


def by_seed(accuracy):
    """Up and down by less than 0.001 as seeds are even and odd, in each cell by its own amount.

    So that there is spread to test, which is no difference on average.
    """

    def change(cell, epoch):
        reached = accuracy(cell, epoch)
        if reached is None:
            return None
        own = repr([value for key, value in vars(cell).items() if key != "seed"])
        return reached + 0.001 * (-1) ** cell.seed * crc32(own.encode()) / 2**32

    return change


def by_turns(low, high):
    """Odd seeds one value and even seeds another."""
    return lambda cell, epoch: high if cell.seed % 2 else low


def trains_more_with_adam(cell, epoch):
    """One cell more of SGD's trains in one seed than in the others."""
    lucky = cell.rule == "sgd" and cell.lr < 2e-5 and cell.batch_size == 16 and cell.seed == 1
    return 0.95 if lucky else None


def later_with_sgd(cell, epoch):
    """SGD gets there in epoch 9 or 10, by the seed."""
    if cell.rule != "sgd":
        return None
    return 0.96 if epoch >= 9 + cell.seed % 2 else 0.1


def collapses_sooner(cell, epoch):
    """With the most delay sooner still in one seed than in the others."""
    return COLLAPSED if cell.delay == 8 and cell.lr > 0.0002 and cell.seed == 1 else None


# What pairs in a claim: results, and what is said of cells beyond chance.
PAIRS = {
    "constant_delay_stands_for_asynchrony": [
        (where(lambda c: random_delay(c) and c.lr < 0.01, 0.9), "9 of 15 cells and below in 0"),
        (where(random_delay, lambda c, e: 0.99), "0 of 15 cells and below in 15"),
        (by_turns(0.97, 0.98), "0 of 15 cells and below in 0"),
    ],
    "large_batches_and_rates_degrade": [
        (as_claimed, "5 of 5 cells and below in 0"),
        (by_turns(0.97, 0.98), "0 of 5 cells and below in 0"),
    ],
    "drops_sooner_with_more_delay": [
        (collapses_sooner, "2 of 5 cells and below in 0"),
        (where(lambda c: c.delay == 8 and c.seed == 1, 0.98), "0 of 5 cells and below in 0"),
        (as_claimed, "cannot tell of cells that differ by as much in every seed (5)"),
    ],
    "adam_is_more_resilient": [
        (trains_more_with_adam, "3 of 3 cells and below in 0"),
        (lambda c, e: 0.95, "cannot tell of cells that are equal in every seed (3)"),
    ],
    "adam_comparable_to_one_worker": [
        (as_claimed, "3 of 3 cells and below in 0"),
        (where(lambda c: c.rule == "adam", by_turns(0.97, 0.98)), "0 of 3 cells and below in 0"),
    ],
    "sgd_fails_past_delay_32": [
        (as_claimed, "3 of 3 cells and below in 0"),
        (where(lambda c: c.rule == "sgd", by_turns(0.97, 0.98)), "0 of 3 cells and below in 0"),
    ],
    "sgd_takes_longer": [
        (later_with_sgd, "3 of 3 cells and below in 0"),
        (lambda c, e: 0.98, "cannot tell of cells that are equal in every seed (3)"),
    ],
    "warmup_helps_only_at_first": [
        (as_claimed, "6 of 6 cells and below in 0"),
        (where(lambda c: c.lr >= 0.005, COLLAPSED), "0 of 6 cells and below in 0"),
    ],
    "schedule_has_little_effect": [
        (where(lambda c: c.warmup_epochs, 0.98), "9 of 9 cells and below in 0"),
        (as_claimed, "0 of 9 cells and below in 0"),
    ],
    "gradual_workers_bring_stability": [
        (as_claimed, "6 of 6 cells and below in 0"),
        (where(lambda c: c.ramp_epochs, COLLAPSED), "0 of 6 cells and below in 0"),
    ],
    # The middle of the path is the fixed setting itself, the same runs.
    "halving_heuristic": [
        (as_claimed, "3 of 8 cells and below in 5"),
        (lambda c, e: 0.98, "0 of 8 cells and below in 0"),
        (as_claimed, "Not tested: cells that are equal in every seed (1)."),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, i) for name, cases in PAIRS.items() for i in range(len(cases))]
)
def test_runs_of_one_seed_are_pairs(name, case, tmp_path):
    accuracy, said = PAIRS[name][case]
    results = write_results(
        tmp_path,
        by_seed(first_of(accuracy, as_claimed)),
        only=GRIDS.get(name, {"fig2"}),
        seeds=4,
    )
    paired = CLAIMS[name](results).paired
    assert said in paired, paired
    assert paired.startswith(("Paired over 4 seeds, ", "Paired over seeds: cannot tell of cells "))


@pytest.mark.parametrize("name", PAIRS)
def test_one_seed_has_no_p_value(name, tmp_path):
    assert found(name, tmp_path).paired == "Paired over seeds: cannot tell from one seed."


def test_every_claim_is_met_and_broken_here():
    assert set(BREAKS) | set(DELAY_CLAIMS) == set(CLAIMS)
    for name, cases in BREAKS.items():
        verdicts = {verdict for _, verdict in cases}
        assert {NOT_REPRODUCED, PARTLY} <= verdicts, name


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (lambda n: n - 1, REPRODUCED),
        (lambda n: (n - 1) * 1.009, REPRODUCED),
        (lambda n: n, NOT_REPRODUCED),  # as if counted just after the update
        (lambda n: n if n < 20 else n - 1, PARTLY),
    ],
)
def test_delay_centred_at_workers_less_one(mean, verdict, tmp_path):
    workers = (2, 4, 16, 40)
    results = write_staleness(tmp_path, mean=mean, workers=workers)
    finding = CLAIMS["delay_centred_at_workers_less_one"](results)
    assert finding.verdict == verdict
    off = [abs(mean(n) / (n - 1) - 1) for n in workers]
    assert finding.value == pytest.approx(max(off), abs=1e-12)


def test_interval_of_the_centre_is_over_replicates(tmp_path):
    """Means 3.18, 3.2, 3.22 for N = 4: 0.2 / 3 too much, standard error 0.02 / sqrt(3) / 3."""
    results = write_staleness(tmp_path, mean=lambda n: n - 0.8, spread=0.02, workers=(4,))
    finding = CLAIMS["delay_centred_at_workers_less_one"](results)
    low, high = mean_interval(np.array([0.18, 0.2, 0.22]) / 3)
    assert (finding.low, finding.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("distance", "verdict"),
    [
        (lambda n: 0.0499, REPRODUCED),
        (lambda n: 0.06, NOT_REPRODUCED),
        (lambda n: 0.06 if n == 4 else 0.01, PARTLY),
        (lambda n: np.nan if n == 4 else 0.01, REPRODUCED),
        (lambda n: np.nan if n == 4 else 0.06, NOT_REPRODUCED),
    ],
)
def test_delay_fits_a_normal(distance, verdict, tmp_path):
    results = write_staleness(tmp_path, normal_distance=distance)
    assert CLAIMS["delay_fits_a_normal"](results).verdict == verdict


def test_no_readable_histogram_cannot_tell(tmp_path):
    write_staleness(tmp_path, normal_distance=lambda n: np.nan)
    verdicts = judge(results_in(tmp_path)).set_index("claim")["verdict"]
    assert verdicts["delay_fits_a_normal"] == CANNOT_TELL


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three_seeds")
    write_staleness(folder)
    write_results(folder, seeds=3)
    return folder


def test_all_that_holds_at_paper_is_told(three_seeds):
    verdicts = judge(results_in(three_seeds)).set_index("claim")["verdict"]
    wanted = pd.Series(REPRODUCED, index=list(CLAIMS))
    wanted[list(AGAINST_ITSELF)] = PARTLY
    assert verdicts.to_dict() == wanted.to_dict()


def test_a_thinned_preset_never_reproduces_what_needs_the_whole_grid(three_seeds):
    """Nor breaks it: the same results, said to be of `quick`."""
    verdicts = judge(results_in(three_seeds, "quick")).set_index("claim")
    for name, function in CLAIMS.items():
        row = verdicts.loc[name]
        if function.claim["full_grid"]:
            assert row["verdict"] == CANNOT_TELL
            assert row["reason"].startswith("Here the quick preset runs a thinned grid")
        else:
            assert row["verdict"] == REPRODUCED
    thinned = [name for name, function in CLAIMS.items() if not function.claim["full_grid"]]
    assert thinned == [*DELAY_CLAIMS, "rises_with_rate_then_drops", "drops_sooner_with_more_delay"]


def test_smoke_tells_nothing(three_seeds):
    judged = judge(results_in(three_seeds, "smoke"))
    assert (judged["verdict"] == CANNOT_TELL).all()
    assert judged["reason"].str.contains("its numbers mean nothing").all()


@pytest.mark.parametrize("preset", ["quick", "smoke"])
def test_results_of_the_thinned_grids_are_judged_without_a_crash(preset, tmp_path):
    """The grids as these presets cut them; what a claim looks for may not be in them."""
    write_staleness(tmp_path)
    results = write_results(tmp_path, lambda c, e: 0.9 if c.lr < 0.002 else 0.1, preset=preset)
    judged = judge(results)
    assert list(judged["claim"]) == list(CLAIMS)
    assert (judged["reason"].str.len() > 20).all()


def test_what_chooses_the_best_cell_needs_three_seeds(three_seeds, tmp_path):
    write_staleness(tmp_path)
    write_results(tmp_path, only=("fig3_adam", "fig3_sgd", "asynchronous"), seeds=2)
    judged = judge(results_in(tmp_path)).set_index("claim")
    few = [name for name, function in CLAIMS.items() if function.claim["seeds"] == 3]
    assert len(few) == 5
    for name in few:
        assert judged.loc[name, "verdict"] == CANNOT_TELL
        assert "there are 2 seeds, and this needs 3" in judged.loc[name, "reason"]
    assert judged.loc["sgd_takes_longer", "verdict"] == REPRODUCED


@pytest.mark.parametrize("missing", sorted(grids("paper")))
def test_a_missing_grid_cannot_tell_and_is_named(missing, three_seeds, tmp_path):
    for name in ("runs", "history", "staleness"):
        table = pd.read_csv(three_seeds / f"{name}.csv")
        kept = table[table["grid"] != missing] if "grid" in table else table
        kept.to_csv(tmp_path / f"{name}.csv", index=False)
    judged = judge(results_in(tmp_path))
    lost = judged[judged["verdict"] == CANNOT_TELL]
    assert len(lost)
    assert lost["reason"].str.contains(f"holds no run of {missing}").all()
    needs = {name for name in CLAIMS if missing in GRIDS.get(name, {"fig2"})}
    assert set(lost["claim"]) <= needs - set(DELAY_CLAIMS)


@pytest.mark.parametrize("missing", ["runs", "history", "staleness"])
def test_a_missing_file_cannot_tell_and_is_named(missing, three_seeds, tmp_path):
    for name in {"runs", "history", "staleness"} - {missing}:
        (tmp_path / f"{name}.csv").write_bytes((three_seeds / f"{name}.csv").read_bytes())
    judged = judge(results_in(tmp_path))
    lost = judged[judged["verdict"] == CANNOT_TELL]
    assert {"runs": 20, "history": 5, "staleness": 2}[missing] == len(lost)
    assert lost["reason"].str.contains(f"{missing}.csv is not there").all()


def test_nothing_at_all_is_no_crash(tmp_path):
    assert (judge(results_in(tmp_path))["verdict"] == CANNOT_TELL).all()


def test_a_delay_that_is_missing_cannot_tell(three_seeds, tmp_path):
    """Delay 256, which four claims ask for by number."""
    runs = pd.read_csv(three_seeds / "runs.csv")
    gone = runs["grid"].str.startswith("fig3") & (runs["delay"] == 256)
    runs[~gone].to_csv(tmp_path / "runs.csv", index=False)
    judged = judge(results_in(tmp_path)).set_index("claim")
    for name in (
        "adam_comparable_to_one_worker",
        "adam_best_accuracies",
        "sgd_fails_past_delay_32",
        "careful_selection_or_adaptive_rates",
    ):
        assert judged.loc[name, "verdict"] == CANNOT_TELL
        assert "256" in judged.loc[name, "reason"]


def test_intervals_are_over_seeds(tmp_path):
    """Each seed loses to delay by its number; without delay all end at 0.988."""

    def accuracy(cell, epoch):
        lost = {0: 0.0, 32: 0.001, 128: 0.002, 256: 0.006}[cell.delay] * cell.seed
        return 0.988 - lost if cell.lr < 0.0002 else COLLAPSED

    results = write_results(tmp_path, accuracy, only=("fig3_adam",), seeds=3)
    finding = CLAIMS["adam_comparable_to_one_worker"](results)
    assert finding.value == pytest.approx(0.012)
    assert (finding.low, finding.high) == pytest.approx(mean_interval([0.006, 0.012, 0.018]))
    # Means 0.986, 0.984 and 0.976, of which the first is furthest from its 0.9821.
    finding = CLAIMS["adam_best_accuracies"](results)
    assert finding.value == pytest.approx(0.0039)
    assert (finding.low, finding.high) == pytest.approx(mean_interval([0.0049, 0.0039, 0.0029]))


def test_a_run_that_diverges_counts_to_the_last_epoch(tmp_path):
    """Two seeds of three diverge in their second epoch; the third alone does not make a curve."""

    def accuracy(cell, epoch):
        return np.nan if cell.seed > 1 and epoch == 2 else 0.98

    results = write_results(tmp_path, accuracy, only=("fig3_adam",), seeds=3)
    mean = results.curves("fig3_adam").groupby("epoch")["test_accuracy"].agg(["mean", "count"])
    assert mean["count"].nunique() == 1
    assert mean.loc[1, "mean"] == pytest.approx(0.98)
    assert mean.loc[2:, "mean"].to_numpy() == pytest.approx((0.98 + 2 * 0.098) / 3)
    late = first_of(lambda c, e: 0.5 if e == 1 else None, accuracy)
    results = write_results(tmp_path, late, only=("fig3_adam",), seeds=3)
    assert CLAIMS["adam_converges_sooner"](results).verdict == NOT_REPRODUCED


def test_a_thinned_grid_leaves_claims_without_an_answer_and_hides_no_mistake(tmp_path):
    """Smoke leaves out delays; what needs them says so, and everything else is computed."""
    verdicts = judge(write_results(tmp_path, preset="smoke")).set_index("claim")["reason"]
    lacking = verdicts[verdicts.str.contains("there is no run whose delay is 128, 256")]
    assert set(lacking.index) == {
        *("adam_comparable_to_one_worker", "adam_best_accuracies", "sgd_fails_past_delay_32"),
        "careful_selection_or_adaptive_rates",
    }
