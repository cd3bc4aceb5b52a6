"""Virtual iterates: SGD without delay, beside the run it belongs to.

They are those of Mishchenko et al. 2022 ('Main ideas').

The virtual iterate x^_k applies each gradient at the moment its computation starts, with the step
size that it will have on arrival. So x_k - x^_k is the sum of the gradients being computed at
version k, times their step sizes. Gradients that do not arrive before the run ends are not counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from stalegrad.planning.cell import Cell
from stalegrad.problems import Task, load_task
from stalegrad.rules import Rule
from stalegrad.rules.sgd import SGD
from stalegrad.specs import name_of
from stalegrad.training import replay
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import plan_run
from stalegrad.training.replay import Run

_CHUNK = 256  # gradients taken at once; bounds the memory of their minibatches


@dataclass(frozen=True)
class Trace:
    """A run of K updates beside its virtual iterates; everything in float64.

    weights [K + 1, P], virtual [K + 1, P]: x_k and x^_k, each made step by step.
    in_flight [K + 1, P]: sum of the gradients in flight at version k times their step sizes;
    promised_squares, step_squares [K + 1]: sums of the squared lengths of these terms, and of their
        squared step sizes; expected_squares [K + 1]: the first with the gradients of the whole
        training set, at the same weights, in the place of those of minibatches.
    steps [K]: step sizes; gradients [K, P] as they were applied.
    """

    weights: np.ndarray
    virtual: np.ndarray
    in_flight: np.ndarray
    promised_squares: np.ndarray
    step_squares: np.ndarray
    expected_squares: np.ndarray
    steps: np.ndarray
    gradients: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """|x_k - x^_k - what the identity says| over the largest |x_k - x^_k|, [K + 1]."""
        away = self.weights - self.virtual
        scale = np.linalg.norm(away, axis=1).max()
        return np.linalg.norm(away - self.in_flight, axis=1) / (scale or 1.0)


def trace(task: Task, run: Run) -> Trace:
    """Replay `run`, which must be asynchronous SGD without momentum, and its virtual iterates.

    x_k comes from `training.replay` stopped after each arrival. Raises ValueError for any other
    rule, for a schedule in which an update takes several gradients, stages read versions of their
    own, workers take local steps, or gradients are dropped or weighted, and for a loss that takes
    random numbers.
    """
    schedule = run.schedule
    if task.noise:
        raise ValueError("virtual iterates are of losses that take no random numbers")
    if schedule.arrivals_per_update != 1:
        raise ValueError(
            f"virtual iterates are of asynchronous SGD, and here an update takes "
            f"{schedule.arrivals_per_update} gradients"
        )
    if schedule.stage_versions is not None:
        raise ValueError(
            "virtual iterates are of gradients that are computed at one version, and here each "
            "stage has one of its own"
        )
    if run.order.local_steps > 1:
        raise ValueError(
            f"virtual iterates are of workers that send each gradient, and here they take "
            f"{run.order.local_steps} local steps"
        )
    if schedule.applied is not None or schedule.weight is not None:
        raise ValueError(
            "virtual iterates are of schedules in which every gradient is applied as it is, and "
            "here a policy drops or weights them"
        )
    if (reason := _reason_against(run.rule)) is not None:
        raise ValueError(
            f"virtual iterates are of SGD without momentum, and the rule "
            f"'{name_of(run.rule)}' {reason}"
        )
    weights = _every_version(task, run)
    gradients = _gradients(task, run, weights)
    factors = run.rule.step_factors(schedule)
    steps = run.rule.lr * (np.ones(schedule.arrivals) if factors is None else factors)
    promised = steps[:, None] * gradients
    read = schedule.read_version
    # x^_{k+1} has the gradients computed at versions up to k, M of them at the first.
    started = np.zeros_like(weights)
    np.add.at(started, read + 1, promised)
    virtual = weights[0] - np.cumsum(started, axis=0)
    # At version k: those read before it that arrive with update k + 1 or later.
    flying = [k + np.flatnonzero(read[k:] < k) for k in range(schedule.updates + 1)]
    in_flight = np.stack([promised[terms].sum(axis=0) for terms in flying])
    squares = np.square(steps)
    whole = squares * np.square(_whole_gradients(task, run, weights)).sum(axis=1)
    lengths = np.square(promised).sum(axis=1), squares, whole
    promised_squares, step_squares, expected_squares = (
        np.array([each[terms].sum() for terms in flying]) for each in lengths
    )
    return Trace(
        weights=weights,
        virtual=virtual,
        in_flight=in_flight,
        promised_squares=promised_squares,
        step_squares=step_squares,
        expected_squares=expected_squares,
        steps=steps,
        gradients=gradients,
    )


def _reason_against(rule: Rule) -> str | None:
    """Why the identity does not hold for a rule, as half a sentence, or None where it does.

    A step must be the gradient as it was computed, times a number that its arrival alone decides.
    """
    if not isinstance(rule, SGD) or not rule.steps_like(SGD):
        return "makes other steps"
    if rule.momentum:
        return f"has momentum {rule.momentum:g}"
    if rule.weight_decay:
        return f"has weight decay {rule.weight_decay:g}"
    return None if rule.clip_norm is None else f"clips gradients to the norm {rule.clip_norm:g}"


def _every_version(task: Task, run: Run) -> np.ndarray:
    one_by_one = replace(run.schedule, epoch_ends=np.arange(1, run.schedule.arrivals + 1))
    stopping = replace(run, schedule=one_by_one)
    backend, state = VmapBackend(task), replay.start(task, [stopping], torch.float64)
    versions = [state.weights[0].clone()]
    for _ in range(one_by_one.arrivals):
        state, _ = replay.advance_in_steps(task, [stopping], state, backend)
        versions.append(state.weights[0].clone())
    return torch.stack(versions).cpu().numpy()


def _gradients(task: Task, run: Run, weights: np.ndarray) -> np.ndarray:
    """Each arrival's gradient [A, P], at the version that the schedule says it was computed at."""
    inputs, targets = task.train
    rows = torch.from_numpy(run.order.indices(run.schedule.stream, run.schedule.batch))
    read = torch.from_numpy(weights[run.schedule.read_version]).to(inputs.device)
    backend = VmapBackend(task)
    parts = [
        backend.gradients(at, inputs[batch], targets[batch])[0]
        for at, batch in zip(read.split(_CHUNK), rows.to(inputs.device).split(_CHUNK), strict=True)
    ]
    return torch.cat(parts).cpu().numpy()


