"""How much memory training takes: one model, for the plan of jobs and for the runs within a job.

The plan gives it what a cell says of itself (`of_cell`); a job gives it the data it has loaded and
the schedules it has simulated (`training.memory.need`), and then it is exact in what runs hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stalegrad.planning.cell import Cell

# The share of free memory that may be used: other jobs grow too, and allocators waste some.
SHARE = 0.8
BYTES = 4  # of a number; training is in float32
_INDEX = 8  # bytes of a sample's number in a table
# Beside weights and snapshots, a step holds the weights read, gradients (of a minibatch, corrected,
# clipped) and new weights, and about as many intermediate tensors.
_STEP_COPIES = 8
# Training holds activations and their gradients. On a GPU, layers as matrix products also hold
# patches of three times that size. In evaluation, libraries copy activations with channels padded
# to whole vectors: three times and more, as measured.
_TRAINED, _TRAINED_WITH_PATCHES, _EVALUATED = 2, 8, 4
# A rule's state in numbers a weight. Adam and DC-ASGD have 2; a rule of one's own may have more.
_MOST_STATE = 5
# A process before it trains: PyTorch, compiled kernels and the data take some 450 on a CPU, as
# measured; the libraries of a GPU come on top.
_PROCESS = 1_500


@dataclass(frozen=True)
class Need:
    """Megabytes that runs take: `held` from their beginning to their end, `step` while they are
    stepped or evaluated. snapshots: of `held`, the old weights of gradients in flight."""

    held: float
    step: float
    snapshots: float

    @property
    def peak(self) -> float:
        return self.held + self.step

    def times(self, runs: int) -> "Need":
        """Of so many runs that are stepped together, each with this need."""
        return Need(self.held * runs, self.step * runs, self.snapshots * runs)


def of_run(
    parameters: int,
    *,
    snapshots: int,
    state: int,
    grouped: bool,
    batch_size: int,
    evaluated: int,
    activations: int,
    patches: bool = False,
    looked_up: int = 0,
) -> Need:
    """What one run takes.

    parameters: its weights P. snapshots: old weights [P] kept at once. state: bytes of the rule's
    state. grouped: several arrivals make an update, and their gradients are summed. evaluated: test
    samples that are evaluated at once. activations: numbers that a sample becomes on its way to the
    loss. patches: layers are computed as matrix products (`problems.Together`). looked_up: samples
    whose numbers are on the device for an epoch, in a table of a captured step
    (`training.cuda_graph`), and beside it while it is filled.

    The step is that of the backend `torch`, which keeps the activations of a minibatch until its
    gradient is taken; fused kernels take less.
    """
    one = parameters * BYTES
    times = _TRAINED_WITH_PATCHES if patches else _TRAINED
    samples = max(times * batch_size, _EVALUATED * evaluated)
    tables = 2 * _INDEX * looked_up
    return Need(
        held=((1 + grouped + snapshots) * one + state + tables) / 1e6,
        step=(_STEP_COPIES * one + samples * activations * BYTES) / 1e6,
        snapshots=snapshots * one / 1e6,
    )


def of_cell(cell: Cell) -> Need:
    """About what a run of the cell takes on a CPU, before anything is loaded: no less, unless the
    rule holds more than five numbers a weight or the problem does not say its `activations`."""
    problem = cell.problem
    network = hasattr(problem, "activations")
    return of_run(
        problem.parameters(),
        snapshots=cell.cluster.in_flight(),
        state=_MOST_STATE * problem.parameters() * BYTES,
        grouped=cell.cluster.arrivals_per_update() > 1,
        batch_size=cell.batch_size,
        evaluated=min(problem.test_chunk, problem.test_samples) if network else 0,
        activations=problem.activations() if network else 0,
    )


def of_job(cells: Sequence[Cell]) -> int:
    """Megabytes to request for a job that trains runs of these cells.

    The job then takes SHARE of what it finds: enough for a step of one run, and for twice what the
    runs hold, since a checkpoint copies it.
    """
    needs = [of_cell(cell) for cell in cells]
    training = 2 * sum(need.held for need in needs) + max(need.step for need in needs)
    return math.ceil(_PROCESS + training / SHARE)
