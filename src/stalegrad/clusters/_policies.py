"""Policies of the server: which gradients are applied, when it updates, who waits or starts over.

A cluster's field `policy` holds one of these, and none stands for what the cluster says itself:
asynchronous, K-batch or synchronous. The staleness of a gradient is counted before its own update,
as `schedule.Schedule.staleness_before` counts it: 0 is fresh.

A gradient that is dropped counts as computed: its minibatch is used up, and its arrival belongs to
its epoch. A computation that is stopped sends nothing: it is no arrival, and a later one has its
minibatch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stalegrad.schedule import Schedule
from stalegrad.specs import choice, spec

NEVER = np.iinfo(np.int64).max  # no staleness and no lead is as large

AtLeastOne = Annotated[int, Field(ge=1, le=NEVER)]


@dataclass(frozen=True)
class Terms:
    """What the event loops of the clusters know of a policy.

    per_update: gradients applied that make an update (K). threshold: a gradient is applied where
    its staleness is less, else dropped. clocks: a worker waits while it has computed more than so
    many gradients more than the slowest. waits: a worker whose gradient was applied waits for the
    update. stops: a computation whose gradient would be dropped is stopped, and begun anew at the
    current weights.
    """

    per_update: int = 1
    threshold: int = NEVER
    clocks: int = NEVER
    waits: bool = False
    stops: bool = False

    @property
    def plain(self) -> bool:
        """Whether every gradient is applied, and nobody waits or is stopped."""
        return self.threshold == NEVER and self.never_wait

    @property
    def never_wait(self) -> bool:
        """Whether the workers compute as if there were no policy."""
        return self.clocks == NEVER and not self.waits and not self.stops

    def versions(self, most: int) -> int:
        """How many old versions are needed of `most`, since no older one is applied."""
        return min(most, self.threshold - 1)


@spec
class Constant:
    """Weight 1, however stale."""

    name: Literal["constant"] = "constant"

    def of(self, staleness: np.ndarray) -> np.ndarray:
        return np.ones(len(staleness))


@spec
class Polynomial:
    """(1 + staleness)^-a.

    a: 1/2 is the 1 / sqrt(1 + staleness) of FedBuff (Nguyen et al. 2022); any is the polynomial
        function of FedAsync (Xie et al. 2019).
    """

    name: Literal["polynomial"] = "polynomial"
    a: Annotated[float, Field(ge=0, le=10)] = 0.5

    def of(self, staleness: np.ndarray) -> np.ndarray:
        return (1.0 + staleness) ** -self.a


@spec
class Hinge:
    """1 up to the staleness b, and 1 / (1 + a (staleness - b)) beyond (Xie et al. 2019).

    a: how fast it falls; b: the staleness up to which it does not.
    """

    name: Literal["hinge"] = "hinge"
    a: Annotated[float, Field(ge=0, le=1e15)]
    b: Annotated[int, Field(ge=0, le=NEVER)]

    def of(self, staleness: np.ndarray) -> np.ndarray:
        return 1 / (1 + self.a * np.maximum(staleness - self.b, 0))


Weighting = Annotated[
    Constant | Polynomial | Hinge, choice("a weighting", Constant, Polynomial, Hinge)
]


@spec
class Drop:
    """Every gradient is an update, but for those that are too old (Maranjyan et al. 2025).

    That is Ringmaster ASGD.

    threshold: R; a gradient of staleness R or more is dropped, and its worker goes on from the
        current weights. 1 applies fresh gradients only.
    stop: a computation whose gradient would be dropped is stopped as soon as that is certain, and
        the worker begins another one at the current weights.
    """

    name: Literal["drop"] = "drop"
    threshold: AtLeastOne
    stop: bool = False

    def terms(self) -> Terms:
        return Terms(threshold=self.threshold, stops=self.stop)


@spec
class Fresh:
    """An update is the mean of K gradients that were all computed at the current weights.

    That is Rennala SGD (Tyurin and Richtarik 2023). Gradients at older weights are dropped. Nobody
    waits, so that a fast worker gives an update several of its gradients.

    gradients: K.
    """

    name: Literal["fresh"] = "fresh"
    gradients: AtLeastOne

    def terms(self) -> Terms:
        return Terms(per_update=self.gradients, threshold=1)


@spec
class Buffer:
    """An update is the mean of K gradients, each times a weight that falls with its staleness.

    That is FedBuff (Nguyen et al. 2022) for workers that send one gradient; with K = 1, each
    gradient is an update of its own, weighted as models are by FedAsync (Xie et al. 2019).

    gradients: K. weight: what a gradient is multiplied by. normalize: weights are scaled so that
        those of an update have the mean 1; otherwise stale gradients make smaller updates.
    """

    name: Literal["buffer"] = "buffer"
    gradients: AtLeastOne
    weight: Weighting = Polynomial()
    normalize: bool = False

    def terms(self) -> Terms:
        return Terms(per_update=self.gradients)

    def weights(self, staleness: np.ndarray) -> np.ndarray | None:
        """The weights [A] of all gradients, by their staleness [A]; None where all are 1."""
        if isinstance(self.weight, Constant):
            return None
        weights = self.weight.of(staleness)
        if not self.normalize or not len(weights):
            return weights
        first = np.arange(0, len(weights), self.gradients)
        means = np.add.reduceat(weights, first) / np.diff(first, append=len(weights))
        return weights / np.repeat(means, self.gradients)[: len(weights)]


@spec
class Bounded:
    """Every gradient is an update, and fast workers wait for slow ones (Ho et al. 2013).

    That is stale synchronous parallel (SSP): a worker waits while it has computed more than s
    gradients more than the slowest worker that has some left. Then it reads the newest weights.

    clocks: s; with 0, all compute one gradient each between two moments at which they read.
    """

    name: Literal["bounded"] = "bounded"
    clocks: Annotated[int, Field(ge=0, le=NEVER)]

    def terms(self) -> Terms:
        return Terms(clocks=self.clocks)


@spec
class Backup:
    """Synchronous rounds that end with the first K of n gradients (Chen et al. 2017).

    A worker whose gradient is used waits for the update. The others drop behind: their gradients
    arrive after it and are dropped, whereupon they read the current weights and join its round.

    gradients: K, at most n; the other workers are the backup. K = n waits for all.
    stop: workers that are late are stopped by the update, and begin the next round with the others.
    """

    name: Literal["backup"] = "backup"
    gradients: AtLeastOne
    stop: bool = False

    def terms(self) -> Terms:
        return Terms(per_update=self.gradients, threshold=1, waits=True, stops=self.stop)


Policy = Drop | Fresh | Buffer | Bounded | Backup

# The type of a field that holds a policy, or none.
MaybePolicy = Annotated[
    Policy | None,
    choice("a policy", Drop, Fresh, Buffer, Bounded, Backup, optional=True),
]


def check(policy: Policy, workers: int | None, taken: Iterable[str]) -> None:
    """Raises ValueError where a cluster of so many workers cannot have a policy.

    taken: keys of the cluster that do not go with one, and are not at their default.
    """
    if keys := list(taken):
        raise ValueError(
            f"a policy says itself which gradients make an update and who waits; leave "
            f"'{keys[0]}' out, or 'policy'"
        )
    if isinstance(policy, Backup) and workers is not None and policy.gradients > workers:
        raise ValueError(
            f"'backup' waits for {policy.gradients} gradients of {workers} workers, who send one "
            f"each; choose 'gradients' of at most {workers}"
        )


def check_streams(policy: Policy | None, workers: int, batches: Sequence[int]) -> None:
    """Raises ValueError where workers that stop after their own minibatches, `batches` in an epoch,
    would let others wait without end."""
    if not isinstance(policy, Backup) or len(batches) == 1:
        return
    if policy.gradients < workers:
        raise ValueError(
            f"the policy 'backup' takes {policy.gradients} of {workers} workers, and with data of "
            f"its own each stops after its epochs, those that are used first: the others would "
            f"wait without end; choose a 'partition' in which all share one stream"
        )
    if len(set(batches)) > 1:
        raise ValueError(
            f"the policy 'backup' waits for all workers, which have {min(batches)} to "
            f"{max(batches)} minibatches each: it would wait for one that has stopped; choose a "
            f"partition into equal parts"
        )


def weighted(policy: Policy | None, schedule: Schedule) -> Schedule:
    """The schedule with the weights that a policy gives its gradients."""
    if not isinstance(policy, Buffer):
        return schedule
    return replace(schedule, weight=policy.weights(schedule.staleness_before))
