"""A pipeline of stages: each layer read at a version of its own, by hand and in every backend."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    InOrder,
    assert_close,
    epoch_an_arrival,
    make_schedule,
    plan,
    quadratic_task,
    small_cell,
    trajectory,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stalegrad.analysis import virtual_iterates
from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.clusters.pipeline import Pipeline
from stalegrad.data_order import DataOrder
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Workload
from stalegrad.training import kernel_replay, replay
from stalegrad.training.backends import make_backend
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.replay import _layers, _stages_of
from stalegrad.training.snapshots import CURRENT, plan_snapshots

BATCH, STEPS = 16, 8
CURVATURES = [1.0, 0.5, 2.0, 1.5, 0.25, 3.0, 1.0, 0.75]
# Of LeNet-5's ten tensors (five layers, each with its bias): how many each stage has.
TENSORS = {1: [10], 2: [6, 4], 3: [4, 4, 2], 5: [2, 2, 2, 2, 2]}


def simulated(stages: int, steps: int = STEPS, epochs: int = 1):
    workload = Workload((steps // epochs,), epochs)
    return Pipeline(stages=stages).simulate(workload, np.random.default_rng(0))


# ---- the schedule ----


def test_a_stage_is_as_late_as_it_is_far_from_the_end():
    schedule = simulated(3, 5)
    wanted = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert schedule.stage_versions.tolist() == wanted
    assert schedule.read_version.tolist() == [0, 0, 0, 1, 2]
    assert schedule.staleness_before.tolist() == [0, 1, 2, 2, 2]
    assert schedule.time.tolist() == [3, 4, 5, 6, 7] and schedule.updates == 5
    assert simulated(2, 6, epochs=2).epoch_ends.tolist() == [3, 6]


def test_one_stage_is_plain_sgd():
    pipeline, plain = simulated(1), ConstantDelay(delay=0).simulate(Workload((STEPS,), 1), None)
    assert pipeline.stage_versions is None
    for name in ("read_version", "stream", "batch", "epoch_ends", "time"):
        assert np.array_equal(getattr(pipeline, name), getattr(plain, name))


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ([[0, 0], [0, 1]], "a row an arrival, a column a stage"),
        ([0, 0, 0], "a row an arrival, a column a stage"),
        ([[0, 0], [1, 1], [1, 2]], "must be the oldest of the stages"),
        ([[0, 1], [0, 1], [1, 2]], "at a version not yet made"),
    ],
)
def test_versions_by_stage_that_cannot_be_are_refused(versions, said):
    with pytest.raises(ValueError, match=said):
        replace(make_schedule([0, 0, 1]), stage_versions=np.array(versions))


@settings(deadline=None)  # compiled on first use
@given(
    stages=st.integers(2, 6),
    arrivals=st.integers(1, 20),
    per_update=st.integers(1, 3),
    seed=st.integers(0, 1_000),
)
def test_a_slot_holds_the_version_that_a_stage_reads(stages, arrivals, per_update, seed):
    """Of any schedule: what lies in each slot when it is read, followed by hand."""
    version = np.arange(arrivals) // per_update
    drawn = np.random.default_rng(seed).integers(0, version[:, None] + 1, (arrivals, stages))
    schedule = replace(
        make_schedule(drawn.min(axis=1), arrivals_per_update=per_update), stage_versions=drawn
    )
    snapshots, lying = plan_snapshots(schedule), {}
    for i in range(arrivals):
        for stage, slot in enumerate(snapshots.by_stage[i]):
            held = version[i] if slot == CURRENT else lying[slot]
            assert held == drawn[i, stage]
        if snapshots.write[i] != CURRENT:
            lying[snapshots.write[i]] = version[i]
    assert set(lying) == set(range(snapshots.slots))


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_as_many_versions_are_kept_as_stages_are_late(stages):
    slots = plan_snapshots(simulated(stages, 30)).slots
    assert slots == Pipeline(stages=stages).in_flight() == stages - 1


# ---- layers and stages ----


def test_a_bias_belongs_to_the_matrix_before_it():
    shapes = (3,), (2, 2), (2,), (2,), (4, 1, 2), (1, 5), (5,)
    assert _layers(shapes) == [slice(0, 11), slice(11, 19), slice(19, 29)]
    assert _layers(((7,),)) == [slice(0, 7)]


def test_layers_are_dealt_evenly_and_in_order(lenet):
    ends = np.cumsum([int(np.prod(shape)) for shape in lenet.shapes])
    for stages, tensors in TENSORS.items():
        of_layer, columns = _stages_of(lenet, stages), _layers(lenet.layers)
        bounds = [columns[np.flatnonzero(of_layer == s)[-1]].stop for s in range(stages)]
        assert bounds == [ends[last - 1] for last in np.cumsum(tensors)]


def test_more_stages_than_layers_are_refused(lenet):
    run = plan(SGD(lr=0.1), simulated(6), InOrder(BATCH))
    with pytest.raises(ConfigError, match=r"'cluster.stages' is 6, more than the 5 layers of the"):
        replay.start(lenet, [run])


# ---- training ----


@pytest.fixture(scope="module")
def lenet(small_task):
    return small_task(LeNet5, False)


def run_of(task, stages, rule):
    order = DataOrder((np.arange(len(task.train[1])),), BATCH, 1)
    return plan(rule, epoch_an_arrival(simulated(stages)), order)


def by_hand(task, stages, lr, momentum):
    """Flat weights after each update of a PyTorch module whose stages are put back to the weights
    that they had had."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ).double()
    parameters = list(network.parameters())
    nn.utils.vector_to_parameters(task.initial_weights(1), parameters)
    stage = [s for s, tensors in enumerate(TENSORS[stages]) for _ in range(tensors)]
    versions = [[p.detach().clone() for p in parameters]]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    order = run_of(task, stages, SGD(lr=1.0)).order
    for step in range(STEPS):
        batch = order.indices(np.array([0]), np.array([step]))[0]
        images, labels = (part[batch] for part in task.train)
        with torch.no_grad():
            for i, (p, s) in enumerate(zip(parameters, stage, strict=True)):
                p.copy_(versions[max(0, step - (stages - 1 - s))][i])
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images.double()[:, None] / 255), labels).backward()
        with torch.no_grad():
            for p, newest in zip(parameters, versions[-1], strict=True):
                p.copy_(newest)
        optimizer.step()
        versions.append([p.detach().clone() for p in parameters])
        yield nn.utils.parameters_to_vector(versions[-1])


