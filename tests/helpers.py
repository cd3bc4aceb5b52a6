"""What several test files build: tasks small enough to work out by hand, and references."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from stalegrad.data_order import DataOrder
from stalegrad.io.files import csv_text
from stalegrad.planning.cell import Cell, parse_cell
from stalegrad.planning.studies import study_module
from stalegrad.problems import Task
from stalegrad.rules import Rule
from stalegrad.schedule import Schedule
from stalegrad.training import cuda_graph, kernel_replay, replay
from stalegrad.training.backends import Backend
from stalegrad.training.replay import Run

ROOT = Path(__file__).parents[1]


def home_of(study: str) -> Path:
    """The folder of one of the papers of this repository."""
    return ROOT / "studies" / study


def of_study(study: str, module: str) -> ModuleType:
    """Its module `tables`, `figures` or `claims`."""
    return study_module(home_of(study), module)


@dataclass(frozen=True)
class InOrder:
    """A data order in which minibatch i is samples i b, ..., i b + b - 1."""

    batch_size: int = 1
    local_steps: int = 1

    @property
    def taken(self) -> int:
        return self.batch_size * self.local_steps

    def indices(self, stream: np.ndarray, batch: np.ndarray) -> np.ndarray:
        return batch[:, None] * self.taken + np.arange(self.taken)


def quadratic_task(curvatures: list[float], initial: Callable[[int], list[float]]) -> Task:
    """Sample i has the loss a_i |w|^2 / 2 and hence the gradient a_i w; `initial`: seed -> w."""
    inputs = torch.tensor(curvatures, dtype=torch.float64)
    targets = torch.zeros(len(curvatures), dtype=torch.int64)

    def loss(weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return (inputs * (weights**2).sum() / 2).mean()

    return Task(
        name="quadratic",
        parameters=len(initial(1)),
        initial_weights=lambda seed: torch.tensor(initial(seed), dtype=torch.float64),
        loss=loss,
        metrics=lambda weights, inputs, targets: {"test_loss": loss(weights, inputs, targets)},
        train=(inputs, targets),
        test=(inputs, targets),
        options={},
    )


def make_schedule(read_version, epoch_ends=None, arrivals_per_update: int = 1) -> Schedule:
    """A schedule of minibatches 0, 1, ... from one stream; by default an epoch an arrival."""
    arrivals = len(read_version)
    ends = np.arange(1, arrivals + 1) if epoch_ends is None else np.array(epoch_ends)
    return Schedule(
        worker=np.zeros(arrivals, np.int32),
        time=np.arange(1.0, arrivals + 1),
        read_version=np.array(read_version, np.int64),
        stream=np.zeros(arrivals, np.int32),
        batch=np.arange(arrivals),
        epoch_ends=ends,
        arrivals_per_update=arrivals_per_update,
    )


def epoch_an_arrival(schedule: Schedule) -> Schedule:
    """The same arrivals, cut so that replay stops after each."""
    return replace(schedule, epoch_ends=np.arange(1, schedule.arrivals + 1))


def trajectory(
    task: Task, runs: list[Run], backend: Backend, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights [R, P] and mean losses [R] after every epoch.

    Computed in all the ways there are, as replay steps, as a GPU is made to and inside a kernel,
    and all must agree to rounding.
    """
    ways = [replay.advance_in_steps]
    if not backend.fetches and not task.noise:  # which no step that is captured can draw
        ways.append(cuda_graph.advance_captured)
    if kernel_replay.can_advance(runs, backend):
        ways.append(lambda task, *arguments: kernel_replay.advance_in_kernel(*arguments))
    loop, *others = (_trajectory(task, runs, backend, dtype, way) for way in ways)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5
    for other in others:
        for one, same in zip(loop, other, strict=True):
            torch.testing.assert_close(one, same, rtol=rtol, atol=rtol, equal_nan=True)
    return loop


def _trajectory(
    task: Task, runs: list[Run], backend: Backend, dtype: torch.dtype, advance: Callable
) -> tuple[list[Tensor], list[Tensor]]:
    state = replay.start(task, runs, dtype)
    weights, losses = [], []
    for _ in runs[0].schedule.epoch_ends:
        state, loss = advance(task, runs, state, backend)
        weights.append(state.weights.clone())
        losses.append(loss)
    return weights, losses


def with_gradient_buffer(
    task: Task,
    make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    order: DataOrder,
    *,
    delay: int,
    steps: int,
    seed: int = 1,
    before_step: Callable[[Tensor, int], None] = lambda weights, update: None,
) -> Iterator[Tensor]:
    """Weights after every update of a PyTorch optimizer whose gradients wait `delay` steps.

    before_step: called with the parameter, its gradient set, and the number of the update.
    """
    weights = torch.nn.Parameter(task.initial_weights(seed))
    optimizer = make_optimizer([weights])
    waiting: deque[Tensor] = deque()
    inputs, targets = task.train
    for step in range(steps):
        batch = order.indices(np.array([0]), np.array([step]))[0]
        loss = task.loss(weights, inputs[batch], targets[batch])
        waiting.append(torch.autograd.grad(loss, weights)[0])
        if len(waiting) > delay:
            weights.grad = waiting.popleft()
            before_step(weights, step - delay)
            optimizer.step()
            yield weights.detach().clone()


def assert_close(actual: Tensor, wanted: Tensor, tolerance: float = 1e-12) -> None:
    """Relative to the norm."""
    error = (actual - wanted).norm() / wanted.norm()
    assert error <= tolerance, f"relative error {error:.2e} > {tolerance:.0e}"


def plan(rule: Rule, schedule: Schedule, order, seed: int = 1) -> Run:
    return Run.plan(rule, schedule, order, seed)


def small_cell(**changes) -> Cell:
    """A LeNet-5 run on the small data set of the fixture `data_folder`; keys are dotted."""
    values = {
        "problem": {
            "name": "lenet5",
            "dataset": "mnist",
            "train_samples": 160,
            "test_samples": 50,
        },
        "rule": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "cluster": {"name": "constant_delay", "delay": 1},
        "batch_size": 20,
        "epochs": 3,
    }
    for key, value in changes.items():
        part, _, field = key.partition("__")
        if field:
            values[part][field] = value
        else:
            values[part] = value
    return parse_cell(values, "a test")


def write_check(folder: Path, rows: list[dict]) -> None:
    """The files of a spot check; rows: in what each run differs from one that agrees."""
    plain = {"study": "s", "kind": "grid", "name": "g", "run": "0" * 16, "agrees": True}
    plain |= {"to_the_byte": True, "in_full": True, "reason": "Fine.", "archived": "", "fresh": ""}
    (folder / "check.csv").write_text(csv_text(pd.DataFrame([plain | row for row in rows])))
    extent = {"seed": 5, "minutes": 5, "cores": 2, "seconds": 299, "archived": 11000, "beyond": 3}
    extent |= {"strata": 40, "of_strata": 44, "not_begun": 0}
    (folder / "check.json").write_text(json.dumps(extent))
