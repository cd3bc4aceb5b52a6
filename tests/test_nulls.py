"""Results in which a claim is false: which run stands for which, and what is left as it was."""

import numpy as np
import pandas as pd
import pytest

from stalegrad.analysis.nulls import changed, same_as, taking, whatever, without
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ResultError

EPOCHS = 3
SEEDS = (1, 2, 3)


@pytest.fixture
def results(tmp_path):
    """Two grids; an outcome tells its run: grid a is 1000, delay 10 each, rate 1 each, seed 0.1."""
    runs, rows = [], []
    for grid, delays in (("a", (0, 4)), ("b", (0, 4, 8))):
        for delay in delays:
            for rate in (1, 2):
                for seed in SEEDS if grid == "a" else (1,):
                    run = f"{grid}{delay}{rate}{seed}"
                    value = 1000 * (grid == "a") + 10 * delay + rate + seed / 10
                    cell = {"grid": grid, "run": run, "delay": delay, "lr": rate, "epochs": EPOCHS}
                    cell |= {"seed": seed, "compensation": 0.5 if grid == "b" else np.nan}
                    done = {"final_error": value, "diverged": False, "updates": 7}
                    done |= {"simulated_seconds": 1.0, "mean_staleness": delay, "max_staleness": 9}
                    runs.append(cell | done)
                    for epoch in range(1, EPOCHS + 1):
                        row = {"run": run, "epoch": epoch, "error": value + 100 * epoch}
                        row |= {"updates": epoch, "simulated_seconds": 1.0}
                        row |= {"mean_staleness": delay, "max_staleness": 9, "diverged": False}
                        rows.append(row)
    pd.DataFrame(runs).to_csv(tmp_path / "runs.csv", index=False)
    pd.DataFrame(rows).to_csv(tmp_path / "history.csv", index=False)
    return StudyResults(tmp_path / "made_up", "paper", tmp_path)


def test_runs_take_outcomes_and_keep_what_they_are(results):
    runs = results.runs
    source = pd.Series(runs.index[::-1], index=runs.index)
    taken = taking(results, source).runs
    cell = ["grid", "run", "delay", "lr", "epochs", "seed", "compensation"]
    pd.testing.assert_frame_equal(taken[cell], runs[cell])
    assert taken["final_error"].tolist() == runs["final_error"].tolist()[::-1]
    assert taken["mean_staleness"].tolist() == runs["mean_staleness"].tolist()[::-1]


def test_histories_follow_their_runs(results):
    """Each epoch's error is the final one of the run that was taken, and 100 times the epoch."""
    view = whatever(["delay"])(results, np.random.default_rng(3))
    history, runs = view.history, view.runs
    assert list(history.columns) == list(results.history.columns)
    assert len(history) == len(runs) * EPOCHS
    last = history.merge(runs[["grid", "run", "final_error"]], on=["grid", "run"])
    np.testing.assert_allclose(last["error"], last["final_error_x"] + 100 * last["epoch"])
    np.testing.assert_allclose(last["final_error_x"], last["final_error_y"])
    assert (history["run"].value_counts() == EPOCHS).all()
    assert set(history[["run", "delay"]].itertuples(index=False, name=None)) == set(
        results.runs[["run", "delay"]].itertuples(index=False, name=None)
    )


@pytest.mark.parametrize("chance", range(5))
def test_a_level_that_does_not_matter(results, chance):
    """Runs take any delay and any seed, of their own grid and rate."""
    view = whatever(["delay"])(results, np.random.default_rng(chance))
    taken = view.runs["final_error"]
    own = results.runs
    assert ((taken >= 1000) == (own["grid"] == "a")).all()
    assert (np.floor(taken) % 10 == own["lr"]).all()
    assert set(taken) <= set(own["final_error"])
    assert (taken != own["final_error"]).any()
    several = own["grid"] == "a"
    assert (np.round(10 * taken % 10)[several] != own.loc[several, "seed"]).any()


def test_all_at_one_level(results):
    view = same_as({"delay": 0})(results, np.random.default_rng(1))
    assert (np.floor(view.runs["final_error"] % 1000) < 10).all()


def test_grids_that_are_not_named_stay(results):
    view = same_as({"delay": 0}, ["b"])(results, np.random.default_rng(1))
    here = results.runs["grid"] == "b"
    pd.testing.assert_frame_equal(view.runs[~here], results.runs[~here])
    assert (view.runs.loc[here, "final_error"] < 10).all()


def test_a_run_without_a_counterpart_keeps_its_own_outcome(results):
    runs = results.runs
    lonely = runs[~((runs["delay"] == 0) & (runs["lr"] == 2))]
    some = changed(results, runs=lonely, history=results.history)
    view = same_as({"delay": 0})(some, np.random.default_rng(1))
    kept = lonely["lr"] == 2
    pd.testing.assert_frame_equal(view.runs[kept], lonely[kept])
    assert (np.floor(view.runs.loc[~kept, "final_error"] % 1000) < 10).all()


def test_a_level_that_no_run_has_is_refused(results):
    with pytest.raises(ResultError, match=r"there is no run with \{'delay': 5\} in a"):
        same_as({"delay": 5}, ["a"])(results, np.random.default_rng(1))


def test_the_same_chance_gives_the_same_results(results):
    views = [whatever(["delay"])(results, np.random.default_rng(4)) for _ in range(2)]
    pd.testing.assert_frame_equal(views[0].runs, views[1].runs)


def test_without_a_seed_the_grids_that_have_no_other_keep_theirs(results):
    left = without(results, [1])
    assert set(left.grid("a")["seed"]) == {2, 3}
    assert set(left.grid("b")["seed"]) == {1}
    assert set(left.curves("a")["seed"]) == {2, 3}
    assert set(left.curves("b")["seed"]) == {1}
    assert len(without(results, [2, 3]).grid("a")) == 4


def test_without_a_replicate(results):
    rows = pd.DataFrame({"simulation": ["s", "s", "t"], "replicate": [0, 1, 0], "mean": [1, 2, 3]})
    rows.to_csv(results.folder / "staleness.csv", index=False)
    assert without(results, [0]).staleness["mean"].tolist() == [2, 3]
    rows.drop(columns="replicate").to_csv(results.folder / "staleness.csv", index=False)
    again = StudyResults(results.home, "paper", results.folder)
    assert len(without(again, [0]).staleness) == 3


@pytest.mark.parametrize("kind", ["trajectory", "trace"])
def test_without_a_seed_of_what_is_recorded(results, kind):
    folder = results.folder / {"trajectory": "trajectories", "trace": "traces"}[kind]
    folder.mkdir()
    rows = pd.DataFrame({"seed": [1, 1, 2], "loss": [1.0, 2.0, 3.0]})
    rows.to_csv(folder / "x.csv", index=False)
    read = getattr(without(results, [1]), kind)("x")
    pd.testing.assert_frame_equal(read.reset_index(drop=True), rows[2:].reset_index(drop=True))
    assert len(getattr(without(results, [1, 2]), kind)("x")) == 3
    rows.drop(columns="seed").to_csv(folder / "x.csv", index=False)
    assert len(getattr(without(results, [1]), kind)("x")) == 3


def test_a_published_table_can_be_another(results):
    other = pd.DataFrame({"accuracy": [1.0]})
    view = changed(results, published_table=other)
    assert view.published("table") is other
    with pytest.raises(ResultError, match="is not there"):
        view.published("another")
    pd.testing.assert_frame_equal(view.runs, results.runs)
