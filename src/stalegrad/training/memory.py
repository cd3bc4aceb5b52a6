"""How much memory training takes, estimated before it starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stalegrad.problems import Task
from stalegrad.rules import steps_on
from stalegrad.training.replay import Run

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
    state = steps_on(type(run.rule), task.layers).init(one)
    rule = sum(tensor.nbytes for tensor in state.values())
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
    """Free memory of a device, or what this process may have of the machine's (Linux); None where
    the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    free = [1024 * kilobytes for kilobytes in _numbers(Path("/proc/meminfo"), "MemAvailable:")]
    free += left_by_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(min(free), 0) / 1e6 if free else None


# Of a control group, of version 2 and of 1: the files with its limit and its use, and how what of
# that is cached files, libraries among them, is named, which make room when asked.
_OF_GROUP = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def left_by_groups(groups: Path, root: Path) -> list[int]:
    """Bytes that each control group of this process (a container, a cluster's job) leaves it.

    groups: the process's own, as /proc/self/cgroup lists them; root: where they are mounted.
    """
    left = []
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controller, path = line.split(":", 2)
        if controller not in _OF_GROUP:
            continue
        most, used, total = _OF_GROUP[controller]
        inside = Path(path.lstrip("/"))
        for group in (root / controller / each for each in (inside, *inside.parents)):
            for limit in _numbers(group / most):
                left.append(limit - sum(_numbers(group / used)))
                for cached in ("active_file", "inactive_file"):
                    left[-1] += sum(_numbers(group / "memory.stat", f"{total}{cached}"))
    return left


def _numbers(path: Path, name: str = "") -> list[int]:
    """The number in a file, or that behind `name`; none where there is none ('max')."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    behind = [line[1:] if name else line for line in lines if not name or line[0] == name]
    return [int(words[0]) for words in behind if words and words[0].isdecimal()]
