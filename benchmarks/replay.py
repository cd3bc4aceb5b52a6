"""Samples a second: one run in plain PyTorch, and bundles of runs through replay.

Plain PyTorch is what one would write for a single run: a module, an optimizer, backward. Bundles
go through `training.replay` for whole epochs, update rule, stale weights and data order included.
On a machine with a GPU both are measured there too, and the ratio is that of runs an hour.
All are measured in turn, again and again, and medians taken: the speed of a shared machine wanders,
so the ratios of one call say more than its rates. Needs MNIST (`stalegrad data mnist`).

    python benchmarks/replay.py                      # under two minutes on two cores
    python benchmarks/replay.py --quick
    python benchmarks/replay.py --batch-size 256 --markdown
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import peak
import torch
from torch import nn

from stalegrad.data_order import minibatch_noise
from stalegrad.io.errors import StalegradError
from stalegrad.planning.cell import parse_cell
from stalegrad.problems import Task
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training import replay, stepping
from stalegrad.training.backends import Backend, cpu, make_backend
from stalegrad.training.bundles import plan_run
from stalegrad.training.machine import cores, describe_machine

BATCH_SIZES = (32, 64, 256, 1024)
BUNDLES = (1, 4, 16, 60)
DELAY = 4
PLAIN = "plain PyTorch"
LEAST_SAMPLES = 64  # of each run in one measurement, however long that takes


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    prepare: number of minibatches of each run -> what is timed. torch_threads: PyTorch's own; in
    bundles, threads go over runs instead.
    """

    what: str
    device: str
    runs: int
    batch_size: int
    threads: int
    prepare: Callable[[int], Callable[[], object]]
    torch_threads: int = 1

    def rate(self, steps: int, wall: bool = False) -> float:
        """Samples a second over `steps` minibatches of each run.

        On one core the processor's time counts, which other programs change little; `wall` and
        all else go by the clock.
        """
        one_core = self.device == "cpu" and self.threads == 1 and not wall
        clock = time.process_time if one_core else time.perf_counter
        with torch_threads(self.torch_threads):
            timed = self.prepare(steps)
            begin = clock()
            timed()
            if self.device == "cuda":
                torch.cuda.synchronize()
            seconds = clock() - begin
        return self.runs * steps * self.batch_size / seconds


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PlainLeNet5(nn.Sequential):
    def __init__(self):
        super().__init__(
            *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
        )


def plain(
    task: Task,
    batch_size: int,
    threads: int,
    network: Callable[[], nn.Module] = PlainLeNet5,
    update: bool = True,
) -> Contender:
    """One run as one would write it, on images that are floats already; without `update` its
    gradients alone."""
    device = task.train[0].device
    images, labels = pixels(task.train[0], task), task.train[1]

    def prepare(steps: int) -> Callable[[], object]:
        model = network().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

        def train() -> None:
            order = torch.randperm(len(labels), device=device)
            for batch in order[: steps * batch_size].split(batch_size):
                loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                if update:
                    optimizer.step()

        return train

    return Contender(PLAIN, device.type, 1, batch_size, threads, prepare, threads)


def pixels(images: torch.Tensor, task: Task) -> torch.Tensor:
    """Bytes [N, 28, 28] as the network takes them: floats [N, 1, 28, 28]."""
    return images.unsqueeze(1) * task.options["scale"] + task.options["shift"]


def bundle(task: Task, backend: Backend, runs: int, batch_size: int, threads: int) -> Contender:
    """One epoch of `runs` runs with SGD at delay 4, as `training.bundles` steps them."""
    targets = task.train[1].cpu().numpy()

    def prepare(steps: int) -> Callable[[], object]:
        # The gradients still in flight at the end are not computed.
        samples = (steps + DELAY) * batch_size
        cells = [benchmark_cell(batch_size, seed) for seed in range(runs)]
        planned = [plan_run(cell, targets[:samples]).run for cell in cells]
        size = backend.runs_at_once or runs
        parts = [planned[i : i + size] for i in range(0, runs, size)]
        states = [replay.start(task, part) for part in parts]

        def train() -> None:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(
                    lambda part, state: stepping.advance(task, part, state, backend), parts, states
                ):
                    pass

        return train

    device = task.train[0].device.type
    return Contender(f"backend {backend.name}", device, runs, batch_size, threads, prepare)


