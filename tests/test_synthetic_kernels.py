"""Fused kernels of problems on made-up data, against PyTorch, autograd and the loop of replay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import InOrder, assert_close, make_schedule, plan, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.data_order import IndependentOrder
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.problems.chain import Chain
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.problems.linear_regression import LinearRegression
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.sgd import SGD
from stalegrad.rules.staleness_scaled import StalenessScaled
from stalegrad.training import kernel_replay, kernels, replay, stepping
from stalegrad.training.backends import cpu, make_backend
from stalegrad.training.backends.cpu_synthetic import SyntheticBackend
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


@pytest.fixture(autouse=True, scope="module")
def compiled():
    try:
        for name in ("linear_model", "chain"):
            kernels.load(name)
    except kernels.KernelUnavailable as error:
        if "no C++ compiler" not in str(error):
            raise
        pytest.skip(str(error))


def load(problem, dtype=torch.float64):
    return problem.load(Path(), torch.device("cpu"), dtype)


def fused_backend(task) -> SyntheticBackend:
    backend = make_backend("cpu", task)
    assert isinstance(backend, SyntheticBackend)
    return backend


@settings(deadline=None, max_examples=60)
@given(
    runs=st.integers(1, 19),
    batch=st.integers(1, 9),
    dimension=st.sampled_from([1, 2, 7, 8, 9, 16, 17, 24, 31, 48, 49, 65, 100]),
    shared=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_linear_model_agrees_with_the_reference(runs, batch, dimension, shared, dtype, seed):
    task = load(LeastSquares(rows=200, dimension=dimension, noise=0.3), dtype)
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.standard_normal((runs, dimension))).to(dtype)
    samples = torch.from_numpy(rng.integers(200, size=(1 if shared else runs, batch)))
    inputs, targets = (part[samples] for part in task.train)
    found, losses = fused_backend(task).gradients(weights, inputs, targets)
    exact = [part.double() for part in (weights, inputs, targets)]
    wanted, true = VmapBackend(task).gradients(*exact)
    # What rounding may spoil is in proportion to the sizes of what is added up.
    size_of = VmapBackend(task).gradients(*(part.abs() for part in exact[:2]), -exact[2].abs())
    for r in range(runs):
        assert (found[r] - wanted[r]).norm() <= TOLERANCE[dtype] * size_of[0][r].norm()
        assert (losses[r] - true[r]).abs() <= TOLERANCE[dtype] * size_of[1][r]


PENALTIES = st.sampled_from([("square", 0.0), ("square", 0.3), ("geman_mcclure", 0.0)])


@settings(deadline=None, max_examples=60)
@given(
    runs=st.integers(1, 4),
    batch=st.integers(1, 3),
    dimension=st.sampled_from([1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 65, 100, 257]),
    shared=st.booleans(),
    penalty=PENALTIES,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
def test_chain_agrees_with_autograd(runs, batch, dimension, shared, penalty, dtype, seed):
    keys = {"penalty": penalty[0], "strong_convexity": penalty[1]}
    task = load(Chain(dimension=dimension, noise=0.5, noise_samples=40, **keys), dtype)
    rng = np.random.default_rng(seed)
    weights = torch.from_numpy(rng.standard_normal((runs, dimension))).to(dtype)
    samples = torch.from_numpy(rng.integers(40, size=(1 if shared else runs, batch)))
    found, losses = fused_backend(task).gradients(weights, *(p[samples] for p in task.train))
    exact = load(Chain(dimension=dimension, noise=0.5, noise_samples=40, **keys))
    for r in range(runs):
        minibatch = (part[samples[0 if shared else r]] for part in task.train)
        inputs, targets = minibatch
        wanted, loss = torch.func.grad_and_value(exact.loss)(
            weights[r].double(), inputs.double(), targets
        )
        assert (found[r] - wanted).norm() <= 10 * TOLERANCE[dtype] * wanted.norm()
        # What rounding may spoil is in proportion to the sizes of what is added up.
        size = loss.abs() + (inputs.double().mean(dim=0) * weights[r]).abs().sum()
        assert (losses[r] - loss).abs() <= 10 * TOLERANCE[dtype] * size


SMALL = {
    "linear_regression": LinearRegression(dimension=6, train_samples=50),
    "chain": Chain(dimension=19, noise=0.5, noise_samples=50),
    "bounded": Chain(dimension=19, noise=0.5, noise_samples=50, penalty="geman_mcclure"),
}


@pytest.fixture(params=SMALL)
def small(request):
    return load(SMALL[request.param])


@pytest.mark.parametrize("sizes", [[4], [1, 9, 3], [2, 2]])
def test_fetches_the_samples_of_each_group(small, sizes):
    rng = np.random.default_rng(3)
    weights = torch.from_numpy(rng.standard_normal((sum(sizes), small.parameters)))
    # One step of several, as replay asks for it: not side by side in memory.
    samples = torch.from_numpy(rng.integers(50, size=(len(sizes), 4, 5)))[:, 2]
    bounds = torch.tensor([0, *np.cumsum(sizes)])
    found, losses = fused_backend(small).gradients_of(weights, samples, bounds)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for r, g in enumerate(groups):
        batch = (part[samples[g]] for part in small.train)
        wanted, loss = torch.func.grad_and_value(small.loss)(weights[r], *batch)
        assert_close(found[r], wanted)
        assert losses[r].item() == pytest.approx(loss.item(), rel=1e-12)


RULES = {
    "plain": lambda lr: SGD(lr=lr),
    "momentum": lambda lr: SGD(lr=lr, momentum=0.5),
    "nesterov": lambda lr: SGD(lr=lr, momentum=0.5, nesterov=True),
    "decayed": lambda lr: SGD(lr=lr, weight_decay=0.5),
    "adam": lambda lr: Adam(lr=lr, beta1=0.8),
    "compensated": lambda lr: DelayCompensation(lr=lr, compensation=0.5, momentum=0.5),
    "compensated and decayed": lambda lr: DelayCompensation(
        lr=lr, compensation=0.5, momentum=0.5, weight_decay=0.5
    ),
    "as published": lambda lr: DelayCompensation(lr=lr, compensation=0.5, as_published=True),
    "compensated adaptively": lambda lr: DelayCompensation(lr=lr, compensation=0.5, adaptive=True),
    "adaptive": lambda lr: DelayAdaptive(lr=lr, concurrency=2, warmup_epochs=1.0),
    "by staleness": lambda lr: StalenessScaled(lr=lr, momentum=0.5),
}


@pytest.mark.parametrize("per_update", [1, 3])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_whole_stretches_are_the_steps_of_the_loop(small, rule, per_update, batch, seed):
    """Any schedules, epochs that end where they like: the same losses, weights and state."""
    rng, arrivals = np.random.default_rng(seed), 24
    runs = []
    for run in range(3):
        versions = np.arange(arrivals) // per_update
        read = rng.integers(np.maximum(versions - 4, 0), versions + 1)
        schedule = make_schedule(read, [9 - run, 9 - run, arrivals], per_update)
        order = InOrder(batch)
        runs += [plan(RULES[rule](lr * (1 + run)), schedule, order) for lr in (0.01, 0.02)]
        runs[-1] = replace(runs[-2], rule=runs[-1].rule)  # of one schedule, as in a grid
    backend, reference = fused_backend(small), VmapBackend(small)
    assert kernel_replay.can_advance(runs, backend)
    one, other = (replay.start(small, runs, torch.float64) for _ in range(2))
    for epoch in range(3):
        one, wanted = replay.advance_in_steps(small, runs, one, reference)
        other, losses = kernel_replay.advance_in_kernel(runs, other, backend)
        torch.testing.assert_close(losses, wanted, rtol=1e-12, atol=0, equal_nan=True)
        assert losses.isnan().all() == (epoch == 1)
        for name, value in one.tensors().items():
            torch.testing.assert_close(other.tensors()[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "cluster",
    [{"slowest": 5.0}, {"slowest": 5.0, "barrier": True}, {"answers_once": True}],
    ids=str,
)
def test_a_bundle_is_the_same_on_either_backend(small, cluster):
    """float32, two seeds, two epochs, workers of different speed."""
    task, runs = small, []
    for seed in (1, 2):
        order = IndependentOrder(50, 60, 2, seed)
        times = np.random.default_rng(seed)
        schedule = Heterogeneous(workers=3, **cluster).simulate(order.workload(2), times)
        runs += [plan(SGD(lr=lr), schedule, order) for lr in (0.01, 0.02, 0.04)]
    ours, theirs = (trajectory(task, runs, make_backend(name, task)) for name in ("cpu", "torch"))
    for found, wanted in zip(ours, theirs, strict=True):
        assert_close(torch.stack(found), torch.stack(wanted))


def cells_of(problem: dict, rates: list[float], **keys) -> tuple:
    base = {
        "problem": problem,
        "rule": {"name": "sgd"},
        "cluster": {"name": "heterogeneous", "workers": 3, "slowest": 4.0},
        "batch_size": 2,
        "epochs": 2,
        "partition": "independent",
    }
    cells = [base | {"rule": {"name": "sgd", "lr": lr}, "seed": s} for s in (1, 2) for lr in rates]
    return tuple(parse_cell(cell | keys, "a test") for cell in cells)


@pytest.mark.parametrize(
    "problem",
    [
        {"name": "chain", "noise": 0.1, "epoch_samples": 100},
        {"name": "linear_regression", "epoch_samples": 100},
    ],
    ids=lambda problem: problem["name"],
)
def test_a_run_has_the_same_bytes_in_any_bundle(problem, tmp_path):
    """Alone, beside others, beside one that diverges, on one thread or two."""

    def rows(cells, threads: int) -> dict[str, list[str]]:
        output = tmp_path / "out.csv"
        output.unlink(missing_ok=True)
        train_bundle(Bundle(cells), output, Place(Path(), "cpu", threads=threads))
        assert '"backend": "cpu"' in output.with_name("out.csv.provenance.json").read_text()
        found: dict[str, list[str]] = {}
        for line in output.read_text().splitlines()[1:]:
            found.setdefault(line.partition(",")[0], []).append(line)
        return found

    cells = cells_of(problem, [0.01, 1e6, 0.03])
    together = rows(cells, 1)
    assert sum("True" in line for lines in together.values() for line in lines) == 2
    assert rows(cells, 2) == together
    for cell in (cells[0], cells[2], cells[5]):
        assert rows((cell,), 1) == {cell.hash: together[cell.hash]}


@pytest.mark.parametrize("rows_of_a_run", [3, 100])
def test_a_run_is_the_same_on_either_backend(rows_of_a_run):
    """Small minibatches are every run's own, large ones shared; over two seeds and two epochs."""
    task, runs = load(LeastSquares(rows=500, dimension=300, noise=0.1)), []
    for seed in (1, 2):
        order = IndependentOrder(500, rows_of_a_run * 6, rows_of_a_run, seed)
        times = np.random.default_rng(seed)
        schedule = Heterogeneous(workers=3, slowest=5.0).simulate(order.workload(2), times)
        runs += [plan(SGD(lr=lr), schedule, order) for lr in (0.1, 0.2, 0.4)]
    (kernel_replay, losses), (wanted, true) = (
        trajectory(task, runs, make_backend(name, task)) for name in ("cpu", "torch")
    )
    assert_close(torch.stack(kernel_replay), torch.stack(wanted))
    assert_close(torch.stack(losses), torch.stack(true))


