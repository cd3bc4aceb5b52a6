"""M workers of different speeds, waiting for one another or not (Mishchenko et al. 2022)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from stalegrad.clusters import _merge, _policies, _served
from stalegrad.clusters._policies import MaybePolicy, Policy, Terms
from stalegrad.clusters._profiles import Profile, seconds_per_gradient
from stalegrad.schedule import Schedule, Workload, count_within
from stalegrad.specs import spec
from stalegrad.staleness.compute_times import ComputeTime, Constant, Sampled, in_a_row

# Their worker, time and read_version, and which are applied (None: all).
_Arrivals = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


@spec
class Heterogeneous:
    """Worker m takes s_m seconds a gradient, or s_m times a random time of its own each.

    workers: M.
    profile, slowest: how the seconds s_m of the workers are spread between 1 and s_max = `slowest`,
        as `_profiles.seconds_per_gradient` says; s_max = 1 makes all workers alike.
    compute_time: distribution, independent for each gradient, of what s_m is multiplied by.
    barrier: minibatch SGD: an update is the mean of one gradient of each worker, and all wait for
        it. Otherwise asynchronous SGD: every gradient is an update, and no worker waits, unless a
        `policy` says otherwise.
    answers_once: one more worker, whose only gradient is computed at the initial weights and is the
        last to arrive (asynchronous only): the limit of an infinitely slow one, tau = K.
    data_by: whose data a gradient is computed on where data are partitioned: the worker's own, or
        (`duration`) the first part where its compute time is no longer than the median of its
        worker and the second where it is, so that noise depends on delay.
    policy: which gradients the server applies and when it updates, in the place of every one and at
        once: see docs/policies.md.

    Simultaneous gradients arrive in the order of their workers, and a worker reads the update that
    its own gradient has just triggered.
    """

    workers: Annotated[int, Field(ge=1)]
    profile: Profile = "one_slow"
    slowest: Annotated[float, Field(ge=1)] = 1.0
    compute_time: ComputeTime = Constant()
    barrier: bool = False
    answers_once: bool = False
    data_by: Literal["worker", "duration"] = "worker"
    policy: MaybePolicy = None

    @field_validator("answers_once", "data_by")
    @classmethod
    def _must_mean_something(cls, value: bool | str, info: ValidationInfo) -> bool | str:
        if value not in (False, "worker") and info.data.get("barrier"):
            raise ValueError("workers that wait for all, with `barrier`, leave no choice here")
        if value == "duration" and isinstance(info.data.get("compute_time"), Constant):
            raise ValueError(
                "with a constant 'compute_time' no gradient takes longer than another; choose "
                "another distribution, or 'worker'"
            )
        return value

    @field_validator("policy")
    @classmethod
    def _must_fit(cls, policy: Policy | None, info: ValidationInfo) -> Policy | None:
        if policy is not None:
            data = info.data
            taken = [key for key in ("barrier", "answers_once") if data.get(key)]
            # The time between two arrivals of a worker that waits is not that of a gradient.
            if data.get("data_by") == "duration" and not policy.terms().never_wait:
                taken.append("data_by")
            _policies.check(policy, data.get("workers"), taken)
        return policy

    def seconds(self) -> np.ndarray:
        """s_m [M]."""
        return seconds_per_gradient(self.profile, self.workers, self.slowest)

    def streams(self) -> int:
        return self.workers + self.answers_once if self.data_by == "worker" else 2

    def arrivals_per_update(self) -> int:
        return self._terms().per_update

    def in_flight(self) -> int:
        """One old version a worker, where it may be applied; none where all wait for the update."""
        return 0 if self.barrier else self._terms().versions(self.workers + self.answers_once)

    def check(self, workload: Workload) -> None:
        """Raises ValueError for another number of data streams than one or `streams`, for a stream
        without a minibatch, and where no update would be made."""
        workload.check(self.streams(), self.arrivals_per_update() + self.answers_once)

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """The arrivals of as many gradients as `workload` has minibatches; nobody stops before.

        Minibatches are dealt to gradients in the order in which these arrive: from one stream, or
        from the streams that `data_by` says, each as often as its worker is fast. Raises ValueError
        as `check`.
        """
        self.check(workload)
        total = workload.total
        simulate = self._waiting if self.barrier else self._never_waiting
        if not self.barrier and not self._terms().plain:
            simulate = self._under_policy
        times = in_a_row(self.compute_time, workload.local_steps)
        worker, time, read_version, applied = simulate(total, times, generator)
        stream = np.zeros(total, np.int32)
        if len(workload.batches) > 1:
            stream = worker if self.data_by == "worker" else _long_rounds(worker, time)
        schedule = Schedule(
            worker=worker,
            time=time,
            read_version=read_version,
            stream=stream,
            batch=count_within(stream, len(workload.batches)),
            epoch_ends=np.arange(1, workload.epochs + 1) * sum(workload.batches),
            arrivals_per_update=self.arrivals_per_update(),
            applied=applied,
        )
        return _policies.weighted(self.policy, schedule)

    def _terms(self) -> Terms:
        if self.policy is not None:
            return self.policy.terms()
        return Terms(per_update=self.workers if self.barrier else 1)

    def _under_policy(
        self, total: int, times: Sampled, generator: np.random.Generator
    ) -> _Arrivals:
        found = _served.arrivals(
            np.full(self.workers, _merge.ENDLESS),
            total,
            self._terms(),
            communication_time=0.0,
            compute_time=times,
            generator=generator,
            slowness=self.seconds(),
        )
        return found.worker, found.finish, found.read_version, found.applied

    def _never_waiting(
        self, total: int, times: Sampled, generator: np.random.Generator
    ) -> _Arrivals:
        served = total - self.answers_once
        (block,) = _merge.arrivals(
            np.full(self.workers, _merge.ENDLESS),
            served,
            per_update=self.arrivals_per_update(),
            communication_time=0.0,
            compute_time=times,
            generator=generator,
            slowness=self.seconds(),
            block=served,
        )
        if not self.answers_once:
            return block.worker, block.finish, block.read_version, None
        return (
            np.append(block.worker, np.int32(self.workers)),
            np.append(block.finish, block.finish[-1]),
            np.append(block.read_version, 0),
            None,
        )

    def _waiting(self, total: int, times: Sampled, generator: np.random.Generator) -> _Arrivals:
        rounds = -(-total // self.workers)
        drawn = times.sample(generator, rounds * self.workers)
        spent = drawn.reshape(rounds, self.workers) * self.seconds()
        order = np.argsort(spent, axis=1, kind="stable")
        start = np.append(0.0, np.cumsum(spent.max(axis=1))[:-1])
        finish = start[:, None] + np.take_along_axis(spent, order, axis=1)
        # Rounding must not let a round begin before the last gradient of the one before it.
        finish = np.maximum.accumulate(finish.ravel())[:total]
        version = np.repeat(np.arange(rounds), self.workers)[:total]
        return order.ravel()[:total].astype(np.int32), finish, version, None


def _long_rounds(worker: np.ndarray, time: np.ndarray) -> np.ndarray:
    """1 where a gradient took longer than its worker's median does, else 0."""
    long = np.zeros(len(worker), np.int32)
    for w in np.unique(worker):
        mine = np.flatnonzero(worker == w)
        duration = np.diff(time[mine], prepend=0.0)
        long[mine] = duration > np.median(duration)
    return long
