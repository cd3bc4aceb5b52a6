"""Updates a second on problems without a network: bundles of runs against a NumPy loop, one core.

The loop is the algorithm as it is usually written: one run at a time, a dictionary of the weights
that gradients in flight were computed at, the gradient's closed form. The bundle holds every step
size and seed at once and goes through `training.replay`. Both follow the same schedules of 40
workers, the last 100 times slower, on the same minibatches in the same precision, without the time
that simulating and planning the schedule takes; their weights are compared at the end. Time is the
processor's, which other programs on the machine do not change.

Least squares is limited by arithmetic: the two products of a gradient on 256 rows of 400 columns
are 409,600 operations, which no grouping of runs makes fewer. So the last column says what share
of the core's multiply-adds between registers a bundle reaches, and the one before it how many
times as fast as the loop a bundle at all of them would be.

    python benchmarks/least_squares.py [--rates 40] [--updates 500] [--repeats 5] [--markdown]
"""

import argparse
import functools
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import time  # noqa: E402
from collections.abc import Callable, Mapping  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import peak  # noqa: E402
import torch  # noqa: E402

from stalegrad.clusters.heterogeneous import Heterogeneous  # noqa: E402
from stalegrad.data_order import CLUSTER, IndependentOrder, generator  # noqa: E402
from stalegrad.problems import Task, runs_in_step  # noqa: E402
from stalegrad.problems.chain import Chain  # noqa: E402
from stalegrad.problems.least_squares import LeastSquares  # noqa: E402
from stalegrad.problems.linear_regression import LinearRegression  # noqa: E402
from stalegrad.rules.sgd import SGD  # noqa: E402
from stalegrad.training import (
    replay,
    stepping,  # noqa: E402
)
from stalegrad.training.backends import make_backend  # noqa: E402
from stalegrad.training.replay import Run  # noqa: E402

LOOP, LIMIT = "loop", "limit"
Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Work:
    """A problem with its minibatch.

    seeds: how many, to make a bundle as large as the studies have them. gradient: (the training
    set's arrays, weights, rows) -> gradient, in NumPy. operations: of one gradient, where
    arithmetic is what limits it.
    """

    problem: Any
    batch: int
    seeds: int
    steps: tuple[float, float]
    gradient: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    operations: int | None = None


def linear(inputs, targets, weights, rows) -> np.ndarray:
    batch = inputs[rows]
    return batch.T @ (batch @ weights - targets[rows]) / len(batch)


def chain(inputs, targets, weights, rows) -> np.ndarray:
    """Of Nesterov's quadratic with L = 1, its noise added."""
    out = 2 * weights
    out[1:] -= weights[:-1]
    out[:-1] -= weights[1:]
    out[0] -= 1
    out /= 4
    return out + inputs[rows[0]]


WORKS = {
    "least squares, 400 columns, 256 rows": Work(
        LeastSquares(), 256, 4, (1e-3, 1e-1), linear, 4 * 256 * 400
    ),
    "linear regression, 10 columns, 10 rows": Work(
        LinearRegression(), 10, 60, (1e-4, 1e-3), linear
    ),
    "chain of 100 links, 1 sample": Work(Chain(noise=0.1), 1, 16, (1e-4, 1e-2), chain),
}


def plan_runs(work: Work, samples: int, rates: int, updates: int) -> list[Run]:
    """Runs of all seeds; those of one share schedule and minibatches, and stand side by side."""
    cluster = Heterogeneous(workers=40, slowest=100.0)
    runs = []
    for seed in range(1, work.seeds + 1):
        order = IndependentOrder(samples, updates * work.batch, work.batch, seed)
        schedule = cluster.simulate(order.workload(1), generator(seed, CLUSTER))
        steps = np.geomspace(*work.steps, rates)
        first = Run.plan(SGD(lr=float(steps[0])), schedule, order, seed)
        runs += [Run(SGD(lr=float(lr)), schedule, order, seed, first.snapshots) for lr in steps]
    return runs


