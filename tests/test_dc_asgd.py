"""Delay compensation: against its formula, step for step in float64."""

import numpy as np
import pytest
import torch
from helpers import InOrder, assert_close, make_schedule, plan, quadratic_task, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.io.errors import ConfigError
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.sgd import SGD
from stalegrad.specs import parse
from stalegrad.training.backends.vmap import VmapBackend

CURVATURES = [1.0, 0.5, 2.0, 1.5, 0.25, 3.0, 1.0, 0.75]
START = [1.0, -2.0, 0.5]
STALE = [0, 0, 1, 0, 2, 2, 4, 6]


@pytest.fixture
def task():
    return quadratic_task(CURVATURES, lambda seed: START)


def replayed(task, *rules, read=STALE, dtype=torch.float64):
    """Weights [R, P] after each of eight arrivals."""
    runs = [plan(rule, make_schedule(read), InOrder()) for rule in rules]
    return trajectory(task, runs, VmapBackend(task), dtype)[0]


def by_formula(strength, *, read=STALE, momentum=0.0, lr=0.1):
    """The weights after every arrival, straight from Algorithm 1; `strength`: (g, t) -> lambda."""
    versions = [np.array(START)]
    velocity = np.zeros(3)
    for t, (a, version) in enumerate(zip(CURVATURES, read, strict=True)):
        w, backup = versions[-1], versions[version]
        g = a * backup
        velocity = momentum * velocity + g + strength(g, t) * g * g * (w - backup)
        versions.append(w - lr * velocity)
    return torch.from_numpy(np.array(versions[1:]))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("compensation", [0.0, 2.0, 5.0])
def test_constant_lambda_is_algorithm_1(task, compensation, momentum):
    rule = DelayCompensation(lr=0.1, momentum=momentum, compensation=compensation)
    wanted = by_formula(lambda g, t: compensation, momentum=momentum)
    for found, each in zip(replayed(task, rule), wanted, strict=True):
        assert_close(found[0], each, 1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.95])
def test_adaptive_lambda_divides_by_the_root_of_the_mean_square(task, decay):
    rule = DelayCompensation(lr=0.1, compensation=0.5, adaptive=True, decay=decay)
    mean_square = np.zeros(3)

    def strength(g, t):
        nonlocal mean_square
        mean_square = decay * mean_square + (1 - decay) * g * g
        return 0.5 / np.sqrt(mean_square + 1e-7)

    for found, each in zip(replayed(task, rule), by_formula(strength), strict=True):
        assert_close(found[0], each, 1e-13)


@pytest.mark.parametrize("adaptive", [False, True])
def test_nothing_is_compensated_without_staleness(task, adaptive):
    rule = DelayCompensation(lr=0.1, momentum=0.9, compensation=5.0, adaptive=adaptive)
    for found, plain in zip(
        replayed(task, rule, read=range(8)),
        replayed(task, SGD(lr=0.1, momentum=0.9), read=range(8)),
        strict=True,
    ):
        assert torch.equal(found, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_as_published_is_plain_sgd_to_the_bit(task, dtype, adaptive, nesterov):
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov}
    aliased = DelayCompensation(**options, compensation=2.0, adaptive=adaptive, as_published=True)
    working = DelayCompensation(**options, compensation=2.0, adaptive=adaptive)
    plain = replayed(task, SGD(**options), dtype=dtype)
    for found, each in zip(replayed(task, aliased, dtype=dtype), plain, strict=True):
        assert torch.equal(found, each)
    assert not torch.equal(replayed(task, working, dtype=dtype)[-1], plain[-1])


def test_snapshot_is_a_copy(task):
    """What was read at version 0 is still the start after seven updates have moved the weights."""
    rule = DelayCompensation(lr=0.1, compensation=1.0)
    read = [0] * 8
    found = replayed(task, rule, read=read)[-1][0]
    assert_close(found, by_formula(lambda g, t: 1.0, read=read)[-1], 1e-13)
    aliased = DelayCompensation(lr=0.1, compensation=1.0, as_published=True)
    assert not torch.allclose(replayed(task, aliased, read=read)[-1][0], found, rtol=1e-3)


@settings(max_examples=50, deadline=None)
@given(
    numbers=st.lists(st.floats(-3, 3), min_size=3, max_size=3),
    strengths=st.lists(st.floats(0, 5), min_size=2, max_size=2),
)
def test_correction_of_each_run_uses_its_own_lambda(numbers, strengths):
    gradient, read, weights = (torch.full((2, 4), n, dtype=torch.float64) for n in numbers)
    column = torch.tensor(strengths, dtype=torch.float64)[:, None]
    rule = DelayCompensation(lr=0.1, compensation=1.0)
    found, state = rule.correct(
        gradient, read, weights, rule.init(weights), rule.numbers() | {"compensation": column}
    )
    wanted = gradient + column * gradient * gradient * (weights - read)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    assert torch.equal(state["mean_square"], torch.zeros_like(weights))


def test_lambda_must_not_be_negative():
    keys = {"name": "dc_asgd", "lr": 0.1, "compensation": -1.0}
    with pytest.raises(ConfigError, match="'rule.compensation' is -1.0"):
        parse("rules", keys, where="a.yaml", key="rule")
