"""Rates of the kernels of one checkout, when asked: what `against.py` starts for each of the two.

Prints the names of the works on one line; then, for each name that is read, its rate a second. The
checkout is the one that `stalegrad` is imported from, which may be older than this file: nothing is
used here that older ones lack.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import large_cnn
import least_squares
import peak
import replay
import torch

from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training.backends import make_backend

CPU = torch.device("cpu")
SECONDS = 0.3  # of one measurement, about
RATES, UPDATES = 40, 500  # of the works without a network: step sizes, and updates of a run


def works(data_folder: Path) -> dict[str, Callable[[], float]]:
    """What is timed: does it once and returns its rate a second."""
    lenet = LeNet5(dataset="mnist").load(data_folder, CPU, torch.float32)
    larger = large_cnn.load(data_folder)
    backend, larger_backend = make_backend("cpu", lenet), make_backend("cpu", larger)
    contenders = {
        "LeNet-5, training steps": replay.bundle(lenet, backend, 16, 64, 1),
        "LeNet-5, gradients alone": replay.gradients(lenet, backend, 64),
        "LeNet-5, evaluation": replay.evaluation(lenet, backend),
        "larger CNN, training steps": replay.bundle(larger, larger_backend, 1, 32, 1),
        "larger CNN, gradients alone": replay.gradients(larger, larger_backend, 32),
    }
    timed = {name: with_network(contender) for name, contender in contenders.items()}
    return timed | {name: without_network(w) for name, w in least_squares.WORKS.items()}


def with_network(contender: replay.Contender) -> Callable[[], float]:
    steps = replay.steps_for(contender, SECONDS)
    return lambda: contender.rate(steps)


def without_network(work: least_squares.Work) -> Callable[[], float]:
    task = work.problem.load(Path(), CPU, torch.float32)
    runs = least_squares.plan_runs(work, len(task.train[1]), RATES, UPDATES)

    def rate() -> float:
        spent = peak.seconds(lambda: least_squares.in_bundle("cpu", task, runs, torch.float32))
        return len(runs) * UPDATES / spent

    rate()  # compiles, and is not counted
    return rate


def main() -> None:
    torch.set_num_threads(1)
    timed = works(Path(sys.argv[1]))
    print(*timed, sep="\t", flush=True)
    for line in sys.stdin:
        print(timed[line.rstrip("\n")](), flush=True)


if __name__ == "__main__":
    main()
