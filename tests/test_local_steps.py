"""Local steps: by hand, in every way of replaying, their limits and their times."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import InOrder, assert_close, home_of, make_schedule, plan, quadratic_task, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

import stalegrad as sg
from stalegrad.analysis import virtual_iterates
from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.clusters.pipeline import Pipeline
from stalegrad.data_order import DataOrder, IndependentOrder
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import lockstep_key
from stalegrad.planning.cell import parse_cell
from stalegrad.problems.chain import Chain
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.recording.processes import Processes
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.staleness.compute_times import Constant, Exponential, Normal, in_a_row
from stalegrad.training.backends import make_backend
from stalegrad.training.backends.cpu import CpuBackend, reason_against
from stalegrad.training.backends.vmap import VmapBackend

RNG = np.random.default_rng(0)
CELL = {
    "problem": sg.problem("least_squares", rows=64, dimension=4, epoch_samples=64),
    "rule": sg.rule("sgd", lr=0.01),
    "cluster": sg.cluster("heterogeneous", workers=2, slowest=3.0),
    "batch_size": 4,
    "epochs": 2,
}


# ---- by hand ----


def test_two_steps_a_worker_by_hand():
    """Sample i has the gradient a_i w. Both workers read 1; the rate is 1/8, and 1/4 on a worker.

    The first worker goes 1 -> 1 - a_0 / 4 and sends a_0 + a_1 (1 - a_0 / 4), and so on.
    """
    a = [1.0, 2.0, 3.0, 1.0]
    task = quadratic_task(a, lambda seed: [1.0])
    schedule = make_schedule([0, 0])
    run = plan(SGD(lr=1 / 8), schedule, InOrder(batch_size=1, local_steps=2))
    weights, losses = trajectory(task, [replace(run, local_lr=1 / 4)], VmapBackend(task))
    first = a[0] + a[1] * (1 - a[0] / 4)
    second = a[2] + a[3] * (1 - a[2] / 4)
    w1 = 1 - first / 8
    assert [each.item() for each in weights] == [w1, w1 - second / 8]
    lost = [(a[0] + a[1] * (3 / 4) ** 2) / 4, (a[2] + a[3] * (1 / 4) ** 2) / 4]
    assert [each.item() for each in losses] == lost


def test_the_mean_of_two_workers_is_what_federated_averaging_makes():
    """K = 2: both go three steps from the same weights, and the server takes their mean."""
    task = quadratic_task([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], lambda seed: [1.0, -2.0])
    schedule = make_schedule([0, 0], arrivals_per_update=2)
    run = plan(SGD(lr=0.1), schedule, InOrder(batch_size=1, local_steps=3))
    weights, _ = trajectory(task, [run], VmapBackend(task))
    ends = [np.prod([1 - 0.1 * each for each in part]) for part in ([1, 2, 3], [4, 5, 6])]
    wanted = np.mean(ends) * torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert_close(weights[-1], wanted, 1e-14)


# ---- every way of replaying agrees ----

TASKS = {
    "least_squares": LeastSquares(rows=50, dimension=19, noise=0.3),
    "chain": Chain(dimension=19, noise=0.5, noise_samples=50),
}
RULES = [SGD(lr=0.02, momentum=0.9), Adam(lr=0.01), DelayCompensation(lr=0.02, compensation=0.1)]


def alike(task, runs, backends, dtype, tolerance) -> None:
    ours, theirs = (trajectory(task, runs, backend, dtype) for backend in backends)
    for found, wanted in zip(ours, theirs, strict=True):
        assert_close(torch.stack(found), torch.stack(wanted), tolerance)


@pytest.mark.parametrize("per_update", [1, 2])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("name", TASKS)
def test_kernels_of_small_problems_take_them(name, rule, per_update):
    """Three rates on the workers, of which one is the rule's."""
    task = TASKS[name].load(None, torch.device("cpu"), torch.float64)
    order = IndependentOrder(50, 48, 2, 1, local_steps=3)
    cluster = HubAndSpoke(workers=3, minibatches_per_update=per_update, compute_time=Exponential())
    schedule = cluster.simulate(order.workload(3), np.random.default_rng(1))
    run = plan(rule, schedule, order)
    runs = [replace(run, local_lr=lr) for lr in (None, 0.05, 0.01)]
    backends = [make_backend("cpu", task), VmapBackend(task)]
    alike(task, runs, backends, torch.float64, 1e-12)


