"""What a training sample of LeNet-5 costs: time and memory against what a run is made of.

One thing varies in each column, the others stay at one of `BASE`: runs in the bundle, delay,
workers of an asynchronous cluster, minibatch. Time is the processor's, of one core, for a sample of
whole training steps; memory is what the bundle holds from step to step, the weights of gradients in
flight included. Points of all columns are measured in turn, again and again, and medians drawn.

    python benchmarks/cost_curves.py --output docs/cost_curves.png      # some minutes
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from stalegrad import captured
from stalegrad.backends import make_backend
from stalegrad.bundles import plan_run
from stalegrad.cells import Cell, parse_cell
from stalegrad.figures import style
from stalegrad.problems import Task
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.replay import State, start

SAMPLES = 8_192  # of a bundle in one measurement, if its runs and minibatches allow


@dataclass(frozen=True)
class Point:
    """A bundle of runs that differ in nothing but their seed; asynchronous where it has workers."""

    runs: int = 4
    delay: int = 4
    batch_size: int = 64
    workers: int | None = None

    def cell(self, seed: int) -> Cell:
        cluster = {"name": "constant_delay", "delay": self.delay}
        if self.workers:
            compute_time = {"name": "expon", "scale": 1.0}
            cluster = {
                "name": "hub_and_spoke",
                "workers": self.workers,
                "compute_time": compute_time,
            }
        values = {
            "problem": {"name": "lenet5", "dataset": "mnist"},
            "rule": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
            "cluster": cluster,
            **{"batch_size": self.batch_size, "epochs": 1, "seed": seed},
        }
        return parse_cell(values, "cost curves")


BASE = Point()
COLUMNS = {
    "runs": (1, 2, 4, 8, 16, 32),
    "delay": (0, 1, 4, 16, 64, 256),
    "workers": (1, 2, 4, 8, 16, 32),
    "batch_size": (8, 16, 32, 64, 128, 256, 512, 1024),
}
LABELS = {
    "runs": "runs in the bundle",
    "delay": "delay (updates)",
    "workers": "workers",
    "batch_size": "minibatch",
}


class Measured:
    """A point on one backend, ready to be timed."""

    def __init__(self, task: Task, name: str, point: Point):
        self._task, self._backend = task, make_backend(name, task)
        steps = max(SAMPLES // (point.runs * point.batch_size), 4)
        in_flight = point.workers or point.delay
        targets = task.train[1].numpy()[: (steps + in_flight + 1) * point.batch_size]
        planned = [plan_run(point.cell(seed), targets).run for seed in range(point.runs)]
        self._samples = sum(run.schedule.arrivals for run in planned) * point.batch_size
        size = self._backend.runs_at_once or point.runs
        self._parts = [planned[i : i + size] for i in range(0, point.runs, size)]

    def states(self) -> list[State]:
        return [start(self._task, part) for part in self._parts]

    def megabytes(self) -> float:
        tensors = [tensor for state in self.states() for tensor in state.tensors().values()]
        return sum(tensor.nbytes for tensor in tensors) / 1e6

    def microseconds(self) -> float:
        """Processor time of a sample."""
        states = self.states()
        begin = time.process_time()
        for part, state in zip(self._parts, states, strict=True):
            captured.advance(self._task, part, state, self._backend)
        return (time.process_time() - begin) / self._samples * 1e6


def measure(task: Task, repeats: int) -> pd.DataFrame:
    """One row a column, backend and value: `microseconds` of a sample and `megabytes`."""
    points = [
        (column, name, value, Measured(task, name, replace(BASE, **{column: value})))
        for column, values in COLUMNS.items()
        for name in ("cpu", "torch")
        for value in values
    ]
    times: list[list[float]] = [[] for _ in points]
    for _ in range(repeats):
        for found, (*_, point) in zip(times, points, strict=True):
            found.append(point.microseconds())
    return pd.DataFrame(
        [
            {
                "column": column,
                "backend": name,
                "value": value,
                "microseconds": statistics.median(found),
                "megabytes": point.megabytes(),
            }
            for (column, name, value, point), found in zip(points, times, strict=True)
        ]
    )


def draw(rows: pd.DataFrame, output: Path) -> None:
    with style.style():
        figure, axes = style.panels(2, len(COLUMNS), 1.7, sharey="row")
        for (column, values), (time_ax, memory_ax) in zip(COLUMNS.items(), axes.T, strict=True):
            of_column = rows[rows["column"] == column].groupby("backend", sort=False)
            for i, (name, line) in enumerate(of_column):
                look = {"color": style.COLOURS[i], "marker": style.MARKERS[i]}
                time_ax.plot(line["value"], line["microseconds"], label=f"backend {name}", **look)
                if name == "cpu":
                    memory_ax.plot(line["value"], line["megabytes"], **look)
            for ax in (time_ax, memory_ax):
                ax.set_xscale("symlog", base=2, linthresh=1)
                ax.set_yscale("log")
                ax.set_xticks(values[:: 2 if len(values) > 6 else 1])
                ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
                ax.minorticks_off()
                ax.tick_params(axis="x", labelsize=6.5)
            memory_ax.set_xlabel(LABELS[column])
        axes[0, 0].set_ylabel("µs a sample, one core")
        axes[1, 0].set_ylabel("MB held by the bundle")
        axes[0, 0].legend(fontsize=6.5, loc="upper left")
        ticks = {0: (10, 20, 50, 100, 200), 1: (1, 10, 100)}
        for row, values in ticks.items():
            axes[row, 0].set_yticks(values, [f"{value:g}" for value in values])
        style.save(figure, output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--output", type=Path, required=True, help=".png or .pdf")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = LeNet5(dataset="mnist").load(options.data_folder, torch.device("cpu"), torch.float32)
    rows = measure(task, options.repeats)
    print(rows.to_string(index=False, float_format="{:.1f}".format))
    draw(rows, options.output)


if __name__ == "__main__":
    main()
