"""Every gradient is applied a fixed number of steps after its computation (Jain et al. 2018)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import spec


@spec
class ConstantDelay:
    """One worker whose gradients wait in a buffer for `delay` steps.

    delay: steps between computing and applying a gradient; 0 is plain SGD, and N - 1 stands for N
        asynchronous workers.
    ramp_epochs: epochs over which the delay grows from 0 to `delay`, as workers are introduced one
        by one (Chen et al. 2016, quoted by Jain et al. 2018); 0 starts with all of them.
    undelayed_epochs: epochs at the start in which gradients are applied at once; the delay, or its
        ramp, begins after them.
    """

    delay: Annotated[int, Field(ge=0)]
    ramp_epochs: Annotated[float, Field(ge=0)] = 0.0
    undelayed_epochs: Annotated[float, Field(ge=0)] = 0.0

    def streams(self) -> int:
        return 1

    def arrivals_per_update(self) -> int:
        return 1

    def in_flight(self) -> int:
        return self.delay

    def check(self, workload: Workload) -> None:
        """Raises ValueError where no gradient of `workload` would ever be applied."""
        if self.delay >= workload.total:
            raise ValueError(
                f"a delay of {self.delay} steps with {workload.total} steps in all: no gradient "
                f"would ever be applied"
            )

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """Gradient t is computed at step t and applied after step t + delay(t).

        One step takes one unit of simulated time, or one for each of its local steps. Gradients
        still in the buffer when the last step is done are never applied, as with a wrapper around a
        synchronous optimizer: `delay` fewer updates than steps. Raises ValueError as `check`.
        """
        (batches,) = workload.batches
        self.check(workload)
        steps = np.arange(workload.total)
        # The delay grows by whole workers and never shrinks, so that gradients are applied in the
        # order they were computed.
        start = self.undelayed_epochs * batches
        since = np.maximum(steps - start, 0)
        delay = np.where(steps < start, 0, self.delay)
        if ramp := self.ramp_epochs * batches:
            delay = np.minimum(delay, np.floor(self.delay * since / ramp)).astype(np.int64)
        applied_at = steps + delay
        done = applied_at < len(steps)
        applied_at = applied_at[done]
        # A gradient reads all updates made in earlier steps.
        read_version = np.searchsorted(applied_at, steps[done], side="left")
        ends = np.searchsorted(applied_at, np.arange(1, workload.epochs + 1) * batches)
        arrivals = len(applied_at)
        return Schedule(
            worker=(np.arange(arrivals) % (self.delay + 1)).astype(np.int32),
            time=(applied_at + 1.0) * workload.local_steps,
            read_version=read_version,
            stream=np.zeros(arrivals, np.int32),
            batch=np.arange(arrivals),
            epoch_ends=ends,
        )
