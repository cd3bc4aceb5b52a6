"""The larger CNN on one core: plain PyTorch, our step, and what the arithmetic allows.

The limit is the speed of a large matrix product over the multiplications and additions of a
training sample. Where plain PyTorch is near it, no other kernel for the same arithmetic can be much
faster. Less arithmetic is possible in one place: behind the pooling three quarters of the second
convolution's output gradient are zero, which dense products do not make use of; with that the limit
is the last line. All are measured in turn, again and again, and medians taken.

    python benchmarks/large_cnn.py
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from stalegrad.backends import make_backend
from stalegrad.partitions import minibatch_noise
from stalegrad.problems._network import Network
from stalegrad.problems.large_cnn import NETWORK, LargeCNN

BATCH = 32
SIDE = 1024  # of the matrices multiplied
POOLED = 4  # numbers of which the pooling keeps one


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
    """The same without what the pooling makes zero in the second convolution's two gradients."""
    kept = 1 / POOLED
    return round(training_flop() - 2 * forward_flop()[1] * (1 - kept))


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def rates(data_folder: Path, size: int, repeats: int) -> dict[str, float]:
    """Samples a second of each, minibatches of `size`."""
    problem = LargeCNN(dataset="fashion_mnist", normalize=True, train_samples=size)
    task = problem.load(data_folder, torch.device("cpu"), torch.float32)
    images, labels = task.train

    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )
    pixels = (images * task.options["scale"] + task.options["shift"])[:, None]

    def plain() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()

    backend, weights = make_backend("auto", task), task.initial_weights(1).float()[None]

    def ours() -> None:
        noise = torch.from_numpy(minibatch_noise(1, 0, 0, size, task.noise))
        backend.gradients(weights, images[None], labels[None], noise[None])

    matrix = torch.randn(SIDE, SIDE)
    works = {"product": lambda: matrix @ matrix, "plain": plain, "ours": ours}
    for work in works.values():
        work()
    times = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(seconds(work))
    median = {name: statistics.median(values) for name, values in times.items()}
    flops = 2 * SIDE**3 / median["product"]
    return {
        f"backend {backend.name}": size / median["ours"],
        "plain PyTorch": size / median["plain"],
        "limit": flops / training_flop(),
        "limit without zeros": flops / sparse_flop(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = rates(options.data_folder, options.batch_size, options.repeats)
    print(
        f"{training_flop() / 1e6:.1f} MFLOP a sample, minibatches of {options.batch_size}, one core"
    )
    for name, rate in found.items():
        compared = rate / found["plain PyTorch"]
        print(f"{name:26}{rate:8.0f} samples/s {compared:6.2f} x plain")
    print(f"matrix product {found['limit'] * training_flop() / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
