"""Arrivals a second of schedules: compiled merge, whole-array NumPy, event queue; and by policy.

The first three are of hub-and-spoke clusters. They find worker, finish time, version and staleness
of the same arrivals from the same compute times, and the results are compared to the bit before
anything is printed. The times of a shared machine wander, so the ratios of one run say more than
its rates. With `--policies` whole schedules of three clusters are timed under every policy of the
server, staleness included.

    python benchmarks/schedules.py --workers 10 --minibatches 10 --communication-time 1
    python benchmarks/schedules.py --workers 10 --policies
"""

import argparse
import heapq
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stalegrad.clusters import Cluster, _merge
from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.clusters.hub_and_spoke import HubAndSpoke, simulate_staleness
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.schedule import Workload
from stalegrad.staleness.compute_times import Exponential


class Drawn:
    """Compute times drawn beforehand, given out in their order."""

    def __init__(self, times: np.ndarray):
        self._times, self._next = times, 0

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        self._next += size
        return self._times[self._next - size : self._next]


def compiled(cluster: HubAndSpoke, times: np.ndarray) -> tuple[np.ndarray, ...]:
    """Worker, finish time, version read and staleness before, by the library's merge."""
    per_update = cluster.minibatches_per_update
    columns = []
    for block in _merge.arrivals(
        np.full(cluster.workers, _merge.ENDLESS),
        len(times) - cluster.workers,
        per_update=per_update,
        communication_time=cluster.communication_time,
        compute_time=Drawn(times),
        generator=None,
    ):
        version = np.arange(block.first, block.first + len(block.worker)) // per_update
        columns.append(
            (block.worker, block.finish, block.read_version, version - block.read_version)
        )
    return tuple(np.concatenate(column) for column in zip(*columns, strict=True))


def event_queue(cluster: HubAndSpoke, times: Sequence[float]) -> tuple[list, ...]:
    """The same from a loop over a queue of rounds that end.

    times: in the order in which rounds are started; the first n are those of the n workers.
    """
    per_update, communication = cluster.minibatches_per_update, cluster.communication_time
    queue = [(times[w], w) for w in range(cluster.workers)]
    heapq.heapify(queue)
    reading = [0] * cluster.workers
    known_from = []  # when each update reaches the workers
    worker, finish, read_version, staleness = [], [], [], []
    for arrival, compute_time in enumerate(times[cluster.workers :]):
        now, w = queue[0]
        worker.append(w)
        finish.append(now)
        read_version.append(reading[w])
        staleness.append(arrival // per_update - reading[w])
        if (arrival + 1) % per_update == 0:
            known_from.append(now + communication)
        reading[w] = bisect_right(known_from, now)
        heapq.heapreplace(queue, (now + compute_time, w))
    return worker, finish, read_version, staleness


def whole_array(cluster: HubAndSpoke, times: np.ndarray, arrivals: int) -> tuple[np.ndarray, ...]:
    """The same from one sort of all finish times.

    times [n, J]: of each worker's rounds, at least one more than it completes; inf where not
    needed.
    """
    per_update = cluster.minibatches_per_update
    finish = np.cumsum(times, axis=1).ravel()
    # Stable, so that simultaneous arrivals stay in the order of their workers.
    order = np.argsort(finish, kind="stable")[:arrivals]
    finish = finish[order]
    made = np.arange(1, arrivals + 1) // per_update
    known_from = finish[per_update - 1 :: per_update] + cluster.communication_time
    known = np.minimum(np.searchsorted(known_from, finish, side="right"), made)
    reading = np.zeros(times.size, np.int64)
    reading[order + 1] = known
    read_version = reading[order]
    staleness = np.arange(arrivals) // per_update - read_version
    return order // times.shape[1], finish, read_version, staleness


def by_worker(times: np.ndarray, worker: np.ndarray, workers: int) -> np.ndarray:
    """Compute times in the order of starting as a matrix [workers, rounds], filled with inf."""
    starter = np.concatenate([np.arange(workers), worker])
    rounds = np.bincount(starter, minlength=workers)
    matrix = np.full((workers, rounds.max()), np.inf)
    for w in range(workers):
        matrix[w, : rounds[w]] = times[starter == w]
    return matrix


def best_of(repeats: int, function, *arguments):
    """The result of `function` and the least processor seconds that it took."""
    seconds = []
    for _ in range(repeats):
        begin = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - begin)
    return result, min(seconds)


CLUSTER = HubAndSpoke(
    workers=10,
    minibatches_per_update=10,
    communication_time=1.0,
    compute_time=Exponential(loc=1.0, scale=1.5),
)


