"""Chooses how runs are replayed: in a kernel, as a captured step, or by the loop of `replay`."""

from torch import Tensor

from stalegrad.problems import Task
from stalegrad.training import cuda_graph, kernel_replay, replay
from stalegrad.training.backends import Backend
from stalegrad.training.replay import Run, State


def advance(task: Task, runs: list[Run], state: State, backend: Backend) -> tuple[State, Tensor]:
    """`replay.advance`, inside a kernel or as a step that is captured where these can do it."""
    if kernel_replay.can_advance(runs, backend):
        return kernel_replay.advance(runs, state, backend)
    if backend.static:
        return cuda_graph.advance(task, runs, state, backend)
    return replay.advance(task, runs, state, backend)
