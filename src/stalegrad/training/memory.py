"""How much memory the runs of a job take, by `planning.memory`, and how much is free."""

from collections.abc import Sequence
from pathlib import Path

import torch

from stalegrad.planning.memory import Need, of_run
from stalegrad.problems import Task
from stalegrad.rules import steps_on
from stalegrad.training.replay import Run


def need(task: Task, runs: Sequence[Run]) -> Need:
    """What runs stepped together take in float32: what replay holds, exactly, and an estimate of
    what a step takes in addition.

    On a GPU each run is counted with a table of its own, though neighbours may share one.
    """
    run = max(runs, key=lambda run: run.snapshots.slots)  # all have as many slots as any
    one = torch.empty((1, task.parameters), dtype=torch.float32, device="meta")
    state = steps_on(type(run.rule), task.layers).init(one)
    on_gpu = task.train[0].device.type == "cuda"
    return of_run(
        task.parameters,
        snapshots=run.snapshots.slots,
        state=sum(tensor.nbytes for tensor in state.values()),
        grouped=run.schedule.arrivals_per_update > 1,
        batch_size=run.order.batch_size,
        evaluated=min(task.test_chunk, len(task.test[1])),
        activations=task.activations,
        patches=task.together is not None and on_gpu,
        looked_up=run.longest * run.order.taken if on_gpu else 0,
    ).times(len(runs))


def free_megabytes(device: torch.device) -> float | None:
    """Free megabytes of a GPU, or of the machine and this process's control groups (Linux); None
    if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    free = [1024 * kilobytes for kilobytes in _numbers(Path("/proc/meminfo"), "MemAvailable:")]
    free += left_by_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(min(free), 0) / 1e6 if free else None


# Of a control group, version 2 and 1: the files with its limit and its use, and the prefix of its
# counts of cached files (libraries among them), which the kernel can free.
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
    """The number in a file, or the one after `name`; empty if there is none ('max')."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    behind = [line[1:] if name else line for line in lines if not name or line[0] == name]
    return [int(words[0]) for words in behind if words and words[0].isdecimal()]
