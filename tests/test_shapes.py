"""A rule that knows the shapes of the layers: momentum made orthogonal, layer by layer."""

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close, epoch_an_arrival, plan, trajectory
from torch import nn

from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.data_order import DataOrder
from stalegrad.io.errors import ConfigError
from stalegrad.problems import load_task
from stalegrad.problems.chain import Chain
from stalegrad.problems.lenet5 import NETWORK, LeNet5
from stalegrad.rules import Rule, join_layers, split_layers, steps_on
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.specs import spec
from stalegrad.training import kernel_replay, memory
from stalegrad.training.backends import make_backend
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.backends.vmap import VmapBackend

DELAY, BATCH, STEPS, MOMENTUM = 2, 16, 8, 0.9


@spec
class Orthogonal(Rule):
    """Momentum whose matrices are brought near ones with orthonormal rows or columns by Newton and
    Schulz's iteration, as Muon does it; vectors take a step of plain momentum."""

    momentum: float = MOMENTUM

    @staticmethod
    def init(weights):
        return {"velocity": torch.zeros_like(weights)}

    @staticmethod
    def update(gradient, weights, state, numbers, shapes):
        velocity = numbers["momentum"] * state["velocity"] + gradient
        layers = [orthogonal(layer) for layer in split_layers(velocity, shapes)]
        return weights - numbers["lr"] * join_layers(layers), {"velocity": velocity}


def orthogonal(layer):
    """Of layers [R, *shape]: matrices, kernels [R, out, ...] among them, made orthogonal."""
    if layer.dim() < 3:
        return layer
    x = layer.flatten(2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
    return x.view(layer.shape)


@pytest.fixture(scope="module")
def task(small_task):
    return small_task(LeNet5, False)


def run_of(task, rule, seed=1):
    """A run of STEPS minibatches, cut so that replay stops after each arrival."""
    everything = np.arange(len(task.train[1]))
    order = DataOrder((everything,), BATCH, seed)
    workload = Workload((STEPS,), 1)
    schedule = ConstantDelay(delay=DELAY).simulate(workload, np.random.default_rng(0))
    return plan(rule, epoch_an_arrival(schedule), order, seed)


def by_hand(task, lr, seed=1):
    """Flat weights after each update of a PyTorch module, each layer stepped by its own shape."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).double()
    nn.utils.vector_to_parameters(task.initial_weights(seed), network.parameters())
    velocities = [torch.zeros_like(p) for p in network.parameters()]
    order, waiting = run_of(task, SGD(lr=1.0), seed).order, deque()
    for step in range(STEPS):
        batch = order.indices(np.array([0]), np.array([step]))[0]
        images, labels = (part[batch] for part in task.train)
        loss = nn.functional.cross_entropy(network(images.double()[:, None] / 255), labels)
        waiting.append(torch.autograd.grad(loss, list(network.parameters())))
        if len(waiting) <= DELAY:
            continue
        with torch.no_grad():
            for p, v, g in zip(network.parameters(), velocities, waiting.popleft(), strict=True):
                v.mul_(MOMENTUM).add_(g)
                step_of = v
                if v.dim() > 1:
                    x = v.reshape(len(v), -1) / (torch.linalg.norm(v) + 1e-7)
                    for _ in range(5):
                        a = torch.einsum("ij,kj->ik", x, x)
                        x = 3.4445 * x + (-4.775 * a + 2.0315 * torch.mm(a, a)) @ x
                    step_of = x.reshape(v.shape)
                p -= lr * step_of
        yield nn.utils.parameters_to_vector(network.parameters()).detach().clone()


@pytest.mark.parametrize("backend", [VmapBackend, BatchedBackend])
def test_a_matrix_rule_is_the_hand_written_loop(task, backend):
    rates = 0.01, 0.003
    found, _ = trajectory(task, [run_of(task, Orthogonal(lr=lr)) for lr in rates], backend(task))
    for row, lr in enumerate(rates):
        wanted = list(by_hand(task, lr))
        assert len(wanted) == len(found) == STEPS - DELAY
        for weights, each in zip(found, wanted, strict=True):
            assert_close(weights[row], each, 1e-11)
        assert (found[-1][row] - found[0][row]).norm() > 0.01  # it has moved


def test_no_kernel_steps_a_rule_that_it_does_not_know(task):
    backend = make_backend("auto", task)
    assert not kernel_replay.can_advance([run_of(task, Orthogonal(lr=0.01))], backend)
    found, _ = trajectory(task, [run_of(task, Orthogonal(lr=0.01))], backend)
    assert_close(found[-1][0], list(by_hand(task, 0.01))[-1], 1e-11)


def test_layers_are_split_and_joined_in_order(task):
    weights = torch.stack([task.initial_weights(seed) for seed in (1, 2)])
    layers = split_layers(weights, task.layers)
    assert [tuple(layer.shape[1:]) for layer in layers] == list(NETWORK.shapes)
    assert torch.equal(join_layers(layers), weights)
    assert layers[0].data_ptr() == weights.data_ptr()  # a view
    shapes = (3,), (), (2, 2)
    flat = torch.arange(16.0).view(2, 8)
    assert torch.equal(join_layers(split_layers(flat, shapes)), flat)


def test_weights_without_shapes_are_one_vector(tmp_path):
    task = load_task(Chain(dimension=4), tmp_path, torch.device("cpu"), torch.float64)
    assert task.layers == ((4,),)


def test_only_steps_that_ask_are_given_shapes(task):
    steps = steps_on(Orthogonal, task.layers)
    assert steps.update.keywords == {"shapes": task.layers} and steps.init is Orthogonal.init
    assert steps_on(SGD, task.layers).update is SGD.update


@spec
class PerLayer(Rule):
    """Keeps one number a layer, which only the shapes tell."""

    @staticmethod
    def init(weights, shapes):
        return {"count": weights.new_zeros((len(weights), len(shapes)))}

    @staticmethod
    def update(gradient, weights, state, numbers):
        return weights - numbers["lr"] * gradient, {"count": state["count"] + 1}


def test_a_state_may_have_the_size_of_the_layers(task):
    run = run_of(task, PerLayer(lr=0.01))
    _, losses = trajectory(task, [run], VmapBackend(task))
    assert all(torch.isfinite(loss).all() for loss in losses)
    more = memory.need(task, [run]).held - memory.need(task, [run_of(task, Rule(lr=1.0))]).held
    assert more == pytest.approx(4 * len(task.shapes) / 1e6)


def test_shapes_that_hold_another_number_of_weights_are_refused():
    class Wrong(Chain):
        def load(self, *place):
            return replace(super().load(*place), shapes=((2, 3),))

    wrong = spec(Wrong)(dimension=4)
    with pytest.raises(ConfigError, match=r"the shapes of its task hold 6 weights, not 4\."):
        load_task(wrong, Path(), torch.device("cpu"), torch.float64)
