"""The merge of n workers' arrivals into one order, compiled, block by block.

Workers never wait, so the round that a worker starts ends at the sum of its compute times, and
what is left to find is the order in which the rounds of all workers end, and which updates were
known when each was started.

Compute times are consumed in the order in which rounds are started: first one for each worker,
then, at each arrival, one for the next round of its worker. Being independent and alike, it makes
no difference to which worker the next one goes; and one stream of them, cut into blocks anywhere,
gives the same arrivals.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stalegrad.io.compiled import compiled
from stalegrad.staleness.compute_times import Sampled

# As many rounds as a worker likes; more than any simulation serves.
ENDLESS = np.iinfo(np.int64).max

BLOCK = 1 << 16


@dataclass(frozen=True)
class Block:
    """Consecutive arrivals.

    first: the number of the first; worker [B] int32; finish [B] float64: when its compute round
    ended, half a communication time before it arrived; read_version [B] int64: the version the
    round was started at.
    """

    first: int
    worker: np.ndarray
    finish: np.ndarray
    read_version: np.ndarray


def arrivals(
    rounds: np.ndarray,
    total: int,
    *,
    per_update: int,
    communication_time: float,
    compute_time: Sampled,
    generator: np.random.Generator,
    slowness: np.ndarray | None = None,
    block: int = BLOCK,
) -> Iterator[Block]:
    """The first `total` arrivals of a hub-and-spoke cluster, at most `block` at a time.

    rounds [n] int64: how many rounds each worker computes before it stops. All start at time 0
        with version 0.
    per_update: arrivals that make an update (K); communication_time: seconds from master to
        worker and back (T_c).
    slowness [n]: what to multiply each worker's compute times by; none: 1.

    Draws n + total compute times from `generator`, whatever the block. Memory is that of a block
    and of the updates made within one communication time. Simultaneous arrivals are served in the
    order of their workers. A round reads the newest update that has reached its worker by its
    start, one arriving at that very moment included; at T_c = 0 these are the updates made by the
    arrivals served up to the worker's own. Raises ValueError where `rounds` are fewer than `total`.
    """
    if total > rounds.sum(dtype=float):
        raise ValueError(f"the workers compute {rounds.sum()} rounds, fewer than {total} arrivals")
    workers = len(rounds)
    slowness = np.ones(workers) if slowness is None else slowness
    first_times = compute_time.sample(generator, workers) * slowness
    finish = np.where(rounds > 0, first_times, np.inf)
    reading = np.zeros(workers, np.int64)
    left = np.maximum(rounds - 1, 0)
    under_way = np.empty(0)
    for first in range(0, total, block):
        size = min(block, total - first)
        out = Block(first, np.empty(size, np.int32), np.empty(size), np.empty(size, np.int64))
        # Finish times of the arrivals that made the updates not yet known to the workers.
        room = np.empty(len(under_way) + size // per_update + 1)
        room[: len(under_way)] = under_way
        known, made = _merge(
            finish,
            reading,
            left,
            room,
            len(under_way),
            first,
            per_update,
            communication_time,
            compute_time.sample(generator, size),
            slowness,
            out.worker,
            out.finish,
            out.read_version,
        )
        under_way = room[known:made].copy()
        yield out


@compiled
def _merge(
    finish: np.ndarray,
    reading: np.ndarray,
    left: np.ndarray,
    updates: np.ndarray,
    made: int,
    served: int,
    per_update: int,
    communication_time: float,
    compute_times: np.ndarray,
    slowness: np.ndarray,
    worker_out: np.ndarray,
    finish_out: np.ndarray,
    version_out: np.ndarray,
) -> tuple[int, int]:
    """One arrival for each of `compute_times`; `served` were before.

    finish, reading, left [n]: end and version of each worker's current round, and the rounds it
    has yet to start; carried on in place. updates: room for the updates, of which the first `made`
    are those under way. Returns how many of `updates` have become known, and how many there are.
    """
    workers = len(finish)
    leaves = 1
    while leaves < workers:
        leaves *= 2
    # A tournament: the children of node k are 2 k and 2 k + 1, worker i is leaf leaves + i, and
    # every node holds the earlier of its children (in a tie the lower worker).
    key = np.full(2 * leaves, np.inf)
    who = np.zeros(2 * leaves, np.int32)
    key[leaves : leaves + workers] = finish
    who[leaves:] = np.arange(leaves)
    for node in range(leaves - 1, 0, -1):
        child = 2 * node + 1 if key[2 * node + 1] < key[2 * node] else 2 * node
        key[node], who[node] = key[child], who[child]

    known = 0
    version = served // per_update - made
    missing = per_update - served % per_update
    for arrival in range(len(compute_times)):
        worker, now = who[1], key[1]
        worker_out[arrival] = worker
        finish_out[arrival] = now
        version_out[arrival] = reading[worker]

        missing -= 1
        if missing == 0:
            missing = per_update
            updates[made] = now
            made += 1
        # Both sides half a communication time early: an update is made T_c / 2 after its last
        # round finished and takes T_c / 2 to come back.
        while known < made and updates[known] + communication_time <= now:
            known += 1
        reading[worker] = version + known

        winner, end = worker, np.inf
        if left[worker] > 0:
            left[worker] -= 1
            end = now + compute_times[arrival] * slowness[worker]
        node = leaves + worker
        key[node] = end
        while node > 1:
            rival, rival_end = who[node ^ 1], key[node ^ 1]
            loses = (rival_end < end) | ((rival_end == end) & (rival < winner))
            winner = rival if loses else winner
            end = rival_end if loses else end
            node >>= 1
            who[node], key[node] = winner, end
    finish[:] = key[leaves : leaves + workers]
    return known, made
