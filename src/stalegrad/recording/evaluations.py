"""Accuracy at the end of each epoch, in no way of the server: in a thread, or once it is done."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from stalegrad.training.backends import Backend

When = Literal["epoch", "end", "never"]


@dataclass(frozen=True)
class EpochDone:
    """The state at the end of an epoch: after `arrivals` gradients and `seconds`; the mean loss of
    its minibatches; metrics of the test set, where they are asked for."""

    epoch: int
    arrivals: int
    seconds: float
    train_loss: float
    metrics: dict[str, float]


class Evaluations:
    """Evaluates weights in a thread: as they come (`epoch`), or all of them in `finish` (`end`).

    spans: (epoch, start, end) of each evaluation, by the clock of the server.
    """

    def __init__(self, backend: Backend, when: When, report: Callable[[EpochDone], None]):
        self._backend, self._when, self._report = backend, when, report
        self._waiting: queue.SimpleQueue[tuple[EpochDone, Tensor] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.spans: list[tuple[int, float, float]] = []
        if when != "end":
            self._thread.start()

    def add(self, done: EpochDone, weights: Tensor) -> None:
        """weights [P] must not be changed."""
        self._waiting.put((done, weights))

    def finish(self) -> None:
        """Wait until all have been evaluated and reported."""
        self._waiting.put(None)
        if not self._thread.is_alive() and self._when == "end":
            self._thread.start()
        self._thread.join()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            done, weights = item
            if self._when != "never":
                start = time.monotonic()
                found = self._backend.metrics(weights[None])
                done = replace(done, metrics={k: float(v[0]) for k, v in found.items()})
                self.spans.append((done.epoch, start, time.monotonic()))
            self._report(done)
