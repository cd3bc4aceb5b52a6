"""What a training sample costs: time and memory against what a bundle of runs is made of.

One thing varies in each column: runs in the bundle, delay, workers of an asynchronous cluster,
minibatch; the others stay where the studies have them. LeNet-5 stands for large problems and
Nesterov's chain for small ones, each by its fused kernel and by the reference in PyTorch. Time is
the processor's, of one core, for a sample of whole training steps, old weights and update rule
included; points are measured in turn, again and again, and the least is drawn, which other programs
change least. Memory is what a process grows by at most, training and evaluating, each point in one
of its own, beside what `training.memory` tells before.

    python benchmarks/cost_curves.py [--quick] [--output docs/cost_curves.png]   # some minutes
"""

import argparse
import math
import multiprocessing
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from stalegrad.analysis import style  # noqa: E402
from stalegrad.planning.cell import Cell, parse_cell  # noqa: E402
from stalegrad.problems import Task  # noqa: E402
from stalegrad.training import (
    memory,
    stepping,  # noqa: E402
)
from stalegrad.training.backends import make_backend  # noqa: E402
from stalegrad.training.bundles import plan_runs  # noqa: E402
from stalegrad.training.machine import describe_machine  # noqa: E402
from stalegrad.training.replay import ReplayState, start  # noqa: E402


@dataclass(frozen=True)
class Point:
    """A bundle of runs that differ in step size alone; asynchronous where it has workers."""

    runs: int
    batch: int
    delay: int = 4
    workers: int | None = None

    def cells(self, problem: dict) -> list[Cell]:
        cluster = {"name": "constant_delay", "delay": self.delay}
        if self.workers:
            times = {"name": "expon", "scale": 1.0}
            cluster = {"name": "heterogeneous", "workers": self.workers, "compute_time": times}
        return [
            parse_cell(
                {
                    "problem": problem,
                    "rule": {"name": "sgd", "lr": 0.001 + run * 1e-6, "momentum": 0.9},
                    "cluster": cluster,
                    **{"batch_size": self.batch, "epochs": 1, "partition": "independent"},
                },
                "cost curves",
            )
            for run in range(self.runs)
        ]

    @property
    def in_flight(self) -> int:
        return self.workers or self.delay


