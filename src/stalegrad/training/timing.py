"""Measure how fast this machine trains, in a second or two, for `training.speed`.

    python -m stalegrad.training.timing DEVICE BACKEND PROBLEM...

It times training itself, on made-up data: the steps of an epoch and the evaluation at its end. It
also times the start of this process, which imports what a job imports.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch

from stalegrad.io.cache import CacheUnavailable
from stalegrad.io.datasets import Dataset
from stalegrad.io.errors import StalegradError
from stalegrad.planning.cell import Cell, parse_cell
from stalegrad.planning.config import Settings
from stalegrad.problems import Task, runs_in_step
from stalegrad.training import kernels, replay, speed, stepping
from stalegrad.training.backends import Backend, cpu, make_backend, resolve_device
from stalegrad.training.backends.cpu_synthetic import STEPS_ALONE
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import plan_runs  # noqa: I001  with pandas, which a job imports too
from stalegrad.training.kernels import KernelUnavailable
from stalegrad.training.machine import settled_torch, vector_instructions
from stalegrad.training.speed import Speed, Speeds

CPU = torch.device("cpu")
SECONDS = 0.01  # for each number, and no fewer than three tries
# Minibatches of a network, each with the steps that are timed at once.
NETWORKS = {
    "lenet5": {1: 64, 8: 32, 32: 16, 128: 4},
    "large_cnn": {1: 8, 8: 4, 32: 2},
}
TRAINED, TESTED = 512, 128  # images
# Of problems on synthetic data, minibatch, dimension and steps; and runs that are stepped together.
SYNTHETIC = ((1, 16, 256), (64, 64, 64), (256, 64, 16), (1024, 64, 16))
TOGETHER = 16


def time_problem(name: str, backend: str) -> Speed:
    """Measure the problem called `name`, one of `speed.TIMED`, on one core of this machine."""
    reason = ""
    if backend == "auto":
        try:
            kernels.load(cpu.KERNELS[name])
        except KernelUnavailable as error:
            backend, reason = "torch", str(error)
    measure = _network if name in NETWORKS else _synthetic
    return replace(measure(name, backend), reason=reason)


def _network(name: str, asked: str) -> Speed:
    problem = {"name": name, "dataset": "mnist"}
    cells = [
        _cell(problem | {"train_samples": batch * steps}, batch)
        for batch, steps in NETWORKS[name].items()
    ]
    rng = np.random.default_rng(1)
    images = rng.integers(256, size=(TRAINED, 28, 28), dtype=np.uint8)
    labels = rng.integers(10, size=TRAINED, dtype=np.uint8)
    dataset = Dataset(images, labels, images[:TESTED], labels[:TESTED])
    largest = max((cell.problem for cell in cells), key=lambda each: each.samples())
    task = largest.on(dataset, CPU)
    backend = make_backend(asked, task)
    steps = [(c.batch_size * task.parameters, _step(task, [c], backend)) for c in cells]
    middle = cells[len(cells) // 2]
    return Speed(
        steps=tuple(steps),
        alone=steps[-1][0] if backend.name == "cpu" else 0,
        call=0.0,
        epoch=0.0,
        sample=_evaluation(task, backend, 1) / TESTED,
        **_compared(backend, task, middle, steps[len(cells) // 2][1]),
    )


def _synthetic(name: str, asked: str) -> Speed:
    sizes = [_Size(name, asked, *size) for size in SYNTHETIC]
    first = sizes[0]
    # At the smallest size, all the time goes to the calls.
    call = first.step(replay.advance_in_steps)
    a_step = [size.step() / TOGETHER for size in sizes]
    own = [
        seconds if size.alone else max(seconds - call / TOGETHER, 0.0)
        for size, seconds in zip(sizes, a_step, strict=True)
    ]
    beginning = _Size(name, asked, *SYNTHETIC[0][:2], steps=2)
    epoch = beginning.step() + _evaluation(beginning.task, beginning.backend, TOGETHER)
    return Speed(
        steps=tuple((size.numbers, seconds) for size, seconds in zip(sizes, own, strict=True)),
        alone=STEPS_ALONE if first.backend.name == "cpu" else 0,
        call=call,
        epoch=epoch / TOGETHER,
        sample=0.0,
        **_compared(first.backend, first.task, first.cells[0], a_step[0]),
    )


class _Size:
    """Runs of a problem on synthetic data, to be stepped."""

    def __init__(self, name: str, asked: str, minibatch: int, dimension: int, steps: int):
        rows = {"rows": 256} if name == "least_squares" else {}
        problem = {"name": name, "dimension": dimension, "epoch_samples": steps * minibatch} | rows
        self.numbers = minibatch * dimension
        self.cells = [_cell(problem, minibatch, seed) for seed in range(1, TOGETHER + 1)]
        self.task = self.cells[0].problem.load(None, CPU, torch.float32)
        self.backend = make_backend(asked, self.task)
        self.alone = self.backend.steps_alone(minibatch)

    def step(self, advance: Callable = stepping.advance) -> float:
        return _step(self.task, self.cells, self.backend, advance)


def _compared(backend: Backend, task: Task, cell: Cell, seconds: float) -> dict:
    """Fields of a Speed: how a step of `cell` is computed, and its rate beside PyTorch's."""
    torch_seconds = seconds
    if backend.name == "cpu":
        together = min(TOGETHER, runs_in_step(task.parameters))
        torch_seconds = _step(task, [cell] * together, VmapBackend(task)) / together
    return {
        "backend": backend.name,
        "instructions": vector_instructions(backend.name, task.name, CPU),
        "reason": "",
        "rate": cell.batch_size / seconds,
        "torch_rate": cell.batch_size / torch_seconds,
    }


