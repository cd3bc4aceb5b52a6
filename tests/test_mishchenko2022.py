"""Delayed SGD against closed forms, virtual iterates, and what the study computes of its runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import InOrder, assert_close, make_schedule, of_study, plan, quadratic_task, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.analysis.comparisons import mean_interval
from stalegrad.analysis.virtual_iterates import trace
from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.data_order import IndependentOrder
from stalegrad.io.errors import ResultError
from stalegrad.planning.cell import parse_cell
from stalegrad.planning.plan import Plan
from stalegrad.problems.chain import Chain
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.staleness.compute_times import Exponential
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import plan_runs

tables = of_study("mishchenko2022", "tables")

CHAIN = Chain(dimension=6, noise=0.5, noise_samples=40, epoch_samples=120)
ORDER = IndependentOrder(samples=40, epoch_samples=120, batch_size=1, seed=5)


def load(problem):
    return problem.load(Path(), torch.device("cpu"), torch.float64)


def cluster_run(rule=None, seed=0, **keys):
    schedule = Heterogeneous(**keys).simulate(ORDER.workload(1), np.random.default_rng(seed))
    return plan(rule or SGD(lr=0.2), schedule, ORDER)


def final(task, runs):
    return trajectory(task, runs, VmapBackend(task))[0][-1]


@pytest.mark.parametrize("tau", [0, 1, 3, 10])
def test_delayed_descent_follows_its_linear_recurrence(tau):
    """x_{t+1} = x_t - step a x_{t-tau}, with x constant until the first gradient arrives."""
    a, step, steps = 1.7, 0.06, 200
    task = quadratic_task([a] * (steps + tau), lambda seed: [1.0])
    schedule = ConstantDelay(delay=tau).simulate(Workload((steps + tau,), 1), None)
    one_by_one = replace(schedule, epoch_ends=np.arange(1, steps + 1))
    weights, _ = trajectory(task, [plan(SGD(lr=step), one_by_one, InOrder())], VmapBackend(task))
    x = [1.0] * (tau + 1)
    for _ in range(steps):
        x.append(x[-1] - step * a * x[-1 - tau])
    assert torch.cat(weights).squeeze().tolist() == pytest.approx(x[tau + 1 :], rel=1e-10)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["one_slow", "linear"]), st.floats(1, 50), st.integers(0, 9))
def test_a_barrier_is_minibatch_sgd_whatever_the_speeds(profile, slowest, seed):
    keys = {"profile": profile, "slowest": slowest, "compute_time": Exponential()}
    found = final(load(CHAIN), [cluster_run(seed=seed, workers=4, barrier=True, **keys)])
    task, x = load(CHAIN), torch.zeros(6, dtype=torch.float64)
    rows = torch.from_numpy(ORDER.indices(np.zeros(120, int), np.arange(120)).reshape(30, 4))
    for batch in rows:
        x = x - 0.2 * torch.func.grad(task.loss)(x, *(part[batch] for part in task.train))
    assert_close(found[0], x)


def test_one_worker_alone_is_plain_sgd():
    run = cluster_run(workers=1, compute_time=Exponential())
    task, x = load(CHAIN), torch.zeros(6, dtype=torch.float64)
    for batch in torch.from_numpy(ORDER.indices(np.zeros(120, int), np.arange(120))):
        x = x - 0.2 * torch.func.grad(task.loss)(x, *(part[batch] for part in task.train))
    assert_close(final(task, [run])[0], x)


def test_alone_and_in_a_bundle_that_shares_minibatches():
    """Large minibatches are fetched once for the runs of a seed; nothing may change by it."""
    task = load(LeastSquares(rows=500, dimension=300, noise=0.1))
    runs = []
    for seed in (1, 2):
        order = IndependentOrder(500, 100 * 12, 100, seed)
        times = np.random.default_rng(seed)
        schedule = Heterogeneous(workers=3, slowest=5.0).simulate(order.workload(1), times)
        runs += [plan(SGD(lr=lr), schedule, order) for lr in (0.1, 0.2, 0.4)]
    together = final(task, runs)
    for run, found in zip(runs, together, strict=True):
        assert_close(found, final(task, [run])[0])


def test_cells_that_differ_in_their_rule_share_schedule_and_order():
    base = {
        "problem": {"name": "chain"},
        "cluster": {"name": "heterogeneous", "workers": 3},
        "batch_size": 1,
        "epochs": 1,
        "partition": "independent",
    }
    rules = [{"name": "sgd", "lr": 0.1}, {"name": "delay_adaptive", "lr": 0.2, "concurrency": 3}]
    cells = [parse_cell(base | {"rule": r, "seed": s}, "a test") for s in (1, 2) for r in rules]
    a, b, other, _ = (p.run for p in plan_runs(cells, np.zeros(4096)))
    assert a.order is b.order and a.schedule is b.schedule and a.rule != b.rule
    assert other.order is not a.order and other.seed == 2


@pytest.mark.parametrize("rule", [SGD(lr=0.2), DelayAdaptive(lr=0.2, concurrency=4)])
@pytest.mark.parametrize("once", [False, True])
def test_virtual_iterates(rule, once):
    keys = {"workers": 4, "slowest": 20.0, "compute_time": Exponential(), "answers_once": once}
    found = trace(load(CHAIN), cluster_run(rule, **keys))
    assert found.error.max() <= 1e-10
    read, version = cluster_run(rule, **keys).schedule.read_version, 40
    flying = (read < version) & (np.arange(len(read)) >= version)  # begun, and yet to arrive
    terms = found.steps[flying, None] * found.gradients[flying]
    assert len(terms) == 3 + once  # the fourth worker has just been served, and begins at x_k
    assert found.promised_squares[version] == pytest.approx((terms**2).sum(), rel=1e-12)
    assert found.step_squares[version] == pytest.approx((found.steps[flying] ** 2).sum())
    # The noise of the whole training set is 0, so that its gradient is the chain's alone.
    task = load(CHAIN)
    at = torch.from_numpy(found.weights[read[flying]])
    squares = [float(task.metrics(x, None, None)["gradient_square"]) for x in at]
    expected = (found.steps[flying] ** 2 * squares).sum()
    assert found.expected_squares[version] == pytest.approx(expected, rel=1e-12)
    assert np.linalg.norm(found.weights - found.virtual, axis=1)[1:-10].min() > 1e-6
    # When the last has arrived nothing is left in flight.
    assert found.virtual[-1] == pytest.approx(found.weights[-1], abs=1e-12)


def test_virtual_iterates_are_of_plain_asynchronous_sgd():
    for rule, said in (
        (SGD(lr=0.1, momentum=0.9), "'sgd' has momentum 0.9"),
        (SGD(lr=0.1, weight_decay=0.01), "'sgd' has weight decay 0.01"),
        (SGD(lr=0.1, clip_norm=0.5), "'sgd' clips gradients to the norm 0.5"),
        (Adam(lr=0.1), "'adam' makes other steps"),
        (DelayCompensation(lr=0.1, compensation=1.0), "'dc_asgd' makes other steps"),
    ):
        with pytest.raises(ValueError, match=f"without momentum, and the rule {said}"):
            trace(load(CHAIN), cluster_run(rule, workers=2))
    grouped = make_schedule([0, 0], epoch_ends=[2], arrivals_per_update=2)
    with pytest.raises(ValueError, match="here an update takes 2 gradients"):
        trace(load(CHAIN), plan(SGD(lr=0.1), grouped, ORDER))
    for policy in ({"name": "drop", "threshold": 2}, {"name": "buffer", "gradients": 1}):
        keys = {"workers": 2, "slowest": 3.0, "policy": policy}
        with pytest.raises(ValueError, match="here a policy drops or weights them"):
            trace(load(CHAIN), cluster_run(SGD(lr=0.1), **keys))


def test_the_interval_of_a_power_is_over_seeds():
    """Seeds at levels of their own all follow one power exactly: it is known exactly. Where they
    follow powers of their own, their mean is known as well as a mean of so many is."""
    x = np.array([10.0, 100.0, 1000.0])

    def runs(powers):
        frames = [
            pd.DataFrame({"seed": seed, "x": x, "error": 10.0**seed * x**power})
            for seed, power in enumerate(powers)
        ]
        return pd.concat(frames)

    assert tables.slope_over_seeds(runs([-0.5, -0.5, -0.5]), "x") == pytest.approx((-0.5,) * 3)
    found = tables.slope_over_seeds(runs([-0.4, -0.5, -0.7]), "x")
    assert found == pytest.approx((np.mean([-0.4, -0.5, -0.7]), *mean_interval([-0.4, -0.5, -0.7])))
    one = runs([-0.5])
    assert tables.slope_over_seeds(one, "x") == tables.slope(one["x"], one["error"])


def test_slope_and_tuning():
    x = pd.Series([1.0, 2.0, 4.0, 8.0])
    value, low, high = tables.slope(x, 3 * x**-0.5)
    assert value == pytest.approx(-0.5) and low == pytest.approx(high, abs=1e-6)
    runs = pd.DataFrame(
        {"k": [1] * 4, "lr": [0.1, 0.1, 0.2, 0.2], "error": [1.0, 3.0, 1.5, np.inf]}
    )
    assert tables.tuned(runs, ["k"])["error"].tolist() == [1.0, 3.0]
    with pytest.raises(ResultError, match="all 2 runs have the same tau, and a slope takes two"):
        tables.slope(pd.Series([3.0, 3.0], name="tau"), pd.Series([1.0, 2.0]))


@pytest.fixture(scope="module")
def cells():
    """The cells of the study as published, by grid."""
    return Plan.load({"preset": "paper", "studies": ["mishchenko2022"]}).grids["mishchenko2022"]


def test_the_number_of_updates_begins_where_the_theorems_say_something(cells):
    """Their bounds, all constants 1, are below the error at the start at the smallest K (and at
    the K of `slowing`), so that noise and K were not chosen by what came out."""
    shown = {(c.problem, c.epochs) for c in cells["horizon"] + cells["slowing"] + cells["once"]}
    assert {problem.noise for problem, _ in shown} == {0.1, 1.0}
    workers = 16
    for problem, epochs in shown:
        known, updates = problem.constants(), epochs * problem.epoch_samples
        sigma, smooth = known["noise"], known["smoothness"]
        start = load(problem).metrics(torch.zeros(problem.dimension), None, None)
        if problem.penalty == "geman_mcclure":
            excess, error = float(start["loss"]), float(start["gradient_square"])
            noisy = sigma * np.sqrt(smooth * excess / updates)
            silent = workers * smooth * excess / updates
        elif problem.strong_convexity == 0:
            error, distance = float(start["excess_loss"]), known["distance_at_start"]
            noisy = sigma * distance / np.sqrt(updates)
            silent = workers * smooth * distance**2 / updates
        else:
            error, modulus = float(start["excess_loss"]), problem.strong_convexity
            noisy = sigma**2 / (modulus * updates)
            silent = error * np.exp(-modulus * updates / (smooth * workers))
        assert noisy + silent < error, problem


def test_the_longest_delay_is_fixed_while_workers_grow(cells):
    longest = {}
    for name in ("workers", "workers_fixed_delay", "workers_fixed_delay_strongly"):
        for cell in cells[name]:
            if (key := (name, cell.cluster.workers)) not in longest:
                order = IndependentOrder(1, cell.problem.epoch_samples, 1, 1)
                schedule = cell.cluster.simulate(order.workload(cell.epochs), None)
                longest[key] = schedule.staleness_before.max() + 1
            assert cell.rule.concurrency == cell.cluster.workers
    fixed = [delay for (name, _), delay in longest.items() if name != "workers"]
    # A delay is a whole number of rounds of the other workers, hence not quite the same.
    assert len(fixed) == 12 and min(fixed) >= 1261 and max(fixed) <= 1276
    assert longest["workers", 64] > 20 * longest["workers", 4]
    assert longest["workers", 128] == 127  # the slow worker's first is not among the updates
