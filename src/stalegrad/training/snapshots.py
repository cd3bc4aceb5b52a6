"""Snapshots: where replay keeps old weights that later gradients are computed at."""

from dataclasses import dataclass

import numpy as np

from stalegrad.io.compiled import compiled
from stalegrad.schedule import Schedule

CURRENT = -1  # read the server's present weights; or write nothing


@dataclass(frozen=True)
class SnapshotPlan:
    """Slots for snapshots, shared over time like registers. A counts the arrivals that are applied.

    read [A]: the slot that arrival i's weights lie in, or CURRENT.
    write [A]: the slot to copy the weights to before the update that arrival i triggers, once its
        own slot has been read; or CURRENT.
    slots: how many there are: at most one for each gradient in flight, however long the run.
    """

    read: np.ndarray
    write: np.ndarray
    slots: int


def plan_snapshots(schedule: Schedule) -> SnapshotPlan:
    """Give each version that is read after it was overwritten a slot until its last reading."""
    schedule = schedule.replayed
    k = schedule.arrivals_per_update
    stale = schedule.read_version < schedule.version
    readers = np.flatnonzero(stale)
    last_reader = np.full(schedule.updates + 1, -1, np.int64)
    last_reader[schedule.read_version[readers]] = readers  # later readers overwrite earlier ones
    return SnapshotPlan(*_assign(schedule.read_version, stale, last_reader, k))


@compiled
def _assign(
    read_version: np.ndarray, stale: np.ndarray, last_reader: np.ndarray, per_update: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """read, write and slots of the plan.

    last_reader [updates + 1]: the last arrival that reads each version when it is stale, or -1.
    """
    arrivals = len(read_version)
    read = np.full(arrivals, CURRENT, np.int32)
    write = np.full(arrivals, CURRENT, np.int32)
    slot_of = np.empty(len(last_reader), np.int32)
    free = np.empty(len(last_reader), np.int32)  # a stack: the slot that was left last goes first
    slots = left = 0
    for arrival in range(arrivals):
        version = read_version[arrival]
        if stale[arrival]:
            read[arrival] = slot_of[version]
            if last_reader[version] == arrival:
                free[left] = slot_of[version]
                left += 1
        current = arrival // per_update
        if arrival % per_update == per_update - 1 and last_reader[current] >= 0:
            if left:
                left -= 1
                slot = free[left]
            else:
                slot = slots
                slots += 1
            slot_of[current] = slot
            write[arrival] = slot
    return read, write, slots
