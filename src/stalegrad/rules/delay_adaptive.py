"""SGD whose step shrinks with the delay of the gradient (Mishchenko et al. 2022, 'Main ideas')."""

from typing import Annotated

import numpy as np
from pydantic import Field

from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Schedule
from stalegrad.specs import spec


@spec
class DelayAdaptive(SGD):
    """SGD with the step lr M / max(M, tau) at a gradient of delay tau.

    concurrency: M, the gradients in flight. tau counts the gradient's own update, as in the paper's
        x_k = x_{k-1} - step * gradient at x_{k - tau}: M workers alike have tau = M and the whole
        step.
    """

    concurrency: Annotated[int, Field(ge=1)]

    def step_factors(self, schedule: Schedule) -> np.ndarray:
        """M / max(M, tau) at each arrival [A], times the warm-up's where there is one."""
        delay = schedule.staleness_before + 1
        factors = self.concurrency / np.maximum(self.concurrency, delay)
        warmup = super().step_factors(schedule)
        return factors if warmup is None else factors * warmup
