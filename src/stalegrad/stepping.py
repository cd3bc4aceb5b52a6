"""Chooses how runs are replayed: in a kernel, as a captured step, or by the loop of `replay`."""

from torch import Tensor

from stalegrad import captured, fused, replay
from stalegrad.backends import Backend
from stalegrad.problems import Task
from stalegrad.replay import Run, State


def advance(task: Task, runs: list[Run], state: State, backend: Backend) -> tuple[State, Tensor]:
    """`replay.advance`, inside a kernel or as a step that is captured where these can do it."""
    if fused.can_advance(runs, backend):
        return fused.advance(runs, state, backend)
    if backend.static:
        return captured.advance(task, runs, state, backend)
    return replay.advance(task, runs, state, backend)
