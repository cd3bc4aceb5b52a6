"""What the processes of a recording do: how many there are, who is held up, who waits for whom."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from stalegrad.data_order import CLUSTER, generator
from stalegrad.schedule import Workload
from stalegrad.specs import spec

Milliseconds = Annotated[float, Field(ge=0, le=1e7)]


@spec
class Processes:
    """A worker reads weights, computes a gradient, is held up, pushes, and waits for new weights.

    workers: n, each a process; the server is one more.
    delay_ms, delay_deviation_ms: mean and standard deviation of the delay injected after each
        computation, in which the worker sleeps; below 0 it counts as 0.
    delayed: who has it. `all`: all workers alike. `one`: all, and worker 1 twice as much, which is
        what the code of Lamour et al. 2023 does for its 'delay on one worker'. `only`: worker 1
        alone.
    straggler: worker 1 takes this many times as long to compute; it sleeps for the rest.
    minibatches_per_update: the server updates with the mean of every so many gradients (K).
    synchronous: every worker waits until all have been served, and one update is made of all.
    pull: whether the weights a worker gets back are those after or before its own update.
    run_on: a worker that has done its epochs stops and the others train on; false stops all of them
        with the first.
    start: `together`: nobody begins before all are connected. `ready`: each begins once it is.
    """

    workers: Annotated[int, Field(ge=1, le=1000)]
    delay_ms: Milliseconds = 0.0
    delay_deviation_ms: Milliseconds = 0.0
    delayed: Literal["all", "one", "only"] = "all"
    straggler: Annotated[float, Field(ge=1, le=1e6)] = 1.0
    minibatches_per_update: Annotated[int, Field(ge=1)] = 1
    synchronous: bool = False
    pull: Literal["after", "before"] = "after"
    run_on: bool = True
    start: Literal["together", "ready"] = "together"

    @field_validator("minibatches_per_update")
    @classmethod
    def _at_most_workers(cls, value: int, info: ValidationInfo) -> int:
        workers = info.data.get("workers")
        if workers is not None and value > workers:
            raise ValueError(
                f"more than the {workers} workers; an update takes at most one of each"
            )
        return value

    @field_validator("synchronous")
    @classmethod
    def _takes_all(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("minibatches_per_update", 1) > 1:
            raise ValueError("an update takes a gradient of all workers; leave the other out")
        return value

    @field_validator("pull")
    @classmethod
    def _before_one_update(cls, value: str, info: ValidationInfo) -> str:
        if value == "before" and info.data.get("synchronous"):
            raise ValueError("workers that wait for the update get the weights after it")
        return value

    def streams(self) -> int:
        return self.workers

    def arrivals_per_update(self) -> int:
        return self.workers if self.synchronous else self.minibatches_per_update

    def in_flight(self) -> int:
        return self.workers

    def check(self, workload: Workload) -> None:
        """Raises ValueError for another number of data streams than one, or one a worker, for a
        stream without a minibatch, where no update would be made, and where a barrier would wait
        for a worker that has stopped. Also for local steps."""
        workload.check_one_step("real workers send each gradient as soon as it is computed")
        workload.check(self.workers, self.arrivals_per_update())
        shares = self.shares(workload)
        if self.synchronous and len(set(shares)) > 1:
            raise ValueError(
                f"synchronous workers with {min(shares)} to {max(shares)} minibatches each: the "
                f"barrier would wait for one that has stopped; choose a partition into equal parts"
            )

    def shares(self, workload: Workload) -> tuple[int, ...]:
        """The minibatches of each data stream over all epochs."""
        return tuple(batches * workload.epochs for batches in workload.batches)

    def delays(self, seed: int, worker: int) -> "Delays":
        """The delays of a worker, counted from 0."""
        others, first = {"all": (1, 1), "one": (1, 2), "only": (0, 1)}[self.delayed]
        factor = others if worker else first
        return Delays(
            factor * self.delay_ms / 1_000,
            factor * self.delay_deviation_ms / 1_000,
            generator(seed, CLUSTER, worker),
        )

    def slowness(self, worker: int) -> float:
        """How many times as long a worker, counted from 0, takes to compute."""
        return 1.0 if worker else self.straggler


class Delays:
    """Seconds to hold up each gradient of a worker: normal, and 0 where that is less."""

    def __init__(self, mean: float, deviation: float, rng: np.random.Generator):
        self._mean, self._deviation, self._rng = mean, deviation, rng

    def next(self) -> float:
        if not self._deviation:
            return self._mean
        return max(self._mean + self._deviation * float(self._rng.standard_normal()), 0.0)