@pytest.mark.parametrize("normalize", [True], indirect=True, ids=["normalized"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_kernel_of_lenet5_takes_them(lenet, dtype):
    order = DataOrder((np.arange(100), np.arange(100, 200)), 10, seed=1, local_steps=3)
    schedule = Heterogeneous(workers=2, slowest=3.0).simulate(order.workload(2), RNG)
    run = plan(SGD(lr=0.05, momentum=0.9), schedule, order)
    runs = [run, replace(run, local_lr=0.01)]
    fast = VmapBackend(lenet) if reason_against(lenet) else CpuBackend(lenet)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    alike(lenet, runs, [fast, VmapBackend(lenet)], dtype, tolerance)


def test_each_minibatch_has_random_bytes_of_its_own(small_task):
    """Dropout of the larger CNN, in the kernel and in the loop."""
    task = small_task(LargeCNN, normalize=True)
    order = DataOrder((np.arange(40),), 5, seed=1, local_steps=2)
    schedule = ConstantDelay(delay=1).simulate(order.workload(2), RNG)
    run = plan(SGD(lr=0.05), schedule, order)
    drawn = run.noise([0], task.noise)[0]
    assert drawn.shape == (10, task.noise)
    assert drawn[:5].tobytes() != drawn[5:].tobytes()
    fast = VmapBackend(task) if reason_against(task) else CpuBackend(task)
    alike(task, [run], [fast, VmapBackend(task)], torch.float64, 1e-11)


# ---- limits ----


def test_one_local_step_is_none():
    """The same cell: the same hash, and so the same run."""
    cell, one = sg.cell(**CELL), sg.cell(**CELL, local_steps=1)
    assert one.hash == cell.hash and one.workload() == cell.workload()
    assert sg.cell(**CELL, local_steps=2).hash != cell.hash
    two, same = (sg.cell(**CELL, local_steps=2, local_lr=lr) for lr in (None, 0.02))
    assert two.hash != same.hash


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_one_worker_without_delay_takes_the_steps_of_plain_sgd(lenet, steps):
    """Its difference is added to the very weights that it began with."""
    orders = [DataOrder((np.arange(120),), 10, 1), DataOrder((np.arange(120),), 10, 1, steps)]
    plain, local = (
        trajectory(lenet, [plan(SGD(lr=0.05), schedule, order)], VmapBackend(lenet))[0][-1]
        for order in orders
        for schedule in [ConstantDelay(delay=0).simulate(order.workload(2), RNG)]
    )
    assert_close(local, plain, 1e-12)


@settings(deadline=None, max_examples=50)
@given(
    samples=st.integers(12, 90),
    batch=st.integers(1, 4),
    steps=st.integers(1, 3),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_minibatches_are_those_without_local_steps(samples, batch, steps, epochs, seed):
    """In the same order, but for those that do not fill a last one; none is used twice."""
    parts = (np.arange(samples),)
    local, plain = (DataOrder(parts, batch, seed, each) for each in (steps, 1))
    workload = local.workload(epochs)
    assert workload.local_steps == steps
    (rounds,) = workload.batches
    per_epoch = samples // batch
    assert rounds == per_epoch // steps
    for epoch in range(epochs):
        here = np.arange(rounds) + epoch * rounds
        found = local.indices(np.zeros(rounds, int), here).reshape(-1, batch)
        first = epoch * per_epoch + np.arange(rounds * steps)
        assert np.array_equal(found, plain.indices(np.zeros(len(first), int), first))
        assert len(np.unique(found)) == found.size


# ---- how long they take ----


@pytest.mark.parametrize(
    "cluster",
    [
        Heterogeneous(workers=3, profile="linear", slowest=5.0),
        Heterogeneous(workers=3, profile="linear", slowest=5.0, barrier=True),
        Heterogeneous(workers=3, slowest=5.0, policy={"name": "drop", "threshold": 3}),
        HubAndSpoke(workers=3, compute_time=Constant(value=2.0)),
        HubAndSpoke(workers=3, compute_time=Constant(), policy={"name": "bounded", "clocks": 1}),
        ParameterServer(workers=3, compute_ms=1000.0, spread=0.1),
        ConstantDelay(delay=3),
    ],
    ids=lambda cluster: type(cluster).__name__,
)
def test_a_round_of_steps_that_each_take_the_same_takes_as_many_times_as_long(cluster):
    once, four = (
        cluster.simulate(Workload((30,), 2, steps), np.random.default_rng(0)) for steps in (1, 4)
    )
    np.testing.assert_allclose(four.time, 4 * once.time, rtol=1e-12)
    for column in ("worker", "read_version", "stream", "batch", "epoch_ends"):
        assert np.array_equal(getattr(once, column), getattr(four, column))


@pytest.mark.parametrize("each", [Exponential(), Normal(), Constant(value=2.0)], ids=str)
def test_each_of_them_takes_a_time_of_its_own(each):
    """So the variance grows with their number as the mean does. Drawing on goes on."""
    assert in_a_row(each, 1) is each
    four = in_a_row(each, 4)
    one, sums = (t.sample(np.random.default_rng(0), 20_000) for t in (each, four))
    assert four.mean == 4 * each.mean
    assert abs(sums.mean() / four.mean - 1) < 0.01
    assert abs(sums.var() - 4 * one.var()) <= 0.05 * 4 * one.var()
    parts = np.random.default_rng(0)
    drawn = np.concatenate([four.sample(parts, 3), four.sample(parts, 5)])
    assert np.array_equal(drawn, sums[:8])


def test_the_jitter_of_a_parameter_server_is_drawn_for_each():
    server = ParameterServer(workers=1, compute_ms=1000.0, jitter=0.3)
    one, nine = (
        np.diff(server.simulate(Workload((20_000,), 1, steps), np.random.default_rng(0)).time)
        for steps in (1, 9)
    )
    assert abs(nine.mean() / (9 * one.mean()) - 1) < 0.01
    assert abs(nine.std() / (3 * one.std()) - 1) < 0.02


def test_history_counts_rounds(tmp_path):
    """Two workers of 1 and 3 seconds: 8 minibatches of 64 samples are 4 rounds of 2 steps."""
    cell = sg.cell(**CELL | {"batch_size": 8}, local_steps=2)
    history = sg.train([cell])
    assert history["updates"].tolist() == [4, 8]
    assert history["simulated_seconds"].tolist() == [6.0, 12.0]
    assert history["local_steps"].tolist() == [2, 2]
    assert cell.samples() == 128


# ---- what does not go with them ----


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"local_steps": 0}, "'local_steps'"),
        ({"local_lr": 0.1}, "a worker takes no step of its own"),
        ({"local_steps": 2, "local_lr": 0.0}, "'local_lr'"),
        ({"local_steps": 17}, "'local_steps' 17, more than the 64 samples drawn"),
        ({"local_steps": 2, "cluster": sg.cluster("pipeline", stages=2)}, "leave 'local_steps'"),
    ],
    ids=str,
)
def test_a_cell_that_means_nothing_is_refused(keys, said):
    values = CELL | {"partition": "independent"} | keys
    with pytest.raises(ConfigError, match=said):
        sg.cell(**values)