@pytest.mark.parametrize("backend", [VmapBackend, BatchedBackend, None], ids=str)
def test_each_stage_computes_at_its_own_weights(lenet, backend):
    """Runs of different depth, one of them without stages, are stepped together."""
    rates = {1: 0.05, 2: 0.1, 3: 0.05, 5: 0.02}
    runs = [run_of(lenet, stages, SGD(lr=lr, momentum=0.9)) for stages, lr in rates.items()]
    chosen = make_backend("auto", lenet) if backend is None else backend(lenet)
    assert not kernel_replay.can_advance(runs, chosen)
    found, _ = trajectory(lenet, runs, chosen)
    for row, (stages, lr) in enumerate(rates.items()):
        wanted = list(by_hand(lenet, stages, lr, 0.9))
        assert len(found) == len(wanted) == STEPS
        for weights, each in zip(found, wanted, strict=True):
            assert_close(weights[row], each, 1e-11)
    for one, other in itertools.combinations(range(3), 2):
        assert not torch.allclose(found[-1][one], found[-1][other], rtol=1e-3)


def test_that_no_kernel_knows_stages_is_said_once(lenet, capsys):
    kernel_replay._say_that_none_knows_stages.cache_clear()
    backend = make_backend("auto", lenet)
    if backend.name != "cpu":
        pytest.skip("there is no kernel here for anything")
    staged, plain = (run_of(lenet, stages, SGD(lr=0.1)) for stages in (2, 1))
    assert kernel_replay.can_advance([plain], backend)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert not kernel_replay.can_advance([staged], backend)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("note: no kernel computes a gradient at weights of several versions")


def test_a_rule_is_given_the_weights_that_each_stage_read():
    """Of a quadratic in three weights, each a layer, the gradient of each depends on itself."""
    start = [1.0, -2.0, 0.5]
    task = replace(quadratic_task(CURVATURES, lambda seed: start), shapes=((1, 1),) * 3)
    rule = DelayCompensation(lr=0.1, momentum=0.9, compensation=2.0)
    run = plan(rule, epoch_an_arrival(simulated(3)), InOrder())
    found, _ = trajectory(task, [run], VmapBackend(task))
    versions, velocity = [np.array(start)], np.zeros(3)
    for t, a in enumerate(CURVATURES):
        read = np.array([versions[max(0, t - 2 + s)][s] for s in range(3)])
        g = a * read
        velocity = 0.9 * velocity + g + 2.0 * g * g * (versions[-1] - read)
        versions.append(versions[-1] - 0.1 * velocity)
        assert_close(found[t][0], torch.from_numpy(versions[-1]), 1e-13)


def test_runs_of_different_length_end_together():
    task = replace(
        quadratic_task(CURVATURES, lambda seed: [1.0, -2.0 * seed]), shapes=((1, 1),) * 2
    )
    schedules = [
        replace(simulated(2, steps), epoch_ends=np.array(ends))
        for steps, ends in (
            (8, [5, 8]),
            (6, [2, 6]),
        )
    ]
    runs = [plan(SGD(lr=0.1), schedule, InOrder()) for schedule in schedules]
    together, _ = trajectory(task, runs, VmapBackend(task))
    for row, run in enumerate(runs):
        alone, _ = trajectory(task, [run], VmapBackend(task))
        for one, each in zip(together, alone, strict=True):
            assert_close(one[row], each[0], 1e-13)


def test_training_gives_the_same_on_every_backend(tmp_path, data_folder):
    cells = tuple(
        small_cell(seed=seed, cluster={"name": "pipeline", "stages": 4}) for seed in (1, 2)
    )
    losses = {}
    for backend in ("torch", "cpu", "batched"):
        train_bundle(Bundle(cells), out := tmp_path / backend, Place(data_folder, "cpu", backend))
        history = pd.read_csv(out)
        losses[backend] = history["train_loss"].to_numpy()
        assert history["max_staleness"].max() == 3
    for other in ("cpu", "batched"):
        np.testing.assert_allclose(losses[other], losses["torch"], rtol=1e-4)


def test_virtual_iterates_are_of_one_version():
    task = replace(quadratic_task(CURVATURES, lambda seed: [1.0, -2.0]), shapes=((1, 1),) * 2)
    with pytest.raises(ValueError, match="here each stage has one of its own"):
        virtual_iterates.trace(task, plan(SGD(lr=0.1), simulated(2), InOrder()))
