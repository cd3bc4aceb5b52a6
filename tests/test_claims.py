"""The frame around claims: quotes, verdicts, intervals, and what keeps a claim from an answer."""

import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from stalegrad.analysis.claims import (
    CANNOT_TELL,
    COLUMNS,
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
    Finding,
    claim,
    claims_of,
    judge,
    share_verdict,
    verdict_of,
)
from stalegrad.analysis.comparisons import (
    compare,
    compare_kinds,
    compare_runs,
    jackknife,
    mean_interval,
    paired_tests,
)
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning.studies import study_module


@claim(where="section 1")
def always(results):
    """'it always
    holds'

    Whatever the runs.
    """
    return Finding(REPRODUCED, "a count", 3.0, "It holds.", "any", 2.0, 4.0)


@claim(where="section 2", full_grid=True)
def needs_grid(results):
    """'before gradient t' arrives' for delays 1 and 2"""
    return Finding(REPRODUCED, "a count", 1.0, "It holds.", "any")


@claim(where="section 3", seeds=3)
def needs_seeds(results):
    """'it holds (98.21%, N(0, 1)) on average'"""
    return Finding(NOT_REPRODUCED, "a count", 1.0, "It does not hold.", "any")


def judged(monkeypatch, results, *claims):
    """Verdicts on a made-up study of these claims, by name."""
    results.home.mkdir(exist_ok=True)
    (results.home / "claims.py").touch()
    module = ModuleType(study_module(results.home, "claims").__name__)
    for function in claims or (always, needs_grid, needs_seeds):
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return judge(results).set_index("claim", drop=False)


def results_of(folder, preset="paper", seeds=3):
    runs = pd.DataFrame({"grid": "g", "run": [f"{i}" for i in range(seeds)]})
    runs.assign(seed=range(1, seeds + 1)).to_csv(folder / "runs.csv", index=False)
    return StudyResults(folder / "made_up", preset, folder)


def test_a_verdict_has_every_column(monkeypatch, tmp_path):
    table = judged(monkeypatch, results_of(tmp_path))
    assert tuple(table.columns) == COLUMNS
    assert list(table.index) == ["always", "needs_grid", "needs_seeds"]
    assert (table["study"] == "made_up").all()
    row = table.loc["always"]
    assert (row["where"], row["verdict"], row["statistic"]) == ("section 1", REPRODUCED, "a count")
    assert (row["value"], row["low"], row["high"]) == (3.0, 2.0, 4.0)


def test_quotes_stand_as_written(monkeypatch, tmp_path):
    """On one line, apostrophes kept, and nothing of what the docstring says beside it."""
    quotes = judged(monkeypatch, results_of(tmp_path))["quote"]
    assert quotes["always"] == "it always holds"
    assert quotes["needs_grid"] == "before gradient t' arrives"
    assert quotes["needs_seeds"] == "it holds (98.21%, N(0, 1)) on average"


@pytest.mark.parametrize(
    ("preset", "seeds", "cannot"),
    [
        ("paper", 3, []),
        ("paper", 2, ["needs_seeds"]),
        ("quick", 3, ["needs_grid"]),
        ("quick", 1, ["needs_grid", "needs_seeds"]),
        ("smoke", 3, ["always", "needs_grid", "needs_seeds"]),
    ],
)
def test_what_a_preset_can_carry(monkeypatch, tmp_path, preset, seeds, cannot):
    table = judged(monkeypatch, results_of(tmp_path, preset, seeds))
    assert list(table.index[table["verdict"] == CANNOT_TELL]) == cannot
    for name, row in table.loc[cannot].iterrows():
        own = NOT_REPRODUCED if name == "needs_seeds" else REPRODUCED
        assert f"as it stands: {own}. It " in row["reason"]
    assert (table["value"] >= 1).all()  # the numbers are shown all the same


def test_reasons_say_what_is_missing(monkeypatch, tmp_path):
    few = judged(monkeypatch, results_of(tmp_path, "paper", 2)).loc["needs_seeds", "reason"]
    assert few.startswith("Here there are 2 seeds, and this needs 3; ")
    one = judged(monkeypatch, results_of(tmp_path, "paper", 1)).loc["needs_seeds", "reason"]
    assert one.startswith("Here there is one seed, and this needs 3; ")
    thin = judged(monkeypatch, results_of(tmp_path, "quick")).loc["needs_grid", "reason"]
    assert thin.startswith("Here the quick preset runs a thinned grid, and this needs the whole; ")


