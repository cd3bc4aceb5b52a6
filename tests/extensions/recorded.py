"""A cluster in one file: the arrivals of gradients at a real server, read from a CSV."""

from pathlib import Path

import numpy as np

from stalegrad.io.errors import DataError
from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import spec

COLUMNS = ("seconds", "worker", "read_version")


@spec
class Recorded:
    """Gradients arrive as they were recorded; the server updates its weights by each.

    file: a CSV with the columns seconds, worker and read_version, one row an arrival in the order
    of time: read_version is the number of updates in the weights that the gradient was computed at.
    """

    file: str

    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def streams(self) -> int:
        return 1

    def arrivals_per_update(self) -> int:
        return 1

    def in_flight(self) -> int:
        arrivals = self._arrivals()
        return int((np.arange(len(arrivals)) - arrivals["read_version"]).max(initial=0))

    def check(self, workload: Workload) -> None:
        """Raises ValueError where fewer arrivals were recorded than `workload` has minibatches."""
        workload.check(self.streams(), 1)
        if (count := len(self._arrivals())) < workload.total:
            raise ValueError(
                f"{self.file} has {count} arrivals, fewer than the {workload.total} minibatches; "
                f"choose fewer 'epochs'"
            )

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """The first arrivals of the record, as many as `workload` has minibatches."""
        self.check(workload)
        arrivals = self._arrivals()[: workload.total]
        return Schedule(
            worker=arrivals["worker"].astype(np.int32),
            time=arrivals["seconds"],
            read_version=arrivals["read_version"].astype(np.int64),
            stream=np.zeros(workload.total, np.int32),
            batch=np.arange(workload.total),
            epoch_ends=np.arange(1, workload.epochs + 1) * sum(workload.batches),
        )

    def _arrivals(self) -> np.ndarray:
        """The rows of the record, with fields named COLUMNS."""
        rows = np.genfromtxt(Path(self.file), delimiter=",", names=True, ndmin=1)
        if rows.dtype.names != COLUMNS:
            raise DataError(f"{self.file}: its columns must be {', '.join(COLUMNS)}, in order.")
        return rows
