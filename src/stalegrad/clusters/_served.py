"""Arrivals under a policy: what `_merge` does where nobody waits and nothing is dropped.

Workers compute round after round, and the server decides at each arrival whether the gradient is
applied, and who begins another round when. Compute times are consumed in the order in which rounds
are begun; rounds begun at the same moment, in the order in which `arrivals` says.
"""

from dataclasses import dataclass

import numpy as np

from stalegrad.clusters._policies import NEVER, Terms
from stalegrad.io.compiled import compiled
from stalegrad.staleness.compute_times import Sampled


@dataclass(frozen=True)
class Served:
    """Arrivals [A]: as a `_merge.Block`, and whether each is applied (None: all are)."""

    worker: np.ndarray
    finish: np.ndarray
    read_version: np.ndarray
    applied: np.ndarray | None


def arrivals(
    rounds: np.ndarray,
    total: int,
    terms: Terms,
    *,
    communication_time: float,
    compute_time: Sampled,
    generator: np.random.Generator,
    slowness: np.ndarray | None = None,
) -> Served:
    """The first `total` arrivals, with the arguments of `_merge.arrivals`.

    At one moment arrivals are served in the order of their workers, each with all that follows from
    it before the next: an update; then new rounds, of the worker served or of all that have waited
    and now go on, in the order of workers; then of those that are stopped, in the order in which
    their rounds had begun.

    Every worker computes at least one round. Draws n + total compute times at least; those left
    over are thrown away. Raises ValueError as `_merge.arrivals`, and where someone waits or is
    stopped and `communication_time` is not 0.
    """
    if total > rounds.sum(dtype=float):
        raise ValueError(f"the workers compute {rounds.sum()} rounds, fewer than {total} arrivals")
    if communication_time and not terms.never_wait:
        raise ValueError("workers that wait or are stopped need a communication time of 0")
    workers = len(rounds)
    slowness = np.ones(workers) if slowness is None else slowness
    leaves = 1 << (workers - 1).bit_length()
    worker, finish = np.empty(total, np.int32), np.empty(total)
    read_version, applied = np.empty(total, np.int64), np.empty(total, bool)
    first_times = compute_time.sample(generator, workers) * slowness
    # A tournament as in `_merge`: the second half holds when each worker's round ends, every node
    # before it the earlier of its two children, and `who` whose it is.
    key = np.full(2 * leaves, np.inf)
    key[leaves : leaves + workers] = first_times
    who = np.zeros(2 * leaves, np.int32)
    who[leaves:] = np.arange(leaves)
    state = (
        key,
        who,
        np.zeros(workers, np.int64),  # the version that each worker's round reads
        rounds - 1,  # rounds that it has yet to begin
        np.zeros(workers, np.int64),  # rounds that it has done; NEVER once it has done all
        np.zeros(workers, bool),  # it waits
        np.concatenate([np.arange(1, workers + 1), [0]]),  # rounds by when they began: the next,
        np.concatenate([[workers], np.arange(workers)]),  # the one before; `workers` is both ends
        np.empty(total // terms.per_update + 1 if communication_time else 0),  # times of updates
        # Served; versions made, and known to the workers; gradients that the next lacks; rounds
        # done by the slowest worker, and how many workers have done no more.
        np.array([0, 0, 0, terms.per_update, 0, workers]),
    )
    times = np.empty(0)
    while (left := total - state[-1][0]) > 0:
        # An arrival begins at most one round of each worker.
        times = np.concatenate([times, compute_time.sample(generator, left + workers)])
        used = _serve(
            *state,
            communication_time,
            terms.per_update,
            terms.threshold,
            terms.clocks,
            terms.waits,
            terms.stops,
            times,
            slowness,
            worker,
            finish,
            read_version,
            applied,
        )
        times = times[used:]
    return Served(worker, finish, read_version, None if applied.all() else applied)


@compiled
def _serve(
    key: np.ndarray,
    who: np.ndarray,
    reading: np.ndarray,
    left: np.ndarray,
    done: np.ndarray,
    waiting: np.ndarray,
    later: np.ndarray,
    earlier: np.ndarray,
    updates: np.ndarray,
    counts: np.ndarray,
    communication_time: float,
    per_update: int,
    threshold: int,
    clocks: int,
    waits: bool,
    stops: bool,
    times: np.ndarray,
    slowness: np.ndarray,
    worker_out: np.ndarray,
    finish_out: np.ndarray,
    version_out: np.ndarray,
    applied_out: np.ndarray,
) -> int:
    """Serves arrivals while there are `times` for all rounds that one of them may begin, up to the
    last of the outputs. Returns how many times it has used.

    The first arguments, up to `counts`, are the state that `arrivals` makes; changed in place.
    """
    workers = len(reading)
    leaves = len(key) // 2
    total = len(worker_out)
    served, version, known = counts[0], counts[1], counts[2]
    missing, slowest, behind = counts[3], counts[4], counts[5]
    bounded = clocks < NEVER
    changed = np.empty(2 * workers + 1, np.int64)
    used = 0
    anew = True  # the whole tournament is to be played
    while served < total and used + workers <= len(times):
        if anew:
            for node in range(leaves - 1, 0, -1):
                child = 2 * node + 1 if key[2 * node + 1] < key[2 * node] else 2 * node
                key[node], who[node] = key[child], who[child]
        worker, now = who[1], key[1]
        if now == np.inf:
            raise ValueError("its times are too large or too small, or too far apart, to add up")
        applied = version - reading[worker] < threshold
        worker_out[served] = worker
        finish_out[served] = now
        version_out[served] = reading[worker]
        applied_out[served] = applied
        served += 1
        updated = False
        if applied:
            missing -= 1
            if missing == 0:
                missing = per_update
                updated = True
                if communication_time > 0:
                    updates[version] = now
                version += 1
        if communication_time > 0:
            # Both sides half a communication time early, as in `_merge`.
            while known < version and updates[known] + communication_time <= now:
                known += 1
        else:
            known = version

        # Whose rounds begin or end now: leaves of the tournament to be played again.
        changes = 0
        key[leaves + worker] = np.inf
        if stops:
            later[earlier[worker]], earlier[later[worker]] = later[worker], earlier[worker]
        goes_on = left[worker] > 0
        if not goes_on:
            used += 1  # the time of a round that is not begun, as in `_merge`
        released = waits and updated
        if bounded:
            behind -= done[worker] == slowest
            done[worker] = done[worker] + 1 if goes_on else NEVER
            if behind == 0:
                slowest = done.min()
                behind = np.count_nonzero(done == slowest)
                released = True
            if goes_on and done[worker] - slowest > clocks:
                waiting[worker] = True
        elif waits and applied and goes_on:
            waiting[worker] = True
        if released:
            waiting[worker] = goes_on
            for w in range(workers):
                if waiting[w]:
                    waiting[w] = False
                    left[w] -= 1
                    reading[w] = known
                    key[leaves + w] = now + times[used] * slowness[w]
                    used += 1
                    changed[changes] = w
                    changes += 1
        elif goes_on and not waiting[worker]:
            left[worker] -= 1
            reading[worker] = known
            key[leaves + worker] = now + times[used] * slowness[worker]
            used += 1
        if changes == 0 or not goes_on:
            changed[changes] = worker
            changes += 1
        if stops:
            for i in range(changes):
                w = changed[i]
                if key[leaves + w] < np.inf:
                    later[earlier[workers]], earlier[w] = w, earlier[workers]
                    later[w], earlier[workers] = workers, w
            while updated:
                w = later[workers]
                if w == workers or version - reading[w] < threshold:
                    break
                reading[w] = known
                key[leaves + w] = now + times[used] * slowness[w]
                used += 1
                changed[changes] = w
                changes += 1
                later[workers], earlier[later[w]] = later[w], workers
                later[earlier[workers]], earlier[w] = w, earlier[workers]
                later[w], earlier[workers] = workers, w

        anew = 4 * changes > leaves  # which takes fewer games than one way up for each change
        for i in range(0 if anew else changes):
            winner = changed[i]
            node = leaves + winner
            end = key[node]
            while node > 1:
                rival, rival_end = who[node ^ 1], key[node ^ 1]
                loses = (rival_end < end) | ((rival_end == end) & (rival < winner))
                winner = rival if loses else winner
                end = rival_end if loses else end
                node >>= 1
                who[node], key[node] = winner, end
    counts[0], counts[1], counts[2] = served, version, known
    counts[3], counts[4], counts[5] = missing, slowest, behind
    return used
