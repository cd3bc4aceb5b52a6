"""A real cluster, as it was recorded: its arrivals are read from a trace."""

from pathlib import Path

import numpy as np

from stalegrad.io import traces
from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import spec


@spec
class Trace:
    """Gradients arrive as they did in a recording (`stalegrad record`), or on your own cluster.

    file: the trace, CSV or CSV.gz; docs/recording.md says what it holds.
    unfinished: take also a trace that was cut short, or of a recording that ended before all its
        work was done: interrupted, or after a worker was lost.
    """

    file: str
    unfinished: bool = False

    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def streams(self) -> int:
        return self._trace().workers

    def arrivals_per_update(self) -> int:
        return self._trace().arrivals_per_update

    def in_flight(self) -> int:
        """Versions that are older than the newest; no more than one a worker."""
        trace = self._trace()
        version = np.arange(trace.arrivals) // trace.arrivals_per_update
        longest = int((version - trace.columns["version"]).max())
        return min(trace.workers, longest)

    def check(self, workload: Workload) -> None:
        """Raises ValueError where the trace was not finished, or does not hold exactly the
        minibatches of `workload`: no fewer, unless it may be unfinished, and no others. Also for
        local steps."""
        workload.check_one_step("the workers of a recording sent each gradient as it was computed")
        trace = self._trace()
        workload.check(trace.workers, trace.arrivals_per_update)
        if trace.ended != traces.COMPLETE and not self.unfinished:
            how = "was cut short" if trace.ended is None else f"says '{trace.ended}'"
            raise ValueError(
                f"{self.file} is not complete: its recording {how}; record it again, or set "
                f"'unfinished' to take the {trace.arrivals} arrivals that it holds"
            )
        stream = trace.columns["stream"]
        streams = 1 + int(stream.max())
        if streams > len(workload.batches):
            raise ValueError(
                f"{self.file} has gradients of {streams} data streams, and with this 'partition' "
                f"there is {len(workload.batches)}; take the partition that was recorded"
            )
        wanted = np.array(workload.batches) * workload.epochs
        first = 1 + _largest(stream, trace.columns["minibatch"], len(wanted))
        for s in np.flatnonzero(first > wanted):
            raise ValueError(
                f"{self.file} goes up to minibatch {first[s] - 1} of data stream {s}, which has "
                f"{wanted[s]}; 'epochs', 'batch_size' or the data are not those recorded"
            )
        # Workers that stop with the first leave minibatches of the others undone.
        if not self.unfinished and trace.about.get("run_on") != "false":
            done = np.bincount(stream, minlength=len(wanted))
            for s in np.flatnonzero(done < wanted):
                raise ValueError(
                    f"{self.file} has {done[s]} gradients of data stream {s}, which has "
                    f"{wanted[s]} minibatches; 'epochs', 'batch_size' or the data are not those "
                    f"recorded"
                )

    def simulate(self, workload: Workload, generator: np.random.Generator) -> Schedule:
        """The arrivals of the trace, at the times at which they were applied. Epochs of the
        schedule are equal numbers of arrivals. Raises ValueError as `check`."""
        self.check(workload)
        trace = self._trace()
        return Schedule(
            worker=trace.columns["worker"].astype(np.int32),
            time=trace.columns[traces.APPLIED],
            read_version=trace.columns["version"],
            stream=trace.columns["stream"].astype(np.int32),
            batch=trace.columns["minibatch"],
            epoch_ends=np.arange(1, workload.epochs + 1) * trace.arrivals // workload.epochs,
            arrivals_per_update=trace.arrivals_per_update,
        )

    def _trace(self) -> traces.Trace:
        return traces.read_trace(Path(self.file))


def _largest(group: np.ndarray, value: np.ndarray, groups: int) -> np.ndarray:
    """The largest value [groups] of each group; -1 of one that is empty."""
    largest = np.full(groups, -1, np.int64)
    np.maximum.at(largest, group, value)
    return largest
