"""Loss landscapes: the loss around runs, in the plane in which their weights moved most.

The plane is that of the first two principal components of all weights recorded (Lamour et al. 2023,
section II.B, after Li et al. 2018). Its points are evaluated on the device, many at once, like the
weights of runs. For a run the plane shows the loss of the run's projection; the loss of the run
itself is recorded beside it.
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from stalegrad.io.files import csv_text, provenance_path, replaced, write_atomically
from stalegrad.planning.bundle import LandscapeCell
from stalegrad.planning.freshness import code_of, digest
from stalegrad.problems import load_task
from stalegrad.training.backends import Backend, make_backend, resolve_device
from stalegrad.training.bundles import Place
from stalegrad.training.checkpoints import load_checkpoint, save_checkpoint
from stalegrad.training.machine import (
    describe_machine,
    dispatch,
    settled_torch,
    vector_instructions,
)

LINE_POINTS = 21  # on the straight line between two runs, both ends included
_CHUNK = 32  # points evaluated at once; it affects the last digit on a GPU
_SAVE_EVERY = 5.0  # seconds

Report = Callable[[int, int], None]  # points done and points in all


@dataclass(frozen=True)
class Plane:
    """origin [P], and two orthonormal axes [2, P], in float64.

    explained [2]: the share of the variance of the weights it was fitted to along each axis.
    """

    origin: np.ndarray
    axes: np.ndarray
    explained: np.ndarray

    def project(self, weights: np.ndarray) -> np.ndarray:
        """Coordinates [N, 2] of the points of the plane nearest to weights [N, P]."""
        return (weights - self.origin) @ self.axes.T

    def at(self, points: np.ndarray) -> np.ndarray:
        """Weights [N, P] at coordinates [N, 2]."""
        return self.origin + points @ self.axes


def fit_plane(weights: np.ndarray) -> Plane:
    """The plane of the first two principal components of weights [N, P], N >= 3."""
    with threadpool_limits(1):  # the number of threads would decide the last digits
        fitted = PCA(n_components=2, svd_solver="full").fit(np.asarray(weights, np.float64))
    return Plane(fitted.mean_, fitted.components_, fitted.explained_variance_ratio_)


def grid_axes(points: np.ndarray, resolution: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along each axis of a grid over the range of points [N, 2].

    The range is widened on each side by `margin` times itself.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    wider = margin * (high - low)
    x, y = (np.linspace(a, b, resolution) for a, b in zip(low - wider, high + wider, strict=True))
    return x, y


@dataclass(frozen=True)
class Layout:
    """Which weights a landscape evaluates: those of `coefficients` [N, B] @ `basis` [B, P].

    plane, its grid x and y [n] and the coordinates `projected` [rows, 2] of the runs' weights
        [rows, P], which are NaN where weights are not finite, and so on no plane.
    fitted [rows]: which weights decided plane and grid.
    lines: one row a point of a straight line between the last weights of two runs of one seed:
        `first` and `second` (runs), `position` (0 at the first, 1 at the second).
    blocks: how many of the N are of the grid, of the projected weights and of the lines.
    """

    plane: Plane
    x: np.ndarray
    y: np.ndarray
    projected: np.ndarray
    fitted: np.ndarray
    lines: pd.DataFrame
    basis: np.ndarray
    coefficients: np.ndarray
    blocks: tuple[int, int, int]


def lay_out(cell: LandscapeCell, history: pd.DataFrame, weights: np.ndarray) -> Layout:
    """history, weights [rows, P]: as `train_bundle` writes them of `cell.runs`."""
    weights = weights.astype(np.float64)
    finite = np.isfinite(weights).all(axis=1)
    fitted = finite & ~history["run"].isin(cell.left_out).to_numpy()
    plane = fit_plane(weights[fitted])
    projected = np.full((len(weights), 2), np.nan)
    projected[finite] = plane.project(weights[finite])
    x, y = grid_axes(projected[fitted], cell.resolution, cell.margin)
    last = history[fitted].groupby("run", sort=False).tail(1).index.to_numpy()
    pairs = _pairs(cell, history["run"].iloc[last].tolist())
    position = np.linspace(0, 1, LINE_POINTS)

    surface = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    on_grid, on_runs = (_on_plane(points, 3 + len(last)) for points in (surface, projected[finite]))
    on_lines = _between(pairs, position, len(last))
    runs = history["run"].iloc[last].to_numpy()
    ends = np.repeat(np.array(pairs, int).reshape(-1, 2), LINE_POINTS, axis=0)
    lines = pd.DataFrame(
        {
            "first": runs[ends[:, 0]],
            "second": runs[ends[:, 1]],
            "position": np.tile(position, len(pairs)),
        }
    )
    return Layout(
        plane=plane,
        x=x,
        y=y,
        projected=projected,
        fitted=fitted,
        lines=lines,
        basis=np.concatenate([plane.origin[None], plane.axes, weights[last]]),
        coefficients=np.concatenate([on_grid, on_runs, on_lines]),
        blocks=(len(on_grid), len(on_runs), len(on_lines)),
    )


def _pairs(cell: LandscapeCell, runs: list[str]) -> list[tuple[int, int]]:
    """Places in `runs` of any two that have the same seed, and so started from the same weights."""
    seeds = {c.hash: c.seed for c in cell.runs.cells}
    both = itertools.combinations(range(len(runs)), 2)
    return [(a, b) for a, b in both if seeds[runs[a]] == seeds[runs[b]]]


def _on_plane(points: np.ndarray, size: int) -> np.ndarray:
    """Coefficients [N, size] of points of the plane, whose origin and axes lead the basis."""
    out = np.zeros((len(points), size))
    out[:, 0], out[:, 1:3] = 1, points
    return out


def _between(pairs: list[tuple[int, int]], position: np.ndarray, runs: int) -> np.ndarray:
    """Coefficients [pairs * positions, 3 + runs]; in the basis the runs follow the plane."""
    out = np.zeros((len(pairs), len(position), 3 + runs))
    for line, (a, b) in enumerate(pairs):
        out[line, :, 3 + a], out[line, :, 3 + b] = 1 - position, position
    return out.reshape(-1, 3 + runs)


@dataclass(frozen=True)
class ComputedLandscape:
    """The outputs of one landscape.

    grid: x, y [n], of each metric its values [n, n] with rows along y, and of the plane
        `origin` [P], `axes` [2, P] and `explained_variance` [2].
    points: the runs' history, one row a recorded weight vector, with `fitted`, pc1 and pc2,
        `from_origin` and `off_plane` (its distance from the plane's origin and from the plane), and
        beside each metric, which is of the weights themselves, `projected_<metric>`, which is of
        their projection.
    lines: as in `Layout`, with the metrics.
    """

    grid: dict[str, np.ndarray]
    points: pd.DataFrame
    lines: pd.DataFrame


def assemble(
    cell: LandscapeCell,
    history: pd.DataFrame,
    weights: np.ndarray,
    layout: Layout,
    metrics: dict[str, np.ndarray],
) -> ComputedLandscape:
    """metrics: each [N], at the points of the layout."""
    plane, projected = layout.plane, layout.projected
    bounds = np.cumsum([0, *layout.blocks])
    surface, at_points, on_lines = (
        {name: values[a:b] for name, values in metrics.items()}
        for a, b in itertools.pairwise(bounds)
    )
    shape = (cell.resolution, cell.resolution)
    grid = {"x": layout.x, "y": layout.y, "explained_variance": plane.explained}
    grid |= {"origin": plane.origin, "axes": plane.axes}
    grid |= {name: values.reshape(shape) for name, values in surface.items()}

    points = history.assign(
        fitted=layout.fitted,
        pc1=projected[:, 0],
        pc2=projected[:, 1],
        from_origin=np.linalg.norm(weights - plane.origin, axis=1),
        off_plane=np.linalg.norm(weights - plane.at(projected), axis=1),
    )
    finite = np.isfinite(projected).all(axis=1)
    for name, values in at_points.items():
        points.loc[finite, f"projected_{name}"] = values
    return ComputedLandscape(grid, points, layout.lines.assign(**on_lines))


class Store:
    """The metrics of N points, as far as they are computed, in a file that a later call resumes.

    seconds: what earlier calls took for the points that were read from the file.
    """

    def __init__(self, path: Path, identity: str, count: int):
        self.path, self.identity = path, identity
        self.done = np.zeros(count, bool)
        self.values: dict[str, np.ndarray] = {}
        self.seconds = 0.0
        self._started = time.monotonic()
        self._saved = time.monotonic()
        self._read()

    def add(self, points: slice, metrics: dict[str, np.ndarray]) -> None:
        """Keep the metrics of some points; every few seconds, save all to disk."""
        for name, values in metrics.items():
            self.values.setdefault(name, np.full(len(self.done), np.nan))[points] = values
        self.done[points] = True
        if time.monotonic() - self._saved >= _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        seconds = self.seconds + time.monotonic() - self._started
        about = {"metrics": list(self.values), "seconds": seconds}
        save_checkpoint(self.path, self.identity, about, {"done": self.done, **self.values})
        self._saved = time.monotonic()

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        found = load_checkpoint(self.path, self.identity, "all points are computed")
        if found is not None:
            about, arrays = found
            self.values = {name: arrays[name] for name in about["metrics"]}
            self.done, self.seconds = arrays["done"], about["seconds"]


def evaluate(
    coefficients: np.ndarray,
    basis: np.ndarray,
    backend: Backend,
    like: torch.Tensor,
    store: Store,
    threads: int = 1,
    report: Report | None = None,
) -> dict[str, np.ndarray]:
    """Metrics [N] of the test set at the weights coefficients [N, B] @ basis [B, P].

    Points in `store` are not computed again. like: a tensor whose type and device the weights take.
    The points are cut into the same chunks for any number of threads, so the results are the same.
    """
    count = len(coefficients)
    chunks = [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
    left = [chunk for chunk in chunks if not store.done[chunk].all()]

    def metrics(chunk: slice) -> tuple[slice, dict[str, np.ndarray]]:
        return chunk, _metrics(coefficients[chunk] @ basis, backend, like)

    with threadpool_limits(1), ThreadPoolExecutor(max_workers=threads) as pool:
        computing = [pool.submit(metrics, chunk) for chunk in left]
        try:
            for each in as_completed(computing):
                store.add(*each.result())
                if report:
                    report(int(store.done.sum()), count)
        except BaseException:  # an interrupt saves what is computed, and does not wait
            pool.shutdown(wait=False, cancel_futures=True)
            store.save()
            raise
    return store.values


def _metrics(weights: np.ndarray, backend: Backend, like: torch.Tensor) -> dict[str, np.ndarray]:
    """Metrics [N] of the test set at weights [N, P], of one chunk of points."""
    split = torch.from_numpy(weights).to(like).split(backend.runs_at_once or _CHUNK)
    parts = [backend.metrics(part) for part in split]
    return {name: torch.cat([p[name] for p in parts]).cpu().numpy() for name in parts[0]}


def metrics_at(
    coefficients: np.ndarray, basis: np.ndarray, problem: Any, place: Place
) -> dict[str, np.ndarray]:
    """Metrics [N] of a few points, the weights coefficients [N, B] @ basis [B, P] of a problem."""
    device = resolve_device(place.device)
    with settled_torch(device), threadpool_limits(1):
        task = load_task(problem, place.data_folder, device, torch.float32)
        backend = make_backend(place.backend, task)
        like = torch.empty(0, dtype=torch.float32, device=device)
        chunks = [
            _metrics(coefficients[i : i + _CHUNK] @ basis, backend, like)
            for i in range(0, len(coefficients), _CHUNK)
        ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def make_landscape(
    cell: LandscapeCell,
    recorded: tuple[Path, Path],
    outputs: tuple[Path, Path, Path],
    place: Place,
    report: Report | None = None,
) -> None:
    """Compute a landscape and write it.

    recorded: the history (CSV) and weights (npz) of `cell.runs`, as `train_bundle` writes them.
    outputs: `ComputedLandscape.grid` (npz), `points` and `lines` (CSV). The provenance is written
    beside the first; until then, a file beside it holds the points that are computed, and a later
    call computes only the others.
    """
    clock = time.monotonic()
    device = resolve_device(place.device)
    threads = place.threads_on(device)
    with settled_torch(device):
        task = load_task(cell.runs.cells[0].problem, place.data_folder, device, torch.float32)
        backend = make_backend(place.backend, task)
        instructions = vector_instructions(backend.name, task.name, device)
        choices = dispatch(backend.name, device)
        history = pd.read_csv(recorded[0], dtype={"run": str})
        with np.load(recorded[1], allow_pickle=False) as arrays:
            weights = arrays["weights"]
        layout = lay_out(cell, history, weights)
        identity = f"{cell.hash} {backend.name} on {device.type} with {instructions}, {choices}, "
        identity += f"torch {torch.__version__}, numpy {np.__version__}, "
        code = digest(code_of("analysis.landscapes", cell.runs.cells))
        identity += f"weights {hashlib.sha256(weights.tobytes()).hexdigest()}, code {code}"
        path = outputs[0].with_name(outputs[0].name + ".partial.npz")
        store = Store(path, identity, len(layout.coefficients))
        like = torch.empty(0, dtype=torch.float32, device=device)
        metrics = evaluate(layout.coefficients, layout.basis, backend, like, store, threads, report)
    found = assemble(cell, history, weights, layout, metrics)
    with replaced(outputs[0]) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **found.grid)
    write_atomically(outputs[1], csv_text(found.points))
    write_atomically(outputs[2], csv_text(found.lines))
    provenance = describe_machine(device) | {
        "backend": backend.name,
        "instructions": instructions,
        "dispatch": choices,
        "threads": threads,
        "landscape": cell.hash,
        "code": code,
        "points": len(layout.coefficients),
        "wall_seconds": round(store.seconds + time.monotonic() - clock, 3),
    }
    write_atomically(provenance_path(outputs[0]), json.dumps(provenance, indent=1) + "\n")
    store.remove()