def compare(cluster: HubAndSpoke, arrivals: int, repeats: int) -> dict[str, float]:
    """Seconds of each, by name, once their results were found to be the same."""
    times = cluster.compute_time.sample(np.random.default_rng(0), cluster.workers + arrivals)

    compiled(cluster, times[: cluster.workers + 1])  # compiles, or loads what was compiled
    merged, merge_seconds = best_of(repeats, compiled, cluster, times)
    matrix = by_worker(times, merged[0], cluster.workers)
    sorted_, sort_seconds = best_of(repeats, whole_array, cluster, matrix, arrivals)
    looped, loop_seconds = best_of(1, event_queue, cluster, times.tolist())
    for other in (sorted_, looped):
        for column, expected in zip(other, merged, strict=True):
            np.testing.assert_array_equal(column, expected)

    sample, sample_seconds = best_of(
        repeats, lambda: simulate_staleness(cluster, arrivals, 1, np.random.default_rng(0))
    )
    assert sample.total[0] == merged[3].sum()
    return {
        "simulate_staleness (times drawn as well)": sample_seconds,
        "compiled merge": merge_seconds,
        "whole-array NumPy": sort_seconds,
        "event queue (heapq)": loop_seconds,
    }


def under_policies(workers: int) -> dict[str, tuple[Cluster, ...]]:
    """What is timed with `--policies`, by name: no policy, and every one that each cluster has."""
    policies = {
        "none": None,
        "drop, R = 2 n": {"name": "drop", "threshold": 2 * workers},
        "drop, R = 2 n, stop": {"name": "drop", "threshold": 2 * workers, "stop": True},
        "drop, R = 1, stop": {"name": "drop", "threshold": 1, "stop": True},
        "fresh, K = n": {"name": "fresh", "gradients": workers},
        "buffer, K = n": {"name": "buffer", "gradients": workers},
        "bounded, s = 3": {"name": "bounded", "clocks": 3},
        "backup, K = n - 1": {"name": "backup", "gradients": max(workers - 1, 1)},
    }

    def clusters(policy: dict | None) -> tuple[Cluster, ...]:
        spread = {"profile": "geometric", "slowest": 100.0}
        hub = HubAndSpoke(workers=workers, compute_time=CLUSTER.compute_time, policy=policy)
        found: tuple[Cluster, ...] = (Heterogeneous(workers=workers, policy=policy, **spread), hub)
        if policy and policy.get("stop"):
            return found
        keys = {"compute_ms": 1.0, "jitter": 0.1, "delay_ms": 2.0, "delayed": "one"}
        return (*found, ParameterServer(workers=workers, policy=policy, **keys))

    return {name: clusters(policy) for name, policy in policies.items()}


def whole_schedules(cluster: Cluster, arrivals: int, repeats: int) -> float:
    """Million arrivals a second of whole schedules, their staleness included."""

    def whole(arrivals: int) -> float:
        schedule = cluster.simulate(Workload((arrivals,), 1), np.random.default_rng(0))
        return schedule.staleness_before.mean()

    whole(1_000)  # compiles, or loads what was compiled
    _, seconds = best_of(repeats, whole, arrivals)
    return arrivals / seconds / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=CLUSTER.workers)
    parser.add_argument(
        "--minibatches", type=int, default=CLUSTER.minibatches_per_update, help="an update (K)"
    )
    parser.add_argument("--communication-time", type=float, default=CLUSTER.communication_time)
    parser.add_argument("--arrivals", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--policies", action="store_true")
    options = parser.parse_args(argv)
    if options.policies:
        print("million arrivals/s   heterogeneous  hub_and_spoke  parameter_server")
        for name, clusters in under_policies(options.workers).items():
            rates = [whole_schedules(each, options.arrivals, options.repeats) for each in clusters]
            print(f"{name:20}" + "".join(f"{each:15.1f}" for each in rates))
        return
    cluster = replace(
        CLUSTER,
        workers=options.workers,
        minibatches_per_update=options.minibatches,
        communication_time=options.communication_time,
    )
    found = compare(cluster, options.arrivals, options.repeats)
    print(f"{options.arrivals:,} arrivals, {cluster}; staleness included; columns identical")
    for name, seconds in found.items():
        rate, times = options.arrivals / seconds / 1e6, found["event queue (heapq)"] / seconds
        print(f"{name:42}{rate:8.2f} million/s {times:8.1f} x event queue")


if __name__ == "__main__":
    main()
