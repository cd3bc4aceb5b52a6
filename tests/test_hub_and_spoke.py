"""Hub-and-spoke schedules: worked by hand, against an event queue, and against the theory."""

import importlib.util
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.clusters import _merge
from stalegrad.clusters.hub_and_spoke import HubAndSpoke, simulate_staleness
from stalegrad.io.errors import ConfigError
from stalegrad.schedule import Workload
from stalegrad.specs import describe, parse
from stalegrad.staleness import renewal
from stalegrad.staleness.compute_times import (
    DISTRIBUTIONS,
    Constant,
    Exponential,
    Gamma,
    Normal,
    Pareto,
    Uniform,
)
from stalegrad.training.snapshots import plan_snapshots

# allawati2020, section 4: alpha = 1, lambda = 2/3.
SHIFTED = Exponential(loc=1.0, scale=1.5)
SPREAD = [
    SHIFTED,
    Exponential(),
    Normal(loc=1.0, scale=0.2),
    Normal(loc=0.0, scale=2.0),
    Uniform(loc=0.5, scale=3.0),
    Gamma(a=0.5),
    Gamma(a=3.0, loc=0.5, scale=0.5),
    Pareto(b=3.0, scale=2.0),
]
EVERY = [*SPREAD, Pareto(b=1.5), Constant(value=2.5)]


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "schedules.py"
    spec = importlib.util.spec_from_file_location("benchmark_schedules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cluster(n, K=1, T_c=0.0, compute_time=SHIFTED):
    return HubAndSpoke(
        workers=n, minibatches_per_update=K, communication_time=T_c, compute_time=compute_time
    )


@st.composite
def clusters(draw):
    n = draw(st.integers(1, 9))
    return cluster(
        n,
        K=draw(st.integers(1, n)),
        T_c=draw(st.sampled_from([0.0, 2.5]) | st.floats(0.0, 20.0)),
        compute_time=draw(st.sampled_from(EVERY)),
    )


seeds = st.integers(0, 2**32 - 1)


# Worked by hand.

# Worker 0 computes for 1 and 2 seconds, worker 1 for 1.5, 1 and 0.25; the order is that of
# starting. So rounds end at 1 (0), 1.5 (1), 2.5 (1), 2.75 (1) and 3 (0).
TIMES = np.array([1.0, 1.5, 2.0, 1.0, 0.25, 9.0, 9.0])


@pytest.mark.parametrize(
    ("K", "T_c", "read_version"),
    [
        (1, 0.0, [0, 0, 2, 3, 1]),
        # Known at 2, 2.5, ...: the round that starts at 2.5 reads the update that arrives then.
        (1, 1.0, [0, 0, 0, 2, 0]),
        # Updates at 1.5 and 2.75.
        (2, 0.0, [0, 0, 1, 1, 0]),
        (2, 1.0, [0, 0, 0, 1, 0]),
    ],
)
def test_two_workers_by_hand(benchmark, K, T_c, read_version):
    worker, finish, read, staleness = benchmark.compiled(cluster(2, K, T_c), TIMES)
    assert worker.tolist() == [0, 1, 1, 1, 0]
    assert finish.tolist() == [1.0, 1.5, 2.5, 2.75, 3.0]
    assert read.tolist() == read_version
    assert staleness.tolist() == [i // K - v for i, v in enumerate(read_version)]


@pytest.mark.parametrize(
    ("T_c", "read_version"),
    [
        (0.0, [0, 0, 0, 1, 2, 3, 4, 5, 6]),
        (1.0, [0, 0, 0, 0, 0, 0, 3, 3, 3]),
        # The updates made in the first round arrive as the third starts, and are read.
        (2.0, [0, 0, 0, 0, 0, 0, 3, 3, 3]),
        (2.5, [0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_three_workers_in_step(T_c, read_version):
    schedule = cluster(3, 1, T_c, Constant(value=2.0)).simulate(
        Workload((3,), 3), np.random.default_rng(0)
    )
    assert schedule.worker.tolist() == [0, 1, 2] * 3
    assert schedule.time.tolist() == [t + T_c / 2 for t in (2, 2, 2, 4, 4, 4, 6, 6, 6)]
    assert schedule.read_version.tolist() == read_version
    assert schedule.stream.tolist() == [0] * 9
    assert schedule.batch.tolist() == list(range(9))
    assert schedule.epoch_ends.tolist() == [3, 6, 9]


def test_a_stream_a_worker_by_hand():
    schedule = cluster(2, 2, 0.0, Constant(value=1.0)).simulate(
        Workload((2, 1), 2), np.random.default_rng(0)
    )
    assert schedule.worker.tolist() == [0, 1, 0, 1, 0, 0]
    assert schedule.time.tolist() == [1, 1, 2, 2, 3, 4]
    assert schedule.stream.tolist() == [0, 1, 0, 1, 0, 0]
    assert schedule.batch.tolist() == [0, 0, 1, 1, 2, 3]
    assert schedule.read_version.tolist() == [0, 0, 0, 1, 1, 2]
    assert schedule.epoch_ends.tolist() == [3, 6]
    assert schedule.arrivals_per_update == 2


# Properties.


@settings(deadline=None)  # the first example may compile
@given(clusters(), st.integers(9, 200), seeds)  # one update at least
def test_equal_to_the_event_queue_and_to_the_sort(benchmark, hub, arrivals, seed):
    times = hub.compute_time.sample(np.random.default_rng(seed), hub.workers + arrivals)
    merged = benchmark.compiled(hub, times)
    looped = benchmark.event_queue(hub, times.tolist())
    matrix = benchmark.by_worker(times, merged[0], hub.workers)
    sorted_ = benchmark.whole_array(hub, matrix, arrivals)
    for column, loop, sort in zip(merged, looped, sorted_, strict=True):
        np.testing.assert_array_equal(column, loop)
        np.testing.assert_array_equal(column, sort)
    schedule = hub.simulate(Workload((arrivals,), 1), np.random.default_rng(seed))
    np.testing.assert_array_equal(schedule.worker, looped[0])
    np.testing.assert_array_equal(schedule.time, np.add(looped[1], hub.communication_time / 2))
    np.testing.assert_array_equal(schedule.read_version, looped[2])
    np.testing.assert_array_equal(schedule.staleness_before, looped[3])


@settings(deadline=None)  # the first example may compile
@given(clusters(), st.data(), st.integers(1, 4), seeds)
def test_columns_are_valid(hub, data, epochs, seed):
    n, K = hub.workers, hub.minibatches_per_update
    size = data.draw(st.sampled_from([1, n]))
    batches = data.draw(st.lists(st.integers(-(-K // size), 40), min_size=size, max_size=size))
    workload = Workload(tuple(batches), epochs)
    schedule = hub.simulate(workload, np.random.default_rng(seed))

    assert schedule.arrivals == workload.total
    assert schedule.arrivals == K * schedule.updates + schedule.arrivals % K
    assert set(schedule.worker.tolist()) <= set(range(n))
    assert (schedule.staleness_before >= 0).all()
    assert (schedule.staleness_after >= schedule.staleness_before).all()
    assert (np.diff(schedule.time) >= 0).all()
    for w in range(n):
        mine = schedule.worker == w
        versions = schedule.read_version[mine]
        assert (versions[:1] == 0).all()
        assert (np.diff(versions) >= 0).all()
        if size == n:
            assert schedule.batch[mine].tolist() == list(range(batches[w] * epochs))
            assert (schedule.stream[mine] == w).all()
    if size == 1:
        assert schedule.batch.tolist() == list(range(workload.total))
        assert not schedule.stream.any()
    assert schedule.epoch_ends.tolist() == [sum(batches) * e for e in range(1, epochs + 1)]


@settings(deadline=None)  # the first example may compile
@given(clusters(), st.integers(1, 300), st.integers(1, 50), seeds)
def test_blocks_change_nothing(hub, arrivals, block, seed):
    def columns(size):
        blocks = list(hub.arrivals(arrivals, np.random.default_rng(seed), block=size))
        assert all(len(b.worker) <= size for b in blocks)
        names = ("worker", "finish", "read_version")
        return [np.concatenate([getattr(b, name) for b in blocks]) for name in names]

    for cut, whole in zip(columns(block), columns(arrivals), strict=True):
        np.testing.assert_array_equal(cut, whole)


@settings(deadline=None)  # the first example may compile
@given(clusters(), seeds)
def test_no_more_versions_in_flight_than_workers_without_communication_time(hub, seed):
    hub = replace(hub, communication_time=0.0)
    schedule = hub.simulate(Workload((200,), 1), np.random.default_rng(seed))
    assert plan_snapshots(schedule).slots <= hub.in_flight() == hub.workers


def test_versions_in_flight_with_communication_time():
    """Four updates within one second, the mean compute time being 2.5."""
    assert cluster(10, 1, 1.0).in_flight() == 10 + 4


@settings(deadline=None)  # the first example may compile
@given(clusters(), st.data(), seeds)
def test_staleness_sample_is_that_of_the_schedules(hub, data, seed):
    K = hub.minibatches_per_update
    arrivals = data.draw(st.integers(K, 200))
    skip = data.draw(st.integers(0, arrivals - 1))
    updates = data.draw(st.integers(0, arrivals // K))
    block = data.draw(st.integers(1, 250))
    sample = simulate_staleness(
        hub,
        arrivals,
        3,
        np.random.default_rng(seed),
        skip=skip,
        updates=updates,
        bins=4,
        block=block,
    )
    generator = np.random.default_rng(seed)
    for r in range(3):
        schedule = hub.simulate(Workload((arrivals,), 1), generator)
        before, after = schedule.staleness_before, schedule.staleness_after
        assert sample.mean_before[r] == pytest.approx(before[skip:].mean())
        assert sample.mean_after[r] == pytest.approx(after[skip:].mean())
        assert sample.largest[r] == before[skip:].max()
        bins = np.minimum(before[skip:], 3)
        assert sample.histogram[r].tolist() == np.bincount(bins, minlength=4).tolist()
        by_update = before[: updates * K].reshape(updates, K).mean(axis=1)
        np.testing.assert_allclose(sample.by_update[r], by_update)
        begin = schedule.time[skip - 1] if skip else 0.0
        seconds = schedule.time[-1] - begin
        np.testing.assert_allclose(sample.seconds[r], seconds, rtol=1e-9, atol=1e-9)


def test_memory_is_that_of_a_block():
    hub = cluster(10, 5, 1.0)
    simulate_staleness(hub, 1000, 1, np.random.default_rng(0))  # compiles
    tracemalloc.start()
    simulate_staleness(hub, 1_000_000, 1, np.random.default_rng(0), block=4096)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


# Against the theory.


@pytest.mark.parametrize("compute_time", SPREAD, ids=str)
@pytest.mark.parametrize(("n", "K", "T_c"), [(1, 1, 0.0), (10, 5, 1.0), (7, 3, 4.0)])
def test_update_rate_is_lemma_1(n, K, T_c, compute_time):
    sample = simulate_staleness(
        cluster(n, K, T_c, compute_time),
        8_000 * n,
        40,
        np.random.default_rng(1),
        skip=800 * n,
    )
    seconds_an_update = 1 / sample.update_rate
    interval = scipy.stats.t.interval(
        1 - 1e-4, 39, seconds_an_update.mean(), scipy.stats.sem(seconds_an_update)
    )
    low, high = interval
    assert low < 1 / renewal.update_rate(n, K, compute_time.mean) < high
    assert high - low < 0.03 * low  # an interval that could tell


@pytest.mark.parametrize(
    ("n", "K", "T_c", "before", "after"),
    [
        (10, 10, 1.0, 1.360, 1.460),
        (20, 10, 1.0, 2.760, 2.860),
        (10, 1, 0.0, 9.000, 10.000),
        (10, 1, 1.0, 13.600, 14.600),
        (10, 5, 1.0, 2.720, 2.920),
    ],
)
def test_both_countings_enclose_theorem_2(n, K, T_c, before, after):
    sample = simulate_staleness(
        cluster(n, K, T_c), 20_000 * n, 4, np.random.default_rng(2), skip=100 * n
    )
    assert sample.mean_before.mean() == pytest.approx(before, rel=2e-3)
    assert sample.mean_after.mean() == pytest.approx(after, rel=2e-3)
    theorem = renewal.expected_staleness(n, K, T_c, SHIFTED.mean)
    assert before < theorem <= after


@pytest.mark.parametrize(
    ("compute_time", "shape"),
    [
        (SHIFTED, 1.0),
        (Exponential(scale=2.5), 1.0),
        (Gamma(a=0.5, scale=2.0), 0.5),
        (Gamma(a=3.0, loc=0.5, scale=0.5), 3.0),
    ],
    ids=str,
)
@pytest.mark.parametrize(("n", "K", "T_c"), [(2, 1, 1.0), (10, 5, 0.0), (7, 3, 6.0)])
def test_own_worker_explains_the_residual(n, K, T_c, compute_time, shape):
    sample = simulate_staleness(
        cluster(n, K, T_c, compute_time), 20_000 * n, 10, np.random.default_rng(3), skip=100 * n
    )
    own = renewal.renewal_function_gamma(T_c, shape, compute_time.loc, compute_time.scale)
    exact = renewal.exact_staleness_before(n, K, T_c, compute_time.mean, own)
    assert sample.mean_before.mean() == pytest.approx(exact, rel=3e-3)


@pytest.mark.parametrize("compute_time", [*SPREAD, Constant()], ids=str)
@pytest.mark.parametrize("workers", [2, 8, 32])
def test_jain2018_counts_one_less_than_the_workers(workers, compute_time):
    sample = simulate_staleness(
        cluster(workers, compute_time=compute_time),
        10_000 * workers,
        1,
        np.random.default_rng(4),
        skip=100 * workers,
    )
    assert sample.mean_before[0] == pytest.approx(workers - 1, rel=2e-3)
    assert sample.mean_after[0] == pytest.approx(workers, rel=2e-3)


def test_first_updates_of_figure_2():
    sample = simulate_staleness(
        cluster(10, 5, 1.0), 250, 2_000, np.random.default_rng(5), updates=50
    )
    mean = sample.by_update.mean(axis=0)
    # The first 5 of 10 gradients are fresh; of the next 5, nearly all still read version 0.
    assert mean[0] == 0.0
    assert 0.99 < mean[1] <= 1.0
    assert mean[20:].mean() == pytest.approx(2.72, rel=0.01)


def test_constant_times_escape_the_theorem():
    # All updates are made as rounds end, so that for any T_c between 0 and one round a gradient
    # misses the same: the round before its own, and those of its own served before it. The
    # theorem has staleness grow with T_c, from 12.5 to 17.5 here.
    stale = [
        simulate_staleness(
            cluster(10, 1, T_c, Constant(value=2.0)), 2_000, 1, np.random.default_rng(6), skip=100
        ).mean_before[0]
        for T_c in (0.5, 1.0, 1.5)
    ]
    assert stale == [14.5] * 3


# Randomness.


def test_the_generator_decides():
    def times(seed):
        workload = Workload((100,), 1)
        return cluster(4, 2, 1.0).simulate(workload, np.random.default_rng(seed)).time

    np.testing.assert_array_equal(times(1), times(1))
    assert (times(1) != times(2)).all()


def test_more_replicates_keep_the_first():
    few, many = (
        simulate_staleness(cluster(4, 2, 1.0), 500, r, np.random.default_rng(7)) for r in (3, 8)
    )
    np.testing.assert_array_equal(many.total[:3], few.total)
    np.testing.assert_array_equal(many.seconds[:3], few.seconds)
    assert len(set(many.seconds)) == 8


# Distributions of compute time.


@pytest.mark.parametrize(
    ("distribution", "reference"),
    [
        (SHIFTED, scipy.stats.expon(loc=1.0, scale=1.5)),
        (Normal(), scipy.stats.truncnorm(-5.0, np.inf, loc=1.0, scale=0.2)),
        (
            Normal(loc=0.5, scale=2.0),
            scipy.stats.truncnorm(-0.25, np.inf, loc=0.5, scale=2.0),
        ),
        (Uniform(loc=0.5, scale=3.0), scipy.stats.uniform(loc=0.5, scale=3.0)),
        (Gamma(a=0.5, loc=1.0, scale=2.0), scipy.stats.gamma(0.5, loc=1.0, scale=2.0)),
        (Pareto(b=1.5, loc=1.0, scale=2.0), scipy.stats.pareto(1.5, loc=1.0, scale=2.0)),
    ],
    ids=lambda value: str(value) if hasattr(value, "sample") else value.dist.name,
)
def test_samples_follow_scipys_distribution(distribution, reference):
    sample = distribution.sample(np.random.default_rng(8), 20_000)
    assert scipy.stats.kstest(sample, reference.cdf).pvalue > 1e-3
    assert (sample >= 0).all()
    assert distribution.mean == pytest.approx(reference.mean(), rel=1e-12)


@pytest.mark.parametrize("distribution", EVERY, ids=str)
def test_samples_come_one_after_the_other(distribution):
    generator = np.random.default_rng(9)
    parts = [distribution.sample(generator, size) for size in (1, 700, 299)]
    whole = distribution.sample(np.random.default_rng(9), 1000)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert math.isfinite(distribution.mean)


def test_every_distribution_is_tested():
    assert {type(d) for d in EVERY} == set(DISTRIBUTIONS.values())


# Configuration.


def parsed(**changes):
    keys = {"name": "hub_and_spoke", "workers": 10, "compute_time": {"name": "expon"}}
    return parse("clusters", keys | changes, where="study.yaml", key="cluster")


def test_configuration_round_trip():
    hub = parsed(
        minibatches_per_update=5,
        communication_time=1,
        compute_time={"name": "expon", "loc": 1, "scale": 1.5},
    )
    assert hub == cluster(10, 5, 1.0)
    assert hub.streams() == 10
    assert parse("clusters", describe(hub), where="study.yaml", key="cluster") == hub


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"minibatches_per_update": 11}, "minibatches_per_update' is 11", "workers, 10"),
        ({"minibatches_per_update": 2.5}, "minibatches_per_update' is 2.5", "integer"),
        ({"minibatches_per_update": 0}, "minibatches_per_update' is 0", "equal to 1"),
        ({"workers": 0}, "workers' is 0", "equal to 1"),
        ({"workers": 2.5}, "workers' is 2.5", "integer"),
        ({"communication_time": -0.5}, "communication_time' is -0.5", "equal to 0"),
        ({"compute_time": {"name": "pareto", "b": 1.0}}, "compute_time.b' is 1.0", "no mean"),
        ({"compute_time": {"name": "uniform", "loc": -1.0}}, "compute_time.loc' is -1.0", "negat"),
        ({"compute_time": {"name": "expon", "scale": 0.0}}, "compute_time.scale' is 0.0", "than 0"),
        ({"compute_time": {"name": "gamma"}}, "compute_time.a' is missing", "no default"),
        ({"compute_time": {"name": "expon", "rate": 2.0}}, "compute_time'", "no parameter 'rate'"),
        ({"compute_time": {"name": "cauchy"}}, "compute_time'", "one of: constant, expon"),
        ({"compute_time": 2.5}, "compute_time' is 2.5", "one of: constant, expon"),
    ],
    ids=str,
)
def test_errors_name_key_and_reason(changes, key, reason):
    with pytest.raises(ConfigError) as error:
        parsed(**changes)
    message = str(error.value)
    assert message.startswith(f"study.yaml: 'cluster.{key}")
    assert reason in message


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ((5, 5), "2 data streams; there must be one in all, or 3"),
        ((5, 5, 0), "part 3 of the data has too few samples for one minibatch"),
        ((1,), "1 gradients in all are too few for one update, which takes 2"),
    ],
)
def test_work_that_does_not_fit_is_refused(batches, words):
    with pytest.raises(ValueError, match=words):
        cluster(3, 2).simulate(Workload(batches, 1), np.random.default_rng(0))


@pytest.mark.parametrize("keys", [{"skip": 10}, {"skip": -1}, {"updates": 6}], ids=str)
def test_too_few_arrivals(keys):
    with pytest.raises(ValueError, match="10 arrivals are too few"):
        simulate_staleness(cluster(4, 2), 10, 1, np.random.default_rng(0), **keys)


def test_no_arrivals_beyond_the_last_round():
    blocks = cluster(2).arrivals(5, np.random.default_rng(0), rounds=np.array([2, 2]))
    with pytest.raises(ValueError, match="4 rounds, fewer than 5"):
        next(blocks)


@settings(max_examples=5, deadline=None)
@given(n=st.integers(1, 4))
def test_benchmark_runs(benchmark, n):
    benchmark.main(
        ["--workers", str(n), "--minibatches", "1", "--arrivals", "500", "--repeats", "1"]
    )


def test_merge_block_is_bounded_by_default():
    (first, *_) = cluster(2).arrivals(_merge.BLOCK + 1, np.random.default_rng(0))
    assert len(first.worker) == _merge.BLOCK
