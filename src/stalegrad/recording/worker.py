"""A worker: takes weights from the server, computes a gradient, is held up, and sends it back."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stalegrad.data_order import Order, minibatch_noise
from stalegrad.planning.cell import Cell
from stalegrad.problems import Task, load_task
from stalegrad.recording import links
from stalegrad.recording.links import Link, Lost, Place
from stalegrad.recording.messages import RESULT, TASK, Messages
from stalegrad.recording.plans import cell_of, precision
from stalegrad.recording.processes import Delays
from stalegrad.training import replay
from stalegrad.training.backends import Backend, make_backend
from stalegrad.training.bundles import order_of
from stalegrad.training.machine import dispatch, settled_torch, vector_instructions

# (weights [P], sample numbers [1, B], random bytes [1, B, N] or None) -> gradient [P] and loss.
Gradient = Callable[[Tensor, np.ndarray, np.ndarray | None], tuple[Tensor, float]]


def run(worker: int, place: Place, start_timeout: float) -> None:
    """Serve the server at `place` as this worker, counted from 0, until it says stop, or is gone.

    Raises LinkError where there is no server within `start_timeout` seconds.
    """
    born = time.monotonic() - links.age()
    store = links.find_store(place, start_timeout)
    plan = links.wait_for_plan(store, place, start_timeout)
    cell, dtype, cpu = cell_of(plan, "the server's plan"), precision(plan), torch.device("cpu")
    with settled_torch(cpu):
        task = load_task(cell.problem, Path(plan["data_folder"]), cpu, dtype)
        backend = make_backend(plan["backend"], task)
        minibatches = Minibatches(order_of(cell, task.train[1].numpy()), cell, task)
        warm_up(backend, task, minibatches, dtype)
        about = {
            "boot": links.boot(),
            "backend": backend.name,
            "instructions": vector_instructions(backend.name, task.name, cpu),
            "dispatch": dispatch(backend.name, cpu),
            "born": born,
            "ready": time.monotonic(),
        }
        links.report_here(store, worker, about)
        link = links.worker_link(store, worker, place.interface, start_timeout + plan["patience"])
        links.answer_clock(link)

        def gradient(
            weights: Tensor, samples: np.ndarray, noise: np.ndarray | None
        ) -> tuple[Tensor, float]:
            chosen = torch.from_numpy(samples)
            found, loss = replay.gradient_of_one(backend, task, weights, chosen, noise)
            return found, float(loss)

        delays = cell.cluster.delays(cell.seed, worker)
        slowness = cell.cluster.slowness(worker)
        room = Messages.room(2, task.parameters, dtype)
        serve(link, room, gradient, minibatches.of, delays, slowness)


def serve(
    link: Link,
    room: Messages,
    gradient: Gradient,
    minibatch: Callable[[int, int], tuple[np.ndarray, np.ndarray | None]],
    delays: Delays,
    slowness: float,
) -> None:
    """Answer the weights that come with gradients, until the server says stop or is gone.

    room: for two messages, one each way.
    """
    received, answer = room.raw
    weights, result = room.values
    asked, said = room.numbers
    try:
        while True:
            link.receive(received)
            read = time.monotonic()
            task = dict(zip(TASK, asked.tolist(), strict=False))
            if task["stop"]:
                return
            samples, noise = minibatch(int(task["stream"]), int(task["minibatch"]))
            start = time.monotonic()
            found, loss = gradient(weights, samples, noise)
            result.copy_(found)
            if slowness > 1:
                time.sleep((time.monotonic() - start) * (slowness - 1))
            end = time.monotonic()
            if (delay := delays.next()) > 0:
                time.sleep(delay)
            times = {"read": read, "start": start, "end": end, "sent": time.monotonic()}
            known = task | times | {"loss": loss}
            said[:] = torch.tensor([known[name] for name in RESULT], dtype=torch.float64)
            link.send(answer).wait()
    except Lost:
        return  # the server has gone; whoever ended it knows why
    except RuntimeError:  # of a message that could not be sent whole
        return


class Minibatches:
    """The minibatches of a cell, an epoch of a stream at a time, since making them shuffles the
    data."""

    def __init__(self, order: Order, cell: Cell, task: Task):
        self._order, self._seed, self._noise = order, cell.seed, task.noise
        self._batches = order.workload(cell.epochs).batches
        self._kept: dict[int, tuple[int, np.ndarray]] = {}

    def of(self, stream: int, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Sample numbers [1, B], and the random bytes [1, B, N] of the loss where it takes any."""
        per_epoch = self._batches[stream]
        epoch, within = divmod(number, per_epoch)
        if self._kept.get(stream, (-1,))[0] != epoch:
            numbers = epoch * per_epoch + np.arange(per_epoch)
            drawn = self._order.indices(np.full(per_epoch, stream), numbers)
            self._kept[stream] = epoch, drawn
        samples = self._kept[stream][1][within : within + 1]
        if not self._noise:
            return samples, None
        noise = minibatch_noise(self._seed, stream, number, samples.shape[1], self._noise)
        return samples, noise[None]


def warm_up(backend: Backend, task: Task, minibatches: Minibatches, dtype: torch.dtype) -> None:
    """Compute a gradient that nobody needs, so that the first that counts takes no longer."""
    samples, noise = minibatches.of(0, 0)
    weights = torch.zeros(task.parameters, dtype=dtype)
    replay.gradient_of_one(backend, task, weights, torch.from_numpy(samples), noise)
