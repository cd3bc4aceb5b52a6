"""Updates a second on problems without a network: bundles of runs against a NumPy loop, one core.

The loop is the algorithm as it is usually written: one run at a time, a dictionary of the weights
that gradients in flight were computed at, the gradient's closed form. The bundle holds every step
size and seed at once and goes through `stalegrad.replay`. Both follow the same schedules of 40
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
import ctypes
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from stalegrad import kernels, replay, stepping  # noqa: E402
from stalegrad.backends import make_backend  # noqa: E402
from stalegrad.clusters.heterogeneous import Heterogeneous  # noqa: E402
from stalegrad.partitions import CLUSTER, IndependentOrder, generator  # noqa: E402
from stalegrad.problems import Task, runs_in_step  # noqa: E402
from stalegrad.problems.chain import Chain  # noqa: E402
from stalegrad.problems.least_squares import LeastSquares  # noqa: E402
from stalegrad.problems.linear_regression import LinearRegression  # noqa: E402
from stalegrad.replay import Run  # noqa: E402
from stalegrad.rules.sgd import SGD  # noqa: E402

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


def fastest(work: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Least processor seconds over some repeats, and the result."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def peak(dtype: torch.dtype) -> float:
    """Operations a second of multiply-adds between registers (`peak.cpp`)."""
    name = str(dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.cpp")
        command = ["c++", *kernels.FLAGS, kernels._flag("native"), "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        loaded = ctypes.CDLL(str(library))
    function, turns = getattr(loaded, f"peak_{name}"), 500_000
    function.restype = ctypes.c_float if name == "float32" else ctypes.c_double
    seconds, _ = fastest(lambda: function(ctypes.c_int64(turns)), 9)
    return getattr(loaded, f"operations_{name}")() * turns / seconds


def compare(work: Work, dtype: torch.dtype, options: argparse.Namespace) -> list[str]:
    """Columns of the table from the loop's rate on; one line a backend."""
    task = work.problem.load(Path(), torch.device("cpu"), dtype)
    runs = plan_runs(work, len(task.train[1]), options.rates, options.updates)
    arrays = [part.numpy() for part in task.train]
    start = np.zeros(task.parameters, arrays[0].dtype)
    loop, alone = fastest(
        lambda: by_loop(runs[0], lambda w, rows: work.gradient(*arrays, w, rows), start),
        options.repeats,
    )
    loop_rate, lines = options.updates / loop, []
    names = ["torch"] if make_backend("auto", task).name == "torch" else ["torch", "cpu"]
    for name in names:
        seconds, found = fastest(lambda: in_bundle(name, task, runs, dtype), options.repeats)  # noqa: B023
        error = np.linalg.norm(found[0] - alone) / np.linalg.norm(alone)
        if error > 1e3 * torch.finfo(dtype).eps:
            raise SystemExit(f"The two do not compute the same: {error:.1e} apart.")
        rate = len(runs) * options.updates / seconds
        columns = [
            str(len(runs)),
            name,
            f"{loop_rate:,.0f}",
            f"{rate:,.0f}",
            f"{rate / loop_rate:.1f}",
            "",
            "",
        ]
        if work.operations:
            most = peak(dtype) / work.operations
            columns[-2:] = f"{most / loop_rate:.0f}", f"{rate / most:.2f}"
        lines.append(columns)
    return lines


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
            rows += [[title, precision, *line] for line in compare(work, dtype, options)]
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
