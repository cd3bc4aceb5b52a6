"""The fused kernel of linear models against PyTorch's own products and autograd."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close, plan, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad import kernels
from stalegrad.backends import make_backend
from stalegrad.backends.cpu_linear import LinearModelBackend
from stalegrad.backends.vmap import VmapBackend
from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.partitions import IndependentOrder
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.problems.linear_regression import LinearRegression
from stalegrad.rules.sgd import SGD

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.fixture(autouse=True, scope="module")
def compiled():
    try:
        kernels.load("linear_model")
    except kernels.KernelUnavailable as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))


def load(problem, dtype=torch.float64):
    return problem.load(Path(), torch.device("cpu"), dtype)


# Around the sizes of its tiles (8 runs, 2 samples, 3 vectors of 8 or 16 columns) and beyond.
@settings(deadline=None, max_examples=60)
@given(
    runs=st.integers(1, 19),
    batch=st.integers(1, 9),
    dimension=st.sampled_from([1, 2, 7, 8, 9, 16, 17, 24, 31, 48, 49, 65, 100]),
    shared=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_reference(runs, batch, dimension, shared, dtype, seed):
    task = load(LeastSquares(rows=200, dimension=dimension, noise=0.3), dtype)
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.standard_normal((runs, dimension))).to(dtype)
    samples = torch.from_numpy(rng.integers(200, size=(1 if shared else runs, batch)))
    inputs, targets = (part[samples] for part in task.train)
    found, losses = LinearModelBackend(task).gradients(weights, inputs, targets)
    exact = [part.double() for part in (weights, inputs, targets)]
    wanted, true = VmapBackend(task).gradients(*exact)
    # What rounding may spoil is in proportion to the sizes of what is added up.
    size_of = VmapBackend(task).gradients(*(part.abs() for part in exact[:2]), -exact[2].abs())
    for r in range(runs):
        assert (found[r] - wanted[r]).norm() <= TOLERANCE[dtype] * size_of[0][r].norm()
        assert (losses[r] - true[r]).abs() <= TOLERANCE[dtype] * size_of[1][r]


@pytest.mark.parametrize("sizes", [[4], [1, 9, 3], [2, 2]])
def test_fetches_the_samples_of_each_group(sizes):
    task = load(LinearRegression(dimension=6, train_samples=50))
    rng = np.random.default_rng(3)
    weights = torch.from_numpy(rng.standard_normal((sum(sizes), 6)))
    # One step of several, as replay asks for it: not side by side in memory.
    samples = torch.from_numpy(rng.integers(50, size=(len(sizes), 4, 5)))[:, 2]
    bounds = torch.tensor([0, *np.cumsum(sizes)])
    found, losses = LinearModelBackend(task).gradients_of(weights, samples, bounds)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for r, g in enumerate(groups):
        batch = (part[samples[g]] for part in task.train)
        wanted, loss = torch.func.grad_and_value(task.loss)(weights[r], *batch)
        assert_close(found[r], wanted)
        assert losses[r].item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("rows_of_a_run", [3, 100])
def test_a_run_is_the_same_on_either_backend(rows_of_a_run):
    """Small minibatches are every run's own, large ones shared; over two seeds and two epochs."""
    task, runs = load(LeastSquares(rows=500, dimension=300, noise=0.1)), []
    for seed in (1, 2):
        order = IndependentOrder(500, rows_of_a_run * 6, rows_of_a_run, seed)
        times = np.random.default_rng(seed)
        schedule = Heterogeneous(workers=3, slowest=5.0).simulate(order.workload(2), times)
        runs += [plan(SGD(lr=lr), schedule, order) for lr in (0.1, 0.2, 0.4)]
    (fused, losses), (wanted, true) = (
        trajectory(task, runs, make_backend(name, task)) for name in ("cpu", "torch")
    )
    assert_close(torch.stack(fused), torch.stack(wanted))
    assert_close(torch.stack(losses), torch.stack(true))


def test_it_is_chosen_and_can_be_refused():
    task = load(LinearRegression())
    assert isinstance(make_backend("auto", task), LinearModelBackend)
    assert make_backend("auto", task).name == make_backend("cpu", task).name == "cpu"
    assert make_backend("torch", task).name == "torch"


def test_a_weight_that_is_not_finite_shows():
    task = load(LeastSquares(rows=20, dimension=3))
    weights = torch.tensor([[1.0, float("inf"), 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    batch = (part[None, :5] for part in task.train)
    gradients, losses = LinearModelBackend(task).gradients(weights, *batch)
    assert not torch.isfinite(losses[0]) and not torch.isfinite(gradients[0]).all()
    assert torch.isfinite(losses[1]) and torch.isfinite(gradients[1]).all()
