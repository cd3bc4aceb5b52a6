"""Replay: schedules worked out by hand, and bundles against each of their runs alone."""

from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
import torch
from helpers import (
    InOrder,
    assert_close,
    epoch_an_arrival,
    make_schedule,
    plan,
    quadratic_task,
    trajectory,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.data_order import DataOrder
from stalegrad.rules.adam import Adam
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.training.backends.cpu import CpuBackend, reason_against
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.replay import ReplayState, advance_in_steps, start

HAND_TASK = quadratic_task([1, 1, 1, 1, 1, 1, 2, 1, 3, 1], lambda seed: [1.0, -2.0])
SHIFTED = {"batch": np.arange(5, 10)}  # the minibatches of curvature 1, 2, 1, 3, 1


def in_lockstep(task) -> VmapBackend:
    """All runs in one vmapped call, as on a GPU."""
    backend = VmapBackend(task)
    backend.runs_at_once = None
    return backend


def by_hand(task, schedule, rule) -> tuple[list[list[float]], list[float]]:
    """Weights and loss after each arrival; the weights start at (1, -2)."""
    run = plan(rule, schedule, InOrder())
    weights, losses = trajectory(task, [run], in_lockstep(task))
    return [each[0].tolist() for each in weights], [loss.item() for loss in losses]


def both(*values: F) -> list[list[float]]:
    """The two coordinates, the second being -2 times the first."""
    return [[float(value), float(-2 * value)] for value in values]


# ---- schedules by hand; everything is exact in binary ----


def test_five_arrivals_of_two_workers():
    """Staleness 0, 1, 1, 2, 1; w <- w - g / 2 with g = w as it was read."""
    schedule = make_schedule([0, 0, 1, 1, 3])
    weights, losses = by_hand(HAND_TASK, schedule, SGD(lr=0.5))
    assert weights == both(F(1, 2), F(0), F(-1, 4), F(-1, 2), F(-3, 8))
    # |w|^2 / 2 = 5 / 2 times the square of the first coordinate, at the weights that were read.
    assert losses == [5 / 2, 5 / 2, 5 / 8, 5 / 8, 5 / 32]


def test_five_arrivals_with_heavy_ball():
    """v <- v / 2 + g; w <- w - v / 2; v is 1, 3/2, 5/4, 9/8, -5/16."""
    schedule = make_schedule([0, 0, 1, 1, 3])
    weights, _ = by_hand(HAND_TASK, schedule, SGD(lr=0.5, momentum=0.5))
    assert weights == both(F(1, 2), F(-1, 4), F(-7, 8), F(-23, 16), F(-41, 32))


def test_five_arrivals_each_with_its_own_minibatch():
    """The gradient is a w with a = 1, 2, 1, 3, 1: minibatch and weights go together."""
    schedule = replace(make_schedule([0, 0, 1, 1, 3]), **SHIFTED)
    weights, losses = by_hand(HAND_TASK, schedule, SGD(lr=0.5))
    assert weights == both(F(1, 2), F(-1, 2), F(-3, 4), F(-3, 2), F(-9, 8))
    assert losses == [5 / 2, 5, 5 / 8, 15 / 8, 5 / 2 * 9 / 16]


def test_two_arrivals_an_update_and_one_left_over():
    """Means of two: (1 + 2) / 2, then (1 + 3/4) / 2; the fifth gradient changes nothing."""
    schedule = replace(make_schedule([0, 0, 0, 1, 1], arrivals_per_update=2), **SHIFTED)
    weights, losses = by_hand(HAND_TASK, schedule, SGD(lr=0.5))
    assert weights == both(F(1), F(1, 4), F(1, 4), F(-3, 16), F(-3, 16))
    assert losses == [5 / 2, 5, 5 / 2, 15 / 32, 5 / 32]


def test_epoch_boundaries_change_nothing():
    """Gradients in flight and half-made updates are carried over them."""
    for per_update, versions in ((1, [0, 0, 1, 1, 3]), (2, [0, 0, 0, 1, 1])):
        ends_of_epochs = ([5], [2, 5], [1, 2, 3, 4, 5], [3, 3, 5])
        found = []
        for ends in ends_of_epochs:
            schedule = make_schedule(versions, ends, per_update)
            rule = SGD(lr=0.5, momentum=0.25)
            found.append(by_hand(HAND_TASK, replace(schedule, **SHIFTED), rule)[0][-1])
        assert found == [found[0]] * len(found)


def test_loss_of_an_epoch_is_the_mean_over_its_arrivals():
    schedule = make_schedule([0, 0, 1, 1, 3], epoch_ends=[0, 2, 5])
    _, losses = by_hand(HAND_TASK, schedule, SGD(lr=0.5))
    assert np.isnan(losses[0])
    assert losses[1:] == [5 / 2, (5 / 8 + 5 / 8 + 5 / 32) / 3]


def test_state_survives_a_checkpoint():
    schedule = make_schedule([0, 0, 0, 1, 1, 1, 2], arrivals_per_update=2)
    run = plan(Adam(lr=0.1), schedule, InOrder())
    backend = in_lockstep(HAND_TASK)
    state = start(HAND_TASK, [run], torch.float64)
    for _ in range(3):
        state, _ = advance_in_steps(HAND_TASK, [run], state, backend)
    stored = {name: tensor.clone() for name, tensor in state.tensors().items()}
    again = ReplayState.from_tensors(stored, state.epoch)
    for _ in range(4):
        state, _ = advance_in_steps(HAND_TASK, [run], state, backend)
        again, _ = advance_in_steps(HAND_TASK, [run], again, backend)
    assert torch.equal(state.weights, again.weights)


# ---- bundles ----


def lenet_runs() -> list:
    """Eight runs that differ in rate, momentum, delay, warm-up and seed, and so in arrivals."""
    runs = []
    for i, delay in enumerate((0, 1, 2, 3, 5, 8, 0, 4)):
        rule = SGD(lr=0.01 * (i + 1), momentum=0.1 * (i + 1), warmup_epochs=float(i % 3))
        cluster = ConstantDelay(delay=delay, ramp_epochs=float(i == 7))
        order = DataOrder((np.arange(60),), 10, seed=i)
        schedule = cluster.simulate(order.workload(3), np.random.default_rng())
        runs.append(plan(rule, schedule, order, seed=i))
    return runs


@pytest.mark.parametrize("lenet", [True], indirect=True, ids=["normalized"])
def test_bundle_of_eight_equals_each_run_alone_to_rounding(lenet):
    runs, backend = lenet_runs(), in_lockstep(lenet)
    weights, losses = trajectory(lenet, runs, backend)
    for row, run in enumerate(runs):
        alone, losses_alone = trajectory(lenet, [run], backend)
        for epoch in range(3):
            assert_close(weights[epoch][row], alone[epoch][0])
            found, wanted = losses[epoch][row].item(), losses_alone[epoch][0].item()
            assert found == pytest.approx(wanted, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("lenet", [True], indirect=True, ids=["normalized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_bundle_of_eight_equals_each_run_alone_to_the_byte(lenet, dtype):
    """With the kernel, which works run by run."""
    if reason := reason_against(lenet):
        assert "no C++ compiler" in reason
        pytest.skip(reason)
    runs, backend = lenet_runs(), CpuBackend(lenet)
    weights, losses = trajectory(lenet, runs, backend, dtype)
    for row, run in enumerate(runs):
        alone, losses_alone = trajectory(lenet, [run], backend, dtype)
        for epoch in range(3):
            assert torch.equal(weights[epoch][row], alone[epoch][0])
            assert losses[epoch][row].numpy().tobytes() == losses_alone[epoch].numpy().tobytes()


@st.composite
def ragged_bundles(draw):
    """Schedules that share only the number of epochs and of arrivals an update."""
    per_update, epochs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["plain", "heavy-ball", "nesterov", "decayed", "adam"]))
    runs = []
    for seed in range(draw(st.integers(2, 4))):
        lengths = draw(st.lists(st.integers(0, 6), min_size=epochs, max_size=epochs).filter(any))
        versions = [draw(st.integers(0, i // per_update)) for i in range(sum(lengths))]
        schedule = make_schedule(versions, np.cumsum(lengths), per_update)
        common = {"lr": draw(st.floats(0.01, 0.3)), "clip_norm": draw(st.floats(0.1, 3.0))}
        if draw(st.booleans()):
            common["warmup_epochs"] = 1.5
        if kind == "adam":
            rule = Adam(**common, beta1=draw(st.floats(0, 0.99)))
        else:
            momentum = 0.0 if kind == "plain" else draw(st.floats(0.01, 0.99))
            decay = draw(st.floats(0.01, 0.5)) if kind == "decayed" else 0.0
            rule = SGD(**common, momentum=momentum, nesterov=kind == "nesterov", weight_decay=decay)
        runs.append(plan(rule, schedule, InOrder(), seed))
    return runs


RAGGED_TASK = quadratic_task(
    np.random.default_rng(1).uniform(0.2, 2, 20).tolist(), lambda seed: [1.0 + seed, -2.0, 0.5]
)


@settings(max_examples=60, deadline=None)
@given(ragged_bundles())
def test_ragged_runs_equal_each_alone(runs):
    """Runs with fewer arrivals in an epoch stand still meanwhile: weights, state and slots."""
    backend = in_lockstep(RAGGED_TASK)
    together, losses = trajectory(RAGGED_TASK, runs, backend)
    for row, run in enumerate(runs):
        alone, losses_alone = trajectory(RAGGED_TASK, [run], backend)
        for epoch in range(len(together)):
            torch.testing.assert_close(
                together[epoch][row], alone[epoch][0], rtol=1e-13, atol=1e-15
            )
            torch.testing.assert_close(
                losses[epoch][row], losses_alone[epoch][0], rtol=1e-13, atol=0, equal_nan=True
            )


@settings(max_examples=30, deadline=None)
@given(ragged_bundles())
def test_ragged_bundle_that_loses_a_run_goes_on_unchanged(runs):
    backend = in_lockstep(RAGGED_TASK)
    whole, _ = trajectory(RAGGED_TASK, runs, backend)
    rows = list(range(1, len(runs)))
    state, _ = advance_in_steps(RAGGED_TASK, runs, start(RAGGED_TASK, runs, torch.float64), backend)
    state = state.keep(rows)
    for epoch in range(1, len(whole)):
        state, _ = advance_in_steps(RAGGED_TASK, runs[1:], state, backend)
        torch.testing.assert_close(state.weights, whole[epoch][1:], rtol=1e-13, atol=1e-15)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_schedule_equals_a_server_that_keeps_every_version(data):
    """Against the plainest replay there is: all versions in a list, one gradient at a time."""
    per_update = data.draw(st.integers(1, 3))
    versions = [data.draw(st.integers(0, i // per_update)) for i in range(20)]
    schedule = make_schedule(versions, arrivals_per_update=per_update)
    found, _ = trajectory(
        RAGGED_TASK, [plan(SGD(lr=0.1), schedule, InOrder())], in_lockstep(RAGGED_TASK)
    )
    curvatures = RAGGED_TASK.train[0].numpy()
    server, group = [RAGGED_TASK.initial_weights(1).numpy()], []
    for i, version in enumerate(versions):
        group.append(curvatures[i] * server[version])
        if len(group) == per_update:
            server.append(server[-1] - 0.1 * np.mean(group, axis=0))
            group = []
        np.testing.assert_allclose(found[i][0].numpy(), server[-1], rtol=1e-12, atol=1e-15)


# ---- data order ----


def test_every_epoch_deals_every_sample_once_in_a_new_order():
    order = DataOrder((np.arange(60),), 10, seed=3)
    batches = order.indices(np.zeros(12, int), np.arange(12))
    first, second = batches[:6].ravel(), batches[6:].ravel()
    assert sorted(first) == sorted(second) == list(range(60))
    assert (first != second).any()
    other = DataOrder((np.arange(60),), 10, seed=4).indices(np.zeros(6, int), np.arange(6))
    assert (other.ravel() != first).any()


def test_minibatches_asked_for_in_any_order_are_the_same():
    order = DataOrder((np.arange(30), np.arange(30, 65)), 10, seed=3)
    assert order.workload(2) == Workload((3, 3), 2)
    stream, batch = np.repeat([0, 1], 6), np.tile(np.arange(6), 2)
    whole = order.indices(stream, batch)
    mixed = np.random.default_rng(0).permutation(12)
    assert np.array_equal(order.indices(stream[mixed], batch[mixed]), whole[mixed])
    assert whole[:6].max() < 30 <= whole[6:].min()
    # 35 samples make three minibatches of ten; five are left out of each epoch.
    assert len(np.unique(whole[6:9])) == len(np.unique(whole[9:])) == 30


def test_epochs_of_constant_delay_are_cut_by_steps_not_by_arrivals():
    """Delay 2: the first epoch of six steps applies four gradients."""
    order = DataOrder((np.arange(60),), 10, seed=3)
    schedule = ConstantDelay(delay=2).simulate(order.workload(2), np.random.default_rng())
    assert epoch_an_arrival(schedule).epoch_ends.tolist() == list(range(1, 11))
    assert schedule.epoch_ends.tolist() == [4, 10]


@pytest.mark.parametrize("lenet", [False], indirect=True, ids=["pixels in [0, 1]"])
@pytest.mark.parametrize("make_backend", [in_lockstep, CpuBackend], ids=["torch", "cpu"])
def test_runs_that_share_their_minibatches_equal_each_alone(lenet, make_backend):
    """Three of one order and schedule, one of another schedule, one of another order."""
    if make_backend is CpuBackend and (reason := reason_against(lenet)):
        assert "no C++ compiler" in reason
        pytest.skip(reason)
    order, other = (DataOrder((np.arange(300),), 100, seed=seed) for seed in (1, 2))
    schedule, later = (
        ConstantDelay(delay=delay).simulate(order.workload(2), np.random.default_rng())
        for delay in (1, 2)
    )
    cases = [(schedule, order, 1), (schedule, order, 2), (schedule, order, 1)]
    cases += [(later, order, 1), (schedule, other, 1)]
    runs = [
        plan(SGD(lr=0.02 * (i + 1), momentum=0.5), at, of, seed)
        for i, (at, of, seed) in enumerate(cases)
    ]
    backend = make_backend(lenet)
    weights, _ = trajectory(lenet, runs, backend)
    for row, run in enumerate(runs):
        alone, _ = trajectory(lenet, [run], backend)
        for epoch in range(2):
            assert_close(weights[epoch][row], alone[epoch][0])


def test_runs_of_different_switches_are_not_stepped_together():
    order, schedule = InOrder(), make_schedule([0, 0, 1])
    for one, other in (
        (SGD(lr=0.1, momentum=0.5), SGD(lr=0.1, momentum=0.5, nesterov=True)),
        (SGD(lr=0.1), SGD(lr=0.1, clip_norm=1.0)),
        (SGD(lr=0.1), SGD(lr=0.1, weight_decay=0.01)),
    ):
        runs = [plan(rule, schedule, order) for rule in (one, other)]
        with pytest.raises(ValueError, match="must share the switches"):
            trajectory(HAND_TASK, runs, in_lockstep(HAND_TASK))
