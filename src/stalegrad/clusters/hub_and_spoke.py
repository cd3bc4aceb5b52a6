"""A master and n workers that never wait (Al-Lawati and Draper 2020, section 2)."""

import math
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from stalegrad.clusters import _merge, _policies, _served
from stalegrad.clusters._policies import MaybePolicy, Policy, Terms
from stalegrad.clusters._staleness import StalenessSample
from stalegrad.schedule import Schedule, Workload, count_within
from stalegrad.specs import spec
from stalegrad.staleness.compute_times import ComputeTime, in_a_row


@spec
class HubAndSpoke:
    """Workers compute round after round; the master updates at every K-th gradient that arrives.

    A gradient reaches the master half a communication time after its round has ended, and an
    update reaches the workers half a communication time after it was made. A worker starts its next
    round at once, with the newest version that has reached it.

    workers: n.
    minibatches_per_update: K, at most n.
    communication_time: T_c, seconds, half of it each way.
    compute_time: distribution of the seconds a round takes, independent and alike.
    policy: which gradients the master applies and when it updates, in the place of every K-th: see
        docs/policies.md. Where workers wait or are stopped, T_c must be 0.

    What happens at the same moment is settled as `_merge.arrivals` says: workers are served in
    their order, and an update that arrives at the start of a round is read. So at T_c = 0 a worker
    whose gradient triggers an update reads that update, and simultaneous workers read one update
    after the other.
    """

    workers: Annotated[int, Field(ge=1)]
    minibatches_per_update: Annotated[int, Field(ge=1)] = 1
    communication_time: Annotated[float, Field(ge=0)] = 0.0
    compute_time: ComputeTime
    policy: MaybePolicy = None

    @field_validator("minibatches_per_update")
    @classmethod
    def _at_most_workers(cls, value: int, info: ValidationInfo) -> int:
        workers = info.data.get("workers")
        if workers is not None and value > workers:
            raise ValueError(
                f"an update cannot need more minibatches than there are workers, {workers}"
            )
        return value

    @field_validator("policy")
    @classmethod
    def _must_fit(cls, policy: Policy | None, info: ValidationInfo) -> Policy | None:
        if policy is not None:
            data = info.data
            taken = ["minibatches_per_update"] if data.get("minibatches_per_update", 1) > 1 else []
            _policies.check(policy, data.get("workers"), taken)
            if data.get("communication_time") and not policy.terms().never_wait:
                raise ValueError(
                    "workers that wait for word from the master, or are stopped by it, are "
                    "simulated without a time of communication; set 'communication_time' to 0, or "
                    "choose another policy"
                )
        return policy

    def streams(self) -> int:
        return self.workers

    def arrivals_per_update(self) -> int:
        return self._terms().per_update

    def in_flight(self) -> int:
        """One version a worker, and the mean number of updates in a communication time, in which
        they and the gradients are under way; fewer where a policy drops what is older. Without
        communication no schedule needs more."""
        terms = self._terms()
        rate = self.workers / terms.per_update / self.compute_time.mean
        return terms.versions(self.workers + math.ceil(rate * self.communication_time))

    def check(self, workload: Workload) -> None:
        """Raises ValueError unless there is one data stream, or one a worker, and work for one
        update, and where a policy would wait for a worker that has stopped."""
        workload.check(self.workers, self.arrivals_per_update())
        _policies.check_streams(self.policy, self.workers, workload.batches)

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """The arrivals of all gradients of `workload`.

        From one stream of data, minibatches are dealt in the order in which their gradients
        arrive, and workers compute until the last is served. With one stream a worker, each
        computes its own epochs and stops; arrivals end with the last of them. Raises ValueError
        as `check`.
        """
        self.check(workload)
        batches = np.array(workload.batches)
        own_streams = len(batches) == self.workers
        rounds = batches * workload.epochs if own_streams else None
        served = self._all_arrivals(workload, generator, rounds)
        if own_streams:
            stream, batch = served.worker, count_within(served.worker, self.workers)
        else:
            stream, batch = np.zeros_like(served.worker), np.arange(workload.total)
        schedule = Schedule(
            worker=served.worker,
            time=served.finish + self.communication_time / 2,
            read_version=served.read_version,
            stream=stream,
            batch=batch,
            epoch_ends=np.arange(1, workload.epochs + 1) * batches.sum(),
            arrivals_per_update=self.arrivals_per_update(),
            applied=served.applied,
        )
        return _policies.weighted(self.policy, schedule)

    def _terms(self) -> Terms:
        if self.policy is not None:
            return self.policy.terms()
        return Terms(per_update=self.minibatches_per_update)

    def _all_arrivals(
        self, workload: Workload, generator: np.random.Generator, rounds: np.ndarray | None
    ) -> _served.Served:
        total, steps = workload.total, workload.local_steps
        if self._terms().plain:
            (block,) = self.arrivals(
                total, generator, rounds=rounds, local_steps=steps, block=total
            )
            return _served.Served(block.worker, block.finish, block.read_version, None)
        return _served.arrivals(
            np.full(self.workers, _merge.ENDLESS) if rounds is None else rounds,
            total,
            self._terms(),
            communication_time=self.communication_time,
            compute_time=in_a_row(self.compute_time, steps),
            generator=generator,
        )

    def arrivals(
        self,
        total: int,
        generator: np.random.Generator,
        *,
        rounds: np.ndarray | None = None,
        local_steps: int = 1,
        block: int = _merge.BLOCK,
    ) -> Iterator[_merge.Block]:
        """The first `total` arrivals, at most `block` at a time; see `_merge.arrivals`. Only where
        no policy drops gradients or lets workers wait.

        rounds [n]: how many each worker computes; none: without end. local_steps: gradients that
        it computes in a round.
        """
        return _merge.arrivals(
            np.full(self.workers, _merge.ENDLESS) if rounds is None else rounds,
            total,
            per_update=self.arrivals_per_update(),
            communication_time=self.communication_time,
            compute_time=in_a_row(self.compute_time, local_steps),
            generator=generator,
            block=block,
        )