def test_seeds_are_those_of_the_grids_that_are_read(monkeypatch, tmp_path):
    """Grids that were measured with more seeds do not lend them to others."""
    many = pd.DataFrame({"grid": "many", "run": ["1", "2", "3"], "seed": [1, 2, 3]})
    few = pd.DataFrame({"grid": "few", "run": ["4"], "seed": [1]})
    pd.concat([many, few]).to_csv(tmp_path / "runs.csv", index=False)

    def reads(name, *grids):
        def function(results):
            """'it holds'"""
            results.grid(*grids)
            return Finding(REPRODUCED, "a count", 1.0, "It holds.", "any")

        function.__name__ = name
        return claim(where="section 5", seeds=3)(function)

    table = judged(
        monkeypatch,
        StudyResults(tmp_path / "made_up", "paper", tmp_path),
        *(reads("of_many", "many"), reads("of_few", "few"), reads("of_both", "many", "few")),
    )
    assert list(table["verdict"]) == [REPRODUCED, CANNOT_TELL, CANNOT_TELL]
    assert table.loc["of_both", "reason"].startswith("Here there is one seed, and this needs 3; ")


def lacks(error):
    @claim(where="section 4")
    def lacking(results):
        """'there is more'"""
        raise error

    return lacking


def test_missing_results_are_a_reason_and_no_crash(monkeypatch, tmp_path):
    error = ResultError("runs.csv is\nnot there")
    table = judged(monkeypatch, results_of(tmp_path), lacks(error), always)
    row = table.loc["lacking"]
    assert row["verdict"] == CANNOT_TELL
    assert row["reason"] == "The results it needs are not there (runs.csv is not there)."
    assert np.isnan(row["value"])
    assert table.loc["always", "verdict"] == REPRODUCED


@pytest.mark.parametrize("error", [KeyError, IndexError, ValueError, TypeError])
def test_a_mistake_in_a_claim_is_no_verdict(monkeypatch, tmp_path, error):
    with pytest.raises(error, match="a mistake") as caught:
        judged(monkeypatch, results_of(tmp_path), lacks(error("a mistake")))
    assert caught.value.__notes__ == ["This was raised by the claim made_up.lacking."]


def test_a_misspelt_column_is_no_verdict(monkeypatch, tmp_path):
    @claim(where="section 4")
    def misspelt(results):
        """'it holds'"""
        return results.runs["sed"]

    with pytest.raises(KeyError, match="sed"):
        judged(monkeypatch, results_of(tmp_path), misspelt)


@pytest.mark.parametrize("text", [None, "", "it holds", "Tests 'it holds'", "''", "'it holds"])
def test_a_claim_without_a_quotation_is_refused_by_name(text):
    def unquoted(results):
        raise AssertionError

    unquoted.__doc__ = text
    with pytest.raises(ConfigError, match="the claim 'unquoted' has no quotation"):
        claim(where="section 5")(unquoted)


def test_without_runs_nothing_is_told(monkeypatch, tmp_path):
    """Not even by a claim that looked at none: seeds cannot be counted."""
    table = judged(monkeypatch, StudyResults(tmp_path / "made_up", "paper", tmp_path))
    assert (table["verdict"] == CANNOT_TELL).all()
    assert table["reason"].str.contains("staleness.csv is not there").all()


@pytest.mark.parametrize(("replicates", "verdict"), [(2, CANNOT_TELL), (3, NOT_REPRODUCED)])
@pytest.mark.parametrize("each", [True, False], ids=["a row each", "means over all"])
def test_replicates_stand_for_seeds_in_a_study_of_simulations(
    monkeypatch, tmp_path, replicates, verdict, each
):
    rows = {"replicate": range(replicates)} if each else {"replicates": [replicates]}
    pd.DataFrame(rows).to_csv(tmp_path / "staleness.csv", index=False)
    results = StudyResults(tmp_path / "made_up", "paper", tmp_path)
    assert judged(monkeypatch, results, needs_seeds).loc["needs_seeds", "verdict"] == verdict


