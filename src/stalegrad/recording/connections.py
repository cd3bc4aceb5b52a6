"""How workers come to the server and what comes from them, as events in one queue.

A thread looks for workers that have not connected; another for each that has, receives.
"""

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

from stalegrad.recording import links
from stalegrad.recording.links import Link, LinkError, Lost

_LOOKS = 0.02  # seconds between two looks for workers that have not connected
_CLOSING = 1.0  # seconds for a link to be closed by a worker that has ended


class Workers(Protocol):
    """The processes of the workers, as far as they are ours."""

    def missing(self, worker: int) -> str | None:
        """Why a worker that has not connected never will, or None."""

    def end(self) -> None:
        """End those that are left, where they are ours."""


@dataclass(frozen=True)
class Ready:
    """A worker is connected. about: what it said of itself; at: when; ahead: seconds by which its
    clock is ahead of the server's, and error: by how much that may be wrong, both 0 on one machine.
    """

    worker: int
    link: Link
    about: dict[str, Any]
    at: float
    ahead: float
    error: float


@dataclass(frozen=True)
class Arrived:
    """A worker's message is in its room. at: since when."""

    worker: int
    at: float


@dataclass(frozen=True)
class Gone:
    """Nothing comes from a worker any more, or (`connected` false) it never came."""

    worker: int
    why: str
    at: float
    connected: bool = True


Event = Ready | Arrived | Gone


class Connections:
    """Events of all workers.

    incoming [N, bytes]: where each worker's messages go.
    """

    def __init__(
        self,
        store: dist.Store,
        incoming: Tensor,
        workers: Workers,
        interface: str,
        start_timeout: float,
        patience: float,
    ):
        self._store, self._incoming, self._workers = store, incoming, workers
        self._interface, self._start, self._patience = interface, start_timeout, patience
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._receiving: list[threading.Thread] = []
        self._searching = threading.Thread(target=self._search, daemon=True)
        self._searching.start()

    def next(self) -> Event:
        """Wait for the next event."""
        return self._events.get()

    def close(self) -> None:
        """End the workers that are ours, and with them all threads. A worker of another launcher
        ends once it notices that this process has ended; see `still_open`."""
        self._closed.set()
        self._searching.join()
        self._workers.end()
        for thread in self._receiving:
            thread.join(_CLOSING)

    @property
    def still_open(self) -> bool:
        """Whether a thread still waits for a worker. PyTorch has no way to end it, so that this
        process must end without waiting for it: `os._exit`."""
        return any(thread.is_alive() for thread in self._receiving)

    def _search(self) -> None:
        """Connect workers as they come, until all have, or time is up."""
        left = set(range(len(self._incoming)))
        end = time.monotonic() + self._start
        while left and not self._closed.wait(_LOOKS):
            for worker in sorted(left):
                event = self._look(worker, late=time.monotonic() > end)
                if event is not None:
                    left.remove(worker)
                    self._events.put(event)

    def _look(self, worker: int, late: bool) -> Event | None:
        try:
            if links.is_here(self._store, worker):
                return self._connected(worker)
        except (LinkError, Lost, RuntimeError) as error:
            return Gone(worker, str(error), time.monotonic(), connected=False)
        why = self._workers.missing(worker)
        if why is None and late:
            why = f"it did not connect within {self._start:g} s"
        return None if why is None else Gone(worker, why, time.monotonic(), connected=False)

    def _connected(self, worker: int) -> Ready:
        about = links.about(self._store, worker)
        link = links.server_link(self._store, worker, self._interface, self._patience)
        ahead, error = links.measure_clock(link)
        if about["boot"] == links.boot():
            ahead = error = 0.0
        receiving = threading.Thread(target=self._receive, args=(worker, link), daemon=True)
        receiving.start()
        self._receiving.append(receiving)
        return Ready(worker, link, about, time.monotonic(), ahead, error)

    def _receive(self, worker: int, link: Link) -> None:
        """A worker sends nothing new before it is answered, so that its room is the server's to
        read in the meantime."""
        # Of the first message, the patience begins with the first weights, which others decide.
        patience = self._start + self._patience
        try:
            while True:
                link.receive(self._incoming[worker], patience)
                self._events.put(Arrived(worker, time.monotonic()))
                patience = self._patience
        except Lost as lost:
            self._events.put(Gone(worker, str(lost), time.monotonic()))
