"""Layers in a pipeline, each stage later than the next (PipeDream: Narayanan et al. 2019)."""

from typing import Annotated

import numpy as np
from pydantic import Field

from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import spec


@spec
class Pipeline:
    """A network cut into `stages`, on a worker each, through which minibatches follow each other.

    With S stages, stage s (0, 1, ... from the inputs) takes minibatch t forward when its weights
    have had max(0, t - (S - 1 - s)) updates, and backward with those same weights, which it has
    kept. So the gradient is computed at weights of several versions: the first stage has the
    staleness S - 1, the last has none. Every minibatch is an update of all stages.

    stages: S. Layers are dealt to them in order, as evenly as can be by their number; a bias
        belongs to the layer of the matrix before it. 1 is plain SGD.
    """

    stages: Annotated[int, Field(ge=1)]

    def streams(self) -> int:
        return 1

    def arrivals_per_update(self) -> int:
        return 1

    def in_flight(self) -> int:
        return self.stages - 1

    def check(self, workload: Workload) -> None:
        """Raises ValueError for several data streams or local steps, and where there is no
        minibatch."""
        workload.check_one_step("a stage has no weights of the others to go on with alone")
        workload.check(self.streams(), 1)

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """Nothing is random. The unit of time is that of one minibatch, forward and backward, on a
        stage: the first takes `stages` units, and then one is done in each.

        `read_version` is that of the first stage. Raises ValueError as `check`.
        """
        self.check(workload)
        (batches,) = workload.batches
        minibatch = np.arange(workload.total)
        delay = np.arange(self.stages)[::-1]
        versions = np.maximum(minibatch[:, None] - delay, 0)
        return Schedule(
            worker=np.zeros(workload.total, np.int32),
            time=minibatch + float(self.stages),
            read_version=versions[:, 0].copy(),
            stream=np.zeros(workload.total, np.int32),
            batch=minibatch,
            epoch_ends=np.arange(1, workload.epochs + 1) * batches,
            stage_versions=versions if self.stages > 1 else None,
        )
