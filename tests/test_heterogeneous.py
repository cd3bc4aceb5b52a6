"""Workers of different speeds: schedules by hand, the formulas of mishchenko2022, and limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.clusters._profiles import seconds_per_gradient
from stalegrad.clusters.heterogeneous import Heterogeneous, _long_rounds
from stalegrad.io.errors import ConfigError
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import parse
from stalegrad.staleness.compute_times import Exponential

PROFILES = ("one_slow", "one_fast", "half_slow", "linear", "geometric")


def simulate(arrivals: int, seed: int = 0, streams: int = 1, **keys) -> Schedule:
    workload = Workload((arrivals // streams,) * streams, 1)
    return Heterogeneous(**keys).simulate(workload, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("profile", "seconds"),
    [
        ("one_slow", [1, 1, 1, 1, 16]),
        ("one_fast", [1, 16, 16, 16, 16]),
        ("half_slow", [1, 1, 16, 16, 16]),
        ("linear", [1, 4.75, 8.5, 12.25, 16]),
        ("geometric", [1, 2, 4, 8, 16]),
    ],
)
def test_profiles_by_hand(profile, seconds):
    assert seconds_per_gradient(profile, 5, 16.0).tolist() == seconds
    assert seconds_per_gradient("half_slow", 4, 16.0).tolist() == [1, 1, 16, 16]


def test_two_workers_by_hand():
    """Seconds 1 and 3: at 3 both finish, and the first worker is served first."""
    schedule = simulate(8, workers=2, slowest=3.0)
    assert schedule.time.tolist() == [1, 2, 3, 3, 4, 5, 6, 6]
    assert schedule.worker.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    # Worker 1 computes at version 0 and then at 4, its own update just made.
    assert schedule.read_version.tolist() == [0, 1, 2, 0, 3, 5, 6, 4]


def test_barrier_by_hand():
    schedule = simulate(4, workers=2, slowest=3.0, barrier=True)
    assert schedule.time.tolist() == [1, 3, 4, 6]
    assert schedule.read_version.tolist() == [0, 0, 1, 1]
    assert schedule.arrivals_per_update == 2
    assert schedule.staleness_before.tolist() == [0, 0, 0, 0]


def test_one_worker_is_never_stale():
    schedule = simulate(50, workers=1, compute_time=Exponential())
    assert (schedule.staleness_before == 0).all()


def test_equal_workers_have_delay_m():
    schedule = simulate(100, workers=5)
    assert (schedule.staleness_before[5:] == 4).all()


def test_a_worker_that_answers_once_is_last_and_has_the_longest_delay():
    schedule = simulate(30, workers=3, answers_once=True)
    assert schedule.worker[-1] == 3 and np.count_nonzero(schedule.worker == 3) == 1
    assert schedule.staleness_before[-1] + 1 == schedule.updates == 30


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("slowest", [1.0, 7.0])
def test_gradients_in_a_budget(profile, slowest):
    """sum S / s_m gradients without waiting and S M / s_max with, up to one a worker."""
    seconds = seconds_per_gradient(profile, 6, slowest)
    assert seconds.min() == 1 and seconds.max() == pytest.approx(slowest)
    assert (np.diff(seconds) >= 0).all()
    keys = {"workers": 6, "profile": profile, "slowest": slowest}
    schedule = simulate(3000, **keys)
    assert abs(3000 - (schedule.time[-1] / seconds).sum()) <= 6
    waiting = simulate(3000, barrier=True, **keys)
    assert waiting.time[-1] * 6 / slowest == pytest.approx(3000)


def test_longest_delay_is_what_others_compute_meanwhile():
    schedule = simulate(40_000, workers=10, slowest=100.0)
    assert schedule.staleness_before.max() + 1 == pytest.approx(9 * 100 + 1, abs=10)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(12, 80), st.sampled_from(PROFILES), st.booleans())
def test_every_schedule_is_one(workers, arrivals, profile, barrier):
    keys = {"workers": workers, "profile": profile, "slowest": 4.0, "barrier": barrier}
    schedule = simulate(arrivals, compute_time=Exponential(), **keys)
    assert schedule.arrivals == arrivals
    assert schedule.batch.tolist() == list(range(arrivals))
    for worker in range(workers):
        # A worker reads after it has been served, so its versions never go back.
        assert (np.diff(schedule.read_version[schedule.worker == worker]) >= 0).all()
    again = simulate(arrivals, compute_time=Exponential(), **keys)
    assert (again.time == schedule.time).all() and (again.worker == schedule.worker).all()


def test_long_gradients_take_the_second_kind_of_data():
    keys = {"workers": 4, "compute_time": Exponential(), "data_by": "duration"}
    schedule = simulate(4000, streams=2, **keys)
    duration = np.empty(4000)
    for worker in range(4):
        mine = schedule.worker == worker
        duration[mine] = np.diff(schedule.time[mine], prepend=0.0)
    assert duration[schedule.stream == 1].min() > 0.6
    assert duration[schedule.stream == 0].max() < 0.8  # the median is log 2
    assert abs(np.count_nonzero(schedule.stream) - 2000) <= 4


def test_own_data_follow_the_worker():
    schedule = simulate(80, streams=2, workers=2, slowest=3.0)
    assert (schedule.stream == schedule.worker).all()
    assert schedule.batch[schedule.worker == 1].tolist() == list(range(20))


def test_who_answers_once_has_own_data_too():
    schedule = simulate(12, streams=4, workers=3, answers_once=True)
    assert (schedule.stream == schedule.worker).all()
    assert schedule.stream[-1] == 3 and schedule.batch[-1] == 0


def test_adaptive_step_is_whole_up_to_m():
    """gamma at tau <= M, gamma M / tau beyond."""
    schedule = simulate(500, workers=4, slowest=20.0)
    factors = DelayAdaptive(lr=0.3, concurrency=4).step_factors(schedule)
    delay = schedule.staleness_before + 1
    assert (delay > 4).any() and (delay <= 4).any()
    assert (factors[delay <= 4] == 1).all()
    assert factors[delay > 4] == pytest.approx(4 / delay[delay > 4], rel=1e-15)


def test_adaptive_step_and_warmup_multiply():
    schedule = simulate(100, workers=4)
    warm = DelayAdaptive(lr=1.0, concurrency=2, warmup_epochs=0.5).step_factors(schedule)
    whole = DelayAdaptive(lr=1.0, concurrency=2).step_factors(schedule)
    assert warm == pytest.approx(whole * np.minimum(1, np.arange(1, 101) / 50))


def test_the_median_time_is_not_a_long_one():
    worker, time = np.array([0, 1, 0, 0, 1]), np.array([1.0, 2.0, 3.0, 6.0, 7.0])
    assert _long_rounds(worker, time).tolist() == [0, 0, 0, 1, 1]


def test_refusals():
    with pytest.raises(ValueError, match="3 gradients in all are too few for one update"):
        simulate(3, workers=4, barrier=True)
    with pytest.raises(ValueError, match="too few for one update, which takes 2"):
        simulate(1, workers=4, answers_once=True)
    with pytest.raises(ValueError, match="3 data streams; there must be one in all, or 4"):
        simulate(9, streams=3, workers=4)
    with pytest.raises(ValueError, match="part 2 of the data has too few samples"):
        Heterogeneous(workers=2).simulate(Workload((4, 0), 1), np.random.default_rng(0))
    keys = {"name": "heterogeneous", "workers": 2, "barrier": True, "answers_once": True}
    with pytest.raises(ConfigError, match="leave no choice"):
        parse("clusters", keys, where="a test", key="cluster")
    keys = {"name": "heterogeneous", "workers": 2, "data_by": "duration"}
    with pytest.raises(ConfigError, match="'cluster.data_by' is 'duration': with a constant"):
        parse("clusters", keys, where="a test", key="cluster")