def test_a_study_without_claims_has_none(tmp_path):
    assert claims_of(tmp_path / "no_such_study") == {}
    table = judge(StudyResults(tmp_path / "no_such_study", "paper", tmp_path))
    assert table.empty
    assert tuple(table.columns) == COLUMNS


def test_a_module_that_cannot_be_imported_is_not_taken_for_none(tmp_path):
    (tmp_path / "claims.py").write_text("import absent\n")
    with pytest.raises(ModuleNotFoundError, match="absent"):
        claims_of(tmp_path)


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ([True], REPRODUCED),
        ([True, True], REPRODUCED),
        ([True, False], PARTLY),
        ([False, False], NOT_REPRODUCED),
        ([np.True_, np.False_], PARTLY),
        ([], CANNOT_TELL),
    ],
)
def test_verdict_of_parts(holds, verdict):
    assert verdict_of(holds) == verdict


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        (1.0, REPRODUCED),
        (0.9, REPRODUCED),
        (0.899, PARTLY),
        (0.5, PARTLY),
        (0.499, NOT_REPRODUCED),
        (0.0, NOT_REPRODUCED),
        (np.nan, CANNOT_TELL),
    ],
)
def test_verdict_of_a_share(share, verdict):
    assert share_verdict(share) == verdict


def test_share_verdict_with_other_bounds():
    assert share_verdict(0.7, most=0.7, some=0.2) == REPRODUCED
    assert share_verdict(0.2, most=0.7, some=0.2) == PARTLY


def test_paired_tests_are_students_with_the_false_discovery_rate_over_cells():
    rng = np.random.default_rng(1)
    seeds = 100 * rng.standard_normal(6)  # common to both: a test without pairs would see nothing
    before = pd.DataFrame(seeds + rng.standard_normal((200, 6)))
    before.loc[0] += 20
    before.loc[1] -= 20
    after = pd.DataFrame(np.tile(seeds, (200, 1)))
    tests = paired_tests(before, after)
    by_itself = stats.ttest_rel(before, after, axis=1)
    np.testing.assert_allclose(tests["statistic"], by_itself.statistic)
    np.testing.assert_allclose(tests["p"], by_itself.pvalue)
    np.testing.assert_allclose(tests["adjusted"], stats.false_discovery_control(by_itself.pvalue))
    assert (tests["p"] <= 0.05).sum() > (tests["adjusted"] <= 0.05).sum() == 2
    words = compare(before, after, ("A", "B"))
    assert words.startswith("Paired over 6 seeds, A is above B beyond chance in 1 of 200 cells ")
    assert "below in 1; where it is clearest t = " in words
    assert "Not tested" not in words


def test_the_adjusted_p_by_hand():
    """Of p = 0.01, 0.02 and 0.9 the second, of three, becomes 0.02 * 3 / 2."""
    wanted = [0.01, 0.02, 0.9]
    t = stats.t.isf(np.array(wanted) / 2, 2)
    # Three pairs whose mean is t standard errors from 0: 0 and +-1 about it, errors 1 / sqrt(3).
    apart = pd.DataFrame(t[:, None] / np.sqrt(3) + [-1.0, 0.0, 1.0])
    tests = paired_tests(apart, 0 * apart)
    assert tests["p"].tolist() == pytest.approx(wanted)
    assert tests["adjusted"].tolist() == pytest.approx([0.03, 0.03, 0.9])
    assert "in 2 of 3 cells and below in 0" in compare(apart, 0 * apart, ("A", "B"))
    assert "t = 9.92, p = 0.01, adjusted = 0.03." in compare(apart, 0 * apart, ("A", "B"))
    assert "in 0 of 3 cells and below in 2" in compare(0 * apart, apart, ("A", "B"))


