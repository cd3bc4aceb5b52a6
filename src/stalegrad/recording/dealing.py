"""What a server decides at each arrival before it is known what comes later: who computes which
minibatch, and by how much the learning rate is multiplied."""

import numpy as np

from stalegrad.recording.processes import Processes
from stalegrad.rules import Rule
from stalegrad.schedule import Schedule, Workload


class Deal:
    """Which minibatch a worker is to compute next: of its own data stream, or the next of all."""

    def __init__(self, processes: Processes, workload: Workload):
        self.shares = processes.shares(workload)
        self._next = [0] * len(self.shares)
        self._given_back: list[tuple[int, int]] = []

    def next(self, worker: int) -> tuple[int, int] | None:
        """Data stream and number of the minibatch; None where there is nothing left to do."""
        if self._given_back:
            return self._given_back.pop()
        stream = worker if len(self.shares) > 1 else 0
        if self._next[stream] == self.shares[stream]:
            return None
        self._next[stream] += 1
        return stream, self._next[stream] - 1

    def give_back(self, dealt: tuple[int, int]) -> None:
        """Of a worker that is lost: others compute it, where they draw from the same stream."""
        if len(self.shares) == 1:
            self._given_back.append(dealt)

    @property
    def total(self) -> int:
        return sum(self.shares)


class Factors:
    """The learning rate's factor of each arrival, as `Rule.step_factors` gives it once all are
    known: a rule looks at what has been, and at how much is planned."""

    def __init__(self, rule: Rule, total: int, epochs: int, per_update: int):
        self._rule, self._per_update = rule, per_update
        self._read = np.arange(total) // per_update  # what has not been is taken as never stale
        self._ends = np.arange(1, epochs + 1) * total // epochs
        self.used: list[float] = []
        self._needed = self._all() is not None

    def next(self, read_version: int) -> float | None:
        """That of the next arrival; None where it is 1 for all."""
        if not self._needed:
            return None
        arrival = len(self.used)
        self._read[arrival] = read_version
        factors = self._all()
        assert factors is not None
        self.used.append(float(factors[arrival]))
        return self.used[-1]

    def hold(self, epochs: int) -> bool:
        """Whether they are those of a schedule that ends here, where less was done than planned."""
        arrivals = len(self.used)
        self._read = self._read[:arrivals]
        self._ends = np.arange(1, epochs + 1) * arrivals // epochs
        factors = self._all() if self._needed else None
        return factors is None or factors.tolist() == self.used

    def _all(self) -> np.ndarray | None:
        none = np.zeros(len(self._read), np.int32)
        schedule = Schedule(
            worker=none,
            time=none.astype(float),
            read_version=self._read,
            stream=none,
            batch=none.astype(np.int64),
            epoch_ends=self._ends,
            arrivals_per_update=self._per_update,
        )
        return self._rule.step_factors(schedule)
