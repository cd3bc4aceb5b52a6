"""Staleness over many simulations of one cluster, without their schedules."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stalegrad.schedule import Workload

if TYPE_CHECKING:
    from stalegrad.clusters import Cluster


@dataclass(frozen=True)
class StalenessSample:
    """Staleness in R replicates, counted just before the update an arrival may trigger.

    per_update: arrivals that make an update (K).
    counted: arrivals counted in each replicate, those dropped by a policy included; triggers: how
        many of them triggered an update, and applied: how many were applied, each a number, or one
        a replicate [R].
    total [R] int64, largest [R] int64: sum and maximum over the arrivals counted.
    histogram [R, bins] int64: arrivals of staleness 0, 1, ...; the last bin holds all larger.
    by_update [R, U] float64: mean over the K gradients of each of the first U updates, counted
        from the start.
    seconds [R] float64: simulated time that the arrivals counted took.
    """

    per_update: int
    counted: int
    triggers: int | np.ndarray
    applied: int | np.ndarray
    total: np.ndarray
    largest: np.ndarray
    histogram: np.ndarray
    by_update: np.ndarray
    seconds: np.ndarray

    @cached_property
    def mean_before(self) -> np.ndarray:
        """Mean staleness [R] just before the update, the convention of Jain et al. 2018."""
        return self.total / self.counted

    @property
    def mean_after(self) -> np.ndarray:
        """Mean staleness [R] just after: one more for each arrival that triggers an update.

        The convention of Al-Lawati and Draper 2020, equation 3.
        """
        return self.mean_before + self.triggers / self.counted

    @property
    def update_rate(self) -> np.ndarray:
        """Updates a simulated second [R]; its limit is Lemma 1 of Al-Lawati and Draper 2020."""
        return self.applied / self.per_update / self.seconds


def sample_schedules(
    cluster: "Cluster",
    workload: Workload,
    replicates: int,
    generator: np.random.Generator,
    bins: int,
) -> StalenessSample:
    """Staleness in whole schedules, from the first arrival to when the last worker stops.

    bins: of the histograms, at least; more where staleness goes beyond, so that nothing is lost.
    """
    per_update = cluster.arrivals_per_update()
    total, largest = np.zeros(replicates, np.int64), np.zeros(replicates, np.int64)
    applied, triggers = np.zeros(replicates, np.int64), np.zeros(replicates, np.int64)
    counts, seconds = [], np.zeros(replicates)
    for r in range(replicates):
        schedule = cluster.simulate(workload, generator)
        staleness = schedule.staleness_before
        total[r], largest[r] = staleness.sum(), staleness.max()
        # One bin more than there is staleness: the last, of all larger, stays empty.
        counts.append(np.bincount(staleness, minlength=max(bins, largest[r] + 2)))
        seconds[r] = schedule.time[-1]
        applied[r], triggers[r] = schedule.replayed.arrivals, schedule.updates
    histogram = np.zeros((replicates, max(map(len, counts))), np.int64)
    for r, count in enumerate(counts):
        histogram[r, : len(count)] = count
    return StalenessSample(
        per_update=per_update,
        counted=len(staleness),
        triggers=triggers,
        applied=applied,
        total=total,
        largest=largest,
        histogram=histogram,
        by_update=np.zeros((replicates, 0)),
        seconds=seconds,
    )