def by_loop(run: Run, gradient: Gradient, weights: np.ndarray) -> np.ndarray:
    """Final weights of one run."""
    schedule, lr = run.schedule, weights.dtype.type(run.rule.lr)
    rows = run.order.indices(schedule.stream, schedule.batch)
    readers = np.bincount(schedule.read_version, minlength=schedule.updates + 1)
    versions = {0: weights}
    for k, version in enumerate(schedule.read_version):
        read = versions[version]
        readers[version] -= 1
        if not readers[version]:
            del versions[version]
        weights = weights - lr * gradient(read, rows[k])
        if readers[k + 1]:
            versions[k + 1] = weights
    return weights


def in_bundle(name: str, task: Task, runs: list[Run], dtype: torch.dtype) -> np.ndarray:
    """Final weights [R, d] of all runs, as many in step as `train_bundle` steps."""
    size = runs_in_step(task.parameters)
    backend, out = make_backend(name, task), []
    for i in range(0, len(runs), size):
        part = runs[i : i + size]
        start = replay.start(task, part, dtype)
        out.append(stepping.advance(task, part, start, backend)[0].weights)
    return torch.cat(out).numpy()


def fastest(
    works: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Least processor seconds of each over some repeats, in turn; and what each returned."""
    seconds, results = dict.fromkeys(works, np.inf), {}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.process_time()
            results[name] = work()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return seconds, results


@dataclass(frozen=True)
class Rates:
    """Updates a second of a bundle of `runs`, of the loop, and of a bundle at the limit."""

    runs: int
    backend: str
    loop: float
    bundle: float
    most: float | None


def compare(work: Work, dtype: torch.dtype, options: argparse.Namespace) -> list[Rates]:
    """Of each backend."""
    task = work.problem.load(Path(), torch.device("cpu"), dtype)
    runs = plan_runs(work, len(task.train[1]), options.rates, options.updates)
    arrays = [part.numpy() for part in task.train]
    start = np.zeros(task.parameters, arrays[0].dtype)
    names = ["torch"] if make_backend("auto", task).name == "torch" else ["torch", "cpu"]
    works = {LOOP: lambda: by_loop(runs[0], lambda w, rows: work.gradient(*arrays, w, rows), start)}
    works |= {name: functools.partial(in_bundle, name, task, runs, dtype) for name in names}
    if work.operations:
        works[LIMIT] = peak.multiply_adds(dtype)
    seconds, results = fastest(works, options.repeats)
    most = peak.operations(dtype) / seconds[LIMIT] / work.operations if work.operations else None
    found = []
    for name in names:
        error = np.linalg.norm(results[name][0] - results[LOOP]) / np.linalg.norm(results[LOOP])
        if error > 1e3 * torch.finfo(dtype).eps:
            raise SystemExit(f"The two do not compute the same: {error:.1e} apart.")
        rate = len(runs) * options.updates / seconds[name]
        found.append(Rates(len(runs), name, options.updates / seconds[LOOP], rate, most))
    return found


def columns(found: Rates) -> list[str]:
    """Of the table, from the number of runs on."""
    most = ["", ""]
    if found.most:
        most = [f"{found.most / found.loop:.0f}", f"{found.bundle / found.most:.2f}"]
    rates = [f"{found.loop:,.0f}", f"{found.bundle:,.0f}", f"{found.bundle / found.loop:.1f}"]
    return [str(found.runs), found.backend, *rates, *most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rates", 40), ("updates", 500), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    headings = ["problem", "precision", "runs", "backend", "loop", "bundle", "times"]
    headings += ["at most", "share"]
    rows = [headings]
    for title, work in WORKS.items():
        for dtype in (torch.float32, torch.float64):
            precision = str(dtype).removeprefix("torch.")
            found = compare(work, dtype, options)
            rows += [[title, precision, *columns(rates)] for rates in found]
    print("Run-updates a second on one core:")
    if options.markdown:
        rows.insert(1, ["---", "---", "---:", "---", *["---:"] * 5])
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(headings))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False)]
        print("  ".join(left + [c.rjust(w) for c, w in zip(row[4:], widths[4:], strict=True)]))


if __name__ == "__main__":
    main()
