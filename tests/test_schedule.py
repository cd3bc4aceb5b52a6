"""Schedules of a constant delay, and the slots in which replay keeps old weights."""

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from helpers import make_schedule
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.schedule import Schedule, Workload
from stalegrad.training.snapshots import CURRENT, plan_snapshots

RNG = np.random.default_rng(0)


def simulate(batches: int, epochs: int, **keys) -> Schedule:
    return ConstantDelay(**keys).simulate(Workload((batches,), epochs), RNG)


# ---- schedules ----


def test_staleness_counts_before_and_after_the_update():
    schedule = make_schedule([0, 0, 1, 1, 3])
    assert schedule.version.tolist() == [0, 1, 2, 3, 4]
    assert schedule.staleness_before.tolist() == [0, 1, 1, 2, 1]
    assert schedule.staleness_after.tolist() == [1, 2, 2, 3, 2]


def test_staleness_where_two_arrivals_make_an_update():
    schedule = make_schedule([0, 0, 0, 1, 1], arrivals_per_update=2)
    assert schedule.updates == 2
    assert schedule.version.tolist() == [0, 0, 1, 1, 2]
    assert schedule.staleness_before.tolist() == [0, 0, 1, 0, 1]
    assert schedule.staleness_after.tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"read_version": [0, 2]}, "not yet made"),
        ({"read_version": [0, -1]}, "not yet made"),
        ({"read_version": [0, 1], "arrivals_per_update": 2}, "not yet made"),
        ({"read_version": [0, 1], "arrivals_per_update": 0}, "not >= 1"),
        ({"read_version": [0, 1], "epoch_ends": [1]}, "last arrival"),
        ({"read_version": [0, 1], "epoch_ends": [2, 1, 2]}, "not decrease"),
        ({"read_version": [0, 1], "epoch_ends": []}, "last arrival"),
    ],
)
def test_impossible_schedules_are_refused(keys, says):
    with pytest.raises(ValueError, match=says):
        make_schedule(**keys)


def test_columns_of_other_lengths_and_times_out_of_order_are_refused():
    good = make_schedule([0, 1, 2])
    with pytest.raises(ValueError, match="one entry an arrival"):
        replace(good, batch=np.arange(2))
    with pytest.raises(ValueError, match="order of their times"):
        replace(good, time=np.array([1.0, 3.0, 2.0]))


# ---- gradients that are dropped or weighted ----


def dropping(applied, read_version, **keys) -> Schedule:
    """Minibatches 0, 1, ... from one stream, an epoch of two arrivals and one of the rest."""
    keys = {"epoch_ends": [2, len(applied)]} | keys
    schedule = make_schedule([0] * len(applied), **keys)
    columns = {"read_version": np.array(read_version), "applied": np.array(applied, bool)}
    return replace(schedule, **columns)


def test_what_is_dropped_makes_no_version_and_has_a_staleness():
    schedule = dropping([1, 0, 1, 0, 0, 1], [0, 0, 1, 0, 2, 1])
    assert schedule.version.tolist() == [0, 1, 1, 2, 2, 2]
    assert schedule.staleness_before.tolist() == [0, 1, 0, 2, 0, 1]
    assert schedule.staleness_after.tolist() == [1, 1, 1, 2, 0, 2]
    assert schedule.updates == 3
    means, largest = schedule.staleness_until(schedule.epoch_ends)
    assert means.tolist() == [1 / 2, 4 / 6] and largest.tolist() == [1, 2]
    applied = schedule.applied_until(schedule.epoch_ends)
    means, largest = schedule.replayed.staleness_until(applied)
    assert means.tolist() == [0, 1 / 3] and largest.tolist() == [0, 1]


def test_two_of_what_is_applied_make_an_update():
    schedule = dropping([1, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 1, 0, 1], arrivals_per_update=2)
    assert schedule.version.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert schedule.staleness_before.tolist() == [0, 0, 0, 1, 0, 2, 1]
    assert schedule.updates == 2


def test_what_is_replayed_is_what_is_applied():
    weight = np.array([1.0, 0.5, 0.25, 2.0, 1.0])
    schedule = replace(dropping([0, 0, 1, 0, 1], [0, 0, 0, 1, 0]), weight=weight)
    replayed = schedule.replayed
    assert replayed.batch.tolist() == [2, 4] and replayed.time.tolist() == [3, 5]
    assert replayed.read_version.tolist() == [0, 0] and replayed.version.tolist() == [0, 1]
    assert replayed.weight.tolist() == [0.25, 1.0] and replayed.applied is None
    assert replayed.epoch_ends.tolist() == [0, 2]
    plain = make_schedule([0, 0])
    assert plain.replayed is plain


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"applied": np.array([True])}, "one entry an arrival"),
        ({"applied": np.array([1, 0, 1])}, "'applied' holds int64"),
        ({"applied": np.array([True, False, True])}, "not yet made"),
        ({"weight": np.ones(2)}, "one entry an arrival"),
        ({"weight": np.array([1.0, 0.0, 1.0])}, "finite number above 0"),
        ({"weight": np.array([1.0, np.nan, 1.0])}, "finite number above 0"),
        ({"weight": np.array([1.0, np.inf, 1.0])}, "finite number above 0"),
    ],
)
def test_impossible_weights_and_applications_are_refused(keys, says):
    """The third gradient is computed at version 2, which a dropped one before it does not make."""
    with pytest.raises(ValueError, match=says):
        replace(make_schedule([0, 1, 2]), **keys)


# ---- constant delay ----


