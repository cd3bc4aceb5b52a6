"""Record the traces of a list that are missing: real training, each by `stalegrad record`.

    python tools/record_traces.py studies/recorded/recordings.yaml --at-once 3

Traces are written to the folder `traces` beside the list, and a row for each to
measured/recordings.csv there: when, how long and how busy the machine was. What is there already is
left alone. The server and every worker are processes, as torchrun would start them; they are forked
from this one, which has loaded PyTorch and the data, since ten processes that load these for
themselves take a minute and gigabytes.
"""

import argparse
import csv
import gzip
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import yaml

from stalegrad import cli, specs
from stalegrad.io.files import write_bytes_atomically
from stalegrad.io.traces import COUNTS
from stalegrad.problems import Problem, Task, load_task
from stalegrad.recording import server, worker

COLUMNS = ("trace", "started", "seconds", "cores", "load_at_start", "recordings_at_once")


@dataclass(frozen=True)
class Wanted:
    """One to make. flags: of `stalegrad record`. decimals: of a second, to keep; None: all."""

    flags: dict[str, object]
    decimals: int | None


@dataclass(frozen=True)
class Recording:
    """One under way. log: what its processes print."""

    name: str
    began: float
    started: str
    load: float
    log: Path
    decimals: int | None


def flags_of(settings: dict[str, object]) -> list[str]:
    """Command line of the flags `settings`; true is a flag without a value."""
    flags = []
    for key, value in settings.items():
        flags += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return flags


def missing(list_file: Path, only: str) -> dict[str, Wanted]:
    """The traces of the list which are not there and whose name begins with `only`."""
    groups = yaml.safe_load(list_file.read_text())
    return {
        name: Wanted(group["flags"] | own, group.get("decimals"))
        for group in groups.values()
        for name, own in group["traces"].items()
        if name.startswith(only) and not trace_file(list_file, name).exists()
    }


def trace_file(list_file: Path, name: str) -> Path:
    return list_file.parent / "traces" / f"{name}.csv.gz"


def share_what_is_loaded(all_settings: Iterable[dict[str, object]]) -> None:
    """Load the data of all recordings, for the processes that are forked from this one."""
    loaded: dict[str, Task] = {}

    def load_once(
        problem: Problem, data_folder: Path, device: torch.device, dtype: torch.dtype
    ) -> Task:
        key = f"{problem} {dtype}"
        if key not in loaded:
            loaded[key] = load_task(problem, data_folder, device, dtype)
        return loaded[key]

    worker.load_task = server.load_task = load_once
    for settings in all_settings:
        values: dict[str, object] = {"name": "lenet5"}
        for flag in ("dataset", "normalize", "train-samples", "initialisation"):
            if flag in settings:
                values[flag.replace("-", "_")] = yaml.safe_load(str(settings[flag]))
        problem = specs.parse("problems", values, where="the list", key="flags")
        load_once(problem, Path("resources/data"), torch.device("cpu"), torch.float32)


def start(command: list[str], ranks: int, log: Path) -> int:
    """Fork the processes of a recording, and return the number of the one they belong to."""
    if leader := os.fork():
        return leader
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": 0}
    os.environ |= {key: str(value) for key, value in place.items()}
    for rank in range(1, ranks):
        if not os.fork():
            os.environ["RANK"] = str(rank)
            break
    os._exit(run(command))


def run(command: list[str]) -> int:
    """The exit status of a command of stalegrad, once it has printed all."""
    status = cli.main(command)
    sys.stdout.flush()
    return status


def shorten(file: Path, decimals: int) -> None:
    """Round the moments of a closed trace; the order of its rows is what it was."""
    first = len(COUNTS)
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    for number, line in enumerate(lines):
        if line[0].isdigit():
            parts = line.split(",")
            moments = [f"{float(moment):.{decimals}f}" for moment in parts[first:]]
            lines[number] = ",".join(parts[:first] + moments)
    text = "\n".join(lines) + "\n"
    write_bytes_atomically(file, gzip.compress(text.encode(), mtime=0))


def add_row(table: Path, row: tuple[object, ...]) -> None:
    table.parent.mkdir(exist_ok=True)
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def record_all(list_file: Path, todo: dict[str, Wanted], at_once: int) -> bool:
    """Record `todo`, `at_once` side by side, and say whether all went well."""
    waiting, under_way, well = list(todo.items()), dict[int, Recording](), True
    with tempfile.TemporaryDirectory() as folder:
        while waiting or under_way:
            while waiting and len(under_way) < at_once:
                name, wanted = waiting.pop(0)
                output = ["--accuracy", "end", "--output", str(trace_file(list_file, name))]
                command = ["record", *flags_of(wanted.flags), *output]
                started = datetime.now(UTC).isoformat(timespec="seconds")
                load, log = round(os.getloadavg()[0], 1), Path(folder) / name
                leader = start(command, int(str(wanted.flags["workers"])) + 1, log)
                under_way[leader] = Recording(
                    name, time.monotonic(), started, load, log, wanted.decimals
                )
            ended, status = os.wait()
            if (done := under_way.pop(ended, None)) is None:
                continue
            if status:
                well = False
                print(f"{done.name} was not recorded:\n{done.log.read_text()}", file=sys.stderr)
                continue
            seconds = round(time.monotonic() - done.began, 1)
            if done.decimals is not None:
                shorten(trace_file(list_file, done.name), done.decimals)
            row = (done.name, done.started, seconds, os.cpu_count(), done.load, at_once)
            add_row(list_file.parent / "measured" / "recordings.csv", row)
            print(f"{done.name}: {seconds} s", flush=True)
    return well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="recordings.yaml of a study")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="side by side")
    parser.add_argument("--only", default="", metavar="NAME", help="those whose names begin so")
    parser.add_argument("--dry-run", action="store_true", help="print the flags of each")
    options = parser.parse_args()
    todo = missing(options.list, options.only)
    if options.dry_run:
        for name, wanted in todo.items():
            print(name, *flags_of(wanted.flags))
        return 0
    share_what_is_loaded(wanted.flags for wanted in todo.values())
    return 0 if record_all(options.list, todo, options.at_once) else 1


if __name__ == "__main__":
    sys.exit(main())