def test_too_many_steps_for_a_worker_are_named():
    with pytest.raises(ValueError, match="3 minibatches; choose a smaller .* fewer 'local_steps'"):
        HubAndSpoke(workers=2, compute_time=Constant()).check(Workload((4, 0), 1, 3))


def test_recordings_and_pipelines_have_none():
    for cluster in (Pipeline(stages=2), Processes(workers=2)):
        with pytest.raises(ValueError, match="leave 'local_steps' at 1, not 2"):
            cluster.check(Workload((4,), 1, 2))


def test_a_recorded_trace_has_none():
    trace = sg.cluster("trace", file=str(home_of("recorded") / "traces/mnist-four-1.csv.gz"))
    with pytest.raises(ValueError, match="sent each gradient.*leave 'local_steps' at 1"):
        trace.check(Workload((100,), 1, 2))


def test_virtual_iterates_refuse_them():
    task = LeastSquares(rows=50, dimension=4).load(None, torch.device("cpu"), torch.float64)
    order = IndependentOrder(50, 40, 2, 1, local_steps=2)
    schedule = ConstantDelay(delay=1).simulate(order.workload(1), RNG)
    with pytest.raises(ValueError, match="here they take 2 local steps"):
        virtual_iterates.trace(task, plan(SGD(lr=0.1), schedule, order))


def test_runs_of_different_numbers_of_steps_are_stepped_apart():
    cells = [sg.cell(**CELL, local_steps=steps, local_lr=lr) for steps, lr in [(2, None), (2, 0.1)]]
    assert lockstep_key(cells[0]) == lockstep_key(cells[1])
    assert lockstep_key(cells[0]) != lockstep_key(sg.cell(**CELL, local_steps=4))


def test_a_bundle_of_several_kinds_is_each_run_alone():
    cells = [sg.cell(**CELL, local_steps=steps) for steps in (1, 2, 4)]
    together = sg.train(cells)
    alone = [sg.train([cell]) for cell in cells]
    for cell, own in zip(cells, alone, strict=True):
        mine = together[together["run"] == cell.hash]
        assert mine["excess_loss"].tolist() == own["excess_loss"].tolist()


def test_plain_values_say_them():
    cell = sg.cell(**CELL, local_steps=2, local_lr=0.5)
    assert parse_cell(cell.as_dict(), "a test") == cell
