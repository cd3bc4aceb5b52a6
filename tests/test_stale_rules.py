"""Rules made for stale gradients, and Muon: against their formulas, step for step in float64."""

from collections import deque

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
from torch import nn

from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.data_order import DataOrder
from stalegrad.io.errors import ConfigError
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.delayed_nesterov import DelayedNesterov
from stalegrad.rules.gap_aware import GapAware
from stalegrad.rules.muon import Muon, _orthogonal
from stalegrad.rules.sgd import SGD
from stalegrad.rules.staleness_scaled import StalenessScaled
from stalegrad.schedule import Workload
from stalegrad.specs import parse
from stalegrad.training import kernel_replay
from stalegrad.training.backends import make_backend
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.backends.vmap import VmapBackend

CURVATURES = [1.0, 0.5, 2.0, 1.5, 0.25, 3.0, 1.0, 0.75]
START = [1.0, -2.0, 0.5]
STALE = [0, 0, 1, 0, 2, 2, 4, 6]  # staleness 0, 1, 1, 3, 2, 3, 2, 1


@pytest.fixture
def task():
    return quadratic_task(CURVATURES, lambda seed: START)


def replayed(task, *rules, read=STALE, per_update=1):
    """Weights [R, P] after each of eight arrivals."""
    schedule = make_schedule(read, arrivals_per_update=per_update)
    runs = [plan(rule, schedule, InOrder()) for rule in rules]
    return trajectory(task, runs, VmapBackend(task))[0]


def assert_steps(found, wanted, row: int = 0, rtol: float = 1e-13):
    assert len(found) == len(wanted)
    for each, wanted_each in zip(found, wanted, strict=True):
        assert_close(each[row], torch.as_tensor(wanted_each), rtol)


# ---- divided by staleness ----


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_step_is_divided_by_the_staleness(task, momentum):
    versions, velocity = [np.array(START)], np.zeros(3)
    for a, version, tau in zip(CURVATURES, STALE, [1, 1, 1, 3, 2, 3, 2, 1], strict=True):
        velocity = momentum * velocity + a * versions[version]
        versions.append(versions[-1] - 0.1 / tau * velocity)
    assert_steps(replayed(task, StalenessScaled(lr=0.1, momentum=momentum)), versions[1:])


def test_staleness_counts_without_the_own_update():
    schedule = make_schedule(STALE)
    factors = StalenessScaled(lr=0.1).step_factors(schedule)
    assert factors.tolist() == [1, 1, 1, 1 / 3, 1 / 2, 1 / 3, 1 / 2, 1]
    with_own = DelayAdaptive(lr=0.1, concurrency=1).step_factors(schedule)
    assert (1 / with_own - 1).tolist() == schedule.staleness_before.tolist()
    warm = StalenessScaled(lr=0.1, warmup_epochs=4.0).step_factors(schedule)
    assert warm.tolist() == (factors * [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]).tolist()


def test_of_several_gradients_the_last_one_says_the_step(task):
    read = [0, 0, 0, 0, 1, 0, 2, 1]
    weights, versions, wanted = np.array(START), [np.array(START)], []
    for i in range(8):
        if i % 2:
            mean = sum(CURVATURES[j] * versions[read[j]] for j in (i - 1, i)) / 2
            weights = weights - 0.1 / max(1, i // 2 - read[i]) * mean
            versions.append(weights)
        wanted.append(weights)
    assert_steps(replayed(task, StalenessScaled(lr=0.1), read=read, per_update=2), wanted)


# ---- gap-aware ----


def by_gap(rates, momentum, decay, *, nesterov=False, weight_decay=0.0):
    """The weights after every arrival, with the mean as the weighted sum it stands for."""
    versions, velocity, steps, wanted = [np.array(START)], np.zeros(3), [], []
    for a, version, lr in zip(CURVATURES, STALE, rates, strict=True):
        weights, gradient = versions[-1], a * versions[version]
        if steps:
            shares = decay ** np.arange(len(steps))[::-1]
            mean = (shares[:, None] * np.square(steps)).sum(0) / shares.sum()
            usual = lr * (np.sqrt(mean) + 1e-8)
            gradient = gradient / (1 + np.abs(weights - versions[version]) / usual)
        gradient = gradient + weight_decay * weights
        velocity = momentum * velocity + gradient
        steps.append(velocity)
        step = gradient + momentum * velocity if nesterov else velocity
        versions.append(weights - lr * step)
        wanted.append(versions[-1])
    return wanted


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("decay", [0.5, 0.999])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_the_gradient_is_divided_by_the_gap(task, momentum, nesterov, decay, weight_decay):
    rates = 0.1, 0.03
    options = {"momentum": momentum, "nesterov": nesterov, "decay": decay}
    options["weight_decay"] = weight_decay
    found = replayed(task, *(GapAware(lr=lr, **options) for lr in rates))
    for row, lr in enumerate(rates):
        wanted = by_gap([lr] * 8, momentum, decay, nesterov=nesterov, weight_decay=weight_decay)
        assert_steps(found, wanted, row, 1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_fresh_gradient_has_no_gap(task, momentum):
    fresh = range(8)
    plain = replayed(task, SGD(lr=0.1, momentum=momentum), read=fresh)
    found = replayed(task, GapAware(lr=0.1, momentum=momentum), read=fresh)
    assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))


