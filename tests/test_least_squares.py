"""The problems of mishchenko2022: closed forms against autograd, and constants against data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close

from stalegrad.data_order import IndependentOrder
from stalegrad.io.errors import ConfigError
from stalegrad.problems.chain import Chain
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.specs import parse
from stalegrad.training.backends.vmap import VmapBackend

SMALL = LeastSquares(rows=300, dimension=12, noise=0.1)
PROBLEMS = [
    SMALL,
    Chain(dimension=9, noise=0.5, noise_samples=64, strong_convexity=0.2),
    Chain(dimension=9, noise=0.5, noise_samples=64, penalty="geman_mcclure"),
]


def load(problem):
    return problem.load(Path(), torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("shared", [True, False])
def test_closed_form_is_the_gradient_of_the_loss(problem, shared):
    task = load(problem)
    rng = np.random.default_rng(1)
    weights = torch.from_numpy(rng.standard_normal((5, task.parameters)))
    samples = torch.from_numpy(rng.integers(len(task.train[1]), size=(1 if shared else 5, 7)))
    inputs, targets = (part[samples] for part in task.train)
    gradients, losses = VmapBackend(task).gradients(weights, inputs, targets)
    for r in range(5):
        own = 0 if shared else r
        wanted, loss = torch.func.grad_and_value(task.loss)(weights[r], inputs[own], targets[own])
        assert_close(gradients[r], wanted)
        assert losses[r].item() == pytest.approx(loss.item(), rel=1e-12)


def test_least_squares_constants():
    inputs, targets = SMALL.data()
    known, hessian = SMALL.constants(), inputs.T @ inputs / 300
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert known["smoothness"] == pytest.approx(eigenvalues[-1])
    assert known["strong_convexity"] == pytest.approx(eigenvalues[0])
    solution = np.linalg.solve(hessian, inputs.T @ targets / 300)
    assert known["least_loss"] == pytest.approx(((inputs @ solution - targets) ** 2).mean() / 2)
    gradients = inputs * -targets[:, None]
    variance = ((gradients - gradients.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert known["noise_at_start"] ** 2 == pytest.approx(variance)


def test_least_squares_metrics_are_the_excess_loss():
    task, weights = load(SMALL), torch.linspace(-1, 1, 12, dtype=torch.float64)
    metrics = VmapBackend(task).metrics(weights[None])
    whole = task.loss(weights, *task.train).item()
    excess = whole - SMALL.constants()["least_loss"]
    assert metrics["excess_loss"].item() == pytest.approx(excess, rel=1e-9)
    slope = torch.func.grad(task.loss)(weights, *task.train)
    assert metrics["gradient_square"].item() == pytest.approx(slope.square().sum().item())


def test_the_papers_problem():
    """Its smoothness is a quarter: the rows' common mean, 1/2 / sqrt(d), rules."""
    problem = LeastSquares()
    assert problem.data()[0].shape == (10_000, 400)
    assert problem.constants()["smoothness"] == pytest.approx(0.25, rel=0.01)
    assert problem.constants()["least_loss"] == pytest.approx(1e-10 / 2 * 0.96, rel=0.05)


def test_chain_solution_and_excess():
    """Nesterov 2004, section 2.1.2: x*_i = 1 - i / (d + 1) and f(0) - f* = L/8 (1 - 1/(d+1))."""
    chain = Chain(dimension=9, smoothness=2.0)
    assert chain.solution() == pytest.approx(1 - np.arange(1, 10) / 10)
    assert chain.constants()["excess_at_start"] == pytest.approx(2 / 8 * 0.9)
    eigenvalues = np.linalg.eigvalsh(chain.curvature())
    assert eigenvalues[-1] <= 2.0 and eigenvalues[0] > 0


@pytest.mark.parametrize("penalty", ["square", "geman_mcclure"])
def test_chain_is_smooth_and_its_gradient_bounded(penalty):
    chain = Chain(dimension=9, smoothness=2.0, penalty=penalty)
    gradient = torch.func.grad(load(chain).loss)
    silence = torch.zeros(1, 9, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    hessian = torch.func.jacrev(torch.func.grad(load(chain).loss))
    rng = np.random.default_rng(2)
    least = np.inf
    for scale in (0.1, 1.0, 10.0):
        for _ in range(20):
            x = torch.from_numpy(scale * rng.standard_normal(9))
            eigenvalues = torch.linalg.eigvalsh(hessian(x, *silence))
            least = min(least, eigenvalues[0].item())
            assert eigenvalues.abs().max() <= 2.0 + 1e-12
            if penalty == "geman_mcclure":
                bound = chain.constants()["gradient_bound"]
                assert gradient(x, *silence).norm() <= bound
    assert (least < 0) == (penalty == "geman_mcclure")


def test_the_bound_of_the_gradient_is_all_but_reached():
    """Where the links are +-1 / sqrt(3) in turn, all but the last."""
    chain = Chain(dimension=400, smoothness=2.0, penalty="geman_mcclure")
    task = load(chain)
    links = np.tile([1, -1], 200) / np.sqrt(3)
    weights = torch.from_numpy(1 - np.cumsum(links))
    gradients, _ = task.gradients(weights[None], *(part[:1] for part in task.train))
    assert 0.99 < gradients.norm() / chain.constants()["gradient_bound"] <= 1


def test_noise_has_the_variance_it_says_and_no_mean():
    noise, kind = Chain(dimension=7, noise=3.0, noise_samples=50).samples_of_noise()
    assert noise.mean(axis=0) == pytest.approx(np.zeros(7), abs=1e-12)
    assert (noise**2).sum(axis=1).mean() == pytest.approx(9.0)
    assert (kind == 0).all()


def test_kinds_shift_the_mean_and_cancel():
    chain = Chain(dimension=4, noise=1.0, noise_samples=60, kinds=2, kind_shift=5.0)
    noise, kind = chain.samples_of_noise()
    means = [noise[kind == k].mean(axis=0) for k in range(2)]
    assert np.linalg.norm(means[0]) == pytest.approx(5.0)
    assert means[0] + means[1] == pytest.approx(np.zeros(4), abs=1e-12)


def test_independent_minibatches_do_not_depend_on_how_they_are_asked_for():
    order = IndependentOrder(samples=20, epoch_samples=10, batch_size=5, seed=3)
    stream = np.zeros(200, np.int64)
    whole = order.indices(stream, np.arange(200))
    assert (order.indices(stream[:9], np.arange(60, 69)) == whole[60:69]).all()
    assert order.workload(4).total == 8
    # With replacement: all samples are as likely at every place.
    counts = np.bincount(whole.ravel(), minlength=20)
    assert counts.min() > 20 and counts.max() < 90


def test_refusals():
    for keys in ({"penalty": "geman_mcclure", "strong_convexity": 0.1}, {"kinds": 3}):
        with pytest.raises(ConfigError, match="must"):
            parse("problems", {"name": "chain", **keys}, where="a test", key="problem")
