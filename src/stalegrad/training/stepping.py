"""Chooses how runs are replayed: in a kernel, as a captured step, or by the loop of `replay`."""

from torch import Tensor

from stalegrad.problems import Task
from stalegrad.training import cuda_graph, kernel_replay, replay
from stalegrad.training.backends import Backend
from stalegrad.training.replay import ReplayState, Run


def advance(
    task: Task, runs: list[Run], state: ReplayState, backend: Backend
) -> tuple[ReplayState, Tensor]:
    """One epoch (or stretch) of every run, in the fastest of the three ways that can do it.

    All three take and return what `replay.advance_in_steps` does.
    """
    if kernel_replay.can_advance(runs, backend):
        return kernel_replay.advance_in_kernel(runs, state, backend)
    if backend.static:
        return cuda_graph.advance_captured(task, runs, state, backend)
    return replay.advance_in_steps(task, runs, state, backend)
