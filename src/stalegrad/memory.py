"""How much memory training takes, told before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stalegrad.problems import Task
from stalegrad.replay import Run

# Of what is free, so much may be taken: other jobs grow too, and an allocator cuts with waste.
SHARE = 0.8
# Beside weights and what is kept of them, a step makes the weights read, gradients (of a minibatch,
# corrected, clipped) and new weights, and about as many in between.
_STEP_COPIES = 8


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


def need(task: Task, runs: Sequence[Run]) -> Need:
    """What replay holds of runs stepped together in float32, to the byte, and about what a step
    takes beside.

    A step is that of the backend `torch`, which keeps what the network makes of a minibatch until
    its gradient is taken; fused kernels take less.
    """
    run = max(runs, key=lambda run: run.snapshots.slots)  # all have as many slots as any
    one = torch.empty((1, task.parameters), device="meta")
    grouped = run.schedule.arrivals_per_update > 1
    rule = sum(state.nbytes for state in type(run.rule).init(one).values())
    snapshots = run.snapshots.slots * one.nbytes
    held = (1 + grouped) * one.nbytes + rule + snapshots
    # Twice: in training what a layer makes, and the gradient with respect to it. As matrix
    # products, on a GPU, the patches that layers take come to three times as much. In evaluation
    # libraries copy what a layer makes, channels filled up to whole vectors: three times and more,
    # as measured.
    times = 8 if task.together and task.train[0].device.type == "cuda" else 2
    samples = max(times * run.order.batch_size, 4 * min(task.test_chunk, len(task.test[1])))
    step = _STEP_COPIES * one.nbytes + samples * task.activations * one.element_size()
    size = len(runs) / 1e6
    return Need(held * size, step * size, snapshots * size)


def free_megabytes(device: torch.device) -> float | None:
    """Free memory of a device, or of the machine (Linux); None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 / 1e6 if found else None
