"""What a GPU must do in a step of LeNet-5 for many runs, and how long that takes at best.

No GPU is needed: the step is the one that is captured there (`training.cuda_graph`), taken on
PyTorch's device `meta`, where tensors have shapes and no numbers. Each operation is written down
with the bytes that it reads and writes, once each, and with its floating-point operations as
`torch.utils.flop_counter` counts them (products of matrices; all others are bound by memory). Set
against a card's memory and arithmetic they give a time:

- at best: for each kernel the longer one of its two times, and LAUNCH at least;
- in tiles: likewise, where products are computed in whole tiles of TILE x TILE results, so that six
  channels cost as much as 32.

A fused kernel, as on the CPU, keeps activations on chip. It reads and writes what a run keeps, and
its arithmetic is that of the step, at the share of the limit that the CPU's kernel reaches.

    python benchmarks/roofline.py                # every table, as Markdown
    python benchmarks/roofline.py --kernels 64   # the kernels of one minibatch size
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from replay import show
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from stalegrad.io.datasets import Dataset
from stalegrad.planning.cell import Cell, parse_cell
from stalegrad.problems import Task
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training import cuda_graph, replay
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.bundles import plan_runs


@dataclass(frozen=True)
class CardLimits:
    """Bytes a second of its memory, and float32 operations a second, as its maker says."""

    name: str
    memory: float
    arithmetic: float


CARDS = (CardLimits("H200", 4.8e12, 67e12), CardLimits("H100", 3.35e12, 67e12))
LAUNCH = 2e-6  # seconds that a kernel of a graph takes at least
TILE = 32  # the least side of a tile of cuBLAS in float32
FUSED_SHARE = 0.6  # of the arithmetic; the CPU's kernel reaches 0.72 (docs/speed.md)
# What replay keeps of a run and a step reads and writes: weights, velocity, an old copy of the
# weights, and gradients, which the tiles of a minibatch add up in memory.
KEPT = 4

# Figure 2 of jain2018, one seed.
DELAYS = (0, 1, 2, 4, 6, 8)
RATES = tuple(float(rate) for rate in np.logspace(-5, -0.5, 10))
BATCHES = (64, 128, 256, 512, 1024)
EPOCHS = 30
SIZES = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Kernel:
    """An operation of a step. product: batch, rows, depth and columns of a product of matrices."""

    name: str
    bytes: int
    flops: int
    product: tuple[int, int, int, int] | None = None

    def seconds(self, card: CardLimits, tiles: bool = False) -> float:
        flops = self.flops
        if tiles and self.product is not None:
            batch, rows, depth, columns = self.product
            whole = [TILE * math.ceil(side / TILE) for side in (rows, columns)]
            flops = 2 * batch * whole[0] * depth * whole[1]
        return max(self.bytes / card.memory, flops / card.arithmetic, LAUNCH)


class Counting(TorchDispatchMode):
    """Writes down the kernels that operations in the block would be on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        name = function._schema.name.partition("::")[2]
        moved = moved_bytes(name, function._schema.is_mutable, (args, kwargs), out)
        if moved:
            count = flop_registry.get(function.overloadpacket)
            flops = count(*args, **kwargs, out_val=out) if count else 0
            self.kernels.append(Kernel(name, moved, flops, _product(name, args) if flops else None))
        return out


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def distinct_bytes(tensor: Tensor) -> int:
    """Bytes of memory that a view reaches, each once: repeated and overlapping ones count once."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    numbers = math.prod(side for side, stride in sides if stride)
    return min(numbers * tensor.element_size(), tensor.untyped_storage().nbytes())


def moved_bytes(name: str, changes: bool, inputs: object, out: object) -> int:
    """Bytes that an operation reads and writes; 0 for a view, which is no kernel.

    changes: it writes to an argument.
    """
    given, made = _tensors(inputs), _tensors(out)
    known = {_memory(tensor) for tensor in given}
    if not changes and all(_memory(tensor) in known for tensor in made):
        return 0
    if name.startswith(("empty", "new_empty")):
        return 0
    written = sum(map(distinct_bytes, made))
    if name in ("index", "index_select"):  # of the first argument, what is chosen
        return 2 * written + sum(map(distinct_bytes, given[1:]))
    if name in ("index_put_", "index_put"):
        return distinct_bytes(given[-1]) + sum(map(distinct_bytes, given[1:]))
    if name in ("copy_", "zero_", "fill_"):
        return written + sum(map(distinct_bytes, given[1:]))
    return written + sum(map(distinct_bytes, given))


def _product(name: str, args: tuple) -> tuple[int, int, int, int] | None:
    first = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}.get(name)
    if first is None:
        return None
    left, right = args[first], args[first + 1]
    batch = left.shape[0] if left.dim() == 3 else 1
    return batch, left.shape[-2], left.shape[-1], right.shape[-1]


# ---- the step ----


def cells_of(batch: int, seeds: int = 1) -> list[Cell]:
    """Those of Figure 2 that have this minibatch: sixty a seed."""
    return [
        parse_cell(
            {
                "problem": {"name": "lenet5", "dataset": "mnist"},
                "rule": {"name": "sgd", "lr": rate, "momentum": 0.9},
                "cluster": {"name": "constant_delay", "delay": delay},
                **{"batch_size": batch, "epochs": 2, "seed": seed},
            },
            "roofline",
        )
        for seed in range(1, seeds + 1)
        for delay in DELAYS
        for rate in RATES
    ]


def on_meta() -> Task:
    """MNIST's shapes."""
    images, labels = np.zeros((60_000, 28, 28), np.uint8), np.zeros(60_000, np.uint8)
    data = Dataset(images, labels, images[:10_000], labels[:10_000])
    return LeNet5(dataset="mnist").on(data, torch.device("meta"))


