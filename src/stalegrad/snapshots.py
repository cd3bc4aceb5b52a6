"""Where replay keeps the old weights that a gradient still to come will be computed at."""

import heapq
from dataclasses import dataclass

import numpy as np

from stalegrad.schedule import Schedule

CURRENT = -1  # read the server's present weights; or write nothing


@dataclass(frozen=True)
class SnapshotPlan:
    """Slots for snapshots, shared over time like registers.

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
    k = schedule.arrivals_per_update
    stale = schedule.read_version < schedule.version
    readers = np.flatnonzero(stale)
    last_reader = np.full(schedule.updates + 1, -1, np.int64)
    last_reader[schedule.read_version[readers]] = readers  # later readers overwrite earlier ones
    read = np.full(schedule.arrivals, CURRENT, np.int32)
    write = np.full(schedule.arrivals, CURRENT, np.int32)
    slot_of: dict[int, int] = {}
    free: list[int] = []
    slots = 0

    def take(version: int) -> int:
        nonlocal slots
        if free:
            slot = heapq.heappop(free)
        else:
            slot, slots = slots, slots + 1
        slot_of[version] = slot
        return slot

    versions, is_stale = schedule.read_version.tolist(), stale.tolist()
    last = last_reader.tolist()
    for arrival, version in enumerate(versions):
        if is_stale[arrival]:
            read[arrival] = slot_of[version]
            if last[version] == arrival:
                heapq.heappush(free, slot_of.pop(version))
        current, place_in_group = divmod(arrival, k)
        if place_in_group == k - 1 and last[current] >= 0:
            write[arrival] = take(current)
    return SnapshotPlan(read, write, slots)