def test_the_gap_counts_usual_steps():
    """Three parameters with steps of one length each: after n of them the gap is 1 + n."""
    rule, flags = GapAware(lr=0.1), {"plain": True, "decays": False}
    numbers = {k: torch.tensor([[v]]).double() for k, v in rule.numbers().items() if k not in flags}
    numbers |= flags
    start = torch.zeros(1, 3, dtype=torch.float64)
    gradient = torch.tensor([[1.0, -30.0, 1e-3]], dtype=torch.float64)
    weights, state = start, rule.init(start)
    for n in range(5):
        corrected, _ = rule.correct(gradient, start, weights, state, numbers)
        torch.testing.assert_close(corrected, gradient / (1 + n), rtol=1e-4, atol=0)
        weights, state = rule.update(gradient, weights, state, numbers)


def test_the_usual_step_grows_with_the_warm_up(task):
    found = replayed(task, GapAware(lr=0.1, momentum=0.9, warmup_epochs=4.0))
    rates = [0.025, 0.05, 0.075, *[0.1] * 5]
    assert_steps(found, by_gap(rates, 0.9, 0.999), rtol=1e-12)


# ---- delayed Nesterov ----


def by_delayed_nesterov(lr, period, momentum, activation):
    versions, total, velocity, wanted = [np.array(START)], np.zeros(3), np.zeros(3), []
    for i, (a, version) in enumerate(zip(CURVATURES, STALE, strict=True)):
        gradient = a * versions[version]
        total, share = total + gradient, activation
        if (i + 1) % period == 0:
            velocity, total = momentum * velocity + total / period, np.zeros(3)
            share = 1 - activation * period + activation
        step = gradient / period + share * momentum * velocity
        versions.append(versions[-1] - lr * step)
        wanted.append(versions[-1])
    return wanted


def test_momentum_is_updated_every_n_gradients(task):
    """Runs with periods and shares of their own, stepped together."""
    chosen = [(0.1, 3, 0.9, 0.0), (0.05, 2, 0.5, 0.25), (0.1, 4, 0.9, 0.25), (0.1, 100, 0.9, 0.0)]
    keys = "lr", "period", "momentum", "activation"
    found = replayed(task, *(DelayedNesterov(**dict(zip(keys, c, strict=True))) for c in chosen))
    for row, numbers in enumerate(chosen):
        assert_steps(found, by_delayed_nesterov(*numbers), row)


@pytest.mark.parametrize("activation", [0.0, 1.0])
def test_momentum_updated_at_every_gradient_is_nesterovs(task, activation):
    found = replayed(task, DelayedNesterov(lr=0.1, period=1, activation=activation))
    wanted = replayed(task, SGD(lr=0.1, momentum=0.9, nesterov=True))
    assert_steps(found, [each[0] for each in wanted])


def test_a_period_is_a_step_of_nesterovs_from_the_mean(task):
    """Where all gradients of a period are computed at the same weights."""
    read, per_update = [0, 0, 0, 0, 4, 4, 4, 4], 4
    found = replayed(task, DelayedNesterov(lr=0.1, period=4), read=read)
    nesterov = SGD(lr=0.1, momentum=0.9, nesterov=True)
    batches = replayed(task, nesterov, read=[0, 0, 0, 0, 1, 1, 1, 1], per_update=per_update)
    for end in (3, 7):
        assert_close(found[end][0], batches[end][0], 1e-13)


def test_the_share_of_the_momentum_is_at_most_one_in_n():
    keys = {"name": "delayed_nesterov", "lr": 0.1, "period": 4, "activation": 0.3}
    with pytest.raises(ConfigError, match="'rule.activation' is 0.3: it can be at most 1 / p"):
        parse("rules", keys, where="a.yaml", key="rule")
    assert parse("rules", keys | {"activation": 0.25}, where="a.yaml", key="rule").period == 4


# ---- Muon ----

DELAY, BATCH, STEPS = 2, 16, 8
HIDDEN = 0, 2, 4, 6  # of LeNet-5's ten tensors: all matrices and kernels but the last


@pytest.fixture(scope="module")
def lenet(small_task):
    return small_task(LeNet5, False)


