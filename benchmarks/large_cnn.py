"""The larger CNN on one core: plain PyTorch, our kernel, and what the core allows.

Gradients alone, and whole training steps with momentum. The limit is the core's multiply-adds
between registers (`peak.cpp`), of which a training sample needs fewer than its layers suggest: of
the second convolution's output gradient the pooling leaves one number in four, and the dropout
behind it three quarters of these. All are measured in turn, again and again, and medians taken.

    python benchmarks/large_cnn.py
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import least_squares
import torch
from torch import nn

from stalegrad import replay, stepping
from stalegrad.backends import make_backend
from stalegrad.bundles import plan_run
from stalegrad.cells import parse_cell
from stalegrad.partitions import minibatch_noise
from stalegrad.problems._network import Network
from stalegrad.problems.large_cnn import NETWORK

BATCH = 32
STEPS, DELAY = 8, 4
KEPT = 1 / 4 * 3 / 4  # by pooling and dropout, of the second convolution's output gradient


def forward_flop(network: Network = NETWORK) -> list[int]:
    """Multiplications and additions of each layer with weights, for one sample."""
    return [
        2 * math.prod(weights[0]) * math.prod(output[1:])
        for layer, shape, output in network.walk()
        if (weights := layer.weights(shape))
    ]


def training_flop(network: Network = NETWORK) -> int:
    """Forward, weight gradients, and input gradients of all layers but the first."""
    forward = forward_flop(network)
    return 3 * sum(forward) - forward[0]


def sparse_flop() -> int:
    """The same without the zeros in the second convolution's two gradients."""
    return round(training_flop() - 2 * forward_flop()[1] * (1 - KEPT))


def plain_model() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def rates(data_folder: Path, size: int, repeats: int) -> dict[str, float]:
    """Samples a second of each, minibatches of `size`."""
    samples = (STEPS + DELAY) * size  # the gradients still in flight at the end are not computed
    problem = {"name": "large_cnn", "dataset": "fashion_mnist", "normalize": True}
    values = {
        "problem": problem | {"train_samples": samples},
        "rule": {"name": "sgd", "lr": 0.005, "momentum": 0.9},
        "cluster": {"name": "constant_delay", "delay": DELAY},
        **{"batch_size": size, "epochs": 1},
    }
    cell = parse_cell(values, "benchmark")
    task = cell.problem.load(data_folder, torch.device("cpu"), torch.float32)
    (images, labels), backend = task.train, make_backend("auto", task)
    pixels = (images * task.options["scale"] + task.options["shift"])[:, None]
    run = plan_run(cell, labels.numpy()).run
    model, weights = plain_model(), task.initial_weights(1).float()[None]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)

    def minibatches():
        return list(zip(pixels.split(size), labels.split(size), strict=True))[:STEPS]

    def plain_gradients() -> None:
        for some, wanted in minibatches():
            model.zero_grad()
            nn.functional.cross_entropy(model(some), wanted).backward()

    def plain_steps() -> None:
        for some, wanted in minibatches():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(some), wanted).backward()
            optimizer.step()

    def gradients() -> None:
        for i in range(STEPS):
            noise = torch.from_numpy(minibatch_noise(1, 0, i, size, task.noise))
            some = slice(i * size, (i + 1) * size)
            backend.gradients(weights, images[None, some], labels[None, some], noise[None])

    def steps() -> None:
        stepping.advance(task, [run], state, backend)

    works = {
        "plain PyTorch, gradients": plain_gradients,
        "plain PyTorch, steps": plain_steps,
        f"backend {backend.name}, gradients": gradients,
        f"backend {backend.name}, steps": steps,
    }
    times = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            state = replay.start(task, [run])
            times[name].append(seconds(work))
    return {name: STEPS * size / statistics.median(some[1:]) for name, some in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = rates(options.data_folder, options.batch_size, options.repeats)
    peak = least_squares.peak(torch.float32)
    plain = {name.partition(", ")[2]: rate for name, rate in found.items() if "plain" in name}
    print(f"minibatches of {options.batch_size}, one core, {peak / 1e9:.0f} GFLOP/s; a sample")
    print(f"takes {training_flop() / 1e6:.1f} MFLOP, {sparse_flop() / 1e6:.1f} without zeros")
    for name, rate in found.items():
        times, share = rate / plain[name.partition(", ")[2]], rate * sparse_flop() / peak
        print(f"{name:26}{rate:8.0f} samples/s {times:6.2f} x plain {share:6.2f} of the limit")


if __name__ == "__main__":
    main()
