"""What `benchmarks/roofline.py` counts, held to what can be counted by hand."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch.utils.flop_counter import FlopCounterMode

from stalegrad.training.backends.batched import BatchedBackend


@pytest.fixture(scope="module")
def roofline():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("roofline")


# Multiply-adds of an image, forward: 5 x 5 to 6 channels of 28 x 28, and so on.
FIRST = 28 * 28 * 25 * 6
FORWARD = FIRST + 10 * 10 * 150 * 16 + 400 * 120 + 120 * 84 + 84 * 10


def test_arithmetic_of_a_step_is_that_of_the_layers(roofline):
    """Forward, and backward twice as much, but that nobody asks for the images' gradient."""
    task, batch = roofline.on_meta(), 16
    cells = roofline.cells_of(batch)[:20:10]
    kernels = roofline.kernels_of_step(task, cells, np.zeros(60_000, np.int64))
    wanted = 2 * len(cells) * batch * (3 * FORWARD - FIRST)
    assert sum(kernel.flops for kernel in kernels) == wanted

    weights = torch.zeros((2, task.parameters), device="meta")
    inputs = torch.zeros((2, batch, 28, 28), dtype=torch.uint8, device="meta")
    targets = torch.zeros((2, batch), dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counted:
        BatchedBackend(task).gradients(weights, inputs, targets)
    assert counted.get_total_flops() == wanted


NUMBERS = torch.zeros((6, 10))  # 240 bytes
LINE = torch.zeros(10)
ROWS = torch.tensor([1, 4])  # 16 bytes


@pytest.mark.parametrize(
    "work, moved",
    [
        (lambda: NUMBERS + NUMBERS[:1], 240 + 40 + 240),
        (lambda: NUMBERS.view(60).unsqueeze(0).transpose(0, 1), 0),
        (lambda: NUMBERS[:, :1].expand(6, 10).clone(), 24 + 240),
        (lambda: NUMBERS.view(60).unfold(0, 10, 1).clone(), 240 + 51 * 40),
        (lambda: NUMBERS.index_select(0, ROWS), 80 + 80 + 16),
        (lambda: NUMBERS[ROWS], 80 + 80 + 16),
        (lambda: NUMBERS.index_put_((ROWS,), torch.empty(2, 10)), 80 + 80 + 16),
        (lambda: NUMBERS.copy_(LINE), 240 + 40),
        (lambda: NUMBERS.zero_(), 240),
        (lambda: NUMBERS.mul_(2.0), 480),
        (lambda: torch.empty(100), 0),
        (lambda: torch.zeros(100), 400),
    ],
)
def test_bytes_are_those_that_a_kernel_reads_and_writes(roofline, work, moved):
    with roofline.Counting() as counting:
        work()
    assert sum(kernel.bytes for kernel in counting.kernels) == moved


def test_a_kernel_takes_the_longer_of_its_times(roofline):
    card = roofline.CardLimits("a card", memory=1e12, arithmetic=1e13)
    kernel = roofline.Kernel("bmm", int(4e9), int(1e10), (10, 6, 100, 64))
    assert kernel.seconds(card) == pytest.approx(4e-3)
    assert replace(kernel, bytes=8).seconds(card) == pytest.approx(1e-3)
    assert replace(kernel, bytes=8, flops=8).seconds(card) == roofline.LAUNCH
    in_tiles = 2 * 10 * 32 * 100 * 64 / 1e13
    small = replace(kernel, bytes=8, product=(10_000, 6, 100, 64))
    assert small.seconds(card, tiles=True) == pytest.approx(1000 * in_tiles)


def test_tables_are_of_the_steps(roofline):
    kernels = (roofline.Kernel("mul", int(48e9), 0), roofline.Kernel("bmm", 8, int(67e9)))
    step = roofline.Step(300, 64, 61_706, kernels)
    head, row = roofline.steps_table([step])
    found = dict(zip(head, row, strict=True))
    assert found["GB"] == "48.00" and found["GFLOP"] == "67.0"
    assert found["H200: best, ms"] == "11.00" and found["H200: fused, ms"] == "1.67"
    assert [line[0] for line in roofline.kernels_table(step)] == ["kernel", "mul", "bmm"]