def run_of(task, rule):
    """A run of STEPS minibatches, cut so that replay stops after each arrival."""
    order = DataOrder((np.arange(len(task.train[1])),), BATCH, 1)
    workload = Workload((STEPS,), 1)
    schedule = ConstantDelay(delay=DELAY).simulate(workload, np.random.default_rng(0))
    return plan(rule, epoch_an_arrival(schedule), order)


def by_torch(task, monkeypatch, *, lr, adam_lr, weight_decay=0.0, **of_muon):
    """Flat weights after each update by torch.optim.Muon and AdamW, in float64 throughout: with
    kernels as matrices, and the iteration kept from taking bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    sizes = [int(np.prod(shape)) for shape in task.shapes]
    layers = [
        each.reshape(shape)
        for each, shape in zip(task.initial_weights(1).split(sizes), task.shapes, strict=True)
    ]
    hidden = [nn.Parameter(layers[i].flatten(1).clone()) for i in HIDDEN]
    others = [nn.Parameter(layers[i].clone()) for i in range(10) if i not in HIDDEN]
    optimizers = [
        torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, **of_muon),
        torch.optim.AdamW(
            others, lr=adam_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=weight_decay
        ),
    ]
    order, waiting = run_of(task, SGD(lr=1.0)).order, deque()
    for step in range(STEPS):
        batch = order.indices(np.array([0]), np.array([step]))[0]
        left, rest = deque(hidden), deque(others)
        parts = [(left if i in HIDDEN else rest).popleft() for i in range(10)]
        flat = torch.cat([part.detach().flatten() for part in parts]).requires_grad_()
        loss = task.loss(flat, *(part[batch] for part in task.train))
        waiting.append(torch.autograd.grad(loss, flat)[0].split([part.numel() for part in parts]))
        if len(waiting) <= DELAY:
            continue
        for part, gradient in zip(parts, waiting.popleft(), strict=True):
            part.grad = gradient.view_as(part)
        for optimizer in optimizers:
            optimizer.step()
        yield torch.cat([part.detach().flatten() for part in parts])


MUONS = [
    ({"lr": 0.02, "adam_lr": 0.003}, {}),
    ({"lr": 0.01, "adam_lr": 0.001, "weight_decay": 0.1}, {"momentum": 0.8, "nesterov": False}),
]


@pytest.mark.parametrize("backend", [VmapBackend, BatchedBackend])
@pytest.mark.parametrize("numbers, of_muon", MUONS)
def test_muon_is_that_of_torch_beside_adamw(lenet, backend, numbers, of_muon, monkeypatch):
    found, _ = trajectory(lenet, [run_of(lenet, Muon(**numbers, **of_muon))], backend(lenet))
    wanted = list(by_torch(lenet, monkeypatch, **numbers, **of_muon))
    assert len(wanted) == STEPS - DELAY
    assert_steps(found, wanted, rtol=1e-11)
    assert (found[-1][0] - found[0][0]).norm() > 0.1  # it has moved


def test_every_backend_steps_muon(lenet, monkeypatch):
    backend = make_backend("auto", lenet)
    run = run_of(lenet, Muon(**MUONS[0][0]))
    assert not kernel_replay.can_advance([run], backend)
    found, _ = trajectory(lenet, [run], backend)
    assert_steps(found, list(by_torch(lenet, monkeypatch, **MUONS[0][0])), rtol=1e-11)


def test_weights_without_a_hidden_layer_are_trained_by_adamw(task):
    found = replayed(task, Muon(lr=5.0, adam_lr=0.1, weight_decay=0.2), read=range(8))
    weights = nn.Parameter(torch.tensor(START).double())
    adamw = torch.optim.AdamW([weights], lr=0.1, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.2)
    wanted = []
    for a in CURVATURES:
        weights.grad = a * weights.detach().clone()
        adamw.step()
        wanted.append(weights.detach().clone())
    assert_steps(found, wanted)


def test_a_warm_up_is_of_both_learning_rates(task):
    warm = replayed(task, Muon(lr=5.0, adam_lr=0.1, warmup_epochs=8.0), read=range(8))
    whole = replayed(task, Muon(lr=5.0, adam_lr=0.1 / 8), read=range(8))
    assert_close(warm[0], whole[0], 1e-13)


@pytest.mark.parametrize("rows, columns", [(12, 40), (40, 12), (12, 12)])
def test_the_iteration_brings_singular_values_near_one(rows, columns):
    """And keeps the singular vectors; a tall matrix is scaled by the root of its proportions."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn((1, rows, columns), dtype=torch.float64, generator=generator)
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    found = u.mT @ _orthogonal(matrix)[0] @ v.mT / max(1, rows / columns) ** 0.5
    assert_close(found, torch.diag(found.diag()), 1e-10)
    assert 0.65 < found.diag().min() and found.diag().max() < 1.25