def simulate_staleness(
    cluster: HubAndSpoke,
    arrivals: int,
    replicates: int,
    generator: np.random.Generator,
    *,
    skip: int = 0,
    updates: int = 0,
    bins: int = 256,
    block: int = _merge.BLOCK,
) -> StalenessSample:
    """Staleness in `replicates` independent simulations of `arrivals` arrivals each.

    skip: arrivals left out of all sums at the start, while staleness has not reached its limit.
    updates: the first updates to give a mean each; bins: of the histograms; block: arrivals held in
        memory at a time, which changes nothing in the result.

    The first replicates of a longer call are those of a shorter one. Raises ValueError if nothing
    is left to count, or `updates` are more than are made, and for a cluster with a policy, whose
    staleness is in its schedules: see `sample_schedules`.
    """
    if cluster.policy is not None:
        raise ValueError("a cluster with a policy is counted by `sample_schedules`")
    per_update = cluster.minibatches_per_update
    early = updates * per_update
    if not 0 <= skip < arrivals or early > arrivals:
        raise ValueError(
            f"{arrivals} arrivals are too few to skip {skip} of them or to make {updates} updates"
        )
    total = np.zeros(replicates, np.int64)
    largest = np.zeros(replicates, np.int64)
    histogram = np.zeros((replicates, bins), np.int64)
    seconds = np.zeros(replicates)
    by_arrival = np.zeros((replicates, early), np.int64)
    for r in range(replicates):
        # Time 0 on the clock of `finish`, which is half a communication time early.
        begin = -cluster.communication_time / 2
        for part in cluster.arrivals(arrivals, generator, block=block):
            end = part.first + len(part.worker)
            staleness = np.arange(part.first, end) // per_update - part.read_version
            if part.first < early:
                by_arrival[r, part.first : end] = staleness[: early - part.first]
            if part.first < skip <= end:
                begin = part.finish[skip - part.first - 1]
            counted = staleness[max(skip - part.first, 0) :]
            total[r] += counted.sum()
            largest[r] = max(largest[r], counted.max(initial=0))
            histogram[r] += np.bincount(np.minimum(counted, bins - 1), minlength=bins)
        seconds[r] = part.finish[-1] - begin
    return StalenessSample(
        per_update=per_update,
        counted=arrivals - skip,
        triggers=arrivals // per_update - skip // per_update,
        applied=arrivals - skip,
        total=total,
        largest=largest,
        histogram=histogram,
        by_update=by_arrival.reshape(replicates, updates, per_update).mean(axis=2),
        seconds=seconds,
    )
