"""Workers and one parameter server, timed in milliseconds (Lamour et al. 2023, section II)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from stalegrad.clusters import _policies
from stalegrad.clusters._policies import NEVER, MaybePolicy, Policy, Terms
from stalegrad.io.compiled import compiled
from stalegrad.schedule import Schedule, Workload, count_within
from stalegrad.specs import spec

Milliseconds = Annotated[float, Field(ge=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1e6)]


@spec
class ParameterServer:
    """A worker reads weights, computes a gradient, is held up, pushes, and waits for new weights.

    workers: n.
    compute_ms: a gradient's computation where nothing else slows it down.
    machine_ms: where all processes share one machine, the time in which that machine, wholly taken
        up, computes one gradient; those in computation share it equally, so that with k of them
        each takes k times as long, and a cycle stretches with the number of workers. 0 gives every
        worker a machine of its own.
    jitter: relative standard deviation of a computation from one gradient to the next.
    spread: relative standard deviation of the workers' own speeds, drawn once a run.
    delay_ms, delay_deviation_ms: mean and standard deviation of the delay injected after each
        computation; below 0 it counts as 0.
    delayed: who has it. `all`: all workers alike. `one`: all, and worker 1 twice as much, which is
        what the code of Lamour et al. 2023 does for its 'delay on one worker'. `only`: worker 1
        alone, which is what those words say.
    network_ms: from a worker to the server, and as much back.
    service_ms: the server takes this for a gradient and serves one at a time, in the order of
        arrival.
    pull: whether the weights a worker gets back are those right after or right before its own
        update. `before`: the request for weights overtakes the gradient, so that the worker goes on
        from weights without its last gradient, and its next one is later by that one update. All
        times are as with `after`: the weights leave the server when it has served the gradient.
        Synchronous workers get the update that all wait for, and have no choice.
    start_ms: each worker reads its first weights this long after the one before it.
    synchronous: every worker waits until all have been served, and one update is made of all.
    run_on: a worker that has done its epochs stops and the others train on; false stops all of them
        with the first.
    policy: which gradients the server applies and when it updates, in the place of every one and at
        once: see docs/policies.md. A gradient that is dropped is served like any other. Nobody is
        stopped here: what a worker computes it also sends.
    """

    workers: Annotated[int, Field(ge=1)]
    compute_ms: Annotated[float, Field(gt=0, le=1e15)]
    machine_ms: Milliseconds = 0.0
    jitter: Share = 0.0
    spread: Share = 0.0
    delay_ms: Milliseconds = 0.0
    delay_deviation_ms: Milliseconds = 0.0
    delayed: Literal["all", "one", "only"] = "all"
    network_ms: Milliseconds = 0.0
    service_ms: Milliseconds = 0.0
    pull: Literal["after", "before"] = "after"
    start_ms: Milliseconds = 0.0
    synchronous: bool = False
    run_on: bool = True
    policy: MaybePolicy = None

    @field_validator("synchronous")
    @classmethod
    def _must_leave_the_pull_alone(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("pull") == "before":
            raise ValueError(
                "synchronous workers all read the update that they have waited for, so that "
                "'pull' cannot be 'before'; leave 'pull' out, or set 'synchronous' to false"
            )
        return value

    @field_validator("policy")
    @classmethod
    def _must_fit(cls, policy: Policy | None, info: ValidationInfo) -> Policy | None:
        if policy is not None:
            terms, data = policy.terms(), info.data
            taken = ["synchronous"] if data.get("synchronous") else []
            if data.get("pull") == "before" and not terms.never_wait:
                taken.append("pull")
            _policies.check(policy, data.get("workers"), taken)
            if terms.stops:
                raise ValueError(
                    "this server has no way to stop a worker, whose gradient may be under way; "
                    "set 'stop' to false, or choose the cluster 'heterogeneous' or 'hub_and_spoke'"
                )
        return policy

    def streams(self) -> int:
        return self.workers

    def arrivals_per_update(self) -> int:
        return self._terms().per_update

    def in_flight(self) -> int:
        """One old version a worker, where it may be applied."""
        return self._terms().versions(self.workers)

    def check(self, workload: Workload) -> None:
        """Raises ValueError for another number of data streams than one, or one a worker, for a
        stream without a minibatch, where no update would be made, and where a barrier would wait
        for a worker that has stopped."""
        self._rounds(workload)

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """The arrivals of all gradients of `workload`, or of those until the first worker stops.

        With one stream of data a worker, each does its own epochs and stops. From one stream in
        all, minibatches are dealt in the order in which their gradients arrive. Epochs of the
        schedule are equal numbers of arrivals.

        Raises ValueError as `check`.
        """
        rounds = self._rounds(workload)
        total = int(rounds.sum()) if len(workload.batches) > 1 else workload.total
        speed = np.maximum(1 + self.spread * generator.standard_normal(self.workers), 0.01)
        steps = workload.local_steps
        drawn = generator.standard_normal((total + self.workers, steps))
        jitter = np.maximum(1 + self.jitter * drawn, 0).mean(axis=1)
        others, first = {"all": (1, 1), "one": (1, 2), "only": (0, 1)}[self.delayed]
        delayed = np.full(self.workers, float(others))
        delayed[0] = first
        terms = self._terms()
        worker, time, read_version, applied = _simulate(
            rounds,
            total,
            self.compute_ms * steps * speed,
            self.machine_ms / self.compute_ms,
            jitter,
            delayed,
            self.delay_ms,
            self.delay_deviation_ms * generator.standard_normal(total + self.workers),
            self.network_ms,
            self.service_ms,
            self.pull == "after",
            self.start_ms * np.arange(self.workers),
            terms.per_update,
            terms.threshold,
            terms.clocks,
            terms.waits,
        )
        number = count_within(worker, self.workers)
        own_streams = len(workload.batches) > 1
        arrivals = total if self.run_on else _first_end(worker, number, rounds)
        schedule = Schedule(
            worker=worker[:arrivals],
            time=time[:arrivals] / 1_000,
            read_version=read_version[:arrivals],
            stream=worker[:arrivals] if own_streams else np.zeros(arrivals, np.int32),
            batch=number[:arrivals] if own_streams else np.arange(arrivals),
            epoch_ends=np.arange(1, workload.epochs + 1) * arrivals // workload.epochs,
            arrivals_per_update=terms.per_update,
            applied=None if applied[:arrivals].all() else applied[:arrivals],
        )
        return _policies.weighted(self.policy, schedule)

    def _terms(self) -> Terms:
        if self.policy is not None:
            return self.policy.terms()
        return Terms(self.workers, waits=True) if self.synchronous else Terms()

    def _rounds(self, workload: Workload) -> np.ndarray:
        """How many gradients each worker computes at most [n]."""
        workload.check(self.workers, self.arrivals_per_update())
        _policies.check_streams(self.policy, self.workers, workload.batches)
        batches = np.array(workload.batches)
        if len(batches) == 1 and self.workers > 1:
            return np.full(self.workers, workload.total)
        if self.synchronous and len(set(batches)) > 1:
            raise ValueError(
                f"synchronous workers with {batches.min()} to {batches.max()} minibatches each: "
                f"the barrier would wait for one that has stopped; choose a partition into equal "
                f"parts"
            )
        return batches * workload.epochs


# What a worker is doing, or waiting for.
_TO_WORKER, _COMPUTING, _TO_SERVER, _IN_SERVICE, _STOPPED = range(5)


@compiled
def _simulate(
    rounds: np.ndarray,
    total: int,
    work: np.ndarray,
    machine: float,
    jitter: np.ndarray,
    delayed: np.ndarray,
    delay: float,
    deviations: np.ndarray,
    network: float,
    service: float,
    pull_after: bool,
    start: np.ndarray,
    per_update: int,
    threshold: int,
    clocks: int,
    waits: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Worker, time and version read of the first `total` gradients served, and whether each is
    applied; times in milliseconds.

    rounds [n]: gradients each worker computes before it stops. work [n]: mean milliseconds of a
    computation undisturbed; k computations at once are each slowed down by max(1, k * machine).
    jitter, deviations: factor of the computation and deviation of the delay, in the order in which
    computations start. delayed [n]: factor of the delay, its deviation included. start [n]: when
    each worker reads its first weights. per_update, threshold, clocks, waits: see `Terms`.

    Of events at the same moment, the worker with the lowest number comes first.
    """
    workers = len(rounds)
    worker_out = np.empty(total, np.int32)
    time_out = np.empty(total)
    version_out = np.empty(total, np.int64)
    applied_out = np.empty(total, np.bool_)
    phase = np.full(workers, _TO_WORKER)
    until = start.copy()  # when the phase ends; not of a computation, whose rate changes
    left = np.zeros(workers)  # undisturbed milliseconds left of the computation
    held_up = np.zeros(workers)  # delay of the gradient being computed
    reading = np.zeros(workers, np.int64)
    started = np.zeros(workers, np.int64)
    done = np.zeros(workers, np.int64)  # NEVER once it has computed all its gradients
    waiting = np.zeros(workers, np.bool_)
    slowest = 0
    missing = per_update
    drawn = 0
    served = 0
    version = 0
    computing = 0
    now = 0.0
    server_free = 0.0
    while served < total:
        slowed = max(1.0, computing * machine)
        next_worker, next_time = -1, np.inf
        for w in range(workers):
            if phase[w] == _STOPPED:
                continue
            end = now + left[w] * slowed if phase[w] == _COMPUTING else until[w]
            if end < next_time:
                next_worker, next_time = w, end
        if next_worker < 0:
            raise ValueError("its times are too large or too small, or too far apart, to add up")
        progress = (next_time - now) / slowed
        for w in range(workers):
            if phase[w] == _COMPUTING:
                left[w] = max(left[w] - progress, 0.0)
        now, w = next_time, next_worker

        if phase[w] == _TO_WORKER:
            if started[w] == rounds[w]:
                phase[w] = _STOPPED
                continue
            if started[w] == 0:
                reading[w] = version
            started[w] += 1
            phase[w] = _COMPUTING
            computing += 1
            left[w] = work[w] * jitter[drawn]
            held_up[w] = delayed[w] * max(delay + deviations[drawn], 0.0)
            drawn += 1
        elif phase[w] == _COMPUTING:
            computing -= 1
            phase[w] = _TO_SERVER
            until[w] = now + held_up[w] + network
        elif phase[w] == _TO_SERVER:
            server_free = max(server_free, now) + service
            phase[w] = _IN_SERVICE
            until[w] = server_free
        else:
            worker_out[served] = w
            time_out[served] = now
            version_out[served] = reading[w]
            applied = version - reading[w] < threshold
            applied_out[served] = applied
            served += 1
            before = version
            if applied:
                missing -= 1
                if missing == 0:
                    missing = per_update
                    version += 1
            released = waits and version > before
            if clocks < NEVER:
                held = done[w] == slowest
                done[w] = done[w] + 1 if started[w] < rounds[w] else NEVER
                if held and done.min() > slowest:
                    slowest = done.min()
                    released = True
                waiting[w] = done[w] < NEVER and done[w] - slowest > clocks
            elif waits:
                waiting[w] = applied
            if waiting[w]:
                until[w] = np.inf
            if released:
                for other in range(workers):
                    if waiting[other]:
                        waiting[other] = False
                        reading[other] = version
                        phase[other] = _TO_WORKER
                        until[other] = now + network
            if phase[w] == _IN_SERVICE and not waiting[w]:
                reading[w] = version if pull_after else before
                phase[w] = _TO_WORKER
                until[w] = now + network
    return worker_out, time_out, version_out, applied_out


def _first_end(worker: np.ndarray, number: np.ndarray, rounds: np.ndarray) -> int:
    """Arrivals up to the last gradient of the worker that is first to have served all its own."""
    last = np.flatnonzero(number + 1 == rounds[worker])
    return int(last[0]) + 1 if len(last) else len(worker)
