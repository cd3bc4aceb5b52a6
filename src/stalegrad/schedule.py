"""Schedules: which gradient reaches the server when, and at which weights it was computed.

A schedule is all that replay learns of a cluster, and all that staleness needs: no gradient is
computed to make one.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Workload:
    """What the workers have to do.

    batches: minibatches in one epoch of each data stream: one entry where all workers draw from
        one stream, else one entry a worker.
    epochs: passes over every stream.
    local_steps: gradients that a worker computes one after another before it sends; each of
        `batches` then stands for so many minibatches.
    """

    batches: tuple[int, ...]
    epochs: int
    local_steps: int = 1

    @property
    def total(self) -> int:
        """What the workers send: minibatches over all streams and epochs, over `local_steps`."""
        return sum(self.batches) * self.epochs

    def check(self, streams: int, least: int) -> None:
        """Raises ValueError for another number of data streams than one or `streams`, for a stream
        without a minibatch, and for fewer than `least` minibatches in all."""
        if len(self.batches) not in (1, streams):
            raise ValueError(
                f"{len(self.batches)} data streams; there must be one in all, or {streams}"
            )
        if 0 in self.batches:
            raise ValueError(
                f"part {self.batches.index(0) + 1} of the data has too few samples for "
                f"{self._at_once}; choose a smaller 'batch_size' or fewer {self._fewer}"
            )
        if self.total < least:
            raise ValueError(
                f"{self.total} gradients in all are too few for one update, which takes {least}; "
                f"choose a smaller 'batch_size' or fewer {self._fewer}"
            )

    @property
    def _at_once(self) -> str:
        return "one minibatch" if self.local_steps == 1 else f"{self.local_steps} minibatches"

    @property
    def _fewer(self) -> str:
        return "workers" if self.local_steps == 1 else "'local_steps'"

    def check_one_step(self, why: str) -> None:
        """Raises ValueError, which says `why`, where workers take several local steps."""
        if self.local_steps > 1:
            raise ValueError(f"{why}; leave 'local_steps' at 1, not {self.local_steps}")


@dataclass(frozen=True)
class Schedule:
    """Arrivals of gradients at the server, in the order they are served.

    worker [A] int32: who computed the gradient.
    time [A] float64: simulated seconds at which it is applied, or dropped; never decreases.
    read_version [A] int64: the server version (number of updates so far) of the weights it was
        computed at.
    stream [A] int32: the data stream its minibatch comes from.
    batch [A] int64: the number of its minibatch within that stream, counted over all epochs.
    epoch_ends [epochs] int64: arrivals served by the end of each epoch; the last is A.
    arrivals_per_update: 1 for asynchronous SGD, K for K-batch, all workers for synchronous.
    stage_versions [A, S] int64: where the layers are cut into S stages, and gradients computed at a
        version of its own in each: these. `read_version` is then the oldest, which staleness counts
        from. None where one version is read.
    applied [A] bool: whether the server uses the gradient; None: it uses all. One that it drops
        counts as computed: its minibatch is used up, and the arrival counts in its epoch.
    weight [A] float64: what the gradient is multiplied by, above 0; None: 1 throughout.

    An update is made of every `arrivals_per_update` gradients that are applied: their sum, each
    times its weight, over `arrivals_per_update`. So after arrival i, where a of the arrivals up to
    and including i are applied, the server version is a // arrivals_per_update.
    """

    worker: np.ndarray
    time: np.ndarray
    read_version: np.ndarray
    stream: np.ndarray
    batch: np.ndarray
    epoch_ends: np.ndarray
    arrivals_per_update: int = 1
    stage_versions: np.ndarray | None = None
    applied: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        arrivals = len(self.worker)
        columns = (self.time, self.read_version, self.stream, self.batch, self.applied, self.weight)
        if any(column is not None and len(column) != arrivals for column in columns):
            raise ValueError("The columns of a schedule must have one entry an arrival.")
        if self.applied is not None and self.applied.dtype != bool:
            raise ValueError(f"'applied' holds {self.applied.dtype}; it must hold true or false.")
        if self.weight is not None and not ((self.weight > 0) & (self.weight < np.inf)).all():
            raise ValueError("The weight of a gradient must be a finite number above 0.")
        if self.arrivals_per_update < 1:
            raise ValueError(f"arrivals_per_update is {self.arrivals_per_update}, not >= 1.")
        if not np.isfinite(self.time).all():
            raise ValueError("its times are too large or too small, or too far apart, to add up")
        if arrivals and (np.diff(self.time) < 0).any():
            raise ValueError("Arrivals must be in the order of their times.")
        if (self.read_version < 0).any() or (self.staleness_before < 0).any():
            raise ValueError("A gradient cannot be computed at a version not yet made.")
        if (stages := self.stage_versions) is not None:
            if stages.ndim != 2 or len(stages) != arrivals or not stages.shape[1]:
                raise ValueError("Versions by stage must have a row an arrival, a column a stage.")
            if (stages.min(axis=1) != self.read_version).any():
                raise ValueError("The version that is read must be the oldest of the stages.")
            if (stages > self.version[:, None]).any():
                raise ValueError("A stage cannot compute at a version not yet made.")
        ends = self.epoch_ends
        if len(ends) == 0 or ends[-1] != arrivals or (np.diff(ends) < 0).any() or ends[0] < 0:
            raise ValueError("Epoch ends must not decrease and must close with the last arrival.")

    @property
    def arrivals(self) -> int:
        return len(self.worker)

    @property
    def updates(self) -> int:
        """Updates the server makes; gradients applied past the last full group change nothing."""
        applied = self.arrivals if self.applied is None else np.count_nonzero(self.applied)
        return int(applied) // self.arrivals_per_update

    def applied_until(self, stops: np.ndarray) -> np.ndarray:
        """How many of the first `stops` [n] arrivals are applied [n]."""
        if self.applied is None:
            return stops
        return np.concatenate([[0], np.cumsum(self.applied)])[stops]

    @cached_property
    def version(self) -> np.ndarray:
        """Server version [A] just before each arrival."""
        return self.applied_until(np.arange(self.arrivals)) // self.arrivals_per_update

    @cached_property
    def replayed(self) -> "Schedule":
        """The arrivals that change weights, those that are applied: what replay goes through.

        It is this very schedule where nothing is dropped. Versions, and staleness of what is
        applied, are the same in both.
        """
        if self.applied is None:
            return self
        return replace(
            self,
            worker=self.worker[self.applied],
            time=self.time[self.applied],
            read_version=self.read_version[self.applied],
            stream=self.stream[self.applied],
            batch=self.batch[self.applied],
            epoch_ends=self.applied_until(self.epoch_ends),
            stage_versions=None
            if self.stage_versions is None
            else self.stage_versions[self.applied],
            applied=None,
            weight=None if self.weight is None else self.weight[self.applied],
        )

    def stops(self, per_epoch: int = 1) -> np.ndarray:
        """Arrivals served by the end of each stretch of an epoch [epochs * per_epoch], where every
        epoch is cut into `per_epoch` stretches as equal as can be."""
        starts = np.concatenate([[0], self.epoch_ends[:-1]])
        parts = np.arange(1, per_epoch + 1)
        lengths = (self.epoch_ends - starts)[:, None]
        return (starts[:, None] + lengths * parts // per_epoch).ravel()

    @property
    def staleness_before(self) -> np.ndarray:
        """Staleness [A] counted just before the update that the arrival may trigger.

        The convention of Jain et al. 2018, whose mean is N - 1 for N workers alike. A gradient that
        is dropped has the staleness that it would have been applied with.
        """
        return self.version - self.read_version

    def staleness_until(self, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (float64) and maximum (int64) of `staleness_before`, [n] each, over all arrivals
        served by each of `stops` [n], those dropped included; 0 where there are none. Those of
        what is applied are `replayed.staleness_until(applied_until(stops))`."""
        staleness = self.staleness_before
        # The sums are whole numbers, and so exact, as those of `staleness[:stop].mean()` are.
        sums = np.concatenate([[0], np.cumsum(staleness)])[stops]
        largest = np.concatenate([[0], np.maximum.accumulate(staleness)])[stops]
        return sums / np.maximum(stops, 1), largest

    @property
    def staleness_after(self) -> np.ndarray:
        """Staleness [A] counted just after: the gradient's own update is included.

        The convention of Al-Lawati and Draper 2020, whose mean is n for n workers alike at K = 1,
        T_c = 0. One that is dropped makes no update, and has no more than before.
        """
        after = self.applied_until(np.arange(self.arrivals) + 1) // self.arrivals_per_update
        return after - self.read_version


def count_within(worker: np.ndarray, workers: int) -> np.ndarray:
    """For each arrival, how many there were before it from the same worker."""
    count = np.empty(len(worker), np.int64)
    for w in range(workers):
        mine = worker == w
        count[mine] = np.arange(np.count_nonzero(mine))
    return count
