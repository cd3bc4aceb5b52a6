"""Updates a second on the least-squares problem of mishchenko2022: bundles against a NumPy loop.

The loop is the algorithm as it is usually written: one run at a time, a dictionary of the weights
that gradients in flight were computed at, two matrix-vector products an update. The bundle holds
every step size and seed at once and goes through `stalegrad.replay`. Both follow the same schedules
of 40 workers, the last 100 times slower, on the same minibatches in the same precision, on one core
and without the time that simulating and planning the schedule takes; their weights are compared at
the end. Time is the processor's, which other programs on the machine do not change.

    python benchmarks/least_squares.py [--rates 40] [--seeds 4] [--updates 500] [--repeats 5]
"""

import argparse
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from stalegrad import replay  # noqa: E402
from stalegrad.backends import make_backend  # noqa: E402
from stalegrad.clusters.heterogeneous import Heterogeneous  # noqa: E402
from stalegrad.partitions import CLUSTER, IndependentOrder, generator  # noqa: E402
from stalegrad.problems import Task, runs_in_step  # noqa: E402
from stalegrad.problems.least_squares import LeastSquares  # noqa: E402
from stalegrad.replay import Run  # noqa: E402
from stalegrad.rules.sgd import SGD  # noqa: E402

BATCH = 256


def plan_runs(problem: LeastSquares, rates: int, seeds: int, updates: int) -> list[list[Run]]:
    """The runs of each seed; those of one seed share schedule and minibatches."""
    cluster = Heterogeneous(workers=40, slowest=100.0)
    groups = []
    for seed in range(1, seeds + 1):
        order = IndependentOrder(problem.rows, updates * BATCH, BATCH, seed)
        schedule = cluster.simulate(order.workload(1), generator(seed, CLUSTER))
        steps = np.geomspace(1e-3, 1e-1, rates)
        first = Run.plan(SGD(lr=float(steps[0])), schedule, order, seed)
        groups.append([Run(SGD(lr=float(lr)), schedule, order, seed, first.snapshots)
                       for lr in steps])  # fmt: skip
    return groups


def by_loop(run: Run, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Final weights of one run."""
    schedule, lr = run.schedule, inputs.dtype.type(run.rule.lr)
    rows = run.order.indices(schedule.stream, schedule.batch)
    readers = np.bincount(schedule.read_version, minlength=schedule.updates + 1)
    weights = np.zeros(inputs.shape[1], inputs.dtype)
    versions = {0: weights}
    for k, version in enumerate(schedule.read_version):
        read = versions[version]
        readers[version] -= 1
        if not readers[version]:
            del versions[version]
        batch = inputs[rows[k]]
        gradient = batch.T @ (batch @ read - targets[rows[k]]) / len(batch)
        weights = weights - lr * gradient
        if readers[k + 1]:
            versions[k + 1] = weights
    return weights


def in_bundle(name: str, task: Task, runs: list[Run], dtype: torch.dtype) -> np.ndarray:
    """Final weights [R, d] of all runs, as many in step as `train_bundle` steps."""
    size = runs_in_step(task.parameters)
    backend, out = make_backend(name, task), []
    for i in range(0, len(runs), size):
        part = runs[i : i + size]
        out.append(replay.advance(task, part, replay.start(task, part, dtype), backend)[0].weights)
    return torch.cat(out).numpy()


def fastest(work: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Least processor seconds over some repeats, and the result."""
    best = np.inf
    for _ in range(repeats):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("rates", 40), ("seeds", 4), ("updates", 500), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = LeastSquares()
    groups = plan_runs(problem, options.rates, options.seeds, options.updates)
    runs = [run for group in groups for run in group]
    print(f"{len(runs)} runs of {options.updates} updates, one core, run-updates a second:")
    for dtype in (torch.float32, torch.float64):
        task = problem.load(Path(), torch.device("cpu"), dtype)
        inputs, targets = (part.numpy() for part in task.train)
        loop, alone = fastest(lambda: by_loop(runs[0], inputs, targets), options.repeats)  # noqa: B023
        bundle, together = fastest(lambda: in_bundle("auto", task, runs, dtype), options.repeats)  # noqa: B023
        error = np.linalg.norm(together[0] - alone) / np.linalg.norm(alone)
        rates = options.updates / loop, len(runs) * options.updates / bundle
        print(
            f"  {str(dtype)[6:]}: loop {rates[0]:,.0f}, bundle {rates[1]:,.0f}, "
            f"{rates[1] / rates[0]:.1f} times as many; weights agree to {error:.0e}"
        )


if __name__ == "__main__":
    main()
