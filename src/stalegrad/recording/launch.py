"""Who is who: processes started here on the loopback interface, or by torchrun or srun."""

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch.distributed as dist

from stalegrad.io.errors import ConfigError
from stalegrad.recording import links
from stalegrad.recording.links import LOOPBACK, Place

_LOOPBACK_ADDRESS = "127.0.0.1"
_STOP = 5.0  # seconds that a worker gets to end by itself
_SIOCGIFADDR = 0x8915  # of Linux: the address of an interface


@dataclass(frozen=True)
class Role:
    """What this process is in a recording.

    rank: 0 is the server, n + 1 worker n. size: how many there are; None where the server starts
    the workers itself. agents_store: torchrun has opened the store already.
    """

    rank: int
    size: int | None
    place: Place
    agents_store: bool = False

    @property
    def workers(self) -> int | None:
        """How many workers were started; None where that is ours to do."""
        return None if self.size is None else self.size - 1


def role(environment: Mapping[str, str], interface: str | None, port: int | None) -> Role:
    """The role that torchrun or srun gave this process by its environment; else the server's, which
    starts its workers itself.

    interface, port: those that flags name. Raises ConfigError for an interface that is not there,
    for a place that cannot be reached over loopback where no other is named, and for a launcher
    that started no worker.
    """
    found = _launched(environment)
    if found is None:
        chosen = interface or LOOPBACK
        return Role(0, None, Place(address_of(chosen), port or 0, chosen))
    rank, size, address, launchers_port, agents_store = found
    if size < 2:
        raise ConfigError(
            f"the launcher started {size} process; a recording takes a server and at least one "
            f"worker, so at least 2 (srun -n, torchrun --nproc-per-node)."
        )
    local = socket.gethostbyname(address).startswith("127.")
    if interface is None and not local:
        raise ConfigError(
            f"the server is on {address}, which is not reached over loopback; name the network "
            f"interface between the machines with '--interface'. Whoever reaches it can join: "
            f"torch's rendezvous has no authentication."
        )
    chosen = interface or LOOPBACK
    address_of(chosen)
    place = Place(address, launchers_port if agents_store else port or launchers_port, chosen)
    return Role(rank, size, place, agents_store)


def _launched(environment: Mapping[str, str]) -> tuple[int, int, str, int, bool] | None:
    """Rank, size, address and port of the server, and whether torchrun keeps a store there."""
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        rank, size, port = (int(environment[k]) for k in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        agents = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return rank, size, environment["MASTER_ADDR"], port, agents
    # Of a step alone: srun sets them, a batch script has none.
    if {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"} <= environment.keys():
        rank, size = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        address = environment.get("MASTER_ADDR") or _first_node(environment)
        # A port that steps and jobs on one node do not share.
        number = 64 * int(environment.get("SLURM_JOB_ID", 0)) + int(environment["SLURM_STEP_ID"])
        port = int(environment.get("MASTER_PORT", 20_000 + number % 20_000))
        return rank, size, address, port, False
    return None


def _first_node(environment: Mapping[str, str]) -> str:
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return _LOOPBACK_ADDRESS
    nodes = environment["SLURM_STEP_NODELIST"]
    asked = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise ConfigError(f"scontrol does not know the nodes {nodes}; set MASTER_ADDR.")
    return asked.stdout.split()[0]


def address_of(interface: str) -> str:
    """The IPv4 address of a network interface. Raises ConfigError where there is none."""
    if interface == LOOPBACK:
        return _LOOPBACK_ADDRESS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            request = struct.pack("256s", interface.encode()[:15])
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
        except OSError:
            there = ", ".join(name for _, name in socket.if_nameindex())
            raise ConfigError(
                f"'--interface' is {interface!r}, which has no IPv4 address here; there are: "
                f"{there}."
            ) from None
    return socket.inet_ntoa(answer[20:24])


# ---- the server's store ----


def open_store(place: Place, listener: socket.socket | None, seconds: float) -> dist.Store:
    """The store in which the processes find each other. listener: where the server listens; None
    where torchrun has a store."""
    if listener is None:
        return links.find_store(place, seconds)
    return links.open_store(listener, place, seconds)


class OfLauncher:
    """Workers that torchrun or srun has started, and ends."""

    def missing(self, worker: int) -> str | None:
        return None

    def end(self) -> None:
        pass


# ---- workers started here ----


class Started:
    """Workers that this process has started, and ends."""

    def __init__(self, workers: int, place: Place, start_timeout: float):
        command = [sys.executable, "-m", "stalegrad.recording"]
        where = [place.address, str(place.port), place.interface, str(start_timeout)]
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for worker in range(workers):
                # A pipe that only this process can write to: its end tells a worker that this
                # process has ended, however it did.
                process = subprocess.Popen([*command, str(worker), *where], stdin=subprocess.PIPE)
                self._processes.append(process)
        except BaseException:
            self.end()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def missing(self, worker: int) -> str | None:
        """Why a worker will never connect: it has ended."""
        status = self._processes[worker].poll()
        if status is None:
            return None
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"its process {self._processes[worker].pid} has ended with {how}"

    def end(self) -> None:
        """End all of them: by closing their pipes, and if that does not help, by force."""
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in self._processes:
            try:
                process.wait(timeout=_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def end_with_parent() -> None:
    """End this process once its standard input ends, and leave interrupts of the terminal to the
    one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
