"""A criterion on trial: its null, its ceiling, the printed numbers, its threshold and its seeds."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from stalegrad.analysis.claims import (
    CANNOT_TELL,
    GROUPS,
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    Finding,
    Threshold,
    claim,
    fragile,
    judge,
)
from stalegrad.analysis.nulls import Null, changed, whatever
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning.studies import study_module


def results_of(folder, gains, preset="paper"):
    """Runs at delay 0, which end at 0, and at delay 1, which end at one of `gains` a seed."""
    rows = [
        {"grid": "g", "run": f"{delay}{seed}", "delay": delay, "seed": seed, "final_error": error}
        for seed, gain in enumerate(gains, 1)
        for delay, error in ((0, 0.0), (1, gain))
    ]
    pd.DataFrame(rows).to_csv(folder / "runs.csv", index=False)
    return StudyResults(folder / "made_up", preset, folder)


def verdict_on(monkeypatch, results, threshold=None, function=None, **marks):
    """The row of a claim: the mean gain of delay is at least a threshold."""

    def gain(results, threshold=1.0):
        """'delay costs something'"""
        runs = results.grid("g")
        mean = runs.loc[runs["delay"] == 1, "final_error"].mean()
        mean -= runs.loc[runs["delay"] == 0, "final_error"].mean()
        verdict = REPRODUCED if mean >= threshold else NOT_REPRODUCED
        return Finding(verdict, "mean gain", mean, "It was measured.")

    results.home.mkdir(exist_ok=True)
    (results.home / "claims.py").touch()
    module = ModuleType(study_module(results.home, "claims").__name__)
    module.gain = claim(where="section 1", threshold=threshold, **marks)(function or gain)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return judge(results).iloc[0]


def at(value):
    """A view in which every run with delay ends at `value`."""

    def view(results, chance):
        runs = results.runs.copy()
        runs.loc[runs["delay"] == 1, "final_error"] = value
        return changed(results, runs=runs)

    return view


ONE = Threshold("at least", 1.0, "nats")


@pytest.mark.parametrize(
    ("side", "below", "there", "above"),
    [
        ("at most", True, True, False),
        ("at least", False, True, True),
        ("below", True, False, False),
        ("above", False, False, True),
    ],
)
def test_a_threshold_has_a_side(side, below, there, above):
    threshold = Threshold(side, 2.0)
    assert [threshold.meets(value) for value in (1.9, 2.0, 2.1)] == [below, there, above]
    assert str(threshold) == f"{side} 2"
    assert not threshold.meets(np.nan)


@pytest.mark.parametrize(
    ("moves", "value", "half", "double"),
    [
        ("amount", 3.0, 1.5, 6.0),
        ("factor", 4.0, 2.0, 16.0),
        ("share", 0.5, 1 / 3, 2 / 3),
        ("share", 0.9, 9 / 11, 18 / 19),
    ],
)
def test_a_threshold_moves_by_hand(moves, value, half, double):
    threshold = Threshold("at most", value, moves=moves)
    assert threshold.moved(1.0) == pytest.approx(value)
    assert threshold.moved(0.5) == pytest.approx(half)
    assert threshold.moved(2.0) == pytest.approx(double)


@pytest.mark.parametrize("wrong", [{"side": "under"}, {"moves": "odds"}])
def test_a_threshold_of_no_kind_is_refused(wrong):
    with pytest.raises(ConfigError, match="must be one of at most, at least"):
        Threshold(**{"side": "at most", "value": 1.0} | wrong)


def test_the_threshold_is_given_to_the_claim_and_shown(monkeypatch, tmp_path):
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0, 5.0, 5.0]), ONE)
    assert (row["verdict"], row["threshold"]) == (REPRODUCED, "at least 1 nats")
    assert row["robustness"] == "stable"
    assert not fragile(row["robustness"])


def test_a_claim_without_a_threshold_is_judged_as_before(monkeypatch, tmp_path):
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0, 5.0, 5.0]))
    assert (row["verdict"], row["threshold"], row["robustness"]) == (REPRODUCED, "", "stable")


@pytest.mark.parametrize(
    ("gain", "verdict", "flip"),
    [
        (1.5, REPRODUCED, "not reproduced at double the threshold"),
        (0.7, NOT_REPRODUCED, "reproduced at half the threshold"),
    ],
)
def test_half_and_double_the_threshold(monkeypatch, tmp_path, gain, verdict, flip):
    """They say how firm a verdict is, and decide nothing."""
    row = verdict_on(monkeypatch, results_of(tmp_path, [gain] * 3), ONE)
    assert (row["verdict"], row["robustness"]) == (verdict, flip)
    assert fragile(row["robustness"])


def test_one_seed_that_decides_makes_it_partly(monkeypatch, tmp_path):
    row = verdict_on(monkeypatch, results_of(tmp_path, [0.9, 0.9, 1.3]), ONE)
    assert row["verdict"] == PARTLY
    assert row["robustness"].startswith("not reproduced without seed 3; not reproduced at double")
    assert row["reason"].startswith("As it stands: reproduced, but without seed 3 the verdict is ")


def test_an_interval_that_reaches_the_other_side_makes_it_partly(monkeypatch, tmp_path):
    row = verdict_on(monkeypatch, results_of(tmp_path, [1.05, 1.6, 1.4]), ONE)
    assert row["low"] < 1.0 < row["value"]
    assert "without seed" not in row["robustness"]
    assert row["verdict"] == PARTLY
    assert "the interval over seeds reaches the other side of the threshold" in row["reason"]


def test_the_interval_is_students_over_seeds(monkeypatch, tmp_path):
    gains = np.array([5.0, 6.0, 8.5])
    row = verdict_on(monkeypatch, results_of(tmp_path, gains), ONE)
    half = 4.302653 * gains.std(ddof=1) / np.sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((gains.mean() - half, gains.mean() + half))


def test_many_seeds_are_left_out_in_groups(monkeypatch, tmp_path):
    calls = []

    def counted(results, threshold):
        """'delay costs something'"""
        runs = results.grid("g")
        calls.append(frozenset(runs["seed"]))
        return Finding(REPRODUCED, "mean", runs["final_error"].mean(), "It was measured.")

    verdict_on(monkeypatch, results_of(tmp_path, [5.0] * 25), ONE, counted)
    assert len(calls) == 1 + GROUPS + 2
    left_out = [set(range(1, 26)) - seeds for seeds in calls[1 : 1 + GROUPS]]
    assert set().union(*left_out) == set(range(1, 26))
    assert sorted(map(len, left_out)) == [2] * 5 + [3] * 5


def test_what_a_null_passes_cannot_be_told(monkeypatch, tmp_path):
    null = Null("delay always costs 2", at(2.0))
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0] * 3), ONE, null=null)
    assert row["verdict"] == CANNOT_TELL
    assert row["reason"].startswith(
        "Here the criterion is met 1 of 1 times by results in which delay always costs 2; "
        "as it stands: reproduced."
    )
    assert (row["floor"], row["null"]) == (2.0, "delay always costs 2: reproduced")


def test_a_null_that_fails_is_the_floor(monkeypatch, tmp_path):
    null = Null("delay has no effect", whatever(["delay"]), 20)
    four = Threshold("at least", 4.0)
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0, 5.1, 5.2] * 3), four, null=null)
    assert row["verdict"] == REPRODUCED
    assert abs(row["floor"]) < 2
    assert row["null"].startswith("delay has no effect: ")


@pytest.mark.parametrize(("passes", "verdict"), [(1, REPRODUCED), (2, CANNOT_TELL)])
def test_a_null_may_pass_by_chance_one_time_in_twenty(monkeypatch, tmp_path, passes, verdict):
    drawn = []

    def view(results, chance):
        drawn.append(1)
        return at(2.0 if len(drawn) <= passes else 0.0)(results, chance)

    null = Null("delay costs at random", view, 20)
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0] * 3), ONE, null=null)
    assert row["verdict"] == verdict
    assert f"{passes} reproduced, {20 - passes} not reproduced" in row["null"]


def test_what_cannot_be_had_cannot_be_told(monkeypatch, tmp_path):
    ceiling = Null("one seed of ours is taken for the print", at(0.5))
    row = verdict_on(monkeypatch, results_of(tmp_path, [0.1] * 3), ONE, ceiling=ceiling)
    assert row["verdict"] == CANNOT_TELL
    assert "not met even where one seed of ours is taken for the print" in row["reason"]
    assert row["ceiling"] == 0.5


def test_the_printed_numbers_are_judged_beside_ours(monkeypatch, tmp_path):
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0] * 3), ONE, printed=at(0.25))
    assert (row["verdict"], row["printed"]) == (REPRODUCED, 0.25)
    assert row["printed_verdict"] == NOT_REPRODUCED


def test_why_there_is_no_null_is_said(monkeypatch, tmp_path):
    row = verdict_on(
        monkeypatch, results_of(tmp_path, [5.0] * 3), ONE, null="It counts.", ceiling="It counts."
    )
    assert (row["null"], row["best"]) == ("It counts.", "It counts.")
    assert np.isnan(row["floor"])


def test_a_null_whose_runs_are_missing_is_said(monkeypatch, tmp_path):
    def view(results, chance):
        raise ResultError("there is no run with delay 9")

    row = verdict_on(
        monkeypatch, results_of(tmp_path, [5.0] * 3), ONE, null=Null("delay is 9", view)
    )
    assert row["verdict"] == REPRODUCED
    assert row["null"] == "delay is 9: results are missing (there is no run with delay 9)"


def test_a_mistake_in_a_null_is_no_verdict(monkeypatch, tmp_path):
    def view(results, chance):
        raise KeyError("delai")

    with pytest.raises(KeyError, match="delai"):
        verdict_on(monkeypatch, results_of(tmp_path, [5.0] * 3), ONE, null=Null("delay", view))


def test_smoke_is_not_tried(monkeypatch, tmp_path):
    row = verdict_on(monkeypatch, results_of(tmp_path, [5.0] * 3, "smoke"), ONE)
    assert (row["verdict"], row["robustness"]) == (
        CANNOT_TELL,
        "not tried: this is the smoke preset",
    )
    assert not fragile(row["robustness"])
