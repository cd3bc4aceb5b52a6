"""What a problem says of itself before it is loaded, and what it is once it is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stalegrad import specs
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.problems import load_task
from stalegrad.problems.chain import Chain
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.problems.linear_regression import LinearRegression
from stalegrad.training.bundles import Place, train_bundle

CPU = torch.device("cpu")
ROWS = {"chain": "noise_samples", "least_squares": "rows", "linear_regression": "train_samples"}


def cell(name: str, rows: int, **changes):
    values = {
        "problem": {"name": name, ROWS[name]: rows, "epoch_samples": 100},
        "rule": {"name": "sgd", "lr": 0.1},
        "cluster": {"name": "constant_delay", "delay": 1},
        "batch_size": 2_000,
        "epochs": 3,
    }
    return parse_cell(values | changes, "a test")


@pytest.mark.parametrize("name", ROWS)
def test_a_minibatch_may_be_as_large_as_the_training_set(name):
    whole = cell(name, 4_096)
    assert whole.workload().total == 3 * 2 and whole.samples() == 3 * 4_000
    assert cell(name, 4_096, batch_size=4_096).samples() == 3 * 4_096
    with pytest.raises(ConfigError, match="'batch_size' is 4097, more than the 4096 training samp"):
        cell(name, 4_096, batch_size=4_097)


@pytest.mark.parametrize("name", ROWS)
def test_independent_minibatches_are_counted_in_draws(name):
    drawn = cell(name, 50, partition="independent", batch_size=100)
    assert drawn.workload().total == 3 and drawn.samples() == 300
    with pytest.raises(ConfigError, match="'batch_size' is 101, more than the 100 samples dr"):
        cell(name, 50, partition="independent", batch_size=101)


@pytest.mark.parametrize(
    "problem", [LeastSquares(rows=40, dimension=3), LinearRegression(), Chain()]
)
def test_what_they_say_is_what_they_load(problem):
    task = load_task(problem, Path(), CPU, torch.float64)
    assert len(task.train[1]) == problem.samples() and task.parameters == problem.parameters()


def telling(method: str, value: int) -> Chain:
    """A problem whose `method` says `value` in place of what it loads."""
    made = specs.spec(type("Telling", (Chain,), {method: lambda self: value}))
    return made(dimension=4, noise_samples=8, kinds=2)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("parameters", r"parameters\(\) is 1, its task has 4\."),
        ("samples", r"samples\(\) is 1, its task has 8\."),
        ("classes", r"classes\(\) is 1, its task has labels 0 to 1\."),
        ("activations", r"activations\(\) is 1, its task has 0\."),
    ],
)
def test_a_problem_that_says_another_thing_than_it_loads_is_refused(method, said, tmp_path):
    problem = telling(method, 1)
    with pytest.raises(
        ConfigError, match=f"^problem 'test_problems.Telling': {said} Correct the problem"
    ):
        load_task(problem, tmp_path, CPU, torch.float64)
    first = replace(cell("chain", 8, batch_size=1), problem=problem)
    with pytest.raises(ConfigError, match=said):
        train_bundle(Bundle((first,)), tmp_path / "out.csv", Place(tmp_path))