def benchmark_cell(batch_size: int, seed: int):
    values = {
        "problem": {"name": "lenet5", "dataset": "mnist"},
        "rule": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        "cluster": {"name": "constant_delay", "delay": DELAY},
        **{"batch_size": batch_size, "epochs": 1, "seed": seed},
    }
    return parse_cell(values, "benchmark")


def gradients(task: Task, backend: Backend, batch_size: int, threads: int = 1) -> Contender:
    """Gradients alone, of one run a thread."""
    weights = torch.stack([task.initial_weights(seed).float() for seed in range(threads)])
    inputs, targets = (tensor[None, :batch_size].contiguous() for tensor in task.train)

    def drawn(step: int) -> torch.Tensor | None:
        if not task.noise:
            return None
        return torch.from_numpy(minibatch_noise(1, 0, step, batch_size, task.noise))[None]

    def prepare(steps: int) -> Callable[[], object]:
        def one(run: int) -> None:
            for step in range(steps):
                backend.gradients(weights[run : run + 1], inputs, targets, drawn(step))

        def all_runs() -> None:
            with ThreadPoolExecutor(threads) as pool:
                for _ in pool.map(one, range(threads)):
                    pass

        return all_runs

    name = f"backend {backend.name}"
    return Contender(name, task.train[0].device.type, threads, batch_size, threads, prepare)


def evaluation(task: Task, backend: Backend) -> Contender:
    """Of one run on the test set, which is one minibatch."""
    weights = task.initial_weights(1).float()[None]

    def prepare(steps: int) -> Callable[[], object]:
        return lambda: [backend.metrics(weights) for _ in range(steps)]

    device, size = task.train[0].device.type, len(task.test[1])
    return Contender(f"backend {backend.name}", device, 1, size, 1, prepare)


def plain_evaluation(task: Task) -> Contender:
    model, labels = PlainLeNet5().to(task.test[0].device), task.test[1]
    images = pixels(task.test[0], task)

    @torch.no_grad()
    def evaluate() -> None:
        for some, wanted in zip(images.split(1000), labels.split(1000), strict=True):
            outputs = model(some)
            nn.functional.cross_entropy(outputs, wanted).item()
            (outputs.argmax(dim=1) == wanted).sum().item()

    def prepare(steps: int) -> Callable[[], object]:
        return lambda: [evaluate() for _ in range(steps)]

    return Contender(PLAIN, labels.device.type, 1, len(labels), 1, prepare)


def limit() -> Contender:
    """What the core does at most; its samples are operations in float32."""

    def prepare(steps: int) -> Callable[[], object]:
        work = peak.multiply_adds(torch.float32)
        return lambda: [work() for _ in range(steps)]

    return Contender(peak.NAME, "cpu", 1, peak.operations(torch.float32), 1, prepare)


def measure(
    contenders: Sequence[Contender], seconds: float, repeats: int, wall: bool = False
) -> list[float]:
    """Median samples a second of each, measured in turn, each time for about `seconds`."""
    steps = [steps_for(each, seconds, wall) for each in contenders]
    rates = [[each.rate(n, wall) for each, n in zip(contenders, steps, strict=True)]
             for _ in range(repeats)]  # fmt: skip
    return [statistics.median(column) for column in zip(*rates, strict=True)]


