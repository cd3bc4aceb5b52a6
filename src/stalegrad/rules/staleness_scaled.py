"""SGD whose step is divided by the staleness of the gradient (Zhang, Gupta, Lian & Liu 2016)."""

import numpy as np

from stalegrad.rules.sgd import SGD
from stalegrad.schedule import Schedule
from stalegrad.specs import spec


@spec
class StalenessScaled(SGD):
    """SGD with the step lr / max(1, tau) at a gradient of staleness tau: 'Staleness-aware
    async-SGD'.

    tau counts the updates between the version that the gradient was computed at and the version
    that it is applied to, without its own: M workers alike have tau = M - 1. Counted with its own,
    as `delay_adaptive` counts, the rule is `delay_adaptive` with `concurrency: 1`.

    Where K gradients make an update, the step is that of the gradient which completes it.
    """

    def step_factors(self, schedule: Schedule) -> np.ndarray:
        """1 / max(1, tau) at each arrival [A], times the warm-up's where there is one."""
        factors = 1 / np.maximum(1, schedule.staleness_before)
        warmup = super().step_factors(schedule)
        return factors if warmup is None else factors * warmup