@pytest.mark.parametrize("delay", [0, 1, 3, 8, 19])
def test_constant_delay_is_a_buffer(delay):
    schedule = simulate(5, 4, delay=delay)
    assert schedule.arrivals == 20 - delay
    assert schedule.batch.tolist() == list(range(20 - delay))
    assert schedule.read_version.tolist() == [max(0, i - delay) for i in range(20 - delay)]
    assert schedule.time.tolist() == [delay + 1.0 + i for i in range(20 - delay)]
    assert schedule.epoch_ends.tolist() == [max(0, 5 * e - delay) for e in (1, 2, 3, 4)]


def test_delay_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="delay of 20 steps with 20 steps in all"):
        simulate(5, 4, delay=20)


def buffer_with_a_growing_delay(
    batches, epochs, delay, ramp_epochs, undelayed_epochs
) -> list[tuple[int, int, int]]:
    """(batch, version read, step of application) as a loop over steps would find them."""
    waiting: deque[tuple[int, int, int]] = deque()
    version, applied = 0, []
    for step in range(batches * epochs):
        since = step - undelayed_epochs * batches
        grown = delay * since // (ramp_epochs * batches) if ramp_epochs else delay
        grown = grown if since >= 0 else 0
        waiting.append((step, version, step + min(delay, grown)))
        while waiting and waiting[0][2] <= step:
            applied.append(waiting.popleft())
            version += 1
    return applied


@given(
    batches=st.integers(1, 40),
    epochs=st.integers(1, 5),
    delay=st.integers(0, 40),
    ramp_epochs=st.integers(0, 6),
    undelayed_epochs=st.integers(0, 6),
)
# 22 x (15 / 22) rounds below 15
@example(batches=22, epochs=2, delay=22, ramp_epochs=1, undelayed_epochs=0)
def test_ramp_grows_by_whole_steps_and_keeps_the_order(
    batches, epochs, delay, ramp_epochs, undelayed_epochs
):
    if delay >= batches * epochs:
        return
    start = {"ramp_epochs": float(ramp_epochs), "undelayed_epochs": float(undelayed_epochs)}
    schedule = simulate(batches, epochs, delay=delay, **start)
    wanted = buffer_with_a_growing_delay(batches, epochs, delay, ramp_epochs, undelayed_epochs)
    found = zip(schedule.batch, schedule.read_version, schedule.time - 1, strict=True)
    assert list(found) == wanted
    ends = [sum(at < batches * e for _, _, at in wanted) for e in range(1, epochs + 1)]
    assert schedule.epoch_ends.tolist() == ends


def test_ramp_by_hand():
    """Delay 2 over two epochs of three steps: one more at step 3, the full delay from step 6."""
    schedule = simulate(3, 4, delay=2, ramp_epochs=2.0)
    assert (schedule.time - 1).tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert schedule.read_version.tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7]
    assert schedule.staleness_before.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_delay_after_the_first_epoch_by_hand():
    """Delay 2 after an epoch of three steps: steps 3 and 4 apply nothing, the last two are lost."""
    schedule = simulate(3, 3, delay=2, undelayed_epochs=1.0)
    assert (schedule.time - 1).tolist() == [0, 1, 2, 5, 6, 7, 8]
    assert schedule.read_version.tolist() == [0, 1, 2, 3, 3, 3, 4]
    assert schedule.staleness_before.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert schedule.epoch_ends.tolist() == [3, 4, 7]


def test_ramp_begins_after_the_epochs_without_delay():
    """Delay 2 over one epoch of two steps, after one: 0 at step 2, 1 at step 3, 2 from step 4."""
    schedule = simulate(2, 4, delay=2, ramp_epochs=1.0, undelayed_epochs=1.0)
    assert (schedule.time - 1).tolist() == [0, 1, 2, 4, 6, 7]
    assert schedule.read_version.tolist() == [0, 1, 2, 3, 3, 4]


# ---- snapshots ----


@st.composite
def schedules(draw) -> Schedule:
    per_update = draw(st.integers(1, 3))
    arrivals = draw(st.integers(1, 40))
    versions = [draw(st.integers(0, i // per_update)) for i in range(arrivals)]
    return make_schedule(versions, arrivals_per_update=per_update)


def needed_after(schedule: Schedule, arrival: int) -> set[int]:
    """Versions that are overwritten by the end of `arrival` and still to be read."""
    version = (arrival + 1) // schedule.arrivals_per_update
    return {int(v) for v in schedule.read_version[arrival + 1 :] if v < version}


@settings(deadline=None)  # the first call compiles
@given(schedules())
def test_every_slot_read_holds_the_version_asked_for(schedule):
    plan = plan_snapshots(schedule)
    slots = [None] * plan.slots
    version = 0
    for arrival, asked in enumerate(schedule.read_version):
        slot = plan.read[arrival]
        assert (version if slot == CURRENT else slots[slot]) == asked
        completes = (arrival + 1) % schedule.arrivals_per_update == 0
        if plan.write[arrival] != CURRENT:
            assert completes
            slots[plan.write[arrival]] = version
        version += completes


@settings(deadline=None)
@given(schedules())
def test_no_more_slots_than_versions_in_flight(schedule):
    needed = [len(needed_after(schedule, i)) for i in range(schedule.arrivals)]
    assert plan_snapshots(schedule).slots == max(needed)


@pytest.mark.parametrize("delay", [0, 1, 3, 8, 256])
def test_constant_delay_needs_as_many_slots_as_steps(delay):
    schedule = simulate(300, 3, delay=delay)
    assert plan_snapshots(schedule).slots == delay == ConstantDelay(delay=delay).in_flight()


def test_ramp_needs_no_more_slots_than_the_full_delay():
    assert plan_snapshots(simulate(50, 4, delay=8, ramp_epochs=2.0)).slots == 8