def steps_for(contender: Contender, seconds: float, wall: bool = False) -> int:
    """Minibatches of each run that take about `seconds`: at least enough for LEAST_SAMPLES, at
    most an epoch of MNIST. Warms up as well."""
    least = math.ceil(LEAST_SAMPLES / contender.batch_size)
    samples = contender.runs * contender.batch_size
    rate = contender.rate(least, wall)
    if samples * least / rate < seconds:
        rate = contender.rate(least, wall)
    most = max(60_000 // contender.batch_size - DELAY, least)
    return min(max(round(rate * seconds / samples), least), most)


def show(rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """A table, its first row the header; the first column is text, the others are numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        print(f"| {' | '.join(cells)} |" if markdown else "  ".join(cells))
        if markdown and number == 0:
            print("| --- |" + " ---: |" * (len(row) - 1))
    print()


def doubling(last: int) -> list[int]:
    """1, 2, 4, ... and `last`."""
    return [*(2**i for i in range(last.bit_length()) if 2**i < last), last]


def backends_of(task: Task) -> list[Backend]:
    reason = cpu.reason_against(task)
    if reason is not None and task.train[0].device.type == "cpu":
        print(f"The cpu backend is left out: {reason}.\n")
    names = ["torch", *([] if reason else ["cpu"])]
    if task.train[0].device.type == "cuda":
        names += ["batched", "batched_tf32"]
    return [make_backend(name, task) for name in names]


def compare_bundles(tasks: Sequence[Task], options: argparse.Namespace) -> None:
    batch_size, default = options.batch_size, torch.get_num_threads()
    contenders = []
    for task in tasks:
        on_cpu = task.train[0].device.type == "cpu"
        contenders += [
            plain(task, batch_size, n) for n in (sorted({1, default}) if on_cpu else [1])
        ]
        contenders += [
            bundle(task, backend, runs, batch_size, threads)
            for backend in backends_of(task)
            for threads in (sorted({1, cores()}) if on_cpu else [1])
            for runs in BUNDLES
        ]
    rates = measure(contenders, options.seconds, options.repeats)
    print(
        f"Training, minibatches of {batch_size}, SGD with momentum; bundles at delay {DELAY}. The "
        f"last column is over the faster plain row of the same device.\n"
    )
    rows = [("", "device", "threads", "runs at once", "samples/s", "x plain")]
    for each, rate in zip(contenders, rates, strict=True):
        plainly = max(
            r
            for c, r in zip(contenders, rates, strict=True)
            if c.what == PLAIN and c.device == each.device
        )
        numbers = (str(each.threads), str(each.runs), f"{rate:,.0f}", f"{rate / plainly:.2f}")
        rows.append((each.what, each.device, *numbers))
    show(rows, options.markdown)


def compare_gradients(task: Task, options: argparse.Namespace) -> None:
    backends = backends_of(task)
    contenders = [gradients(task, b, size) for b in backends for size in BATCH_SIZES]
    rates = iter(measure(contenders, options.seconds / 2, options.repeats))
    print("Gradients alone, samples/s on one core:\n")
    rows = [("", *(f"minibatch {size}" for size in BATCH_SIZES))]
    rows += [(f"backend {b.name}", *(f"{next(rates):,.0f}" for _ in BATCH_SIZES)) for b in backends]
    show(rows, options.markdown)


def compare_cores(task: Task, options: argparse.Namespace) -> None:
    backend, counts = backends_of(task)[-1], doubling(cores())
    contenders = [gradients(task, backend, options.batch_size, n) for n in counts]
    rates = measure(contenders, options.seconds, options.repeats)
    print(f"Gradients alone over cores, backend {backend.name}, minibatches of "
          f"{options.batch_size}:\n")  # fmt: skip
    rows = [("threads", "samples/s", "x one")]
    for count, rate in zip(counts, rates, strict=True):
        rows.append((str(count), f"{rate:,.0f}", f"{rate / rates[0]:.2f}"))
    show(rows, options.markdown)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=int, choices=BATCH_SIZES, default=64)
    parser.add_argument("--seconds", type=float, default=0.5, help="a measurement; default: 0.5")
    parser.add_argument("--repeats", type=int, default=5, help="default: 5")
    parser.add_argument("--quick", action="store_true", help="rough: 0.1 s, 3 repeats")
    parser.add_argument("--markdown", action="store_true", help="tables as in the README")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds, options.repeats = 0.1, 3
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    try:
        problem = LeNet5(dataset="mnist")
        tasks = [problem.load(options.data_folder, torch.device(n), torch.float32) for n in names]
    except StalegradError as error:
        print(error, file=sys.stderr)
        return 2
    for task in tasks:
        about = describe_machine(task.train[0].device)
        print(f"{about['device']}; {cores()} cores; PyTorch {about['torch']}, "
              f"Python {about['python']}")  # fmt: skip
    print()
    compare_bundles(tasks, options)
    compare_gradients(tasks[0], options)
    compare_cores(tasks[0], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
