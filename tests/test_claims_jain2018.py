"""Every claim of jain2018 on made-up results that meet it, that break it, and that half do."""

import re
import shutil
from math import isclose
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from helpers import home_of
from made_up import (
    COLLAPSED,
    as_claimed,
    falls,
    first_of,
    grids,
    judge_only,
    results_in,
    write_results,
    write_staleness,
    write_trajectory,
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
from stalegrad.analysis.nulls import Null
from stalegrad.io.errors import ResultError

CLAIMS = claims_of(home_of("jain2018"))
DELAY_CLAIMS = ("delay_centred_at_workers_less_one", "delay_fits_a_normal")
# Judged by what `write_trajectory` writes.
TRAJECTORY_CLAIMS = ("gradients_vary_most_at_the_start",)
WARMUP_CLAIMS = ("warmup_helps_only_at_first", "schedule_has_little_effect")
FIG3_CLAIMS = (
    *("adam_is_more_resilient", "adam_comparable_to_one_worker", "adam_best_accuracies"),
    *("sgd_fails_past_delay_32", "adam_converges_sooner", "adam_drops_off_at_larger_rates"),
    *("sgd_takes_longer", "careful_selection_or_adaptive_rates"),
)
GRIDS = {
    "constant_delay_stands_for_asynchrony": {"asynchronous", "asynchronous_many"},
    "halving_heuristic": {"heuristic", "no_heuristic", "fig3_adam"},
    "delay_after_the_start_is_harmless": {"fig2", "warmup", "late_delay"},
    "delay_compensation_helps": {"fig2", "warmup", "compensation"},
    "adagrad_is_more_robust": {"fig3_sgd", "adagrad"},
    "warmup_helps_without_delay": {"large_minibatch"},
    **dict.fromkeys(WARMUP_CLAIMS, {"warmup"}),
    **dict.fromkeys(FIG3_CLAIMS, {"fig3_adam", "fig3_sgd"}),
}
# Claims that compare seeds with each other.
SEEDS = {"constant_delay_stands_for_asynchrony": 3}
# Two do not hold in the paper's own numbers: large batches lose nothing in Figure 2 at equal rates,
# and SGD cannot handle more than 32 delay, be its rate and batch size selected as they may.
AGAINST_ITSELF = ("large_batches_and_rates_degrade", "careful_selection_or_adaptive_rates")
# Verdicts of one part, which hold or do not.
ONE_PART = (
    *("constant_delay_stands_for_asynchrony", "rate_and_batch_are_the_major_factors"),
    *("adam_converges_sooner", "delay_after_the_start_is_harmless", "delay_compensation_helps"),
    "warmup_helps_without_delay",
)


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


def of_grid(name):
    return lambda cell: cell.grid == name


def collapses_by_delay(cell, epoch):
    delay = cell.workers - 1 if random_delay(cell) else cell.delay
    return 0.98 if cell.lr * (1 + delay) < 0.05 else COLLAPSED


def on_the_path(cell):
    """Of the heuristic, whose end is a cell of Figure 3 as well."""
    end = cell.delay == 256 and cell.batch_size == 16 and isclose(cell.lr, 0.00003)
    return cell.grid == "heuristic" or end


def degraded(cell, epoch):
    """Large batches collapse at large rates, and nothing else does."""
    return COLLAPSED if cell.batch_size > 256 and cell.lr > 0.003 else 0.98


def few_of_adam(cell, epoch):
    """With delay Adam learns with minibatches of 16 alone, and SGD at the rate 0.01 alone, which
    Adam was not given."""
    if cell.rule == "sgd":
        trains = cell.lr > 0.005 or not cell.delay
    else:
        trains = cell.lr < 0.0002 and (not cell.delay or cell.batch_size == 16)
    return 0.95 if trains else COLLAPSED


BREAKS = {
    "constant_delay_stands_for_asynchrony": [
        (where(lambda c: random_delay(c) and 0.003 < c.lr < 0.005, 0.9), NOT_REPRODUCED),
        (where(random_delay, np.nan), NOT_REPRODUCED),
        (where(lambda c: random_delay(c) and c.lr < 0.002, 0.9), REPRODUCED),  # not at the edge
        # 0.98 less 0.97 is 0.01 and a little; it counts as 0.01.
        (where(lambda c: random_delay(c) and c.lr < 0.01, 0.97), REPRODUCED),
        # Seeds of constant delay differ as much among themselves.
        (
            where(lambda c: 0.003 < c.lr < 0.005, lambda c, e: 0.98 if c.seed % 2 else COLLAPSED),
            REPRODUCED,
        ),
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
        (where(lambda c: c.batch_size == 1024 and c.lr > 0.3, 1.0), NOT_REPRODUCED),
    ],
    "large_batches_and_rates_degrade": [
        (degraded, REPRODUCED),
        (lambda c, e: 0.98, NOT_REPRODUCED),
        # By the rate alone, and by the batch size alone.
        (lambda c, e: COLLAPSED if c.lr > 0.003 else 0.98, PARTLY),
        (lambda c, e: COLLAPSED if c.batch_size > 256 else 0.98, PARTLY),
        (first_of(where(lambda c: c.delay == 8, 0.98), degraded), PARTLY),
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
        (where(lambda c: c.batch_size < 200 and c.lr > 0.001, COLLAPSED), PARTLY),
        (where(lambda c: c.delay == 8, 0.98), NOT_REPRODUCED),  # later at the most delay
        (where(lambda c: c.delay == 8, COLLAPSED), REPRODUCED),  # no rate at all trains
        (where(lambda c: c.delay == 0, COLLAPSED), NOT_REPRODUCED),
    ],
    "figure_2_side_of_collapse": [
        (flipped, NOT_REPRODUCED),
        (where(lambda c: cell_number(c) < 3, flipped), PARTLY),
        # Where delay decides nothing no cell counts.
        (where(lambda c: c.lr < 2e-5, flipped), REPRODUCED),
    ],
    "figure_2_accuracies": [
        (flipped, NOT_REPRODUCED),
        (plus(-0.02), PARTLY),  # the collapsed ones agree
        (plus(0.01), REPRODUCED),  # for all that 0.977 + 0.01 - 0.977 is a little more
        (where(lambda c: c.lr < 2e-5, plus(0.3)), REPRODUCED),
    ],
    "rate_and_batch_are_the_major_factors": [
        (by_rate_and_batch, REPRODUCED),
        (lambda c, e: 0.99 - 0.1 * c.delay, NOT_REPRODUCED),
        (lambda c, e: 0.99 - c.delay * (0.01 + (c.lr > 0.001) * 0.07), NOT_REPRODUCED),
        (lambda c, e: 0.98, CANNOT_TELL),
    ],
    "adam_is_more_resilient": [
        (where(lambda c: c.rule == "sgd", 0.95), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd" and c.delay == 256, 0.95), PARTLY),
        # Adam learns as often with delay as SGD does, but more often without.
        (where(lambda c: c.rule == "adam" and c.delay and c.batch_size > 16, COLLAPSED), PARTLY),
        # SGD alone was given the rate 0.01, which does not count against either.
        (few_of_adam, REPRODUCED),
        (where(lambda c: c.rule == "adam", np.nan), NOT_REPRODUCED),
    ],
    "adam_comparable_to_one_worker": [
        (where(lambda c: c.delay > 0, 0.95), NOT_REPRODUCED),
        (where(lambda c: c.delay == 256, 0.95), PARTLY),
        (where(lambda c: c.delay > 0 and c.batch_size > 16, COLLAPSED), REPRODUCED),
    ],
    "adam_best_accuracies": [
        (where(lambda c: c.delay > 0, 0.96), NOT_REPRODUCED),
        (where(lambda c: c.delay == 128, 0.97), PARTLY),
        (where(lambda c: c.delay > 0, 0.995), REPRODUCED),  # better is what can be reached
    ],
    "sgd_fails_past_delay_32": [
        (lambda c, e: 0.98, NOT_REPRODUCED),  # handles all delays
        (where(lambda c: c.delay == 128, 0.98), PARTLY),
        (where(lambda c: c.delay == 32, 0.9), REPRODUCED),  # fails before, too
    ],
    "adam_converges_sooner": [
        (where(lambda c: c.rule == "adam", 0.96), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd", 0.98), NOT_REPRODUCED),  # SGD is sooner
        (where(lambda c: c.batch_size > 32, 0.96), NOT_REPRODUCED),  # two of five
        (where(lambda c: c.batch_size > 64, 0.96), REPRODUCED),
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
        # SGD gets to two of three levels one epoch after Adam, which takes two, and in twice as
        # many.
        (where(lambda c: c.rule == "sgd", lambda c, e: 0.96 if e >= 3 else 0.1), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd", lambda c, e: 0.96 if e >= 4 else 0.1), REPRODUCED),
    ],
    "warmup_helps_only_at_first": [
        # Warm-up cures it and does so from the first; does nothing at all; cures it later.
        (where(lambda c: c.warmup_epochs, 0.98), NOT_REPRODUCED),
        (where(lambda c: c.warmup_epochs and c.lr > 0.005, COLLAPSED), NOT_REPRODUCED),
        (
            where(
                lambda c: c.warmup_epochs, lambda c, e: 0.98 if e >= c.warmup_epochs else COLLAPSED
            ),
            NOT_REPRODUCED,
        ),
        (where(lambda c: c.warmup_epochs and c.delay == 4, 0.98), PARTLY),
        # The largest rate is a decade beyond the edge.
        (where(lambda c: c.warmup_epochs and c.lr > 0.02, 0.98), REPRODUCED),
        (lambda c, e: 0.98, CANNOT_TELL),
        # What gradual introduction of workers does is another question.
        (where(lambda c: c.ramp_epochs, 0.98), REPRODUCED),
    ],
    "schedule_has_little_effect": [
        (where(lambda c: c.warmup_epochs, 0.98), NOT_REPRODUCED),
        (where(lambda c: c.warmup_epochs and c.lr > 0.005 and c.delay == 4, 0.98), PARTLY),
        (where(lambda c: c.warmup_epochs and c.lr < 0.005, 0.96), REPRODUCED),  # up by 0.01
        (where(lambda c: c.warmup_epochs and c.lr > 0.02, 0.98), REPRODUCED),  # beyond the edge
        (where(lambda c: c.warmup_epochs, COLLAPSED), REPRODUCED),  # makes nothing better
        (where(lambda c: c.ramp_epochs, 0.99), REPRODUCED),
    ],
    "careful_selection_or_adaptive_rates": [
        (where(lambda c: c.delay == 256, 0.95), NOT_REPRODUCED),
        (where(lambda c: c.rule == "adam" and c.delay == 32, 0.95), NOT_REPRODUCED),
        (where(lambda c: c.rule == "sgd", 0.9), REPRODUCED),  # the same at all delays
        (where(lambda c: c.rule == "sgd" and c.delay != 128, 0.9), PARTLY),
    ],
    "halving_heuristic": [
        (where(on_the_path, 0.9), NOT_REPRODUCED),
        (where(lambda c: c.grid == "heuristic" and c.delay == 31, 0.9), PARTLY),
        (where(lambda c: c.grid == "heuristic" and c.delay == 7, 0.9), REPRODUCED),  # not named
    ],
    "delay_after_the_start_is_harmless": [
        (where(of_grid("late_delay"), COLLAPSED), NOT_REPRODUCED),
        # Two runs of six collapse, and four.
        (where(lambda c: c.grid == "late_delay" and c.delay == 4, COLLAPSED), REPRODUCED),
        (where(lambda c: c.grid == "late_delay" and c.delay > 4, COLLAPSED), NOT_REPRODUCED),
        # Those that train with the delay, or not even without, tell nothing.
        (where(of_grid("warmup"), 0.98), CANNOT_TELL),
        (where(of_grid("fig2"), COLLAPSED), CANNOT_TELL),
    ],
    "delay_compensation_helps": [
        (where(of_grid("compensation"), COLLAPSED), NOT_REPRODUCED),
        # One of the two kinds does; a cell of four.
        (where(lambda c: c.grid == "compensation" and c.adaptive, COLLAPSED), REPRODUCED),
        (where(lambda c: c.grid == "compensation" and c.lr > 0.005, COLLAPSED), NOT_REPRODUCED),
        (where(of_grid("warmup"), 0.985), CANNOT_TELL),  # there is nothing to gain
    ],
    "adagrad_is_more_robust": [
        (where(lambda c: c.rule == "adagrad" and c.delay, COLLAPSED), NOT_REPRODUCED),
        (where(lambda c: c.rule == "adagrad" and c.delay == 128, COLLAPSED), PARTLY),
        (where(lambda c: c.rule == "sgd" and c.lr < 0.005, 0.95), NOT_REPRODUCED),
    ],
    "warmup_helps_without_delay": [
        (lambda c, e: 0.97, NOT_REPRODUCED),
        (where(lambda c: c.batch_size == 1024, 0.97), NOT_REPRODUCED),  # half is not most
        (where(lambda c: c.batch_size == 1024 and c.lr > 0.1, 0.97), REPRODUCED),
    ],
}


def missing_for(results):
    """Why claims cannot tell, by name: results that they need are missing."""
    lost = {}
    for name in CLAIMS:
        try:
            judged_by(name, results)
        except ResultError as error:
            lost[name] = str(error)
    return lost


def judged_by(name, results):
    """What a claim finds at its own threshold."""
    function = CLAIMS[name]
    return function(results, function.claim["threshold"].value)


def found(name, folder, change=as_claimed):
    results = write_results(
        folder,
        first_of(change, as_claimed),
        only=GRIDS.get(name, {"fig2"}),
        seeds=SEEDS.get(name, 1),
    )
    return judged_by(name, results)


@pytest.mark.parametrize("name", sorted(BREAKS))
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
        (where(lambda c: random_delay(c) and c.lr < 0.01, 0.9), "12 of 18 cells and below in 0"),
        (where(random_delay, lambda c, e: 0.99), "0 of 18 cells and below in 18"),
        (by_turns(0.97, 0.98), "0 of 18 cells and below in 0"),
    ],
    "large_batches_and_rates_degrade": [
        (degraded, "10 of 10 cells and below in 0"),
        (by_turns(0.97, 0.98), "0 of 10 cells and below in 0"),
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
        (as_claimed, "3 of 3 cells and below in 0"),
        (where(lambda c: c.lr >= 0.005, COLLAPSED), "0 of 3 cells and below in 0"),
    ],
    "schedule_has_little_effect": [
        (where(lambda c: c.warmup_epochs, 0.98), "6 of 6 cells and below in 0"),
        (as_claimed, "0 of 6 cells and below in 0"),
    ],
    "adagrad_is_more_robust": [
        (lambda c, e: 0.98, "cannot tell of cells that are equal in every seed (2)"),
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
    paired = judged_by(name, results).paired
    assert said in paired, paired
    assert paired.startswith(("Paired over 4 seeds, ", "Paired over seeds: cannot tell of cells "))


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in SEEDS])
def test_one_seed_has_no_p_value(name, tmp_path):
    assert found(name, tmp_path).paired == "Paired over seeds: cannot tell from one seed."


def test_every_claim_is_met_and_broken_here():
    assert set(BREAKS) | set(DELAY_CLAIMS) | set(TRAJECTORY_CLAIMS) == set(CLAIMS)
    for name, cases in BREAKS.items():
        verdicts = {verdict for _, verdict in cases}
        assert NOT_REPRODUCED in verdicts, name
        assert (PARTLY in verdicts) == (name not in ONE_PART), name


@pytest.mark.parametrize(
    "name", [n for n, f in CLAIMS.items() if isinstance(f.claim["null"], Null)]
)
def test_no_claim_is_met_where_it_is_false(name, three_seeds, tmp_path):
    """On its own null, made of results that meet it."""
    null, chance = CLAIMS[name].claim["null"], np.random.default_rng(1)
    results = results_in(three_seeds)
    if name == "constant_delay_stands_for_asynchrony":  # where delays differ, of whatever kind
        results = write_results(tmp_path, collapses_by_delay, only=GRIDS[name], seeds=3)
        assert judged_by(name, results).verdict == REPRODUCED
    verdicts = [judged_by(name, null.view(results, chance)).verdict for _ in range(4)]
    assert verdicts.count(REPRODUCED) == 0


def test_the_ceiling_and_the_print_can_be_met(judged_three_seeds):
    """But for what the print says against the text."""
    judged = judged_three_seeds
    for name, function in CLAIMS.items():
        if isinstance(function.claim["ceiling"], Null):
            assert NOT_REPRODUCED not in judged.loc[name, "best"], name
        if callable(function.claim["printed"]):
            wanted = PARTLY if name in AGAINST_ITSELF else REPRODUCED
            assert judged.loc[name, "printed_verdict"] == wanted, name


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
    finding = judged_by("delay_centred_at_workers_less_one", results)
    assert finding.verdict == verdict
    off = [abs(mean(n) / (n - 1) - 1) for n in workers]
    assert finding.value == pytest.approx(max(off), abs=1e-12)


def test_the_median_is_looked_at_too(tmp_path):
    """The mean is 3 for N = 4, and most delays are 2."""
    results = write_staleness(tmp_path, workers=(4,))
    counts = np.array([[0, 0, 60, 0, 0, 0, 0, 20]])  # mean 3.25
    np.savez(tmp_path / "schedules" / "fig1.npz", histogram_0=counts)
    finding = judged_by("delay_centred_at_workers_less_one", results)
    assert finding.verdict == NOT_REPRODUCED
    assert finding.value == pytest.approx(1 / 3)


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
    assert judged_by("delay_fits_a_normal", results).verdict == verdict


@pytest.mark.parametrize(
    ("noise", "accuracy", "verdict", "value"),
    [
        # Twice as much in the first epoch, by itself and against the mean.
        (lambda c, e: (2.0 if e <= 1 else 1.0, 0.5), 0.98, REPRODUCED, 2.0),
        (lambda c, e: (1.0 if e <= 1 else 2.0, 0.5), 0.98, NOT_REPRODUCED, 0.5),
        # More variant, and less so against a mean that is larger still.
        (lambda c, e: (2.0, 4.0) if e <= 1 else (1.0, 0.5), 0.98, PARTLY, 0.25),
        # Not at one delay of three.
        (lambda c, e: (2.0 if e <= 1 or c.delay == 8 else 1.0, 0.5), 0.98, NOT_REPRODUCED, 1.0),
        (falls, COLLAPSED, CANNOT_TELL, np.nan),
    ],
)
def test_gradients_vary_most_at_the_start(noise, accuracy, verdict, value, tmp_path):
    results = write_trajectory(tmp_path, noise, lambda cell: accuracy)
    finding = judged_by("gradients_vary_most_at_the_start", results)
    assert finding.verdict == verdict
    assert finding.value == pytest.approx(value, nan_ok=True)


def test_cells_that_collapse_say_nothing_of_the_variance(tmp_path):
    """Those with a delay of 8, whose gradients vary less at the start."""
    results = write_trajectory(
        tmp_path,
        lambda c, e: (2.0 if (e <= 1) == (c.delay < 8) else 1.0, 0.5),
        lambda c: COLLAPSED if c.delay == 8 else 0.98,
    )
    finding = judged_by("gradients_vary_most_at_the_start", results)
    assert finding.verdict == REPRODUCED
    assert "Over 4 delays and rates" in finding.reason


def test_a_mean_gradient_lost_in_noise_is_no_signal(tmp_path):
    """The squared mean is less than its noise in the later epochs."""
    results = write_trajectory(tmp_path, lambda c, e: (1.0, 0.5 if e <= 1 else -0.01))
    finding = judged_by("gradients_vary_most_at_the_start", results)
    assert finding.value == 0.0


def test_intervals_of_the_variance_are_over_seeds(tmp_path):
    """Variance 1 in all seeds later, and 1.9, 2 and 2.1 in the first epoch."""
    results = write_trajectory(tmp_path, lambda c, e: (1.0, 1e9))
    rows = results.trajectory("variance")
    early = rows["epoch"] <= 1
    rows.loc[early, "gradient_variance"] = 1.8 + 0.1 * rows["seed"]
    rows.to_csv(tmp_path / "trajectories" / "variance.csv", index=False)
    finding = judged_by("gradients_vary_most_at_the_start", results_in(tmp_path))
    assert finding.value == pytest.approx(2.0)
    assert (finding.low, finding.high) == pytest.approx(mean_interval([1.9, 2.0, 2.1]))


def test_adagrad_is_not_judged_by_a_part_of_its_grid(tmp_path):
    results = write_results(tmp_path, only=GRIDS["adagrad_is_more_robust"])
    runs = results.runs[(results.runs["grid"] != "adagrad") | (results.runs["delay"] < 128)]
    runs.to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(ResultError, match="no run whose delay is 128"):
        judged_by("adagrad_is_more_robust", results_in(tmp_path))


def test_warmup_must_lower_the_error_in_every_seed(tmp_path):
    def change(cell, epoch):
        return 0.9 if cell.warmup_epochs and cell.seed == 2 else None

    results = write_results(
        tmp_path, first_of(change, as_claimed), only=["large_minibatch"], seeds=3
    )
    finding = judged_by("warmup_helps_without_delay", results)
    assert (finding.verdict, finding.value) == (NOT_REPRODUCED, 0.0)


def test_compensation_must_help_in_every_seed(tmp_path):
    def change(cell, epoch):
        return COLLAPSED if cell.grid == "compensation" and cell.seed == 2 else None

    grids = GRIDS["delay_compensation_helps"]
    results = write_results(tmp_path, first_of(change, as_claimed), only=grids, seeds=3)
    finding = judged_by("delay_compensation_helps", results)
    assert (finding.verdict, finding.value) == (NOT_REPRODUCED, 0.0)


def test_no_readable_histogram_cannot_tell(tmp_path):
    write_staleness(tmp_path, normal_distance=lambda n: np.nan)
    verdicts = judge(results_in(tmp_path)).set_index("claim")["verdict"]
    assert verdicts["delay_fits_a_normal"] == CANNOT_TELL


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three_seeds")
    write_staleness(folder)
    write_trajectory(folder)
    write_results(folder, first_of(edge_moves_with_delay, as_claimed), seeds=3)
    return folder


def edge_moves_with_delay(cell, epoch):
    """So that another delay can be told from random delay of the same mean."""
    if cell.grid.startswith("asynchronous"):
        delay = cell.workers - 1 if cell.cluster == "hub_and_spoke" else cell.delay
        return 0.98 if cell.lr * (1 + delay) < 0.1 else COLLAPSED
    return None


@pytest.fixture(scope="module")
def judged_three_seeds(three_seeds):
    return judge(results_in(three_seeds)).set_index("claim")


def test_all_that_holds_at_paper_is_told(judged_three_seeds):
    verdicts = judged_three_seeds["verdict"]
    wanted = pd.Series(REPRODUCED, index=list(CLAIMS))
    wanted[list(AGAINST_ITSELF)] = PARTLY
    assert verdicts.to_dict() == wanted.to_dict()


def test_a_thinned_preset_never_reproduces_what_needs_the_whole_grid(three_seeds, monkeypatch):
    """Nor breaks it: the same results, said to be of `quick`. Where the grid decides, no trial of
    the criterion does, and none is made here."""
    for function in CLAIMS.values():
        if function.claim["full_grid"]:
            untried = dict.fromkeys(("null", "ceiling", "printed"), "It is not tried here.")
            monkeypatch.setattr(function, "claim", function.claim | untried)
    verdicts = judge(results_in(three_seeds, "quick")).set_index("claim")
    for name, function in CLAIMS.items():
        row = verdicts.loc[name]
        if function.claim["full_grid"]:
            assert row["verdict"] == CANNOT_TELL
            assert row["reason"].startswith("Here the quick preset runs a thinned grid")
        else:
            assert row["verdict"] == REPRODUCED
    thinned = [name for name, function in CLAIMS.items() if not function.claim["full_grid"]]
    assert thinned == [*DELAY_CLAIMS]


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
    write_results(tmp_path, only=("fig3_adam", "fig3_sgd", "adagrad"), seeds=2)
    few = {name for name, function in CLAIMS.items() if function.claim["seeds"] == 3}
    told = few & {*FIG3_CLAIMS, "adagrad_is_more_robust"}
    judged = judge_only([*told, "sgd_takes_longer"], results_in(tmp_path))
    assert len(few) == 11 and len(told) == 5
    for name in told:
        assert judged.loc[name, "verdict"] == CANNOT_TELL
        assert "there are 2 seeds, and this needs 3" in judged.loc[name, "reason"]
    assert judged.loc["sgd_takes_longer", "verdict"] == REPRODUCED


@pytest.mark.parametrize("missing", sorted(grids("paper")))
def test_a_missing_grid_cannot_tell_and_is_named(missing, three_seeds, tmp_path):
    shutil.copytree(three_seeds, tmp_path, dirs_exist_ok=True)
    for name in ("runs", "history", "staleness"):
        table = pd.read_csv(three_seeds / f"{name}.csv")
        kept = table[table["grid"] != missing] if "grid" in table else table
        kept.to_csv(tmp_path / f"{name}.csv", index=False)
    lost = missing_for(results_in(tmp_path))
    assert lost
    assert all(f"holds no run of {missing}" in reason for reason in lost.values())
    assert set(lost) <= {name for name in CLAIMS if missing in GRIDS.get(name, {"fig2"})}


@pytest.mark.parametrize("missing", ["runs", "history", "staleness"])
def test_a_missing_file_cannot_tell_and_is_named(missing, three_seeds, tmp_path):
    shutil.copytree(three_seeds, tmp_path, dirs_exist_ok=True)
    (tmp_path / f"{missing}.csv").unlink()
    lost = missing_for(results_in(tmp_path))
    assert {"runs": 23, "history": 7, "staleness": 2}[missing] == len(lost)
    assert all(f"{missing}.csv is not there" in reason for reason in lost.values())


def test_nothing_at_all_is_no_crash(tmp_path):
    assert (judge(results_in(tmp_path))["verdict"] == CANNOT_TELL).all()


def test_a_delay_that_is_missing_cannot_tell(three_seeds, tmp_path):
    """Delay 256, which four claims ask for by number."""
    runs = pd.read_csv(three_seeds / "runs.csv")
    gone = runs["grid"].str.startswith("fig3") & (runs["delay"] == 256)
    runs[~gone].to_csv(tmp_path / "runs.csv", index=False)
    lost = missing_for(results_in(tmp_path))
    for name in (
        "adam_comparable_to_one_worker",
        "adam_best_accuracies",
        "sgd_fails_past_delay_32",
        "careful_selection_or_adaptive_rates",
    ):
        assert "256" in lost[name]


def test_intervals_are_over_seeds(tmp_path):
    """Each seed loses to delay by its number; without delay all end at 0.988."""

    def accuracy(cell, epoch):
        lost = {0: 0.0, 32: 0.001, 128: 0.002, 256: 0.006}[cell.delay] * cell.seed
        return 0.988 - lost if cell.lr < 0.0002 else COLLAPSED

    results = write_results(tmp_path, accuracy, only=("fig3_adam",), seeds=3)
    name = "adam_comparable_to_one_worker"
    finding = judge_only([name], results).loc[name]
    assert finding["value"] == pytest.approx(0.012)
    assert tuple(finding[["low", "high"]]) == pytest.approx(mean_interval([0.006, 0.012, 0.018]))


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
    results = write_results(tmp_path, late, only=("fig3_adam", "fig3_sgd"), seeds=3)
    assert judged_by("adam_converges_sooner", results).verdict == NOT_REPRODUCED


def test_a_thinned_grid_leaves_claims_without_an_answer_and_hides_no_mistake(tmp_path):
    """Smoke leaves out delays; what needs them says so, and everything else is computed."""
    lost = missing_for(write_results(tmp_path, preset="smoke"))
    lacking = {name for name, why in lost.items() if "no run whose delay is 128, 256" in why}
    assert lacking == {
        *("adam_comparable_to_one_worker", "adam_best_accuracies", "sgd_fails_past_delay_32"),
        "careful_selection_or_adaptive_rates",
    }