def test_it_is_chosen_and_can_be_refused(small):
    assert isinstance(make_backend("auto", small), SyntheticBackend)
    assert make_backend("auto", small).name == make_backend("cpu", small).name == "cpu"
    assert make_backend("torch", small).name == "torch"
    assert small.name in cpu.KERNELS


class OnesOwn(SGD):
    """A rule that no kernel knows, though it is a kind of one that they do."""

    @staticmethod
    def update(gradient, weights, state, numbers):
        return weights - gradient.sign() * numbers["lr"], state


def test_what_the_kernel_has_no_rule_for_is_stepped_by_replay(monkeypatch):
    task = load(SMALL["chain"])
    backend, schedule = fused_backend(task), make_schedule([0, 0, 1, 1], [4])
    run = plan(SGD(lr=0.1), schedule, InOrder())
    assert kernel_replay.can_advance([run], backend)
    large = load(LeastSquares(rows=50, dimension=300))
    assert not kernel_replay.can_advance(
        [plan(SGD(lr=0.1), schedule, InOrder(50))], fused_backend(large)
    )
    for rule in (OnesOwn(lr=0.1), SGD(lr=0.1, clip_norm=0.1)):
        other = plan(rule, schedule, InOrder())
        assert not kernel_replay.can_advance([other], backend)
        found, wanted = (
            stepping.advance(task, [other], replay.start(task, [other], torch.float64), b)[0]
            for b in (backend, VmapBackend(task))
        )
        assert_close(found.weights, wanted.weights)


def test_a_weight_that_is_not_finite_shows():
    task = load(LeastSquares(rows=20, dimension=3))
    weights = torch.tensor([[1.0, float("inf"), 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    batch = (part[None, :5] for part in task.train)
    gradients, losses = fused_backend(task).gradients(weights, *batch)
    assert not torch.isfinite(losses[0]) and not torch.isfinite(gradients[0]).all()
    assert torch.isfinite(losses[1]) and torch.isfinite(gradients[1]).all()
