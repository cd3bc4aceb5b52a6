"""The larger CNN on one core: plain PyTorch, our kernel, and what the core allows.

Gradients alone, and whole training steps with momentum. The limit is the core's multiply-adds
between registers (`peak.cpp`), of which a training sample needs fewer than its layers suggest: of
the second convolution's output gradient the pooling leaves one number in four, and the dropout
behind it three quarters of these. All are measured in turn, again and again, and medians taken.

    python benchmarks/large_cnn.py
"""

import argparse
import math
from pathlib import Path

import peak
import replay
import torch
from torch import nn

from stalegrad.problems import Task
from stalegrad.problems._network import Network
from stalegrad.problems.large_cnn import NETWORK, LargeCNN
from stalegrad.training.backends import make_backend

BATCH = 32
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


def load(data_folder: Path) -> Task:
    problem = LargeCNN(dataset="fashion_mnist", normalize=True)
    return problem.load(data_folder, torch.device("cpu"), torch.float32)


def contenders(task: Task, size: int) -> dict[str, replay.Contender]:
    """By name, on one core, minibatches of `size`; the limit's rate is in operations."""
    backend = make_backend("auto", task)
    return {
        "plain PyTorch, gradients": replay.plain(task, size, 1, plain_model, update=False),
        "plain PyTorch, steps": replay.plain(task, size, 1, plain_model),
        f"backend {backend.name}, gradients": replay.gradients(task, backend, size),
        f"backend {backend.name}, steps": replay.bundle(task, backend, 1, size, 1),
        peak.NAME: replay.limit(),
    }


def rates(
    data_folder: Path, size: int, seconds: float, repeats: int
) -> tuple[dict[str, float], float]:
    """Samples a second of each, and the limit of all in samples a second."""
    some = contenders(load(data_folder), size)
    *found, most = replay.measure(list(some.values()), seconds, repeats)
    return dict(zip(list(some)[:-1], found, strict=True)), most / sparse_flop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found, most = rates(options.data_folder, options.batch_size, options.seconds, options.repeats)
    plain = {name.partition(", ")[2]: rate for name, rate in found.items() if "plain" in name}
    gigas = most * sparse_flop() / 1e9
    print(f"minibatches of {options.batch_size}, one core, {gigas:.0f} GFLOP/s; a sample")
    print(f"takes {training_flop() / 1e6:.1f} MFLOP, {sparse_flop() / 1e6:.1f} without zeros")
    for name, rate in found.items():
        times = rate / plain[name.partition(", ")[2]]
        print(
            f"{name:26}{rate:8.0f} samples/s {times:6.2f} x plain {rate / most:6.2f} of the limit"
        )


if __name__ == "__main__":
    main()
