"""How many times as fast as plain PyTorch the kernel trains an epoch of LeNet-5, on one core.

On made-up images, so that it needs no data. Both go through the same number of minibatches, in turn
and in one process; the ratio is that of the medians. `tests/test_speed.py` holds every build to it.

    STALEGRAD_ARCHITECTURE=x86-64-v3 python benchmarks/lenet5_epoch.py
"""

import statistics
from pathlib import Path
from unittest import mock

import numpy as np
import replay
import torch

from stalegrad.io.datasets import Dataset
from stalegrad.problems import Task, _images
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training import kernels
from stalegrad.training.backends import make_backend

BATCH, STEPS = 64, 48
REPEATS = 5


def made_up_task() -> Task:
    """LeNet-5 on noise."""
    rng = np.random.default_rng(1)
    samples = (STEPS + replay.DELAY) * BATCH
    images = rng.integers(256, size=(samples, 28, 28), dtype=np.uint8)
    labels = rng.integers(10, size=samples, dtype=np.uint8)
    noise = Dataset(images, labels, images[:BATCH], labels[:BATCH])
    with mock.patch.object(_images, "load_dataset", return_value=noise):
        return LeNet5(dataset="mnist").load(Path(), torch.device("cpu"), torch.float32)


def rates() -> tuple[float, float]:
    """Median samples a second of the kernel and of plain PyTorch."""
    task = made_up_task()
    backend = make_backend("cpu", task)
    both = [replay.bundle(task, backend, 1, BATCH, 1), replay.plain(task, BATCH, 1)]
    for each in both:
        each.rate(STEPS)  # warms up
    found = [[each.rate(STEPS) for each in both] for _ in range(REPEATS)]
    kernel, plain = (statistics.median(column) for column in zip(*found, strict=True))
    return kernel, plain


def main() -> None:
    kernel, plain = rates()
    print(f"{kernel / plain:.2f} times as fast: the kernel ({kernels.instruction_set('lenet5')}) "
          f"{kernel:,.0f} samples/s, plain PyTorch ({torch.backends.cpu.get_cpu_capability()}) "
          f"{plain:,.0f}")  # fmt: skip


if __name__ == "__main__":
    main()
