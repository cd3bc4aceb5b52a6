"""Workers and a parameter server: worked by hand, against what must hold, and replayed."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    assert_close,
    epoch_an_arrival,
    plan,
    quadratic_task,
    small_cell,
    trajectory,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import need_compiled

from stalegrad.clusters._staleness import sample_schedules
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.data_order import DataOrder, split
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.specs import describe, parse
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.snapshots import plan_snapshots


def simulate(cluster, batches=(3, 3), epochs=1, seed=0):
    return cluster.simulate(Workload(tuple(batches), epochs), np.random.default_rng(seed))


def worker_time_read(schedule):
    return list(
        zip(
            schedule.worker.tolist(),
            np.round(1_000 * schedule.time, 9).tolist(),
            schedule.read_version.tolist(),
            strict=True,
        )
    )


# Worked by hand. Worker 0 is delayed by 2 ms, worker 1 by 1 ms.
QUEUE = ParameterServer(
    workers=2, compute_ms=2, delay_ms=1, delayed="one", network_ms=0.5, service_ms=2
)


def test_server_serves_one_gradient_at_a_time():
    """Worker 0 reaches the server at 4.5 ms and waits until worker 1 has been served at 5.5 ms."""
    assert worker_time_read(simulate(QUEUE)) == [
        (1, 5.5, 0),
        (0, 7.5, 0),
        (1, 11.5, 1),
        (0, 14.5, 2),
        (1, 17.5, 3),
        (0, 21.5, 4),
    ]


def test_delay_on_one_worker_only():
    """Worker 0 takes 2 + 3 ms a gradient, worker 1 the 2 ms of its computation."""
    cluster = ParameterServer(workers=2, compute_ms=2, delay_ms=3, delayed="only")
    times = [(worker, time) for worker, time, _ in worker_time_read(simulate(cluster))]
    assert times == [(1, 2.0), (1, 4.0), (0, 5.0), (1, 6.0), (0, 10.0), (0, 15.0)]


def test_pull_before_own_update():
    """The same times; each worker misses its own last update."""
    found = worker_time_read(simulate(replace(QUEUE, pull="before")))
    assert [version for _, _, version in found] == [0, 0, 0, 1, 2, 3]
    assert [time for _, time, _ in found] == [5.5, 7.5, 11.5, 14.5, 17.5, 21.5]


def test_pull_before_makes_a_gradient_late_by_one_update_more():
    """Alone, a worker is as late as its own last update; where two alternate, as late as both."""
    alone = ParameterServer(workers=1, compute_ms=2, pull="before")
    schedule = simulate(alone, (4,))
    assert worker_time_read(schedule) == [(0, 2, 0), (0, 4, 0), (0, 6, 1), (0, 8, 2)]
    assert schedule.staleness_before.tolist() == [0, 1, 1, 1]
    two = simulate(ParameterServer(workers=2, compute_ms=2, pull="before"))
    assert worker_time_read(two) == [
        (0, 2, 0),
        (1, 2, 0),
        (0, 4, 0),
        (1, 4, 1),
        (0, 6, 2),
        (1, 6, 3),
    ]
    assert two.staleness_before.tolist() == [0, 1, 2, 2, 2, 2]
    after = simulate(ParameterServer(workers=2, compute_ms=2))
    assert (two.staleness_before - after.staleness_before).tolist() == [0, 0, 1, 1, 1, 1]


def test_pull_before_replayed_equals_the_run_worked_by_hand():
    """One worker, sample i with the gradient a_i w: each is of the weights before the last step."""
    task = quadratic_task([1, 2, 3, 4], lambda seed: [1.0])

    class InOrder:
        batch_size = taken = local_steps = 1

        def indices(self, stream, batch):
            return batch[:, None]

    alone = simulate(ParameterServer(workers=1, compute_ms=2, pull="before"), (4,))
    run = plan(SGD(lr=0.125), epoch_an_arrival(alone), InOrder())
    weights, _ = trajectory(task, [run], VmapBackend(task))
    w1 = 1 - 0.125 * 1
    w2 = w1 - 0.125 * 2 * 1
    w3 = w2 - 0.125 * 3 * w1
    w4 = w3 - 0.125 * 4 * w2
    assert [each[0].tolist() for each in weights] == [[w1], [w2], [w3], [w4]]


def test_kernel_and_torch_agree_where_workers_pull_before(data_folder, tmp_path):
    need_compiled("lenet5")
    server = {"name": "parameter_server", "workers": 3, "compute_ms": 10.0, "jitter": 0.2}
    cells = tuple(
        small_cell(cluster=server | {"pull": pull}, partition="dataset")
        for pull in ("before", "after")
    )
    found = {}
    for backend in ("cpu", "torch"):
        output = tmp_path / f"{backend}.csv"
        train_bundle(Bundle(cells), output, Place(data_folder, "cpu", backend))
        found[backend] = pd.read_csv(output)
    pd.testing.assert_frame_equal(found["cpu"], found["torch"], rtol=1e-4)
    before, after = (found["cpu"][found["cpu"]["run"] == cell.hash] for cell in cells)
    # But for a worker's first gradient, all are late by one update more: 6 of the 9 of an epoch.
    more = before["mean_staleness"].to_numpy() - after["mean_staleness"].to_numpy()
    np.testing.assert_allclose(more, 1 - 3 / after["updates"])
    assert (before["test_loss"].to_numpy() != after["test_loss"].to_numpy()).all()


def test_synchronous_workers_have_no_choice_of_what_to_pull():
    with pytest.raises(ConfigError, match="'pull' cannot be 'before'; leave 'pull' out, or set"):
        parse(
            "clusters",
            describe(QUEUE) | {"pull": "before", "synchronous": True},
            where="a.yaml",
            key="cluster",
        )


def test_workers_that_start_one_after_another_read_what_there_is_by_then():
    """Worker 0 is served at 2, 4 and 6 ms; worker 1 starts at 5 ms, after two updates."""
    cluster = ParameterServer(workers=2, compute_ms=2, start_ms=5)
    assert worker_time_read(simulate(cluster)) == [
        (0, 2, 0),
        (0, 4, 1),
        (0, 6, 2),
        (1, 7, 2),
        (1, 9, 4),
        (1, 11, 5),
    ]


# Alone a computation takes 2 ms, two at once take 4.
SHARED = ParameterServer(workers=2, compute_ms=2, machine_ms=2, delay_ms=1, delayed="one")


def test_workers_share_a_machine():
    """Both compute from 0 to 4 ms; worker 1 then has the machine to itself from 5 to 6 ms."""
    assert worker_time_read(simulate(SHARED)) == [
        (1, 5, 0),
        (0, 6, 0),
        (1, 9, 1),
        (0, 11, 2),
        (1, 12, 3),
        (0, 15, 4),
    ]


def test_six_arrivals_replayed_equal_the_run_worked_by_hand():
    """Sample i has the gradient a_i w; worker 0 draws a = 1, 2, 3 and worker 1 a = 4, 5, 6."""
    task = quadratic_task([1, 2, 3, 4, 5, 6], lambda seed: [1.0, -2.0])

    class TwoStreams:
        batch_size = taken = local_steps = 1

        def indices(self, stream, batch):
            return (3 * stream + batch)[:, None]

    run = plan(SGD(lr=0.125), epoch_an_arrival(simulate(SHARED)), TwoStreams())
    weights, _ = trajectory(task, [run], VmapBackend(task))
    w0 = 1.0
    w1 = w0 - 0.125 * 4 * w0  # worker 1, read version 0
    w2 = w1 - 0.125 * 1 * w0  # worker 0, read version 0
    w3 = w2 - 0.125 * 5 * w1  # worker 1, read version 1
    w4 = w3 - 0.125 * 2 * w2  # worker 0, read version 2
    w5 = w4 - 0.125 * 6 * w3  # worker 1, read version 3
    w6 = w5 - 0.125 * 3 * w4  # worker 0, read version 4
    assert [w1, w2, w3] == [0.5, 0.375, 0.0625]
    found = [each[0].tolist() for each in weights]
    assert found == [[w, -2 * w] for w in (w1, w2, w3, w4, w5, w6)]


def test_barrier():
    """Every round lasts as long as its slowest: compute 2, delay 2, network 0.5 each way, and the
    server has begun with worker 1 at 3.5 ms; so worker 0 is served from 5.5 to 7.5 ms."""
    schedule = simulate(replace(QUEUE, synchronous=True))
    assert schedule.arrivals_per_update == 2
    assert worker_time_read(schedule) == [
        (1, 5.5, 0),
        (0, 7.5, 0),
        (1, 13.5, 1),
        (0, 15.5, 1),
        (1, 21.5, 2),
        (0, 23.5, 2),
    ]
    assert (schedule.staleness_before == 0).all()


@pytest.mark.parametrize("lenet", [True], indirect=True, ids=["normalized"])
@pytest.mark.parametrize("workers", [2, 5])
def test_synchronous_workers_are_sgd_on_the_union_of_their_minibatches(lenet, workers):
    targets = lenet.train[1].numpy()
    order = DataOrder(split("dataset", targets, workers, seed=3), batch_size=4, seed=3)
    workload = order.workload(2)
    cluster = ParameterServer(workers=workers, compute_ms=1, jitter=0.2, synchronous=True)
    schedule = cluster.simulate(workload, np.random.default_rng(0))
    rule = SGD(lr=0.02, momentum=0.9)
    (*_, found), _ = trajectory(lenet, [plan(rule, schedule, order)], VmapBackend(lenet))

    weights = torch.nn.Parameter(lenet.initial_weights(1))
    optimizer = torch.optim.SGD([weights], lr=0.02, momentum=0.9)
    inputs, labels = lenet.train
    rounds = 2 * workload.batches[0]
    for batch in range(rounds):
        union = order.indices(np.arange(workers), np.full(workers, batch)).ravel()
        assert len(set(union.tolist())) == 4 * workers
        optimizer.zero_grad()
        lenet.loss(weights, inputs[union], labels[union]).backward()
        optimizer.step()
    assert rounds >= 30
    assert_close(found[0], weights.detach())
    start = lenet.initial_weights(1)
    assert_close(found[0] - start, weights.detach() - start, 1e-11)


@pytest.mark.parametrize("random", [{"jitter": 0.1}, {"delay_deviation_ms": 3.0}], ids=str)
def test_every_computation_has_a_time_and_a_delay_of_its_own(random):
    """The first ones too, that workers alike begin at the same moment."""
    cluster = ParameterServer(workers=4, compute_ms=10, delay_ms=30, **random)
    schedule = simulate(cluster, (3,) * 4)
    steps = [np.diff(schedule.time[schedule.worker == w], prepend=0.0) for w in range(4)]
    assert len(np.unique(np.round(steps, 9))) == 12


def test_gaussian_delay_doubles_mean_and_deviation_for_worker_1():
    cluster = ParameterServer(
        workers=2, compute_ms=1, delay_ms=30, delay_deviation_ms=5, delayed="one"
    )
    schedule = simulate(cluster, (20_000, 20_000))
    for worker, factor in ((0, 2), (1, 1)):
        cycles = np.diff(1_000 * schedule.time[schedule.worker == worker])
        assert cycles.mean() == pytest.approx(1 + 30 * factor, rel=0.005)
        assert cycles.std() == pytest.approx(5 * factor, rel=0.03)


def test_delay_is_never_negative():
    cluster = ParameterServer(workers=1, compute_ms=1, delay_ms=1, delay_deviation_ms=10)
    cycles = np.diff(1_000 * simulate(cluster, (2_000,)).time)
    assert cycles.min() == pytest.approx(1)
    assert 0.4 < np.mean(np.isclose(cycles, 1)) < 0.55


def test_speeds_are_drawn_once_a_run():
    cluster = ParameterServer(workers=5, compute_ms=10, spread=0.1)
    ends = []
    for seed in (1, 1, 2):
        schedule = simulate(cluster, (100,) * 5, seed=seed)
        cycles = [np.diff(schedule.time[schedule.worker == w]) for w in range(5)]
        assert max(np.ptp(c) for c in cycles) < 1e-9
        ends.append([c[0] for c in cycles])
    assert ends[0] == ends[1] != ends[2]
    assert np.std(ends[0]) > 1e-4


def test_slow_worker_trains_on_alone_or_all_stop_with_the_first():
    cluster = ParameterServer(workers=3, compute_ms=10, delay_ms=5, delayed="one")
    schedule = simulate(cluster, (40, 40, 40))
    alone = schedule.worker[-10:]
    assert (alone == 0).all() and schedule.arrivals == 120
    assert (schedule.staleness_before[-9:] == 0).all()
    stopped = simulate(replace(cluster, run_on=False), (40, 40, 40))
    last = stopped.arrivals
    assert last == 40 + 40 + 30 - 1  # of two that finish at the same moment, the second does not
    for column in ("worker", "time", "read_version", "batch"):
        assert (getattr(stopped, column) == getattr(schedule, column)[:last]).all()
    assert np.bincount(stopped.worker).max() == 40
    assert stopped.epoch_ends[-1] == last


def test_one_stream_is_dealt_in_the_order_of_arrival():
    schedule = simulate(replace(QUEUE, workers=3), (8,), epochs=2)
    assert schedule.arrivals == 16
    assert (schedule.stream == 0).all() and (schedule.batch == np.arange(16)).all()
    assert schedule.epoch_ends.tolist() == [8, 16]


def server(policy, **keys) -> ParameterServer:
    return ParameterServer(**policy, **keys)


clusters = st.builds(
    server,
    workers=st.integers(1, 6),
    compute_ms=st.sampled_from([1.0, 12.5]),
    machine_ms=st.sampled_from([0.0, 1.0, 20.0]),
    jitter=st.sampled_from([0.0, 0.3]),
    spread=st.sampled_from([0.0, 0.1]),
    delay_ms=st.sampled_from([0.0, 5.0]),
    delay_deviation_ms=st.sampled_from([0.0, 2.0]),
    delayed=st.sampled_from(["all", "one", "only"]),
    network_ms=st.sampled_from([0.0, 0.5]),
    service_ms=st.sampled_from([0.0, 3.0]),
    start_ms=st.sampled_from([0.0, 4.0]),
    policy=st.sampled_from([{}, {"pull": "before"}, {"synchronous": True}]),
)


@settings(max_examples=60, deadline=None)
@given(cluster=clusters, batches=st.integers(1, 12), epochs=st.integers(1, 3), seed=st.integers(0))
def test_every_schedule(cluster, batches, epochs, seed):
    n = cluster.workers
    workload = Workload((batches,) * n, epochs)
    schedule, again = (cluster.simulate(workload, np.random.default_rng(seed)) for _ in range(2))
    for column in ("worker", "time", "read_version", "stream", "batch", "epoch_ends"):
        assert (getattr(schedule, column) == getattr(again, column)).all()
    assert schedule.arrivals == n * batches * epochs
    assert plan_snapshots(schedule).slots <= cluster.in_flight()
    for w in range(n):
        assert schedule.batch[schedule.worker == w].tolist() == list(range(batches * epochs))
        reads = schedule.read_version[schedule.worker == w]
        # Of what happens at one moment, the worker with the lowest number comes first.
        start = w * cluster.start_ms / 1_000
        served = [np.count_nonzero(schedule.time < start + slack) for slack in (-1e-9, 1e-9)]
        assert reads[0] == 0 if cluster.synchronous else served[0] <= reads[0] <= served[1]
        assert (np.diff(reads) >= 0).all()
    if cluster.synchronous:
        assert (schedule.staleness_before == 0).all()
        rounds = schedule.worker.reshape(-1, n)
        assert (np.sort(rounds, axis=1) == np.arange(n)).all()
    elif n > 1:
        # Between a worker's reading and its gradient each other worker may arrive many times, but
        # what was read cannot be older than the worker's previous arrival.
        for w in range(n):
            mine = np.flatnonzero(schedule.worker == w)
            before = 1 if cluster.pull == "before" else 0
            assert (schedule.read_version[mine[1:]] == mine[:-1] + 1 - before).all()
    # Whoever is served later by the same server is served at least a service time later.
    assert (np.diff(schedule.time) >= cluster.service_ms / 1_000 - 1e-12).all()


# The wall times of lamour2023's runs with Gaussian delay, all processes on one machine.
WALL_TIMES = (
    pd.read_csv("studies/lamour2023/published/wall_times.csv").to_records(index=False).tolist()
)


@pytest.mark.parametrize(("workers", "delay", "published"), WALL_TIMES)
def test_simulated_times_are_the_authors(workers, delay, published, authors_cluster):
    """2 workers within 5 %, 5 and 10 within 10 %, on average over 20 draws of the workers."""
    cluster = parse(
        "clusters",
        authors_cluster(workers) | {"delay_ms": float(delay), "delay_deviation_ms": 5.0},
        where="test",
        key="cluster",
    )
    sample = sample_schedules(
        cluster,
        Workload((6 * 1_875 // workers,) * workers, 1),
        20,
        np.random.default_rng(1),
        bins=256,
    )
    tolerance = 0.05 if workers == 2 else 0.10
    assert sample.seconds.mean() == pytest.approx(published, rel=tolerance)


@pytest.fixture
def authors_cluster():
    """The cluster `authors` for a number of workers, as the study's configuration names it."""
    import yaml

    with open("studies/lamour2023/study.yaml") as file:
        calibration = yaml.safe_load(file)["simulations"]["calibration"]

    def cluster(workers: int) -> dict:
        (case,) = (c for c in calibration["cases"] if c["cluster.workers"] == workers)
        own = {key.removeprefix("cluster."): value for key, value in case.items()}
        return calibration["cluster"] | own

    return cluster


@pytest.mark.parametrize(
    ("batches", "options", "words"),
    [
        ((3, 3, 3), {}, "3 data streams; there must be one in all, or 2"),
        ((3, 0), {}, "part 2 of the data has too few samples for one minibatch"),
        ((1,), {"synchronous": True}, "1 gradients in all are too few for one update"),
        ((3, 4), {"synchronous": True}, "barrier would wait"),
    ],
)
def test_work_that_does_not_fit_is_refused(batches, options, words):
    with pytest.raises(ValueError, match=words):
        simulate(replace(QUEUE, **options), batches)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("workers", 0),
        ("compute_ms", 0.0),
        ("delay_ms", -1.0),
        ("delayed", "worker 1"),
        ("pull", "never"),
        ("machine", 1.0),
    ],
)
def test_configuration_that_is_not_allowed_is_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        parse("clusters", describe(QUEUE) | {key: value}, where="a.yaml", key="cluster")


def test_description_round_trips():
    assert parse("clusters", describe(QUEUE), where="a.yaml", key="cluster") == QUEUE
