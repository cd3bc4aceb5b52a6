"""One table of what is fast, against what, and how far it is from what the machine allows.

A row is a ratio of two things measured in turn in one run of this script, since the rates of a
shared machine wander. Time is the processor's, which other programs change little, save in the row
about cores, which needs the machine to itself. The last columns name what limits a row and the
share of that limit which it reaches; where no limit is known there is none.

    benchmarks/run [--markdown] [--quick]      # some minutes; needs MNIST and Fashion-MNIST
"""

import argparse
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

from collections.abc import Sequence  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import lamour2023  # noqa: E402
import large_cnn  # noqa: E402
import least_squares  # noqa: E402
import replay  # noqa: E402
import schedules  # noqa: E402
import torch  # noqa: E402

from stalegrad.backends import make_backend  # noqa: E402
from stalegrad.machine import describe_machine  # noqa: E402
from stalegrad.problems.lenet5 import NETWORK, LeNet5  # noqa: E402

BATCH, RUNS = 64, 16
PLAIN = "plain PyTorch, one run"
REGISTERS = "multiply-adds between registers"  # what a core does where data cost no time


@dataclass(frozen=True)
class Row:
    work: str
    against: str
    ratio: float
    limit: str = ""
    share: float | None = None

    def cells(self) -> list[str]:
        share = "" if self.share is None else f"{self.share:.2f}"
        return [self.work, self.against, f"{self.ratio:.3g}", self.limit, share]


def networks(data_folder: Path, seconds: float, repeats: int) -> list[Row]:
    """LeNet-5: whole training steps, gradients and evaluation, and all cores."""
    idle = is_idle()  # asked before this itself makes work
    task = LeNet5(dataset="mnist").load(data_folder, torch.device("cpu"), torch.float32)
    backend, cores = make_backend("auto", task), replay.cores()
    one_core = [
        replay.plain(task, BATCH, 1),
        replay.bundle(task, backend, RUNS, BATCH, 1),
        replay.gradients(task, backend, BATCH),
        replay.evaluation(task, backend),
        replay.plain_evaluation(task),
    ]
    plain, steps, alone, evaluated, plainly = replay.measure(one_core, seconds, repeats)
    peak = least_squares.peak(torch.float32)
    most = peak / large_cnn.training_flop(NETWORK)
    most_evaluated = peak / sum(large_cnn.forward_flop(NETWORK))
    rows = [
        Row("LeNet-5, training steps in a bundle", PLAIN, steps / plain, REGISTERS, steps / most),
        Row("LeNet-5, gradients alone", PLAIN, alone / plain, REGISTERS, alone / most),
        Row("LeNet-5, evaluation", "plain PyTorch", evaluated / plainly, REGISTERS,
            evaluated / most_evaluated),
    ]  # fmt: skip
    if idle:
        bundles = [replay.bundle(task, backend, RUNS, BATCH, n) for n in (1, cores)]
        one, every = replay.measure(bundles, seconds, repeats, wall=True)
        name, times = f"LeNet-5, training steps on {cores} cores", every / one
        rows.append(Row(name, "the same on one", times, f"{cores} times", times / cores))
    return rows


def is_idle() -> bool:
    """Whether the cores can be measured together: there are some, and no other program runs."""
    return replay.cores() > 1 and os.getloadavg()[0] < 0.5


def larger_network(data_folder: Path, repeats: int) -> list[Row]:
    rates = large_cnn.rates(data_folder, large_cnn.BATCH, repeats)
    most = least_squares.peak(torch.float32) / large_cnn.sparse_flop()
    rows = []
    for what, title in {"steps": "training steps", "gradients": "gradients alone"}.items():
        ours = next(v for k, v in rates.items() if k.startswith("backend") and k.endswith(what))
        times = ours / rates[f"plain PyTorch, {what}"]
        rows.append(Row(f"larger CNN of lamour2023, {title}", PLAIN, times, REGISTERS, ours / most))
    return rows


def without_network(repeats: int) -> list[Row]:
    options = argparse.Namespace(rates=40, updates=500, repeats=repeats)
    rows = []
    for title, work in least_squares.WORKS.items():
        *_, line = least_squares.compare(work, torch.float32, options)
        ratio, share = float(line[4]), line[6]
        limit = REGISTERS if share else ""
        reached = float(share) if share else None
        rows.append(Row(f"{title}: a bundle", "NumPy loop, one run", ratio, limit, reached))
    return rows


def clusters(repeats: int) -> list[Row]:
    seconds = schedules.compare(schedules.CLUSTER, 1_000_000, repeats)
    queue, merged = seconds["event queue (heapq)"], seconds["compiled merge"]
    name = "schedule of ten workers, a million arrivals"
    return [
        Row(name, "event queue in Python", queue / merged),
        Row(name, "whole-array NumPy", seconds["whole-array NumPy"] / merged),
    ]


def one_cell(data_folder: Path) -> list[Row]:
    ours, theirs = lamour2023.seconds(data_folder, 1), lamour2023.authors_seconds()
    return [
        Row("lamour2023, ten workers, one slow: a cell", "the authors' wall time", theirs / ours)
    ]


def show(rows: Sequence[Row], markdown: bool) -> None:
    cells = [["work", "compared with", "times as fast", "limit", "share of it"]]
    cells += [row.cells() for row in rows]
    if markdown:
        cells.insert(1, ["---", "---", "---:", "---", "---:"])
        print("\n".join(f"| {' | '.join(row)} |" for row in cells))
        return
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    for row in cells:
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="as in the README")
    parser.add_argument("--quick", action="store_true", help="rough: a fifth of the time")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    options = parser.parse_args(argv)
    seconds, repeats = (0.1, 3) if options.quick else (0.5, 7)
    torch.set_num_threads(1)
    about = describe_machine(torch.device("cpu"))
    print(f"{about['device']}; {replay.cores()} cores, load {os.getloadavg()[0]:.1f} at the start; "
          f"PyTorch {about['torch']}, Python {about['python']}\n")  # fmt: skip
    if not is_idle():
        print("The row about all cores is left out: it needs two, and the machine to itself.\n")
    rows = networks(options.data_folder, seconds, repeats)
    rows += larger_network(options.data_folder, repeats)
    rows += without_network(repeats) + clusters(repeats) + one_cell(options.data_folder)
    show(rows, options.markdown)


if __name__ == "__main__":
    main()
