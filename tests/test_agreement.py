"""Which archived cells rounding leaves alone, and what a run of them may differ by."""

from dataclasses import replace

import pandas as pd
import pytest
from helpers import small_cell

from stalegrad.analysis.agreement import agreement, steady_cells

SEEDS = (1, 2, 3)
# Accuracies after two epochs of each seed.
STEADY, EDGE = small_cell(rule__lr=0.03), small_cell(rule__lr=0.1)
ACCURACIES = {
    STEADY: {1: (0.910, 0.950), 2: (0.930, 0.955), 3: (0.920, 0.953)},
    EDGE: {1: (0.905, 0.951), 2: (0.924, 0.114), 3: (0.915, 0.953)},
}
CELLS = [replace(cell, seed=seed) for cell in ACCURACIES for seed in SEEDS]


def rows(accuracies=ACCURACIES) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": replace(cell, seed=seed).hash,
            "epoch": epoch,
            "updates": 10 * epoch,
            "train_loss": 2 * (1 - accuracy),
            "test_accuracy": accuracy,
            "diverged": False,
        }
        for cell, of in accuracies.items()
        for seed, history in of.items()
        for epoch, accuracy in enumerate(history, start=1)
    )


def hashes(cell, seeds=SEEDS) -> set[str]:
    return {replace(cell, seed=seed).hash for seed in seeds}


def again(cell, seed: int, epoch: int = 1, **changed) -> pd.DataFrame:
    """A row of the archive, trained again with other values."""
    wanted = (rows()["run"] == replace(cell, seed=seed).hash) & (rows()["epoch"] == epoch)
    return rows()[wanted].assign(**changed)


def test_a_cell_of_which_a_seed_collapses_later_is_not_steady():
    """After its first epoch, its seeds are as close as those of the other."""
    assert steady_cells(rows(), CELLS) == hashes(STEADY)


def test_too_few_seeds_tell_nothing():
    two = {STEADY: {seed: ACCURACIES[STEADY][seed] for seed in (1, 2)}}
    assert steady_cells(rows(two), CELLS) == set()


def test_a_cell_of_which_a_seed_diverges_is_not_steady():
    history = rows()
    history.loc[history["run"] == STEADY.hash, "diverged"] = True
    assert steady_cells(history, CELLS) == set()


def test_a_cell_without_a_measure_of_how_well_it_does_is_not_steady():
    assert steady_cells(rows().drop(columns="test_accuracy"), CELLS) == set()


@pytest.mark.parametrize("accuracy", [0.930, 0.911, 0.949])
def test_a_run_within_the_spread_of_seeds_agrees(accuracy):
    fresh = again(STEADY, 2, test_accuracy=accuracy)
    assert agreement(rows(), fresh, CELLS) == {replace(STEADY, seed=2).hash: []}


@pytest.mark.parametrize("accuracy", [0.909, 0.951, 0.1135])
def test_a_wrong_run_of_a_steady_cell_is_caught(accuracy):
    (said,) = agreement(rows(), again(STEADY, 2, test_accuracy=accuracy), CELLS).values()
    assert said == [
        f"test_accuracy is {accuracy:.6g} after epoch 1, and 0.93 in the archive; 0.02 is allowed."
    ]


def test_rounding_decides_a_run_at_the_edge():
    fresh = again(EDGE, 1, test_accuracy=0.1135, train_loss=2.3)
    assert agreement(rows(), fresh, CELLS) == {EDGE.hash: []}


@pytest.mark.parametrize("cell", [STEADY, EDGE])
def test_the_schedule_is_held_to_every_digit(cell):
    (said,) = agreement(rows(), again(cell, 1, updates=11), CELLS).values()
    assert len(said) == 1 and said[0].startswith("updates is 11 after epoch 1, and 10 in the arch")


def test_a_run_that_is_not_a_number_is_caught():
    (said,) = agreement(rows(), again(STEADY, 1, test_accuracy=float("nan")), CELLS).values()
    assert said[0].startswith("test_accuracy is nan")


def test_a_run_of_which_nothing_is_recorded_is_caught():
    fresh = again(STEADY, 1).drop(columns=["test_accuracy", "train_loss"])
    (said,) = agreement(rows(), fresh, CELLS).values()
    assert said == ["nothing that can be compared is recorded after epoch 1."]


def test_a_run_that_is_not_archived_is_refused():
    fresh = again(STEADY, 1)
    with pytest.raises(KeyError):
        agreement(rows()[rows()["run"] != STEADY.hash], fresh, CELLS)
