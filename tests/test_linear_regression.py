"""Linear regression: its gradient, its solution, and many tiny runs stepped together."""

import numpy as np
import pytest
import torch
from helpers import assert_close

from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.problems import runs_in_step
from stalegrad.problems.lenet5 import NETWORK
from stalegrad.problems.linear_regression import LinearRegression
from stalegrad.training import bundles, replay
from stalegrad.training.backends import make_backend
from stalegrad.training.bundles import Place, train_bundle

CPU = torch.device("cpu")
PROBLEM = LinearRegression(dimension=4, train_samples=30, test_samples=20, epoch_samples=12)


def task(dtype=torch.float64):
    return PROBLEM.load(None, CPU, dtype)


def cell(K: int, b: int, lr: float, seed: int):
    """Case 1 (K = 4, b = 1) or Case 2 (K = 1, b = 4) of figure 3, smaller."""
    times = {"name": "expon", "loc": 0.8 * b, "scale": 1.2 * b}
    cluster = {"workers": 4, "minibatches_per_update": K, "compute_time": times}
    values = {
        "problem": {"name": "linear_regression", "dimension": 4, "train_samples": 30}
        | {"test_samples": 20, "epoch_samples": 12},
        "rule": {"name": "sgd", "lr": lr},
        "cluster": {"name": "hub_and_spoke", **cluster},
        "partition": "independent",
        "batch_size": b,
        "epochs": 6,
        "seed": seed,
    }
    return parse_cell(values, "a test")


CELLS = tuple(
    cell(K, b, lr, seed) for K, b in ((4, 1), (1, 4)) for lr in (0.02, 0.2) for seed in (1, 2, 3)
)


def test_gradient_is_the_closed_form_and_that_of_autograd():
    made = task()
    inputs, targets = (part[:5] for part in made.train)
    weights = torch.arange(1.0, 5.0, dtype=torch.float64)
    by_hand = inputs.T @ (inputs @ weights - targets) / 5
    gradient, loss = made.gradients(weights[None], inputs, targets)
    assert_close(gradient[0], by_hand)
    assert_close(gradient[0], torch.func.grad(made.loss)(weights, inputs, targets))
    assert loss.item() == pytest.approx(((inputs @ weights - targets) ** 2).mean().item() / 2)
    # Runs [R] that share minibatches, of which there are G.
    several = torch.stack([weights, 2 * weights]).expand(3, 2, 4)
    inputs, targets = made.train[0].view(3, 10, 4), made.train[1].view(3, 10)
    gradients, losses = made.gradients(several, inputs, targets)
    for g in range(3):
        alone, alone_loss = made.gradients(2 * weights[None], inputs[g], targets[g])
        assert_close(gradients[g, 1], alone[0])
        assert_close(losses[g, 1], alone_loss[0])


def test_solution_has_no_gradient_and_no_error():
    made = task()
    solution = torch.from_numpy(PROBLEM.solution())
    gradient, _ = made.gradients(solution[None], *made.train)
    assert gradient.abs().max() < 1e-12
    metrics = made.metrics(solution, *made.test)
    assert metrics["error"] == 0
    # What is left is noise of deviation 0.1, and the solution's distance from w*.
    assert 0.5 * 0.01 / 2 < metrics["test_loss"] < 2 * 0.01 / 2


def test_error_is_one_at_the_start_and_relative():
    made = task()
    start = made.initial_weights(7)
    assert (start == 0).all() and made.metrics(start, *made.test)["error"] == 1
    half = torch.from_numpy(PROBLEM.solution()) / 2
    assert made.metrics(half, *made.test)["error"].item() == pytest.approx(0.25)


def test_data_come_from_their_own_seed():
    inputs, targets = PROBLEM.data()
    again, other = PROBLEM.data(), LinearRegression(dimension=4, data_seed=2).data()
    np.testing.assert_array_equal(inputs, again[0])
    assert (inputs[0] != other[0][0]).all()
    assert inputs.shape == (50, 4) and targets.shape == (50,)
    longer = LinearRegression(dimension=4, train_samples=31, test_samples=19).data()[0]
    np.testing.assert_array_equal(inputs, longer)


def test_too_few_samples_for_one_solution_are_refused():
    keys = {"name": "linear_regression", "dimension": 10, "train_samples": 9}
    with pytest.raises(ConfigError, match=r"'problem.train_samples' is 9: .*dimensions, 10"):
        parse_cell({**CELLS[0].as_dict(), "problem": keys}, "a test")


def test_small_problems_are_stepped_together_and_large_ones_alone():
    assert runs_in_step(NETWORK.parameters) == 1
    assert runs_in_step(10) >= 600
    assert make_backend("auto", task()).runs_at_once == runs_in_step(4)


def test_together_is_the_same_as_alone():
    made = task()
    backend = make_backend("auto", made)
    for cells in (CELLS[:6], CELLS[6:]):
        runs = [planned.run for planned in bundles.plan_runs(list(cells), np.zeros(30))]
        together = replay.start(made, runs, torch.float64)
        alone = [replay.start(made, [run], torch.float64) for run in runs]
        for _ in range(6):
            together, losses = replay.advance_in_steps(made, runs, together, backend)
            pairs = [
                replay.advance_in_steps(made, [r], s, backend)
                for r, s in zip(runs, alone, strict=True)
            ]
            alone = [state for state, _ in pairs]
            for row, (state, loss) in enumerate(pairs):
                assert_close(together.weights[row], state.weights[0])
                assert_close(losses[row], loss[0])


def test_threads_decide_no_byte(tmp_path):
    outputs = []
    for threads in (1, 2):
        out = tmp_path / f"{threads}.csv"
        train_bundle(Bundle(CELLS), out, Place(tmp_path, threads=threads))
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 1 + len(CELLS) * 6