def kernels_of_step(task: Task, cells: Sequence[Cell], targets: np.ndarray) -> list[Kernel]:
    """The kernels of a step of these runs, which must share their minibatch's size, in the second
    epoch: in the first, runs with more delay start later, and a step does a little more."""
    runs = [planned.run for planned in plan_runs(list(cells), targets)]
    state = replay.start(task, runs)
    steps = replay.align(runs, 1, task.train[0], fetched=False)
    step = cuda_graph.StaticStep(task, runs, state, BatchedBackend(task), steps)
    step.begin(steps)
    with Counting() as counting:
        step.step()
    return counting.kernels


@dataclass(frozen=True)
class Step:
    """Totals of a step: of `runs` runs with minibatches of `batch`; weights: of a run."""

    runs: int
    batch: int
    weights: int
    kernels: tuple[Kernel, ...]

    @property
    def bytes(self) -> int:
        return sum(kernel.bytes for kernel in self.kernels)

    @property
    def flops(self) -> int:
        return sum(kernel.flops for kernel in self.kernels)

    def seconds(self, card: CardLimits, tiles: bool = False) -> float:
        return sum(kernel.seconds(card, tiles) for kernel in self.kernels)

    def fused_seconds(self, card: CardLimits) -> float:
        """Of one kernel that keeps activations on chip."""
        moved = 2 * KEPT * self.runs * self.weights * 4 + self.runs * self.batch * 28 * 28
        return max(moved / card.memory, self.flops / (FUSED_SHARE * card.arithmetic), LAUNCH)


def step_of(task: Task, batch: int, seeds: int) -> Step:
    cells = cells_of(batch, seeds)
    kernels = kernels_of_step(task, cells, np.zeros(60_000, np.int64))
    return Step(len(cells), batch, task.parameters, tuple(kernels))


# ---- tables ----


def steps_table(steps: Iterable[Step]) -> list[tuple[str, ...]]:
    head = ["minibatch", "runs", "kernels", "GB", "GFLOP", "FLOP a byte"]
    head += [f"{card.name}: {how}, ms" for card in CARDS for how in ("best", "in tiles", "fused")]
    rows = [tuple(head)]
    for step in steps:
        numbers = [f"{step.batch}", f"{step.runs}", f"{len(step.kernels)}"]
        numbers += [f"{step.bytes / 1e9:.2f}", f"{step.flops / 1e9:.1f}"]
        numbers.append(f"{step.flops / step.bytes:.1f}")
        for card in CARDS:
            times = step.seconds(card), step.seconds(card, tiles=True), step.fused_seconds(card)
            numbers += [f"{1e3 * each:.2f}" for each in times]
        rows.append(tuple(numbers))
    return rows


def kernels_table(step: Step, most: int = 12) -> list[tuple[str, ...]]:
    """The kernels that take longest on the first card, alike ones together."""
    card = CARDS[0]
    counts = Counter(step.kernels)
    longest = sorted(counts, key=lambda k: -counts[k] * k.seconds(card, tiles=True))
    whole = step.seconds(card, tiles=True)
    rows = [("kernel", "times", "product", "GB", "GFLOP", "bound by", "in tiles, ms", "share")]
    for kernel in longest[:most]:
        count, seconds = counts[kernel], kernel.seconds(card, tiles=True)
        by_memory = kernel.bytes / card.memory
        bound = (
            "launch" if seconds == LAUNCH else "memory" if seconds == by_memory else "arithmetic"
        )
        product = "" if kernel.product is None else "{} of {}x{}x{}".format(*kernel.product)
        rows.append(
            (
                *(kernel.name, f"{count}", product),
                *(f"{count * kernel.bytes / 1e9:.3f}", f"{count * kernel.flops / 1e9:.1f}", bound),
                *(f"{1e3 * count * seconds:.3f}", f"{count * seconds / whole:.0%}"),
            )
        )
    return rows


def figure2_table(task: Task) -> list[tuple[str, ...]]:
    """Minutes of training all 300 runs of a seed, evaluation left out."""
    parts = [step_of(task, batch, seeds=1) for batch in BATCHES]
    ways: dict[str, Callable[[Step, CardLimits], float]] = {
        "at best": lambda step, card: step.seconds(card),
        "in tiles": lambda step, card: step.seconds(card, tiles=True),
        "fused": lambda step, card: step.fused_seconds(card),
    }
    rows = [("", *(f"{card.name}, s" for card in CARDS), "samples/s on the first")]
    samples = sum(step.runs for step in parts) * 60_000 * EPOCHS
    for name, seconds in ways.items():
        totals = [
            EPOCHS * sum(60_000 // step.batch * seconds(step, card) for step in parts)
            for card in CARDS
        ]
        rows.append((name, *(f"{each:.1f}" for each in totals), f"{samples / totals[0]:,.0f}"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kernels", type=int, action="append", metavar="BATCH")
    options = parser.parse_args(argv)
    task = on_meta()
    if options.kernels:
        for batch in options.kernels:
            show(kernels_table(step_of(task, batch, seeds=5)), markdown=True)
        return
    show(steps_table(step_of(task, batch, seeds=5) for batch in SIZES), markdown=True)
    show(steps_table(step_of(task, batch, seeds=1) for batch in BATCHES), markdown=True)
    show(kernels_table(step_of(task, 64, seeds=1)), markdown=True)
    show(figure2_table(task), markdown=True)


if __name__ == "__main__":
    main()
