"""What rounding products to TF32 does to test accuracy, on cells of Figure 2 of jain2018.

Each cell is trained from the same start on the same minibatches in three ways: in float32, in
float32 with the sums in another order, and in TF32. The second says how far rounding alone carries
a run, and so what a difference of the third is worth. On a GPU TF32 is the tensor cores'
(`backend=batched_tf32`); without one it is made by dropping the last 13 of the 23 bits of every
factor of every product, forward and backward, which is what is left of a float32 in TF32's ten,
cut and not rounded: the coarser of the two ways. Sums are in float32 in both.

    python benchmarks/tf32.py [--epochs 3] [--seeds 3] [--markdown]
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from replay import show
from torch.utils._python_dispatch import TorchDispatchMode

from stalegrad.planning.cell import Cell
from stalegrad.planning.plan import Plan
from stalegrad.problems import Task
from stalegrad.training import replay, stepping
from stalegrad.training.backends import Backend, make_backend, resolve_device
from stalegrad.training.backends.batched import BatchedBackend
from stalegrad.training.bundles import plan_run
from stalegrad.training.machine import describe_machine, settled_torch

# Rate, minibatch and delay of cells that train in print: far from the edge of collapse, and the
# last one or two steps of the grid before it.
CELLS = ((1e-3, 64, 0), (1e-2, 64, 0), (10**-1.5, 128, 0), (10**-2.5, 64, 4), (1e-2, 128, 4))
_DROPPED = ~((1 << 13) - 1)
# Products of matrices, and which of their arguments is the first factor.
_PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}


def cut(factor: torch.Tensor) -> torch.Tensor:
    """A float32 tensor with the bits that TF32 has: sign, exponent and ten more."""
    return (factor.view(torch.int32) & _DROPPED).view(torch.float32)


class CutProducts(TorchDispatchMode):
    """Within it, products of float32 matrices are those of what `cut` leaves of them."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        first = _PRODUCTS.get(function)
        if first is not None:
            args = (*args[:first], cut(args[first]), cut(args[first + 1]), *args[first + 2 :])
        return function(*args, **(kwargs or {}))


class CutBackend(BatchedBackend):
    """`batched_tf32` as it would be on a GPU, on any device."""

    def gradients(self, weights, inputs, targets, noise=None):
        with CutProducts():
            return super().gradients(weights, inputs, targets)


def ways(task: Task) -> tuple[Backend, Backend, Backend]:
    """Float32, float32 summed in another order, and TF32."""
    on_gpu = task.train[0].device.type == "cuda"
    tf32 = make_backend("batched_tf32", task) if on_gpu else CutBackend(task)
    return make_backend("batched", task), make_backend("torch" if on_gpu else "auto", task), tf32


def cells_of(seeds: int, epochs: int) -> list[list[Cell]]:
    """The CELLS, each with its seeds."""
    plan = Plan.load({"preset": "paper", "studies": ["jain2018"], "recompute": True})
    grid = plan.grids["jain2018"]["fig2"]

    def is_at(cell: Cell, rate: float, batch: int, delay: int) -> bool:
        near = np.isclose(cell.rule.lr, rate)
        return near and cell.batch_size == batch and cell.cluster.delay == delay

    return [
        [
            replace(cell, seed=seed, epochs=epochs)
            for cell in grid
            if is_at(cell, *wanted) and cell.seed == 1
            for seed in range(1, seeds + 1)
        ]
        for wanted in CELLS
    ]


def accuracies(task: Task, cells: Sequence[Cell], backend: Backend) -> np.ndarray:
    """Final test accuracy [R] of cells that differ in their seed alone."""
    targets = task.train[1].cpu().numpy()
    runs = [plan_run(cell, targets).run for cell in cells]
    size, out = backend.runs_at_once or len(runs), []
    for i in range(0, len(runs), size):
        part = runs[i : i + size]
        state = replay.start(task, part)
        for _ in range(cells[0].epochs):
            state, _ = stepping.advance(task, part, state, backend)
        out.append(backend.metrics(state.weights)["test_accuracy"].cpu().numpy())
    return np.concatenate(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    for name in ("epochs", "seeds"):
        parser.add_argument(f"--{name}", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    device = resolve_device("auto")
    about = describe_machine(device)
    how = "tensor cores" if device.type == "cuda" else "emulated"
    print(f"{about['device']}; PyTorch {about['torch']}; TF32: {how}; {options.epochs} epochs\n")
    rows = [("rate", "minibatch", "delay", "float32", "over seeds", "summed otherwise", "TF32")]
    with settled_torch(device):
        for cells in cells_of(options.seeds, options.epochs):
            task = cells[0].problem.load(options.data_folder, device, torch.float32)
            plain, otherwise, tf32 = (accuracies(task, cells, each) for each in ways(task))
            cell = cells[0]
            rows.append(
                (
                    *(f"{cell.rule.lr:.2g}", f"{cell.batch_size}", f"{cell.cluster.delay}"),
                    *(f"{plain.mean():.4f}", f"{np.ptp(plain):.4f}"),
                    *(f"{np.abs(each - plain).max():.4f}" for each in (otherwise, tf32)),
                )
            )
    print("The last three: largest less smallest over seeds, and the largest change of a seed.\n")
    show(rows, options.markdown)


if __name__ == "__main__":
    main()
