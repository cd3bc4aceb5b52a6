"""Clusters: who computes when. One module a cluster; each simulates a `Schedule`."""

from typing import Protocol

import numpy as np

from stalegrad.schedule import Schedule, Workload


class Cluster(Protocol):
    """What a module of this package defines: a `spec` with these methods."""

    def streams(self) -> int:
        """How many workers draw data of their own where data are partitioned."""

    def arrivals_per_update(self) -> int:
        """1 for asynchronous, K for K-batch, all workers for synchronous."""

    def in_flight(self) -> int:
        """About how many old versions of the weights gradients in flight need: to reckon a job's
        memory before its schedule is known."""

    def check(self, workload: Workload) -> None:
        """Raises ValueError where the cluster cannot do `workload`; asked before work starts."""

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """The arrivals of all gradients of `workload`; random times come from `generator`."""