@dataclass(frozen=True)
class Kind:
    """A problem on a backend.

    samples, steps: in one measurement so many samples of a bundle, and at least so many steps; more
        where that takes for as many gradients to be in flight as will be.
    most: no point with a larger value, since it would take minutes.
    """

    title: str
    problem: dict
    backend: str
    base: Point
    samples: int
    steps: int
    most: int = 1024

    def steps_at(self, point: Point) -> int:
        wanted = self.samples // (point.runs * point.batch)
        return max(wanted, self.steps, 9 * point.in_flight // 4)


LENET, CHAIN = {"name": "lenet5", "dataset": "mnist"}, {"name": "chain", "noise": 0.1}
LARGE, SMALL = Point(runs=4, batch=32), Point(runs=40, batch=1)
KINDS = (
    Kind("LeNet-5, PyTorch", LENET, "torch", LARGE, 512, 4, most=64),
    Kind("LeNet-5, kernel", LENET, "cpu", LARGE, 8_192, 20),
    Kind("chain, PyTorch", CHAIN, "torch", SMALL, 4_000, 100),
    Kind("chain, kernel", CHAIN, "cpu", SMALL, 100_000, 1_000),
)
COLUMNS = {
    "runs": (1, 4, 16, 64, 256),
    "delay": (0, 4, 16, 64, 256),
    "workers": (1, 4, 16, 64),
    "batch": (1, 4, 16, 64, 256),
}
LABELS = {
    "runs": "runs in the bundle",
    "delay": "delay (updates)",
    "workers": "workers, asynchronous",
    "batch": "minibatch",
}


class Bundle:
    """The runs of a point, ready to be stepped as `train_bundle` steps them."""

    def __init__(self, task: Task, kind: Kind, point: Point):
        self._task, self._backend = task, make_backend(kind.backend, task)
        # A constant delay leaves the last gradients unapplied.
        steps = kind.steps_at(point) + (0 if point.workers else point.delay)
        # Minibatches are independent, so that an epoch may be of any length.
        length = "epoch_samples" if kind.problem is CHAIN else "train_samples"
        problem = kind.problem | {length: steps * point.batch}
        targets = task.train[1].numpy()
        planned = [p.run for p in plan_runs(point.cells(problem), targets)]
        self._samples = sum(run.schedule.arrivals for run in planned) * point.batch
        size = self._backend.runs_at_once or point.runs
        self._parts = [planned[i : i + size] for i in range(0, point.runs, size)]

    def _states(self) -> list[ReplayState]:
        return [start(self._task, part) for part in self._parts]

    def microseconds(self) -> float:
        """Processor time of a sample."""
        states = self._states()
        begin = time.process_time()
        for part, state in zip(self._parts, states, strict=True):
            stepping.advance(self._task, part, state, self._backend)
        return (time.process_time() - begin) / self._samples * 1e6

    def told(self) -> float:
        """Megabytes that training on one thread is told to take."""
        needs = [memory.need(self._task, part) for part in self._parts]
        return sum(need.held for need in needs) + max(need.step for need in needs)

    def grown(self) -> float:
        """Megabytes that this process grows by at most, evaluation included, and without the
        libraries' own files, which it reads in as it comes to them."""
        before, files, states = resident("VmRSS"), resident("RssFile"), self._states()
        for i, part in enumerate(self._parts):
            states[i] = stepping.advance(self._task, part, states[i], self._backend)[0]
        self._backend.metrics(states[-1].weights)  # beside the states of all
        return resident("VmHWM") - before - (resident("RssFile") - files)


def resident(field: str) -> float:
    """Megabytes of this process in memory: VmRSS now, RssFile those of files, VmHWM at most so far
    (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


_CASES: list[tuple[Task, Kind, Point]] = []  # what processes that are forked off find


def grown(number: int) -> float:
    """Of a small problem nothing to speak of, which is not measured."""
    task, kind, point = _CASES[number]
    return Bundle(task, kind, point).grown() if kind.problem is LENET else math.nan


def measure(data_folder: Path, columns: dict[str, Sequence[int]], repeats: int) -> pd.DataFrame:
    """One row a column, kind and value: `microseconds`, and megabytes `told` and `grown`."""
    cpu, tasks = torch.device("cpu"), {}
    for kind in KINDS:
        cell = kind.base.cells(kind.problem)[0]
        task = cell.problem.load(data_folder, cpu, torch.float32)
        # One chunk of the test set is evaluated after another: more take time, not memory.
        test = tuple(part[: task.test_chunk] for part in task.test)
        tasks[kind.title] = replace(task, test=test)
    points = [
        (column, kind, value, replace(kind.base, **{column: value}))
        for column, values in columns.items()
        for kind in KINDS
        for value in values
        if value <= kind.most
    ]
    _CASES[:] = [(tasks[kind.title], kind, point) for _, kind, _, point in points]
    # A process of its own for each, which begins where this one stands.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        megabytes = pool.map(grown, range(len(points)), chunksize=1)
    bundles = [Bundle(*case) for case in _CASES]
    times = [[bundle.microseconds() for bundle in bundles] for _ in range(repeats)]
    return pd.DataFrame(
        {
            "column": [column for column, *_ in points],
            "kind": [kind.title for _, kind, *_ in points],
            "value": [value for _, _, value, _ in points],
            "microseconds": [min(found) for found in zip(*times, strict=True)],
            "told": [bundle.told() for bundle in bundles],
            "grown": megabytes,
        }
    )


def draw(rows: pd.DataFrame, output: Path) -> None:
    with style.style():
        figure, axes = style.panels(2, len(COLUMNS), 1.75, sharey="row")
        for (column, label), (times, sizes) in zip(LABELS.items(), axes.T, strict=True):
            of_column = rows[rows["column"] == column]
            for i, kind in enumerate(KINDS):
                line = of_column[of_column["kind"] == kind.title]
                look = {"color": style.COLOURS[i], "marker": style.MARKERS[i], "markersize": 3}
                times.plot(line["value"], line["microseconds"], label=kind.title, **look)
                if kind.problem is LENET:
                    sizes.plot(line["value"], line["grown"], label=kind.title, **look)
            told = of_column[of_column["kind"] == KINDS[1].title]
            sizes.plot(told["value"], told["told"], "--", color=style.GREY, label="told before")
            for ax in (times, sizes):
                ax.set_xscale("symlog", base=2, linthresh=1)
                ax.set_yscale("log")
                ticks = sorted(set(of_column["value"]))
                ax.set_xticks(ticks[:: 2 if len(ticks) > 6 else 1])
                ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.minorticks_off()
                ax.tick_params(labelsize=6.5)
            sizes.set_xlabel(label)
        axes[0, 0].set_ylabel("µs a sample, one core")
        axes[1, 0].set_ylabel("LeNet-5: MB at most")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        more, names = axes[1, 0].get_legend_handles_labels()
        figure.legend(
            [*handles, more[-1]], [*labels, names[-1]], loc="outside upper center", ncols=5
        )
        style.save(figure, output)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--output", type=Path, default=Path("docs/cost_curves.png"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="rough: every other point, once")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    columns = COLUMNS
    if options.quick:
        columns, options.repeats = {name: v[::2] for name, v in COLUMNS.items()}, 1
    about = describe_machine(torch.device("cpu"))
    print(f"{about['device']}; load {os.getloadavg()[0]:.1f} at the start; "
          f"PyTorch {about['torch']}, Python {about['python']}\n")  # fmt: skip
    begin = time.monotonic()
    rows = measure(options.data_folder, columns, options.repeats)
    print(rows.to_string(index=False, float_format="{:.3g}".format))
    draw(rows, options.output)
    print(f"\n{options.output} in {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
