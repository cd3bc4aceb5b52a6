"""Policies of the server: schedules by hand, a plain simulation to compare with, limits, bounds."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_close, epoch_an_arrival, plan, quadratic_task, small_cell, trajectory
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import stalegrad as sg
from stalegrad.analysis import simulations
from stalegrad.clusters import _served
from stalegrad.clusters._policies import NEVER, Terms
from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.clusters.hub_and_spoke import HubAndSpoke, simulate_staleness
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.data_order import DataOrder, minibatch_noise
from stalegrad.io.errors import ConfigError
from stalegrad.planning.cell import parse_simulation
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import describe, parse
from stalegrad.training.backends.cpu import CpuBackend, reason_against
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.snapshots import plan_snapshots

DROP = {"name": "drop", "threshold": 3}
STOP = {"name": "drop", "threshold": 2, "stop": True}
FRESH = {"name": "fresh", "gradients": 2}
BUFFER = {"name": "buffer", "gradients": 2}
BOUNDED = {"name": "bounded", "clocks": 1}
BACKUP = {"name": "backup", "gradients": 2}
EVERY = [DROP, STOP, FRESH, BUFFER, BOUNDED, BACKUP, BACKUP | {"stop": True}]


def simulate(cluster, arrivals: int, streams: int = 1, seed: int = 0) -> Schedule:
    workload = Workload((arrivals // streams,) * streams, 1)
    return cluster.simulate(workload, np.random.default_rng(seed))


def rows(schedule: Schedule, ticks: float = 1.0) -> list[tuple]:
    """(worker, time, version read, applied) of each arrival."""
    applied = schedule.applied
    if applied is None:
        applied = np.ones(schedule.arrivals, bool)
    times = np.round(schedule.time * ticks, 9)
    columns = (schedule.worker, times, schedule.read_version, applied.astype(int))
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ---- by hand: workers that take 1 and 3 seconds, unless the test says otherwise ----


def two(policy: dict, **keys) -> Heterogeneous:
    return Heterogeneous(**{"workers": 2, "slowest": 3.0, "policy": policy} | keys)


def test_gradients_of_staleness_3_and_more_are_dropped():
    """The slow worker is always three updates late, and goes on from the newest weights."""
    schedule = simulate(two(DROP), 8)
    assert rows(schedule) == [
        (0, 1, 0, 1),
        (0, 2, 1, 1),
        (0, 3, 2, 1),
        (1, 3, 0, 0),
        (0, 4, 3, 1),
        (0, 5, 4, 1),
        (0, 6, 5, 1),
        (1, 6, 3, 0),
    ]
    assert schedule.staleness_before.tolist() == [0, 0, 0, 3, 0, 0, 0, 3]
    assert schedule.updates == 6
    assert schedule.batch.tolist() == list(range(8))  # what is dropped has used its minibatch


def test_a_computation_that_is_too_late_is_stopped():
    """Seconds 1 and 3/2. At 3 the fast worker makes version 4, and the other, which reads version
    2, is stopped just before it would have ended; it begins again, and ends at 9/2."""
    schedule = simulate(two(STOP, slowest=1.5), 8)
    assert rows(schedule) == [
        (0, 1, 0, 1),
        (1, 1.5, 0, 1),
        (0, 2, 1, 1),
        (0, 3, 3, 1),
        (0, 4, 4, 1),
        (1, 4.5, 4, 1),
        (0, 5, 5, 1),
        (0, 6, 7, 1),
    ]
    assert schedule.updates == 8 and schedule.batch.tolist() == list(range(8))


def test_of_workers_that_end_together_the_last_is_stopped():
    """Three alike: the third is two updates late at every moment, and never arrives."""
    schedule = simulate(Heterogeneous(workers=3, policy=STOP), 6)
    assert rows(schedule) == [
        (0, 1, 0, 1),
        (1, 1, 0, 1),
        (0, 2, 1, 1),
        (1, 2, 2, 1),
        (0, 3, 3, 1),
        (1, 3, 4, 1),
    ]


def test_two_fresh_gradients_make_an_update():
    schedule = simulate(two(FRESH), 8)
    assert rows(schedule) == [
        (0, 1, 0, 1),
        (0, 2, 0, 1),
        (0, 3, 1, 1),
        (1, 3, 0, 0),
        (0, 4, 1, 1),
        (0, 5, 2, 1),
        (0, 6, 2, 1),
        (1, 6, 1, 0),
    ]
    assert (schedule.updates, schedule.arrivals_per_update) == (3, 2)


def test_four_fresh_gradients_have_one_of_the_slow_worker():
    """It completes the update at 3, after the fast one has begun its fourth at old weights."""
    schedule = simulate(two({"name": "fresh", "gradients": 4}), 8)
    assert schedule.worker.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert schedule.read_version.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert schedule.applied.tolist() == [True, True, True, True, False, True, True, True]


@pytest.mark.parametrize(
    ("weight", "weights"),
    [
        ({"name": "polynomial", "a": 1.0}, [1, 1, 1, 1 / 2, 1 / 2, 1, 1, 1 / 2]),
        ({"name": "polynomial"}, [1, 1, 1, 0.5**0.5, 0.5**0.5, 1, 1, 0.5**0.5]),
        ({"name": "hinge", "a": 2.0, "b": 0}, [1, 1, 1, 1 / 3, 1 / 3, 1, 1, 1 / 3]),
        ({"name": "hinge", "a": 2.0, "b": 1}, [1] * 8),
    ],
)
def test_gradients_in_a_buffer_of_two_weigh_less_when_stale(weight, weights):
    schedule = simulate(two(BUFFER | {"weight": weight}), 8)
    assert schedule.applied is None and schedule.updates == 4
    assert schedule.read_version.tolist() == [0, 0, 1, 0, 1, 2, 3, 2]
    assert schedule.staleness_before.tolist() == [0, 0, 0, 1, 1, 0, 0, 1]
    assert schedule.weight == pytest.approx(weights, rel=1e-15)


def test_hinge_by_hand():
    keys = {"gradients": 1, "weight": {"name": "hinge", "a": 0.5, "b": 1}}
    policy = two({"name": "buffer"} | keys).policy
    assert policy.weights(np.arange(5)).tolist() == [1, 1, 1 / 1.5, 1 / 2, 1 / 2.5]


def test_weights_that_are_normalized_have_the_mean_1_in_every_update():
    weight = {"name": "polynomial", "a": 1.0}
    schedule = simulate(two(BUFFER | {"weight": weight, "normalize": True}), 8)
    weights = [1, 1, 4 / 3, 2 / 3, 2 / 3, 4 / 3, 4 / 3, 2 / 3]
    assert schedule.weight == pytest.approx(weights, rel=1e-15)


def test_the_fast_worker_waits_when_two_ahead():
    schedule = simulate(two(BOUNDED), 7)
    assert rows(schedule) == [
        (0, 1, 0, 1),
        (0, 2, 1, 1),
        (1, 3, 0, 1),
        (0, 4, 3, 1),
        (1, 6, 3, 1),
        (0, 7, 5, 1),
        (1, 9, 5, 1),
    ]


def test_the_third_worker_is_a_backup():
    """Seconds 1, 2 and 3. What the third computes is dropped when it arrives."""
    cluster = Heterogeneous(workers=3, profile="linear", slowest=3.0, policy=BACKUP)
    assert rows(simulate(cluster, 8)) == [
        (0, 1, 0, 1),
        (1, 2, 0, 1),
        (0, 3, 1, 1),
        (2, 3, 0, 0),
        (1, 4, 1, 1),
        (0, 5, 2, 1),
        (1, 6, 2, 1),
        (2, 6, 1, 0),
    ]
    stopped = replace(cluster, policy=BACKUP | {"stop": True})
    assert rows(simulate(stopped, 6)) == [
        (0, 1, 0, 1),
        (1, 2, 0, 1),
        (0, 3, 1, 1),
        (1, 4, 1, 1),
        (0, 5, 2, 1),
        (1, 6, 2, 1),
    ]


def test_news_of_an_update_takes_time_in_a_hub():
    """Rounds and communication take 1 second each: at 2.5 both workers still send old gradients."""
    hub = HubAndSpoke(
        workers=2,
        communication_time=1.0,
        compute_time={"name": "constant", "value": 1.0},
        policy={"name": "drop", "threshold": 1},
    )
    assert rows(simulate(hub, 8)) == [
        (0, 1.5, 0, 1),
        (1, 1.5, 0, 0),
        (0, 2.5, 0, 0),
        (1, 2.5, 0, 0),
        (0, 3.5, 1, 1),
        (1, 3.5, 1, 0),
        (0, 4.5, 1, 0),
        (1, 4.5, 1, 0),
    ]


def served(policy: dict, arrivals: int, **keys) -> list[tuple]:
    """The first worker takes 3 ms, all others 1 ms; of two at one moment it comes first."""
    keys = {"workers": 2, "compute_ms": 1, "delay_ms": 2, "delayed": "only"} | keys
    schedule = simulate(ParameterServer(**keys, policy=policy), arrivals)
    return rows(schedule, ticks=1_000)


def test_a_parameter_server_drops():
    assert served({"name": "drop", "threshold": 2}, 8) == [
        (1, 1, 0, 1),
        (1, 2, 1, 1),
        (0, 3, 0, 0),
        (1, 3, 2, 1),
        (1, 4, 3, 1),
        (1, 5, 4, 1),
        (0, 6, 2, 0),
        (1, 6, 5, 1),
    ]


def test_a_parameter_server_takes_fresh_gradients():
    """One fetched right before the update that its own gradient makes is never fresh."""
    assert served(FRESH, 5) == [
        (1, 1, 0, 1),
        (1, 2, 0, 1),
        (0, 3, 0, 0),
        (1, 3, 1, 1),
        (1, 4, 1, 1),
    ]
    assert served(FRESH, 5, pull="before") == [
        (1, 1, 0, 1),
        (1, 2, 0, 1),
        (0, 3, 0, 0),
        (1, 3, 0, 0),
        (1, 4, 1, 1),
    ]


def test_a_parameter_server_lets_the_fast_worker_wait():
    """Half a millisecond each way: from 3.5 ms on worker 1 has sent two gradients and waits; worker
    0 is served at 3.75, and both go on when they hear of it at 4.25."""
    assert served(BOUNDED, 5, network_ms=0.5, delay_ms=2.25) == [
        (1, 1.5, 0, 1),
        (1, 3.5, 1, 1),
        (0, 3.75, 0, 1),
        (1, 5.75, 3, 1),
        (0, 8, 3, 1),
    ]


def test_a_parameter_server_has_a_backup():
    assert served(BACKUP, 8, workers=3) == [
        (1, 1, 0, 1),
        (2, 1, 0, 1),
        (1, 2, 1, 1),
        (2, 2, 1, 1),
        (0, 3, 0, 0),
        (1, 3, 2, 1),
        (2, 3, 2, 1),
        (1, 4, 3, 1),
    ]


# ---- replay by hand; the weights start at 1, and the gradient of minibatch i is (i + 1) w ----

TASK = quadratic_task([1, 2, 3, 4, 5, 6, 7, 8], lambda seed: [1.0])


class InOrder:
    batch_size = taken = local_steps = 1

    def indices(self, stream, batch):
        return batch[:, None]


def replayed(policy: dict, arrivals: int, lr: float, **keys) -> tuple[list[float], list[float]]:
    """Weights and loss after every arrival, dropped ones too."""
    schedule = epoch_an_arrival(simulate(two(policy, **keys), arrivals))
    weights, losses = trajectory(TASK, [plan(SGD(lr=lr), schedule, InOrder())], VmapBackend(TASK))
    return [each.item() for each in weights], [loss.item() for loss in losses]


def test_what_is_dropped_changes_nothing_and_uses_its_minibatch():
    """Rates of 1/8: 1 - 1/8, then - 2/8 w_1, then - 3/8 w_2; the fourth is dropped; - 5/8 w_3."""
    w1 = 1 - 1 / 8
    w2 = w1 - 2 / 8 * w1
    w3 = w2 - 3 / 8 * w2
    w5 = w3 - 5 / 8 * w3
    weights, losses = replayed(DROP, 5, 1 / 8)
    assert weights == [w1, w2, w3, w3, w5]
    assert losses[:3] == [1 / 2, w1**2, 3 / 2 * w2**2]
    assert np.isnan(losses[3]) and losses[4] == 5 / 2 * w3**2


def test_fresh_gradients_are_averaged():
    weights, _ = replayed(FRESH, 6, 1 / 8)
    w1 = 1 - (1 + 2) / 2 / 8
    w2 = w1 - (3 + 5) / 2 / 8 * w1
    assert weights == [1, w1, w1, w1, w2, w2]


def test_gradients_in_a_buffer_are_weighted_and_divided_by_their_number():
    """The fourth, of the slow worker, has staleness 1 and the weight 1/2; the fifth too."""
    weights, _ = replayed(BUFFER | {"weight": {"name": "polynomial", "a": 1.0}}, 6, 1 / 8)
    w1 = 1 - (1 + 2) / 2 / 8
    w2 = w1 - (3 * w1 + 4 / 2) / 2 / 8
    w3 = w2 - (5 / 2 * w1 + 6 * w2) / 2 / 8
    assert weights == [1, w1, w1, w2, w2, w3]


def test_a_weighted_gradient_is_an_update_of_its_own_in_a_buffer_of_one():
    """Rates of 1/8; at 3 seconds the slow worker is three updates late, and weighs 1/4."""
    policy = {"name": "buffer", "gradients": 1, "weight": {"name": "polynomial", "a": 1.0}}
    weights, _ = replayed(policy, 4, 1 / 8)
    w1 = 1 - 1 / 8
    w2 = w1 - 2 / 8 * w1
    w3 = w2 - 3 / 8 * w2
    assert weights == [w1, w2, w3, w3 - 4 / 4 / 8]


RULES = {
    "momentum": SGD(lr=0.05, momentum=0.9),
    "adam": Adam(lr=0.003),
    "compensated": DelayCompensation(lr=0.05, compensation=0.1),
    "clipped": SGD(lr=0.05, clip_norm=0.5),
}


@pytest.mark.parametrize("normalize", [True], indirect=True, ids=["normalized"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_kernel_and_loop_agree_under_every_policy(lenet, rule, dtype):
    """`trajectory` compares all ways of replaying, and a bundle is the same as each run alone."""
    backend = VmapBackend(lenet) if reason_against(lenet) else CpuBackend(lenet)
    order = DataOrder((np.arange(200),), 10, seed=1)
    for grouped in (False, True):
        runs = []
        for policy in EVERY:
            cluster = Heterogeneous(workers=4, profile="linear", slowest=3.0, policy=policy)
            schedule = cluster.simulate(order.workload(2), np.random.default_rng(0))
            if (schedule.arrivals_per_update > 1) == grouped:
                runs.append(plan(RULES[rule], schedule, order))
        assert len(runs) >= 3
        weights, _ = trajectory(lenet, runs, backend, dtype)
        for row, run in enumerate(runs):
            alone, _ = trajectory(lenet, [run], backend, dtype)
            for together, by_itself in zip(weights, alone, strict=True):
                assert_close(together[row], by_itself[0], 1e-12 if dtype == torch.float64 else 1e-4)


def test_random_numbers_of_a_loss_are_those_of_the_minibatch(small_task):
    """Dropout, in the kernel and in the loop: what is dropped takes its bytes with it."""
    task = small_task(LargeCNN, normalize=True)
    backend = VmapBackend(task) if reason_against(task) else CpuBackend(task)
    schedule = simulate(two(DROP), 8)
    assert not schedule.applied[3]
    run = plan(RULES["momentum"], schedule, DataOrder((np.arange(40),), 5, seed=1))
    trajectory(task, [run], backend)
    noise = [run.noise([i], task.noise) for i in (3, 4)]
    batches = (4, 5)  # the fourth and fifth that are applied
    for found, batch in zip(noise, batches, strict=True):
        wanted = minibatch_noise(run.seed, 0, batch, 5, task.noise)
        assert found[0].tobytes() == wanted.tobytes()


def test_history_counts_the_updates_and_the_staleness_of_all():
    """Two workers of 1 and 3 seconds: of four arrivals one is dropped, with staleness 3."""
    problem = sg.problem("least_squares", rows=64, dimension=4, epoch_samples=64)
    cells = sg.grid(
        problem=problem,
        rule=sg.rule("sgd", lr=0.01),
        cluster=[two(DROP), two(DROP | {"threshold": NEVER}), two(FRESH)],
        batch_size=8,
        epochs=2,
    )
    history = sg.train(cells).set_index(["run", "epoch"])
    dropping, plain, fresh = (history.loc[cell.hash] for cell in cells)
    assert dropping["updates"].tolist() == [6, 12] and plain["updates"].tolist() == [8, 16]
    assert fresh["updates"].tolist() == [3, 6]
    assert dropping["mean_staleness"].tolist() == [6 / 8] * 2
    assert dropping["max_staleness"].tolist() == [3, 3]
    assert dropping["simulated_seconds"].tolist() == [6, 12]
    assert dropping["excess_loss"].iloc[-1] != plain["excess_loss"].iloc[-1]


# ---- against a simulation as plain as can be ----


class Drawn:
    """Compute times from a list, given out in their order; then it begins anew."""

    def __init__(self, times: list[float]):
        self._times, self._next = times, 0

    def sample(self, generator, size: int) -> np.ndarray:
        chosen = [self._times[(self._next + i) % len(self._times)] for i in range(size)]
        self._next += size
        return np.array(chosen)


def by_events(
    rounds: list[int], total: int, terms: Terms, communication: float, drawn: Drawn
) -> list[tuple]:
    """(worker, finish, version read, applied), by looking at every worker at every arrival."""
    workers = range(len(rounds))
    ends, reading, begun, made, out = {}, {}, [], [], []
    done, of_update = [0 for _ in workers], 0

    def begin(worker: int, now: float) -> None:
        ends[worker] = now + drawn.sample(None, 1)[0]
        reading[worker] = sum(at + communication <= now for at in made)
        begun.append(worker)

    for worker in workers:
        begin(worker, 0.0)
    waits_since: dict[int, int | None] = {}  # the version to be made; None: for nothing
    while len(out) < total:
        now, worker = min((end, w) for w, end in ends.items())
        del ends[worker]
        before = len(made)
        applied = before - reading[worker] < terms.threshold
        out.append((worker, now, reading[worker], applied))
        of_update += applied
        if of_update == terms.per_update:
            made.append(now)
            of_update = 0
        done[worker] += 1
        if done[worker] < rounds[worker]:
            waits_since[worker] = before + 1 if terms.waits and applied else None
        else:
            drawn.sample(None, 1)  # for a round that is not begun, as in `_merge`
        slowest = min((done[w] for w in workers if done[w] < rounds[w]), default=0)
        for w in sorted(waits_since):
            news = waits_since[w] is None or len(made) >= waits_since[w]
            if news and done[w] - slowest <= terms.clocks:
                del waits_since[w]
                begin(w, now)
        if terms.stops and len(made) > before:
            in_order = sorted(ends, key=lambda w: len(begun) - begun[::-1].index(w))
            for w in in_order:
                if len(made) - reading[w] >= terms.threshold:
                    begin(w, now)
    return out


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_arrivals_are_those_of_a_plain_simulation(data):
    n = data.draw(st.integers(1, 6))
    kind = data.draw(st.sampled_from(["drop", "stop", "fresh", "bounded", "backup", "late"]))
    threshold, k = data.draw(st.integers(1, 8)), data.draw(st.integers(1, n))
    terms = {
        "drop": Terms(k, threshold=threshold),
        "stop": Terms(k, threshold=threshold, stops=True),
        "fresh": Terms(data.draw(st.integers(1, 8)), threshold=1),
        "bounded": Terms(clocks=data.draw(st.integers(0, 4))),
        "backup": Terms(k, threshold=1, waits=True),
        "late": Terms(k, threshold=1, waits=True, stops=True),
    }[kind]
    communication = data.draw(st.sampled_from([0.0, 0.5, 3.0])) if terms.never_wait else 0.0
    own = kind not in ("backup", "late") and data.draw(st.booleans())
    rounds = data.draw(st.lists(st.integers(1, 12), min_size=n, max_size=n)) if own else [999] * n
    total = sum(rounds) if own else data.draw(st.integers(1, 60))
    # Quarters, so that many things happen at one moment.
    quarters = st.lists(st.integers(0, 12).map(lambda i: i / 4), min_size=1, max_size=97)
    times = data.draw(quarters)
    assume(max(times) > 0)
    found = _served.arrivals(
        np.array(rounds),
        total,
        terms,
        communication_time=communication,
        compute_time=Drawn(times),
        generator=None,
    )
    applied = np.ones(total, bool) if found.applied is None else found.applied
    columns = (found.worker, found.finish, found.read_version, applied)
    arrivals = list(zip(*(column.tolist() for column in columns), strict=True))
    assert arrivals == by_events(rounds, total, terms, communication, Drawn(times))


def test_nobody_can_wait_for_news_that_take_time():
    keys = {"communication_time": 1.0, "compute_time": Drawn([1.0]), "generator": None}
    with pytest.raises(ValueError, match="need a communication time of 0"):
        _served.arrivals(np.full(2, 9), 5, Terms(clocks=1), **keys)


def test_more_arrivals_than_rounds_are_refused():
    keys = {"communication_time": 0.0, "compute_time": Drawn([1.0]), "generator": None}
    with pytest.raises(ValueError, match="compute 18 rounds, fewer than 19 arrivals"):
        _served.arrivals(np.full(2, 9), 19, Terms(threshold=1), **keys)


# ---- what every schedule keeps to ----

EXPON = {"name": "expon"}
RANDOM = {
    "heterogeneous": {"profile": "geometric", "slowest": 30.0, "compute_time": EXPON},
    "hub_and_spoke": {"compute_time": EXPON},
    "parameter_server": {
        "compute_ms": 1.0,
        "jitter": 0.3,
        "delay_ms": 4.0,
        "delayed": "one",
        "service_ms": 0.1,
        "network_ms": 0.2,
        "start_ms": 3.0,
    },
}


def cluster_of(name: str, workers: int, policy: dict | None, **keys):
    values = {"name": name, "workers": workers, **RANDOM[name], **keys}
    values |= {} if policy is None else {"policy": policy}
    return parse("clusters", values, where="a test", key="cluster")


@st.composite
def policies(draw, workers: int) -> dict:
    k, stop = draw(st.integers(1, workers)), draw(st.booleans())
    weight = draw(st.sampled_from([{"name": "polynomial"}, {"name": "hinge", "a": 1.0, "b": 1}]))
    return draw(
        st.sampled_from(
            [
                {"name": "drop", "threshold": draw(st.integers(1, 9)), "stop": stop},
                {"name": "fresh", "gradients": draw(st.integers(1, 9))},
                {"name": "buffer", "gradients": k, "weight": weight, "normalize": stop},
                {"name": "bounded", "clocks": draw(st.integers(0, 4))},
                {"name": "backup", "gradients": k, "stop": stop},
            ]
        )
    )


@settings(deadline=None, max_examples=150)
@given(data=st.data(), name=st.sampled_from(sorted(RANDOM)), workers=st.integers(1, 6))
def test_every_schedule_keeps_what_its_policy_promises(data, name, workers):
    policy = data.draw(policies(workers))
    if name == "parameter_server":
        policy = {key: value for key, value in policy.items() if key != "stop"}
    own = policy["name"] != "backup" and data.draw(st.booleans())
    streams, seed = workers if own else 1, data.draw(st.integers(0, 99))
    cluster = cluster_of(name, workers, policy)
    schedule, again = (simulate(cluster, 120, streams, seed) for _ in range(2))
    for column in ("worker", "time", "read_version", "stream", "batch", "applied", "weight"):
        np.testing.assert_array_equal(getattr(schedule, column), getattr(again, column))
    assert schedule.arrivals == 120 // streams * streams
    # No minibatch is computed, and so none applied, twice.
    assert len(set(zip(schedule.stream, schedule.batch, strict=True))) == schedule.arrivals
    assert plan_snapshots(schedule).slots <= cluster.in_flight()
    used = schedule.replayed
    k, groups = used.arrivals_per_update, used.updates
    assert cluster.arrivals_per_update() == k and groups == schedule.updates
    assert (used.staleness_before == schedule.staleness_before[used_of(schedule)]).all()
    in_groups = slice(0, groups * k)
    if policy["name"] == "drop":
        assert used.staleness_before.max() < policy["threshold"]
        dropped = schedule.staleness_before[~used_of(schedule)]
        assert (dropped >= policy["threshold"]).all()
        assert not policy.get("stop") or not len(dropped)
    elif policy["name"] in ("fresh", "backup"):
        assert (used.staleness_before == 0).all()
        assert (schedule.staleness_before[~used_of(schedule)] > 0).all()
        if policy["name"] == "backup":  # each worker once in an update
            by_update = np.sort(used.worker[in_groups].reshape(groups, k), axis=1)
            assert (np.diff(by_update, axis=1) > 0).all()
    elif policy["name"] == "buffer":
        mean = schedule.weight[in_groups].reshape(groups, k).mean(axis=1)
        assert mean == pytest.approx(1) if policy["normalize"] else (mean <= 1).all()
        assert (schedule.weight > 0).all()
    else:
        # While one computes, each other gives at most 2 s + 1 gradients.
        most = (workers - 1) * (2 * policy["clocks"] + 1)
        assert schedule.staleness_before.max() <= most
        assert len(set(schedule.worker)) == workers  # so nobody is left waiting
        lead = np.zeros(workers, np.int64)
        for worker in schedule.worker[: schedule.arrivals // 2]:
            lead[worker] += 1
            left = lead[lead < 120 // streams]
            assert lead[worker] - left.min(initial=lead[worker]) <= policy["clocks"] + 1


def used_of(schedule: Schedule) -> np.ndarray:
    applied = schedule.applied
    return np.ones(schedule.arrivals, bool) if applied is None else applied


# ---- limits ----


def assert_same(one: Schedule, other: Schedule) -> None:
    """The same arrivals and updates, to the byte; all are applied, with weight 1."""
    for each in (one, other):
        assert each.applied is None and each.weight is None
    for column in ("worker", "time", "read_version", "stream", "batch", "epoch_ends", "version"):
        a, b = getattr(one, column), getattr(other, column)
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), column
    assert one.arrivals_per_update == other.arrivals_per_update


# Limits of policies at which the schedule is the asynchronous one, and for how many workers.
ASYNCHRONOUS = [
    (5, {"name": "drop", "threshold": NEVER}),
    (5, {"name": "drop", "threshold": 10**9}),
    (5, {"name": "drop", "threshold": 10**9, "stop": True}),
    (5, {"name": "bounded", "clocks": 10**9}),
    (5, {"name": "bounded", "clocks": NEVER}),
    (5, {"name": "buffer", "gradients": 1, "weight": {"name": "constant"}}),
    # One worker is always fresh, so that K = 1 fresh one is asynchronous there only.
    (1, {"name": "fresh", "gradients": 1}),
    (1, {"name": "backup", "gradients": 1}),
]


def asynchronous_limits() -> Iterator[tuple[dict, int, int, str]]:
    """Policy, workers, streams and cluster, where there is such a cluster: each worker can have a
    stream of its own, and the server of `parameter_server` can stop no worker."""
    for workers, policy in ASYNCHRONOUS:
        for streams, name in itertools.product({1, workers}, sorted(RANDOM)):
            if not (policy.get("stop") and name == "parameter_server"):
                yield policy, workers, streams, name


@pytest.mark.parametrize(
    ("policy", "workers", "streams", "name"), list(asynchronous_limits()), ids=str
)
def test_limits_that_are_asynchronous(policy, workers, streams, name):
    plain, limit = (
        simulate(cluster_of(name, workers, each), 5_000, streams) for each in (None, policy)
    )
    assert_same(plain, limit)


def test_communication_and_an_earlier_pull_change_no_limit():
    for name, keys in (
        ("hub_and_spoke", {"communication_time": 0.7}),
        ("parameter_server", {"pull": "before"}),
    ):
        limit = {"name": "drop", "threshold": 10**9}
        plain, dropping = (
            simulate(cluster_of(name, 5, policy, **keys), 5_000) for policy in (None, limit)
        )
        assert_same(plain, dropping)


@pytest.mark.parametrize(
    ("name", "barrier"), [("heterogeneous", "barrier"), ("parameter_server", "synchronous")]
)
@pytest.mark.parametrize("streams", [1, 5])
@pytest.mark.parametrize("stop", [False, True])
def test_backup_without_a_backup_is_synchronous(name, barrier, streams, stop):
    policy = {"name": "backup", "gradients": 5}
    if stop and name == "heterogeneous":
        policy |= {"stop": True}
    waiting = simulate(cluster_of(name, 5, policy), 5_000, streams)
    assert_same(simulate(cluster_of(name, 5, None, **{barrier: True}), 5_000, streams), waiting)


def test_a_buffer_of_equal_weights_is_k_batch():
    hub = cluster_of("hub_and_spoke", 5, None, communication_time=0.7, minibatches_per_update=3)
    weight = {"name": "constant"}
    policy = {"name": "buffer", "gradients": 3, "weight": weight, "normalize": True}
    buffered = cluster_of("hub_and_spoke", 5, policy, communication_time=0.7)
    assert hub.in_flight() == buffered.in_flight()
    assert_same(simulate(hub, 5_000), simulate(buffered, 5_000))
    flat = policy | {"weight": {"name": "polynomial", "a": 0.0}}
    assert (simulate(replace(buffered, policy=flat), 5_000).weight == 1).all()


def test_workers_no_clock_ahead_go_round_by_round():
    schedule = simulate(cluster_of("heterogeneous", 5, {"name": "bounded", "clocks": 0}), 5_000)
    assert (np.sort(schedule.worker.reshape(-1, 5), axis=1) == np.arange(5)).all()
    assert (schedule.read_version == np.arange(5_000) // 5 * 5).all()


@pytest.mark.parametrize("name", ["heterogeneous", "hub_and_spoke"])
def test_fresh_ones_by_stopping_are_never_late(name):
    """R = 1: each update stops all others, and only the first of each round counts."""
    policy = {"name": "drop", "threshold": 1, "stop": True}
    schedule = simulate(cluster_of(name, 5, policy), 3_000)
    assert (schedule.staleness_before == 0).all()
    # The minimum of five standard exponentials at worker speeds has the sum of their rates.
    slowness = cluster_of(name, 5, None).seconds() if name == "heterogeneous" else np.ones(5)
    assert np.diff(schedule.time).mean() == pytest.approx(1 / (1 / slowness).sum(), rel=0.06)


# ---- configuration ----


@pytest.mark.parametrize("policy", EVERY, ids=str)
def test_description_round_trips_and_absence_keeps_the_hash(policy):
    cell = {"name": "heterogeneous", "workers": 4}
    with_it, without = (small_cell(cluster=cell | each) for each in ({"policy": policy}, {}))
    assert without == small_cell(cluster=cell | {"policy": None})
    assert without.hash == small_cell(cluster=cell | {"policy": None}).hash != with_it.hash
    described = describe(with_it.cluster)
    assert parse("clusters", described, where="a test", key="cluster") == with_it.cluster
    assert policy["name"] in with_it.columns()["policy"]


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("heterogeneous", {"policy": {"name": "dorp"}}, "one of: backup, bounded, buffer, drop, "),
        ("heterogeneous", {"policy": {"name": "drop", "R": 2}}, "drop has no parameter 'R'"),
        ("heterogeneous", {"policy": DROP | {"threshold": 0}}, "policy.threshold' is 0"),
        ("heterogeneous", {"policy": {"name": "fresh"}}, "policy.gradients' is missing"),
        ("heterogeneous", {"policy": BUFFER | {"weight": {"name": "x"}}}, "a weighting is a"),
        ("heterogeneous", {"policy": DROP, "barrier": True}, "leave 'barrier' out"),
        ("heterogeneous", {"policy": DROP, "answers_once": True}, "leave 'answers_once' out"),
        ("heterogeneous", {"policy": BOUNDED, "data_by": "duration"}, "leave 'data_by' out"),
        ("heterogeneous", {"policy": BACKUP | {"gradients": 5}}, "5 gradients of 4 workers"),
        ("hub_and_spoke", {"policy": DROP, "minibatches_per_update": 2}, "'minibatches_per_update"),
        ("hub_and_spoke", {"policy": STOP, "communication_time": 1.0}, "'communication_time' to 0"),
        ("hub_and_spoke", {"policy": BACKUP, "communication_time": 1.0}, "'communication_time' to"),
        ("parameter_server", {"policy": DROP, "synchronous": True}, "leave 'synchronous' out"),
        ("parameter_server", {"policy": BACKUP, "pull": "before"}, "leave 'pull' out"),
        ("parameter_server", {"policy": STOP}, "no way to stop a worker"),
        ("constant_delay", {"policy": DROP}, "'cluster.policy' is not a known key"),
    ],
)
def test_policies_that_a_cluster_cannot_have_are_refused(name, keys, words):
    values = RANDOM[name] | {"workers": 4} if name in RANDOM else {"delay": 2}
    with pytest.raises(ConfigError, match=words):
        parse("clusters", {"name": name} | values | keys, where="a.yaml", key="cluster")


@pytest.mark.parametrize("name", ["hub_and_spoke", "parameter_server"])
def test_backup_workers_that_stop_after_their_own_epochs_are_refused(name):
    cluster = cluster_of(name, 3, BACKUP)
    with pytest.raises(ValueError, match="takes 2 of 3 workers.*choose a 'partition'"):
        simulate(cluster, 30, streams=3)
    all_of_them = cluster_of(name, 3, BACKUP | {"gradients": 3})
    with pytest.raises(ValueError, match="have 3 to 4 minibatches each.*equal parts"):
        all_of_them.check(Workload((3, 4, 4), 1))


def test_simulations_count_what_is_dropped():
    """The slow of two workers is dropped every time: 6 of 8 gradients are updates, in 6 s."""
    values = {"cluster": describe(two(DROP)), "arrivals": 8, "replicates": 2}
    found, _ = simulations.simulate(parse_simulation(values, "a test"), 0)
    assert found["mean_before"].tolist() == [6 / 8] * 2
    assert found["mean_after"].tolist() == [6 / 8 + 6 / 8] * 2
    assert found["largest"].tolist() == [3, 3] and found["update_rate"].tolist() == [1, 1]


def test_a_hub_with_a_policy_is_counted_from_its_start():
    hub = cluster_of("hub_and_spoke", 4, {"name": "drop", "threshold": 2})
    values = {"cluster": describe(hub), "arrivals": 400, "replicates": 2}
    frame, _ = simulations.simulate_all("s", [parse_simulation(values, "a test")])
    assert set(frame["policy"]) == {"drop"} and set(frame["policy_threshold"]) == {2}
    with pytest.raises(ConfigError, match="'skip' is only for .*without a 'policy'"):
        parse_simulation(values | {"skip": 40}, "a test")
    with pytest.raises(ValueError, match="counted by `sample_schedules`"):
        simulate_staleness(hub, 400, 1, np.random.default_rng(0))
