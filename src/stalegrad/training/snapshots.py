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
    by_stage [A, S]: as `read`, for each stage of a schedule that has `stage_versions`; `read` is
        then that of the first stage.
    """

    read: np.ndarray
    write: np.ndarray
    slots: int
    by_stage: np.ndarray | None = None


def plan_snapshots(schedule: Schedule) -> SnapshotPlan:
    """Give each version that is read after it was overwritten a slot until its last reading."""
    schedule = schedule.replayed
    by_stage = schedule.stage_versions
    versions = schedule.read_version[:, None] if by_stage is None else by_stage
    read, write, slots = _assign(versions, schedule.updates, schedule.arrivals_per_update)
    first = np.ascontiguousarray(read[:, 0])
    return SnapshotPlan(first, write, slots, None if by_stage is None else read)


@compiled
def _assign(
    versions: np.ndarray, updates: int, per_update: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """read [A, S], write and slots of the plan. versions [A, S]: what each of S stages reads."""
    arrivals, stages = versions.shape
    last_reader = np.full(updates + 1, -1, np.int64)  # the last arrival that reads it when stale
    for arrival in range(arrivals):
        for stage in range(stages):
            if versions[arrival, stage] < arrival // per_update:
                last_reader[versions[arrival, stage]] = arrival
    read = np.full((arrivals, stages), CURRENT, np.int32)
    write = np.full(arrivals, CURRENT, np.int32)
    slot_of = np.empty(updates + 1, np.int32)
    free = np.empty(updates + 1, np.int32)  # a stack: the slot that was left last goes first
    slots = left = 0
    for arrival in range(arrivals):
        current = arrival // per_update
        for stage in range(stages):
            version = versions[arrival, stage]
            if version < current:
                read[arrival, stage] = slot_of[version]
                if last_reader[version] == arrival:
                    free[left] = slot_of[version]
                    left += 1
                    last_reader[version] = -1  # which another stage may read too
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
