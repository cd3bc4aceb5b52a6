"""Gathering histories into `runs` and `history`, and reading them back."""

import numpy as np
import pandas as pd
import pytest
from helpers import home_of, small_cell
from made_up import COLLAPSED, write_results

from stalegrad.analysis.results import StudyResults, collect, over_seeds, read_csv, with_all
from stalegrad.io.errors import ResultError


def history_of(cell, accuracies, *, updates=8, diverged=False):
    """What training leaves of a run that ended after these epochs."""
    epochs = np.arange(1, len(accuracies) + 1)
    frame = pd.DataFrame({"run": cell.hash, "epoch": epochs, "updates": updates * epochs})
    frame = frame.assign(simulated_seconds=0.5 * epochs, mean_staleness=0.9, max_staleness=1)
    frame = frame.assign(train_loss=1 / epochs, test_loss=2 / epochs, test_accuracy=accuracies)
    return frame.assign(diverged=(epochs == epochs[-1]) & diverged)


SLOW, FAST = small_cell(rule__lr=0.01), small_cell(rule__lr=0.1)


def test_a_row_a_run_with_what_it_ended_with():
    histories = [history_of(SLOW, [0.2, 0.9, 0.8]), history_of(FAST, [0.3, 0.5, 0.7])]
    runs, history = collect({"both": [SLOW, FAST]}, histories)
    assert list(runs["run"]) == [SLOW.hash, FAST.hash]
    assert list(runs["lr"]) == [0.01, 0.1]
    assert list(runs["final_test_accuracy"]) == [0.8, 0.7]
    assert list(runs["best_test_accuracy"]) == [0.9, 0.7]
    assert list(runs["final_test_loss"]) == [2 / 3, 2 / 3]
    assert list(runs["final_train_loss"]) == [1 / 3, 1 / 3]
    assert list(runs["updates"]) == [24, 24]
    assert list(runs["simulated_seconds"]) == [1.5, 1.5]
    assert not runs["diverged"].any()
    assert len(history) == 6


def test_columns_are_the_cells_and_then_the_results():
    runs, _ = collect({"one": [SLOW]}, [history_of(SLOW, [0.5])])
    cell = list(SLOW.columns())
    assert list(runs.columns[: 2 + len(cell)]) == ["grid", "run", *cell]
    assert list(runs.columns[2 + len(cell) :]) == [
        *("final_train_loss", "final_test_loss", "final_test_accuracy", "best_test_accuracy"),
        *("diverged", "updates", "simulated_seconds", "mean_staleness", "max_staleness"),
    ]


