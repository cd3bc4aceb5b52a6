"""Update rules against torch.optim, step for step in float64, with and without a delay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    assert_close,
    epoch_an_arrival,
    make_schedule,
    plan,
    trajectory,
    with_gradient_buffer,
)
from torch.nn.utils import clip_grad_norm_

from stalegrad import specs
from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.data_order import DataOrder
from stalegrad.rules.adagrad import Adagrad
from stalegrad.rules.adam import Adam
from stalegrad.rules.sgd import SGD
from stalegrad.training.backends.cpu import CpuBackend, reason_against
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.replay import clip

BATCH = 8
OPTIMIZERS = {
    "plain SGD": (SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "heavy-ball": (
        SGD(lr=0.03, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9),
    ),
    "Nesterov": (
        SGD(lr=0.03, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, nesterov=True),
    ),
    "weight decay": (
        SGD(lr=0.1, weight_decay=0.02),
        lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.02),
    ),
    "heavy-ball with weight decay": (
        SGD(lr=0.03, momentum=0.9, weight_decay=0.02),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, weight_decay=0.02),
    ),
    "Nesterov with weight decay": (
        SGD(lr=0.03, momentum=0.9, nesterov=True, weight_decay=0.02),
        lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, nesterov=True, weight_decay=0.02),
    ),
    "Adam": (Adam(lr=0.001), lambda p: torch.optim.Adam(p, lr=0.001)),
    "Adam with other numbers": (
        Adam(lr=0.002, beta1=0.7, beta2=0.97, epsilon=1e-4),
        lambda p: torch.optim.Adam(p, lr=0.002, betas=(0.7, 0.97), eps=1e-4),
    ),
    "Adagrad": (Adagrad(lr=0.01), lambda p: torch.optim.Adagrad(p, lr=0.01)),
    "Adagrad with another epsilon": (
        Adagrad(lr=0.02, epsilon=1e-3),
        lambda p: torch.optim.Adagrad(p, lr=0.02, eps=1e-3),
    ),
}


@pytest.fixture(params=["torch", "cpu"])
def backend(request, lenet):
    if request.param == "torch":
        return VmapBackend(lenet)
    if reason := reason_against(lenet):
        assert "no C++ compiler" in reason
        pytest.skip(reason)
    return CpuBackend(lenet)


@pytest.fixture
def order(lenet) -> DataOrder:
    return DataOrder((np.arange(len(lenet.train[1])),), BATCH, seed=5)


def replayed(task, backend, rule, order, delay: int = 0):
    """Weights [P] after every update of one pass over the data, at least 30."""
    schedule = ConstantDelay(delay=delay).simulate(order.workload(1), np.random.default_rng())
    assert schedule.updates >= 30
    weights, _ = trajectory(task, [plan(rule, epoch_an_arrival(schedule), order)], backend)
    return [each[0] for each in weights]


@pytest.mark.parametrize("lenet", [True], indirect=True, ids=["normalized"])
@pytest.mark.parametrize("delay", [0, 1, 3, 8])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_torch_optim_behind_a_gradient_buffer(lenet, backend, order, name, delay):
    """Delay 0 is torch.optim itself."""
    rule, make_optimizer = OPTIMIZERS[name]
    found = replayed(lenet, backend, rule, order, delay)
    wanted = list(
        with_gradient_buffer(lenet, make_optimizer, order, delay=delay, steps=len(found) + delay)
    )
    start = lenet.initial_weights(1)
    for step, (each, wanted_each) in enumerate(zip(found, wanted, strict=True)):
        assert_close(each, wanted_each)
        assert_close(each - start, wanted_each - start, 1e-11 * (step + 1))


def test_rule_names_and_defaults():
    """PyTorch's defaults for Adam; no momentum or weight decay unless it is asked for."""
    assert specs.describe(SGD(lr=0.1)) == {
        "name": "sgd",
        "lr": 0.1,
        "warmup_epochs": 0.0,
        "clip_norm": None,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    defaults = torch.optim.Adam([torch.zeros(1)]).defaults
    adam = Adam(lr=defaults["lr"])
    assert ((adam.beta1, adam.beta2), adam.epsilon) == (defaults["betas"], defaults["eps"])


@pytest.mark.parametrize("longest", [0.05, 1.0, 1e6])
def test_clip_equals_clip_grad_norm(longest):
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn((4, 50), dtype=torch.float64, generator=generator)
    gradients *= torch.tensor([[1e-3], [1.0], [30.0], [0.0]])
    wanted = []
    for gradient in gradients:
        parameter = torch.nn.Parameter(torch.zeros(50, dtype=torch.float64))
        parameter.grad = gradient.clone()
        clip_grad_norm_([parameter], longest)
        wanted.append(parameter.grad)
    found = clip(gradients, torch.full((4, 1), longest, dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-14, atol=0)


@pytest.mark.parametrize("lenet", [False], indirect=True, ids=["pixels in [0, 1]"])
def test_clipped_training_equals_clip_grad_norm(lenet, backend, order):
    """Every gradient is cut as it arrives; some of them are short enough to stay as they are."""
    norms, longest = [], 0.45

    def before_step(weights, update):
        norms.append(clip_grad_norm_([weights], longest).item())

    found = replayed(lenet, backend, SGD(lr=0.05, clip_norm=longest), order, delay=2)
    wanted = with_gradient_buffer(
        lenet,
        lambda p: torch.optim.SGD(p, lr=0.05),
        order,
        delay=2,
        steps=len(found) + 2,
        before_step=before_step,
    )
    for each, wanted_each in zip(found, wanted, strict=True):
        assert_close(each, wanted_each)
    assert min(norms) < longest < max(norms)


@pytest.mark.parametrize("lenet", [False], indirect=True, ids=["pixels in [0, 1]"])
@pytest.mark.parametrize("name", ["heavy-ball", "Adam"])
def test_warm_up_equals_rates_by_hand(lenet, backend, name):
    """Two epochs of four updates: an eighth of the rate, two eighths, ... and then all of it."""
    order = DataOrder((np.arange(32),), BATCH, seed=5)
    rule, make_optimizer = OPTIMIZERS[name]
    schedule = ConstantDelay(delay=0).simulate(order.workload(5), np.random.default_rng())
    run = plan(replace(rule, warmup_epochs=2.0), schedule, order)
    found, _ = trajectory(lenet, [run], backend)

    def make_scheduled(parameters):
        nonlocal optimizer
        optimizer = make_optimizer(parameters)
        return optimizer

    def before_step(weights, update):
        optimizer.param_groups[0]["lr"] = rule.lr * min(1.0, (update + 1) / 8)

    optimizer = None
    wanted = list(
        with_gradient_buffer(
            lenet, make_scheduled, order, delay=0, steps=20, before_step=before_step
        )
    )
    for each, wanted_each in zip(found, wanted[3::4], strict=True):
        assert_close(each[0], wanted_each)


@pytest.mark.parametrize(
    ("ends", "per_update", "warmup_epochs", "wanted"),
    [
        ([4, 8, 12], 1, 0.0, None),
        ([4, 8, 12], 1, 2.0, [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8] + [1] * 5),
        ([4, 8, 12], 1, 0.5, [1 / 2] + [1] * 11),
        ([4, 8, 12], 2, 2.0, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4] + [1] * 6),
        # Epochs of different length count by their mean, 4.
        ([2, 7, 12], 1, 1.0, [1 / 4, 2 / 4, 3 / 4] + [1] * 9),
        # Longer than the run: the full rate is never reached.
        ([2, 4], 1, 4.0, [1 / 8, 2 / 8, 3 / 8, 4 / 8]),
    ],
)
def test_warm_up_factors(ends, per_update, warmup_epochs, wanted):
    arrivals = ends[-1]
    versions = np.arange(arrivals) // per_update
    schedule = make_schedule(versions, epoch_ends=ends, arrivals_per_update=per_update)
    factors = SGD(lr=1.0, warmup_epochs=warmup_epochs).step_factors(schedule)
    assert (factors if factors is None else factors.tolist()) == wanted