def _whole_gradients(task: Task, run: Run, weights: np.ndarray) -> np.ndarray:
    """The gradient [A, P] of the whole training set, at the version of each arrival."""
    inputs, targets = task.train
    read = torch.from_numpy(weights[run.schedule.read_version]).to(inputs.device)
    backend = VmapBackend(task)
    parts = [
        backend.gradients(at, *(part.expand(len(at), *part.shape) for part in (inputs, targets)))[0]
        for at in read.split(_CHUNK)
    ]
    return torch.cat(parts).cpu().numpy()


def trace_cells(cells: list[Cell], data_folder: Path) -> pd.DataFrame:
    """One row a cell and version: the cell's columns, version k, distance_square |x_k - x^_k|^2,
    promised_squares, step_squares and expected_squares (see `Trace`), error (see `Trace.error`),
    gradient_square (of the gradient applied next) and step."""
    tables = []
    for cell in cells:
        task = load_task(cell.problem, data_folder, torch.device("cpu"), torch.float64)
        planned = plan_run(cell, task.train[1].numpy())
        found = trace(task, planned.run)
        rows = {
            "version": np.arange(1, len(found.steps)),
            "distance_square": ((found.weights - found.virtual) ** 2).sum(axis=1)[1:-1],
            "promised_squares": found.promised_squares[1:-1],
            "step_squares": found.step_squares[1:-1],
            "expected_squares": found.expected_squares[1:-1],
            "error": found.error[1:-1],
            "gradient_square": (found.gradients**2).sum(axis=1)[1:],
            "step": found.steps[1:],
        }
        tables.append(pd.DataFrame({"run": cell.hash, **cell.columns(), **rows}))
    return pd.concat(tables, ignore_index=True)