def test_what_has_one_pair_or_no_spread_is_not_tested():
    """0.3 - 0.1 and 0.4 - 0.2 are not the same floats."""
    first = pd.DataFrame([[1.0, 1.0], [0.3, 0.4], [5.0, np.nan], [9.0, 9.1], [np.nan, np.nan]])
    second = pd.DataFrame([[1.0, 1.0], [0.1, 0.2], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    tests = paired_tests(first, second)
    assert tests["untested"].tolist() == [
        "that are equal in every seed",
        "that differ by as much in every seed",
        "of one seed",
        "",
        "of one seed",
    ]
    assert tests["p"].notna().tolist() == [False, False, False, True, False]
    assert tests.loc[3, "adjusted"] == tests.loc[3, "p"]
    assert compare(first, second, ("A", "B")) == (
        "Paired over 2 seeds, A is above B beyond chance in 1 of 1 cell and below in 0; "
        "t = 181.00, p = 0.0035. Not tested: cells that are equal in every seed (1), that differ "
        "by as much in every seed (1), of one seed (2)."
    )
    assert compare(first[:2], second[:2], ("A", "B")) == (
        "Paired over seeds: cannot tell of cells that are equal in every seed (1), that differ by "
        "as much in every seed (1)."
    )


def test_one_seed_has_no_p_value():
    one = pd.DataFrame({1: [3.0, 4.0]})
    assert compare(one, 0 * one, ("A", "B")) == "Paired over seeds: cannot tell from one seed."
    assert paired_tests(one, 0 * one)[["statistic", "p", "adjusted"]].isna().all(axis=None)


def test_runs_are_paired_by_seed_and_by_what_they_share():
    """Each strength of a delay stands beside the one run of this delay and seed, in any order."""
    runs = pd.DataFrame({"strength": [2, 5] * 4, "delay": [1, 1, 1, 1, 9, 9, 9, 9]})
    runs = runs.assign(seed=[1, 1, 2, 2] * 2, value=[10.0, 13, 20, 23.1, 30, 33, 40, 43.1])
    others = pd.DataFrame({"delay": [9, 9, 1, 1], "seed": [2, 1, 2, 1]})
    others["value"] = [40.0, 30.0, 20.0, 10.0]
    said = compare_runs(
        runs, others, ("A", "B"), cell=["strength", "delay"], on=["delay"], value="value"
    )
    assert "A is above B beyond chance in 2 of 2 cells and below in 0" in said
    assert said.endswith("Not tested: cells that are equal in every seed (2).")
    both = pd.concat([runs[runs["strength"] == 5], others.assign(strength=0)])
    kinds = compare_kinds(both, "strength", {5: "A", 0: "B"}, ["strength", "delay"], "value")
    assert "A is above B beyond chance in 2 of 2 cells and below in 0" in kinds


def test_mean_interval_is_students():
    """Three values: t is 4.3027 with two degrees of freedom."""
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx(
        (2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3))
    )
    values = np.random.default_rng(3).normal(size=12)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(pd.Series(values)) == pytest.approx((wanted.low, wanted.high))


def jackknife_of(runs, statistic):
    without = [statistic(runs[runs["seed"] != seed]) for seed in runs["seed"].unique()]
    return jackknife(statistic(runs), without)


def test_jackknife_of_a_mean_is_students():
    """However many runs a seed has, so long as all have as many."""
    runs = pd.DataFrame({"seed": [1, 1, 2, 2, 3, 3], "x": [0.2, 0.4, 0.9, 0.5, 0.1, 0.6]})
    by_seed = runs.groupby("seed")["x"].mean()
    assert jackknife_of(runs, lambda r: r["x"].mean()) == pytest.approx(mean_interval(by_seed))


def test_jackknife_lies_around_the_statistic_itself():
    """Of a ratio of means, which is not the mean over seeds of their ratios; by hand."""
    runs = pd.DataFrame({"seed": [1, 2, 3], "x": [1.0, 2.0, 6.0], "y": [1.0, 1.0, 4.0]})
    ratio = lambda r: r["x"].mean() / r["y"].mean()  # noqa: E731
    without = np.array([8 / 5, 7 / 5, 3 / 2])
    half = stats.t.ppf(0.975, 2) * np.sqrt(2 / 3 * ((without - without.mean()) ** 2).sum())
    assert jackknife_of(runs, ratio) == pytest.approx((1.5 - half, 1.5 + half))
    assert np.isnan(jackknife_of(runs[runs["seed"] == 1], ratio)).all()


@pytest.mark.parametrize("values", [[], [0.7]])
def test_one_value_has_no_interval(values):
    assert np.isnan(mean_interval(values)).all()
