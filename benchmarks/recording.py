"""Arrivals a second of the server of `stalegrad record`, beside what loopback allows.

The server is the one that records, with the trace written and SGD with momentum on LeNet-5's 61,706
weights; its workers send gradients that are zero, and compute none. Beside it, by sockets alone and
none of the server's code, as many processes send as many bytes and get as many back.

    python benchmarks/recording.py --workers 2 --arrivals 4000
"""

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stalegrad.recording import launch, links, worker
from stalegrad.recording.links import Place
from stalegrad.recording.messages import Messages
from stalegrad.recording.plans import recorded_cell
from stalegrad.recording.processes import Delays
from stalegrad.recording.server import Recorded, Reporter, Settings, record

BATCH = 32
PARAMETERS = 61_706
LOOPBACK = "127.0.0.1"


# ---- the server, and workers that compute nothing ----


def send_zeros(number: int, place: Place) -> None:
    """A worker whose gradients are zero."""
    torch.set_num_threads(1)
    store = links.find_store(place, 60)
    plan = links.wait_for_plan(store, place, 60)
    none = {"backend": "none", "instructions": "none", "dispatch": "none"}
    now = time.monotonic()
    links.report_here(store, number, none | {"boot": links.boot(), "born": now, "ready": now})
    link = links.worker_link(store, number, place.interface, plan["patience"])
    links.answer_clock(link)
    zeros, nothing = torch.zeros(PARAMETERS), (np.zeros((1, BATCH), np.int64), None)
    room = Messages.room(2, PARAMETERS, torch.float32)
    delays = Delays(0.0, 0.0, np.random.default_rng())
    worker.serve(link, room, lambda *_: (zeros, 0.0), lambda *_: nothing, delays, 1.0)


class Null:
    """The processes of workers that compute nothing."""

    def __init__(self, workers: int, place: Place):
        context = multiprocessing.get_context("spawn")
        self._processes = [
            context.Process(target=send_zeros, args=(number, place)) for number in range(workers)
        ]
        for process in self._processes:
            process.start()

    def missing(self, number: int) -> str | None:
        status = self._processes[number].exitcode
        return None if status is None else f"it has ended with {status}"

    def end(self) -> None:
        for process in self._processes:
            process.join(5)
            process.kill()
            process.join()


def served(workers: int, arrivals: int, data_folder: Path) -> Recorded:
    """A recording of so many gradients that are zero."""
    problem = {"name": "lenet5", "dataset": "mnist", "test_samples": 100}
    values = {
        "problem": problem | {"train_samples": min(BATCH * arrivals, 60_000)},
        "rule": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        "cluster": {"workers": workers},
        "batch_size": BATCH,
        "epochs": max(1, BATCH * arrivals // 60_000),
    }
    listener, place = links.listen(Place(LOOPBACK, 0))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "trace.csv"
        return record(
            recorded_cell(values, "benchmark"),
            Settings(output=output, data_folder=data_folder, accuracy="never"),
            lambda: launch.open_store(place, listener, 60),
            lambda: Null(workers, place),
            Reporter(lambda _: None, lambda *_: None, lambda _: None),
        )


# ---- what loopback allows ----


def exchange(port: int, size: int) -> None:
    """Send messages of `size` bytes, each once the one before was answered by as many."""
    message, answer = bytearray(size), memoryview(bytearray(size))
    with socket.create_connection((LOOPBACK, port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            try:
                link.sendall(message)
                fill(link, answer)
            except OSError:
                return


def fill(link: socket.socket, room: memoryview) -> None:
    filled = 0
    while filled < len(room):
        got = link.recv_into(room[filled:])
        if not got:
            raise ConnectionError("closed")
        filled += got


def on_loopback(clients: int, arrivals: int, size: int) -> float:
    """Messages a second that one process takes in turn from all others, and answers."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen(clients)
        context = multiprocessing.get_context("spawn")
        port = listener.getsockname()[1]
        processes = [context.Process(target=exchange, args=(port, size)) for _ in range(clients)]
        for process in processes:
            process.start()
        connected = [listener.accept()[0] for _ in processes]
    room, answer = memoryview(bytearray(size)), bytearray(size)
    for link in connected:  # once, so that nobody is starting any more
        fill(link, room)
        link.sendall(answer)
    start = time.perf_counter()
    for number in range(arrivals):
        link = connected[number % clients]
        fill(link, room)
        link.sendall(answer)
    seconds = time.perf_counter() - start
    for link in connected:
        link.close()
    for process in processes:
        process.join()
    return arrivals / seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--arrivals", type=int, default=3750)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    options = parser.parse_args(argv)
    size = Messages.room(1, PARAMETERS, torch.float32).raw.shape[1]
    print(f"{options.workers} workers, messages of {size:,} bytes each way")
    for _ in range(options.repeats):
        floor = on_loopback(options.workers, options.arrivals, size)
        made = served(options.workers, options.arrivals, options.data_folder)
        busy = sorted((1_000 * made.busy).tolist())
        print(
            f"sockets alone {floor:7,.0f}/s   server {made.arrivals / made.seconds:7,.0f}/s, of "
            f"which {statistics.median(busy):.3f} ms (median; mean {statistics.mean(busy):.3f}, "
            f"95 % {busy[int(0.95 * len(busy))]:.3f}) to apply, answer and book one"
        )


if __name__ == "__main__":
    main()
