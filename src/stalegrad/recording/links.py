"""Connections between the server and its workers: torch.distributed with gloo, a pair each.

Every worker shares a process group of two with the server. So workers know nothing of each other,
each may connect when it is ready, and one that dies takes no other connection with it.

Nothing here asks who connects: torch's rendezvous has no authentication. So both the store and the
pairs listen on the loopback interface, unless another one is named.
"""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stalegrad.io.errors import StalegradError

LOOPBACK = "lo"
_HERE, _PLAN = "here/{}", "plan"
_SERVER, _WORKER = 0, 1  # ranks of a pair
_PINGS = 8
_PAIRING = timedelta(seconds=20)  # for both to connect, once both are there


class LinkError(StalegradError):
    """Processes that do not find each other; names who is missing, and where it was looked for."""


@dataclass(frozen=True)
class Place:
    """Where the processes meet: the address of the server, its port, and the network interface that
    pairs listen on."""

    address: str
    port: int
    interface: str = LOOPBACK


class Lost(Exception):
    """The other side of a link is gone, or silent for too long; the message says which."""


class Link:
    """A pair of server and worker."""

    def __init__(self, group: Any, other: int, patience: float):
        self._group, self._other, self._patience = group, other, patience

    def send(self, message: Tensor) -> Any:
        """Start sending; the message must not be changed before the other side has answered."""
        with _lost():
            return self._group.send([message], self._other, 0)

    def receive(self, into: Tensor, patience: float | None = None) -> None:
        """Wait for a message. Raises Lost where none comes within `patience` seconds, by default
        that of the link, or none can come."""
        seconds = self._patience if patience is None else patience
        with _lost():
            self._group.recv([into], self._other, 0).wait(timedelta(seconds=seconds))


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no other
        text = str(error)
        if "Timed out" in text or "timed out" in text or "timeout" in text:
            raise Lost("it sent nothing for too long") from None
        raise Lost("its connection was closed") from None


def listen(place: Place) -> tuple[socket.socket, Place]:
    """A socket that listens on the address of the place alone, and the place with its port, where
    0 takes a free one.

    torch's own store would listen on every address of the machine. Raises LinkError where the port
    is taken, or the address is not one of this machine.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.address, place.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise LinkError(
            f"the server cannot listen on port {place.port} of {place.address}: {error.strerror}. "
            f"Name another port with '--port' (or MASTER_PORT), or end the process that has it."
        ) from None
    return listener, replace(place, port=listener.getsockname()[1])


def open_store(listener: socket.socket, place: Place, seconds: float) -> dist.TCPStore:
    """The store of the server, on a socket that listens; the store closes it."""
    return dist.TCPStore(
        place.address,
        place.port,
        is_master=True,
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def find_store(place: Place, seconds: float) -> dist.Store:
    """The store that another process has opened. Raises LinkError where there is none within
    `seconds`."""
    try:
        return dist.TCPStore(
            place.address,
            place.port,
            is_master=False,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
    except (RuntimeError, OSError):
        raise _no_server(place, seconds) from None


def _no_server(place: Place, seconds: float) -> LinkError:
    return LinkError(
        f"there was no server on port {place.port} of {place.address} within {seconds:g} s; the "
        f"server is the process of rank 0, and '--start-timeout' says how long to wait."
    )


def set_plan(store: dist.Store, plan: dict[str, Any]) -> None:
    """Tell the workers what they are to do; they wait for it."""
    store.set(_PLAN, json.dumps(plan))


def wait_for_plan(store: dist.Store, place: Place, seconds: float) -> dict[str, Any]:
    """What `set_plan` told. Raises LinkError where nothing is told within `seconds`."""
    try:
        store.wait([_PLAN], timedelta(seconds=seconds))
        return dict(json.loads(store.get(_PLAN)))
    except (RuntimeError, OSError):
        raise _no_server(place, seconds) from None


def report_here(store: dist.Store, worker: int, about: dict[str, Any]) -> None:
    """Tell the server that a worker is ready to be connected, and what it is."""
    store.set(_HERE.format(worker), json.dumps(about))


def is_here(store: dist.Store, worker: int) -> bool:
    return bool(store.check([_HERE.format(worker)]))


def about(store: dist.Store, worker: int) -> dict[str, Any]:
    """What a worker said of itself when it reported."""
    return dict(json.loads(store.get(_HERE.format(worker))))


def server_link(store: dist.Store, worker: int, interface: str, patience: float) -> Link:
    """The link to a worker that has reported; it calls `worker_link` at the same time.

    patience: seconds to wait for each message. Raises LinkError where there is no connection.
    """
    return _linked(store, worker, _SERVER, interface, patience)


def worker_link(store: dist.Store, worker: int, interface: str, patience: float) -> Link:
    """The link of a worker to the server, once it has reported."""
    return _linked(store, worker, _WORKER, interface, patience)


def _linked(store: dist.Store, worker: int, rank: int, interface: str, patience: float) -> Link:
    os.environ["GLOO_SOCKET_IFNAME"] = interface  # where gloo listens
    pair = dist.PrefixStore(f"pair/{worker}", store)
    try:
        group = dist.ProcessGroupGloo(pair, rank, 2, _PAIRING)
    except (RuntimeError, OSError) as error:
        raise LinkError(
            f"worker {worker} and the server cannot be connected over the interface "
            f"'{interface}': {' '.join(str(error).split())[:200]}"
        ) from None
    return Link(group, 1 - rank, patience)


# ---- clocks ----


def measure_clock(link: Link) -> tuple[float, float]:
    """Seconds that a worker's clock is ahead of the server's, and by how much that may be wrong:
    half of the shortest time that a question and its answer took. `answer_clock` answers."""
    best = (0.0, float("inf"))
    question, answer = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for _ in range(_PINGS):
        asked = time.monotonic()
        link.send(question.view(torch.uint8)).wait()
        link.receive(answer.view(torch.uint8))
        now = time.monotonic()
        error = (now - asked) / 2
        if error < best[1]:
            best = (float(answer[0]) - (asked + now) / 2, error)
    return best


def answer_clock(link: Link) -> None:
    """What a worker does while the server calls `measure_clock`."""
    question, answer = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for _ in range(_PINGS):
        link.receive(question.view(torch.uint8))
        answer[0] = time.monotonic()
        link.send(answer.view(torch.uint8)).wait()


def boot() -> str:
    """What is the same for processes that read one clock: those of one machine since it was
    started. Where the system does not say, the name of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def age() -> float:
    """Seconds since this process was started; since it was asked first, where the system does not
    say."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError):
        return time.monotonic() - _FIRST_ASKED


_FIRST_ASKED = time.monotonic()
