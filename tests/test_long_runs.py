"""An epoch of a long run takes as long as one of a short run."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.schedule import Schedule
from stalegrad.training.bundles import Grown, Place, Progress, train_bundle

SHORT, LONG = 150, 900


def cell(rule: dict, epochs: int):
    values = {
        "problem": {"name": "chain"},
        "rule": {"lr": 0.001} | rule,
        "cluster": {"name": "constant_delay", "delay": 2},
        "batch_size": 1,
        "epochs": epochs,
        "partition": "independent",
    }
    return parse_cell(values, "a test")


def seconds_of_epochs(
    folder: Path, rule: dict, told: Callable[[Progress], object], epochs: int, **bundle
) -> np.ndarray:
    """Processor time of the last epochs; told: what is done after each."""
    ends = []

    def report(progress: Progress) -> None:
        told(progress)
        ends.append(time.process_time())

    per_epoch = bundle.get("per_epoch")
    weights = folder / "weights.npz" if per_epoch else None
    made = Bundle((cell(rule, epochs),), **bundle)
    train_bundle(made, folder / "run.csv", Place(folder), report, weights=weights)
    return np.diff(ends)[-SHORT // 2 :]


@pytest.mark.parametrize(
    "rule, told, bundle",
    [
        ({"name": "sgd"}, lambda progress: None, {}),
        ({"name": "delay_adaptive", "concurrency": 4}, lambda progress: None, {}),
        ({"name": "sgd", "warmup_epochs": 5}, lambda progress: None, {}),
        ({"name": "sgd"}, lambda progress: progress.newest(1), {}),
        ({"name": "sgd"}, lambda progress: None, {"per_epoch": 1}),
    ],
    ids=["history", "steps by delay", "warm-up", "told to a user", "weights kept"],
)
def test_an_epoch_takes_as_long_in_a_long_run(tmp_path, rule, told, bundle):
    # Medians, since a checkpoint takes longer after many epochs, and comes more rarely.
    short, long = (
        np.median(seconds_of_epochs(tmp_path / str(epochs), rule, told, epochs, **bundle))
        for epochs in (SHORT, LONG)
    )
    assert long < 1.7 * short, (
        f"{1e3 * short:.2f} ms an epoch of {SHORT}, {1e3 * long:.2f} of {LONG}"
    )


def test_staleness_until_each_stop_is_that_of_all_arrivals_before_it():
    arrivals = 9
    schedule = Schedule(
        worker=np.zeros(arrivals, np.int32),
        time=np.arange(1.0, arrivals + 1),
        read_version=np.array([0, 0, 1, 0, 4, 1, 6, 7, 8]),
        stream=np.zeros(arrivals, np.int32),
        batch=np.arange(arrivals),
        epoch_ends=np.array([0, 4, 4, 9]),
    )
    means, largest = schedule.staleness_until(schedule.epoch_ends)
    for stop, mean, most in zip(schedule.epoch_ends, means, largest, strict=True):
        before = schedule.staleness_before[:stop]
        assert mean == (before.mean() if stop else 0) and most == (before.max() if stop else 0)


def test_what_grew_keeps_what_it_was():
    one = Grown().and_then([1, 2])
    two = one.and_then([3]).and_then([])
    assert list(one) == [1, 2] and list(two) == [1, 2, 3] and len(two) == 3
    assert two.newest(2) == [2, 3] and two.newest(0) == [] and two.newest(9) == [1, 2, 3]
    assert list(Grown()) == []


def test_newest_rows_are_the_end_of_the_history(tmp_path):
    told = []
    seconds_of_epochs(tmp_path, {"name": "sgd"}, lambda p: told.append(p.newest(3)), 9)
    history = pd.read_csv(tmp_path / "run.csv")
    assert told[-1]["updates"].tolist() == history["updates"].tolist()[-3:]