def test_rows_are_in_the_order_of_the_grids_whatever_that_of_the_bundles():
    grids = {"both": [SLOW, FAST]}
    histories = [history_of(SLOW, [0.2, 0.9]), history_of(FAST, [0.3, 0.5])]
    shuffled = [pd.concat(histories[::-1]).sample(frac=1, random_state=1)]
    for one, other in zip(collect(grids, histories), collect(grids, shuffled), strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_missing_runs_are_counted_and_the_first_is_named():
    lost = small_cell(rule__lr=0.3)
    with pytest.raises(ResultError) as caught:
        collect({"all": [SLOW, FAST, lost]}, [history_of(FAST, [0.5])])
    message = str(caught.value)
    assert message.startswith(f"2 of 3 runs have no history, the first {SLOW.hash} ")
    assert "'lr': 0.01" in message
    assert "snakemake" in message


def test_no_history_at_all_is_the_same_error():
    with pytest.raises(ResultError, match="1 of 1 runs have no history"):
        collect({"one": [SLOW]}, [])


def test_a_run_in_archive_and_bundle_counts_once_as_the_first():
    histories = [history_of(SLOW, [0.2, 0.9]), history_of(SLOW, [0.1, 0.1])]
    runs, history = collect({"one": [SLOW]}, histories)
    assert list(history["test_accuracy"]) == [0.2, 0.9]
    assert list(runs["final_test_accuracy"]) == [0.9]


def test_a_run_is_not_mixed_of_two_that_diverged_at_different_epochs():
    histories = [history_of(SLOW, [0.2, 0.1], diverged=True), history_of(SLOW, [0.2, 0.9, 0.1])]
    runs, history = collect({"one": [SLOW]}, histories)
    assert list(history["epoch"]) == [1, 2]
    assert runs["diverged"].all()


def test_columns_have_the_types_of_the_histories_that_count():
    empty = pd.DataFrame({"run": []})
    _, history = collect({"one": [SLOW]}, [empty, history_of(SLOW, [0.2]), empty])
    assert [history.dtypes[name].kind for name in ("epoch", "diverged")] == ["i", "b"]


def test_a_run_of_two_grids_stands_in_both_and_once_in_the_history():
    histories = [history_of(SLOW, [0.2, 0.9]), history_of(FAST, [0.3, 0.5])]
    runs, history = collect({"both": [SLOW, FAST], "slow": [SLOW]}, histories)
    assert list(runs["grid"]) == ["both", "both", "slow"]
    assert list(runs["final_test_accuracy"]) == [0.9, 0.5, 0.9]
    assert len(history) == 4


def test_runs_of_other_grids_are_left_out():
    runs, history = collect(
        {"one": [SLOW]}, [history_of(FAST, [0.3]), history_of(SLOW, [0.2, 0.9])]
    )
    assert set(runs["run"]) == set(history["run"]) == {SLOW.hash}


def test_a_run_that_diverged_has_what_it_ended_with():
    histories = [history_of(FAST, [0.3, 0.098], diverged=True), history_of(SLOW, [0.2, 0.5, 0.9])]
    runs, history = collect({"both": [SLOW, FAST]}, histories)
    last = runs.set_index("run").loc[FAST.hash]
    assert last["diverged"]
    assert last["final_test_accuracy"] == 0.098
    assert last["best_test_accuracy"] == 0.3
    assert last["updates"] == 16
    assert len(history) == 5  # what was trained, no more


def test_a_metric_that_one_problem_lacks_is_empty():
    other = history_of(FAST, [0.5]).drop(columns="test_accuracy")
    runs, _ = collect({"both": [SLOW, FAST]}, [history_of(SLOW, [0.9]), other])
    assert runs["final_test_accuracy"].isna().tolist() == [False, True]
    assert runs["final_test_loss"].notna().all()


@pytest.fixture
def stored(tmp_path):
    def accuracy(cell, epoch):
        return np.nan if cell.lr > 0.005 and epoch == 3 else 0.1 * epoch / cell.seed

    write_results(tmp_path, accuracy, only=("warmup", "asynchronous"), seeds=2)
    return StudyResults(home_of("jain2018"), "paper", tmp_path)


def test_curves_of_a_diverged_run_go_on_at_what_it_ended_with(stored):
    curves = stored.curves("warmup").set_index("epoch")
    of_run = dict(list(curves.groupby("run")["test_accuracy"]))
    assert {len(curve) for curve in of_run.values()} == {20}
    run = stored.grid("warmup").query("lr > 0.005 and seed == 1")["run"].iloc[0]
    assert of_run[run].loc[:2].to_list() == [0.1, 0.2]
    assert (of_run[run].loc[3:] == 0.098).all()
    assert curves[curves["run"] == run]["updates"].to_list() == [100, 200] + 18 * [300]


def test_means_over_seeds_are_of_all_seeds(tmp_path):
    def accuracy(cell, epoch):
        return np.nan if cell.seed == 2 and epoch == 3 else 0.9

    results = write_results(tmp_path, accuracy, only=("warmup",), seeds=2)
    curves = over_seeds(results.curves("warmup"), ["epoch"], "test_accuracy")
    assert curves["count"].nunique() == 1
    assert curves.loc[curves["epoch"] >= 3, "mean"].to_numpy() == pytest.approx((0.9 + 0.098) / 2)


def test_whole_numbers_of_a_grid_are_whole(stored):
    """Beside clusters without a delay the column is read as floats."""
    assert stored.runs["delay"].dtype == float
    assert stored.grid("warmup")["delay"].dtype == int
    assert stored.curves("warmup")["delay"].dtype == int
    assert stored.grid("asynchronous")["delay"].isna().any()
    assert stored.grid("warmup")["lr"].dtype == float
    assert "workers" not in stored.grid("warmup")


def test_two_grids_together(stored):
    both = stored.grid("warmup", "asynchronous")
    assert set(both["grid"]) == {"warmup", "asynchronous"}
    assert len(both) == len(stored.runs)


def test_what_a_caller_does_to_its_runs_and_curves_changes_no_others(stored):
    """They are chosen once for all callers."""
    for read in (stored.grid, stored.curves):
        before = read("warmup").copy()
        given = read("warmup")
        given.loc[:, "seed"] = 0
        given["lr"] = 7.0
        pd.testing.assert_frame_equal(read("warmup"), before)


def test_a_grid_that_is_not_there_is_named(stored):
    for read in (stored.grid, stored.curves):
        with pytest.raises(ResultError, match="runs.csv holds no run of fig2; "):
            read("warmup", "fig2")


def test_files_that_are_missing_or_broken_are_named(tmp_path):
    results = StudyResults(tmp_path, "paper", tmp_path)
    for read in (
        lambda: results.runs,
        lambda: results.history,
        lambda: results.staleness,
        lambda: results.arrays("fig1"),
    ):
        with pytest.raises(ResultError, match="is not there; `snakemake` makes it"):
            read()
    with pytest.raises(ResultError, match="fig2.csv is not there; the papers' numbers are"):
        results.published("fig2")
    for content in (b"", b"a,b\n1,2,3\n4,5,6,7\n", b"\xff\xfe\x00"):
        (tmp_path / "runs.csv").write_bytes(content)
        with pytest.raises(ResultError, match="runs.csv is not a readable CSV .*delete it"):
            read_csv(tmp_path / "runs.csv")


def test_hashes_of_digits_alone_stay_text(tmp_path):
    (tmp_path / "runs.csv").write_text("run,seed\n0012345678901234,1\n12e4567890123456,2\n")
    assert list(read_csv(tmp_path / "runs.csv")["run"]) == ["0012345678901234", "12e4567890123456"]


def test_over_seeds_by_hand():
    runs = pd.DataFrame({"lr": [0.2, 0.1, 0.1], "final_test_accuracy": [0.5, 0.9, COLLAPSED]})
    table = over_seeds(runs, ["lr"])
    assert list(table["lr"]) == [0.1, 0.2]
    assert table.loc[0, "mean"] == pytest.approx((0.9 + COLLAPSED) / 2)
    assert table.loc[0, "std"] == pytest.approx((0.9 - COLLAPSED) / np.sqrt(2))
    assert table.loc[0, ["min", "max", "count"]].tolist() == [COLLAPSED, 0.9, 2]
    assert np.isnan(table.loc[1, "std"])


def test_values_that_a_thinned_grid_lacks_are_named():
    runs = pd.DataFrame({"delay": [0, 32]})
    assert with_all(runs, "delay", (32, 0)) is runs
    with pytest.raises(ResultError, match="there is no run whose delay is 128, 256"):
        with_all(runs, "delay", (0, 128, 256))
