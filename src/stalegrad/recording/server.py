"""The server: applies gradients as they arrive, answers with weights, and writes the trace.

All that decides anything is done by one thread, in the order of arrival; `connections` receives
beside it, so that what arrives while another gradient is applied gets its own time.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from stalegrad.io import traces
from stalegrad.io.errors import ConfigError
from stalegrad.io.traces import TraceWriter
from stalegrad.planning.cell import Cell, described
from stalegrad.problems import Task, load_task
from stalegrad.recording import links, plans
from stalegrad.recording.connections import Arrived, Connections, Gone, Ready, Workers
from stalegrad.recording.dealing import Deal, Factors
from stalegrad.recording.evaluations import EpochDone, Evaluations, When
from stalegrad.recording.links import LinkError
from stalegrad.recording.messages import RESULT, TASK, Messages
from stalegrad.recording.processes import Processes
from stalegrad.schedule import Workload
from stalegrad.training.backends import Backend, make_backend
from stalegrad.training.bundles import order_of
from stalegrad.training.given import Server
from stalegrad.training.machine import (
    describe_machine,
    dispatch,
    settled_torch,
    vector_instructions,
)

_REPORTS = 0.1  # seconds between two reports of progress
_DELIVERY = timedelta(seconds=2)


@dataclass(frozen=True)
class Settings:
    """How a recording is made; none of it decides what is trained.

    interface: the network interface that pairs of server and worker listen on. start_timeout:
    seconds to wait for workers to connect. patience: seconds after which a worker that is to send a
    gradient, and does not, counts as lost; on_lost: what to do then. accuracy: evaluate at each
    epoch while training goes on, once it has ended, or not at all.
    """

    output: Path
    data_folder: Path
    interface: str = links.LOOPBACK
    backend: str = "auto"
    precision: str = "float32"
    start_timeout: float = 120.0
    patience: float = 60.0
    on_lost: Literal["stop", "continue"] = "stop"
    accuracy: When = "epoch"


@dataclass(frozen=True)
class Reporter:
    """Who is told while it goes on. said: a sentence; arrived: how many gradients, of how many;
    epoch: one is done. `arrived` and `epoch` are called by different threads."""

    said: Callable[[str], None]
    arrived: Callable[[int, int], None]
    epoch: Callable[[EpochDone], None]


@dataclass(frozen=True)
class Recorded:
    """A recording that has ended.

    ended: `traces.COMPLETE`, or why not. weights [P]: at the end. seconds: from the first weights
    sent to the last gradient applied. busy [A]: seconds that the server took for each arrival, from
    taking it up to having begun to answer. still_open: see `Connections.still_open`.
    """

    output: Path
    ended: str
    arrivals: int
    seconds: float
    weights: Tensor
    busy: np.ndarray
    still_open: bool = False


def digest(weights: Tensor) -> str:
    """What a trace says of the weights at its end: SHA-256 of their bytes."""
    return hashlib.sha256(weights.contiguous().numpy().tobytes()).hexdigest()


def record(
    cell: Cell,
    settings: Settings,
    open_store: Callable[[], dist.Store],
    begin: Callable[[], Workers],
    reporter: Reporter,
) -> Recorded:
    """Train the cell, whose cluster is `Processes`, by real workers, and write the trace.

    open_store: gives the store in which workers look for what they are to do; begin: called once
    they can find it, starts them where that is ours to do.

    Raises LinkError where workers do not connect in time, OutputError where the trace cannot be
    written, and what `load_task` and `make_backend` raise. Where an interrupt ends it, the trace
    holds all that has arrived, and says so.
    """
    cpu, dtype = torch.device("cpu"), plans.precision({"precision": settings.precision})
    with settled_torch(cpu):
        task = load_task(cell.problem, settings.data_folder, cpu, dtype)
        backend = make_backend(settings.backend, task)
        try:
            workload = order_of(cell, task.train[1].numpy()).workload(cell.epochs)
            cell.cluster.check(workload)
        except ValueError as error:
            raise ConfigError(f"{error}. {described(cell)}") from None
        run = _Run(cell, settings, task, backend, workload, dtype, reporter)
        store = open_store()
        plan = plans.plan_of(
            cell, str(settings.data_folder), backend.name, settings.precision, settings.patience
        )
        links.set_plan(store, plan)
        return run.go(store, begin())


class _Run:
    """One recording, from the first worker that connects to the last gradient."""

    def __init__(
        self,
        cell: Cell,
        settings: Settings,
        task: Task,
        backend: Backend,
        workload: Workload,
        dtype: torch.dtype,
        reporter: Reporter,
    ):
        self._cell, self._settings, self._reporter = cell, settings, reporter
        self._processes: Processes = cell.cluster
        workers, per_update = self._processes.workers, self._processes.arrivals_per_update()
        self._incoming = Messages.room(workers, task.parameters, dtype)
        self._outgoing = Messages.room(workers, task.parameters, dtype)
        self._server = Server(
            task,
            backend,
            cell.rule,
            cell.batch_size,
            per_update,
            task.initial_weights(cell.seed).to(dtype),
            self._outgoing.values,
        )
        self._deal = Deal(self._processes, workload)
        self._factors = Factors(cell.rule, self._deal.total, cell.epochs, per_update)
        self._stops = [e * self._deal.total // cell.epochs for e in range(1, cell.epochs + 1)]
        self._backend = backend
        cpu = torch.device("cpu")
        self._gradients = {
            "backend": backend.name,
            "instructions": vector_instructions(backend.name, task.name, cpu),
            "dispatch": dispatch(backend.name, cpu),
        }
        self._about = {
            "workers": str(workers),
            "arrivals_per_update": str(per_update),
            "epochs": str(cell.epochs),
            "batches": json.dumps(list(workload.batches)),
            "run_on": json.dumps(self._processes.run_on),
            "cell": json.dumps({k: v for k, v in cell.as_dict().items() if k != "cluster"}),
            "processes": json.dumps(cell.as_dict()["cluster"]),
            "precision": settings.precision,
            "gradients": json.dumps(self._gradients),
            "machine": json.dumps(describe_machine(cpu)),
        }
        self._connected: dict[int, Ready] = {}
        self._dealt: dict[int, tuple[int, int]] = {}  # by worker, while it computes
        self._sending: dict[int, Any] = {}
        self._at_barrier: list[int] = []
        self._lost: list[str] = []
        self._busy: list[float] = []
        self._losses: list[float] = []
        self._arrivals, self._zero, self._last, self._reported = 0, 0.0, 0.0, 0.0

    def go(self, store: dist.Store, workers: Workers) -> Recorded:
        settings = self._settings
        connections = Connections(
            store,
            self._incoming.raw,
            workers,
            settings.interface,
            settings.start_timeout,
            settings.patience,
        )
        try:
            recorded = self._recorded(connections, self._start(connections))
        finally:
            connections.close()
        return replace(recorded, still_open=connections.still_open)

    # ---- start ----

    def _start(self, connections: Connections) -> set[int]:
        """Wait for the workers that must be there before anyone begins. Returns those still to
        come. Raises LinkError where one does not come."""
        waiting = set(range(self._processes.workers))
        together = self._processes.start == "together"
        self._reporter.said(f"waiting for {len(waiting)} workers")
        while waiting if together else not self._connected:
            event = connections.next()
            if isinstance(event, Ready):
                self._connected[event.worker] = event
                waiting.remove(event.worker)
            elif isinstance(event, Gone):
                others = sorted(waiting - {event.worker})
                also = f" (nor were {', '.join(map(str, others))} there yet)" if others else ""
                raise LinkError(
                    f"worker {event.worker} is not there: {event.why}{also}. Nothing was recorded; "
                    f"'--start-timeout' says how long the server waits."
                )
        return waiting

    def _recorded(self, connections: Connections, waiting: set[int]) -> Recorded:
        about = {**self._about, "recorded": datetime.now(UTC).isoformat(timespec="seconds")}
        self._trace = TraceWriter(self._settings.output, about)
        accuracy, report = self._settings.accuracy, self._reporter.epoch
        self._evaluations = Evaluations(self._backend, accuracy, report)
        ended = "failed"
        try:
            self._zero = self._last = time.monotonic()
            for ready in list(self._connected.values()):
                self._welcome(ready)
            ended = self._serve(connections, waiting)
            self._deliver()
        except KeyboardInterrupt:
            ended = f"interrupted after {self._arrivals} of {self._deal.total} arrivals"
            raise
        except Exception as error:
            ended = f"failed after {self._arrivals} of {self._deal.total} arrivals: {error}"
            raise
        finally:
            self._evaluations.finish()
            self._close(ended)
        return Recorded(
            self._settings.output,
            ended,
            self._arrivals,
            self._last - self._zero,
            self._server.weights,
            np.array(self._busy),
        )

    def _close(self, ended: str) -> None:
        """Write what is known at the end, and give the trace its name."""
        if not self._factors.hold(self._cell.epochs):
            self._trace.note("factors", "those of the plan, of which less was done; not of replay")
        busy = 1_000 * np.array(self._busy or [0.0])
        spans = [(e, self._since(a), self._since(b)) for e, a, b in self._evaluations.spans]
        self._trace.note("evaluations", json.dumps(spans))
        served = {"mean_ms": round(float(busy.mean()), 4), "max_ms": round(float(busy.max()), 4)}
        self._trace.note("server", json.dumps(served))
        self._trace.note("weights", digest(self._server.weights))
        self._trace.close(ended)

    def _welcome(self, ready: Ready) -> None:
        """Send a worker its first weights, and note when it was started, ready and connected."""
        moments = {name: ready.about[name] - ready.ahead for name in ("born", "ready")}
        moments["connected"] = ready.at
        note = {name: self._since(moment) for name, moment in moments.items()}
        if ready.error:
            note["clock_error"] = round(ready.error, 6)
        gradients = {name: ready.about[name] for name in self._gradients}
        if gradients != self._gradients:
            note |= gradients
            self._reporter.said(
                f"worker {ready.worker} computes gradients in another way than the server "
                f"({gradients['instructions']}, {gradients['dispatch']}), so that replay may "
                f"differ in the last bits"
            )
        self._answer(ready.worker, self._server.weights, self._server.version)
        self._trace.note(f"worker {ready.worker}", json.dumps(note))

    # ---- arrivals ----

    def _serve(self, connections: Connections, waiting: set[int]) -> str:
        """Serve until there is nothing more to do, or not to be done. Returns how it ended."""
        while self._dealt or self._at_barrier or waiting:
            event = connections.next()
            if isinstance(event, Arrived):
                self._take(event)
                if self._first_has_ended(event.worker):
                    break
            elif isinstance(event, Ready):
                waiting.remove(event.worker)
                self._connected[event.worker] = event
                self._welcome(event)
            elif not event.connected or event.worker in {*self._dealt, *self._at_barrier}:
                waiting.discard(event.worker)
                self._lose(event)
                if self._settings.on_lost == "stop" or self._processes.synchronous:
                    break
        if self._lost:
            return f"lost {'; '.join(self._lost)}"
        return traces.COMPLETE

    def _first_has_ended(self, worker: int) -> bool:
        """Whether all are to stop because this worker has done its epochs."""
        return not self._processes.run_on and worker not in self._dealt and not self._at_barrier

    def _lose(self, gone: Gone) -> None:
        dealt = self._dealt.pop(gone.worker, None)
        if dealt is not None:
            self._deal.give_back(dealt)
        lost = f"worker {gone.worker} at {self._since(gone.at):.6f} s: {gone.why}"
        self._lost.append(lost)
        self._trace.note("lost", lost)
        goes_on = self._settings.on_lost == "continue" and not self._processes.synchronous
        end = "training goes on without it" if goes_on else "the recording ends here"
        self._reporter.said(f"lost {lost}; {end}")

    def _take(self, arrived: Arrived) -> None:
        """Apply a gradient, answer, and write its row."""
        begun, worker = time.monotonic(), arrived.worker
        said = dict(zip(RESULT, self._incoming.numbers[worker].tolist(), strict=True))
        version, before = int(said["version"]), self._server.version
        stale = self._server.weights.clone() if self._processes.pull == "before" else None
        factor = self._factors.next(version)
        self._server.apply(worker, self._incoming.values[worker], factor)
        self._last = applied = time.monotonic()
        stream, minibatch = self._dealt.pop(worker)
        if self._processes.synchronous:
            self._at_barrier.append(worker)
            if self._server.version > before:
                ready, self._at_barrier = self._at_barrier, []
                for each in ready:
                    self._answer(each, self._server.weights, self._server.version)
        elif stale is None:
            self._answer(worker, self._server.weights, self._server.version)
        else:
            self._answer(worker, stale, before)
        self._busy.append(time.monotonic() - begun)
        ahead = self._connected[worker].ahead
        moments = [said[name] - ahead for name in ("read", "start", "end", "sent")]
        moments += [arrived.at, applied]
        self._trace.row(
            (self._arrivals, worker, version, stream, minibatch),
            [moment - self._zero for moment in moments],
        )
        self._arrivals += 1
        self._losses.append(said["loss"])
        self._look_at_epoch()

    def _answer(self, worker: int, weights: Tensor, version: int) -> None:
        """Send weights and what to compute at them, or that there is nothing left to do."""
        if (sending := self._sending.get(worker)) is not None:
            sending.wait()  # it has been received, since it was answered
        task = self._deal.next(worker)
        if task is not None:
            self._dealt[worker] = task
            self._outgoing.values[worker] = weights
        stream, minibatch = task or (0, 0)
        said = {"stop": task is None, "version": version, "stream": stream, "minibatch": minibatch}
        for place, name in enumerate(TASK):
            self._outgoing.numbers[worker, place] = said[name]
        try:
            link = self._connected[worker].link
            self._sending[worker] = link.send(self._outgoing.raw[worker])
        except links.Lost:
            pass  # what receives from it says so too

    def _deliver(self) -> None:
        """Wait until the last messages are sent; to workers that are gone they are not."""
        for sending in self._sending.values():
            with contextlib.suppress(RuntimeError):
                sending.wait(_DELIVERY)

    def _look_at_epoch(self) -> None:
        now, total = time.monotonic(), self._deal.total
        if now - self._reported > _REPORTS or self._arrivals == total:
            self._reported = now
            self._reporter.arrived(self._arrivals, total)
        if self._arrivals in self._stops:
            epoch = 1 + self._stops.index(self._arrivals)
            loss = float(np.mean(self._losses)) if self._losses else float("nan")
            self._losses = []
            done = EpochDone(epoch, self._arrivals, self._last - self._zero, loss, {})
            self._evaluations.add(done, self._server.weights.clone())

    def _since(self, moment: float) -> float:
        """Seconds since the first weights were sent."""
        return round(moment - self._zero, 6)