def _cell(problem: dict, minibatch: int, seed: int = 1) -> Cell:
    """One epoch of SGD with momentum and a small delay."""
    values = {
        "problem": problem,
        "rule": {"name": "sgd", "lr": 1e-4, "momentum": 0.9},
        "cluster": {"name": "constant_delay", "delay": 1},
        "batch_size": minibatch,
        "epochs": 1,
        "partition": "shared" if "dataset" in problem else "independent",
        "seed": seed,
    }
    return parse_cell(values, "what is timed")


def _step(
    task: Task, cells: list[Cell], backend: Backend, advance: Callable = stepping.advance
) -> float:
    """Seconds of a step of all `cells` together, one after another or as one batch."""
    targets = task.train[1][: cells[0].problem.samples()].numpy()
    runs = [planned.run for planned in plan_runs(cells, targets)]
    state = replay.start(task, runs)
    seconds = _seconds(lambda: advance(task, runs, state, backend))
    return seconds / runs[0].replayed.arrivals


def _evaluation(task: Task, backend: Backend, runs: int) -> float:
    weights = task.initial_weights(1).float().expand(runs, -1).contiguous()
    return _seconds(lambda: backend.metrics(weights))


def _seconds(action: Callable[[], object]) -> float:
    """The median time of some calls, after one that is not counted. It is the processor time of
    this thread, which other processes do not change."""
    action()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < SECONDS:
        start = time.thread_time()
        action()
        taken.append(time.thread_time() - start)
    return statistics.median(taken)


def main(arguments: list[str]) -> None:
    """Measure the problems named and add them to the file that `speed.read` reads."""
    device, asked, *names = arguments
    start = time.process_time()
    settings = Settings.model_validate({"device": device, "backend": asked})
    with suppress(StalegradError, CacheUnavailable):  # said again, as an error, by what trains
        cuda = resolve_device(device).type == "cuda"
        known = speed.read(settings)
        problems = dict(known.problems) if known else {}
        if not cuda:
            with settled_torch(CPU):
                problems |= {name: time_problem(name, asked) for name in names}
        speed.write(settings, Speeds(start, cuda, problems))


if __name__ == "__main__":
    main(sys.argv[1:])
