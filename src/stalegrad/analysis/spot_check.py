"""A spot check of the archive: archived runs drawn at random, trained afresh, held to the archive.

Every grid, trajectory and landscape is a stratum. The strata take turns in random order, each
drawing one of its runs at random, so that a grid of few runs is looked at as well as one of
hundreds. What comes out is held to the archive

- to the byte, where its provenance names all that decides a digit, and the same as here: code,
  device, backend, vector instructions, what else was chosen by the libraries, PyTorch and NumPy;
- else by what roundings and the spread of seeds explain: see `analysis.holding`.

Of a landscape, points drawn at random from its archived grid are evaluated again. Simulations and
traces are not archived: the pipeline makes them anew each time.
"""

import heapq
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stalegrad.analysis.archive import archived_history
from stalegrad.analysis.holding import Held, hold, hold_points
from stalegrad.analysis.landscapes import metrics_at
from stalegrad.analysis.results import read_arrays, read_csv
from stalegrad.io.files import archived_folder, archived_runs, provenance_path
from stalegrad.planning.bundle import Bundle, LandscapeCell
from stalegrad.planning.cell import Cell
from stalegrad.planning.freshness import is_fresh
from stalegrad.planning.plan import Plan
from stalegrad.training import speed
from stalegrad.training.backends import resolve_device
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.machine import settled_torch
from stalegrad.training.speed import Speeds

COLUMNS = (
    *("study", "kind", "name", "run", "agrees", "to_the_byte", "in_full", "reason"),
    *("archived", "fresh"),
)
# What decides a digit, as provenance records it. Rows of earlier versions lack some of it.
DECIDING = ("code", "device", "backend", "instructions", "dispatch", "torch", "numpy")

POINTS = 32  # of a landscape

# Weights times samples a second, where the speed of this machine is not known; a slow core's.
UNKNOWN_SPEED = 1e9
# Nothing is begun that would end later than this many times the time given.
LATEST = 1.25
# Runs of less than so many seconds come first: on a machine that is slower than it was when it was
# measured, they are made all the same.
QUICK = 1.0

Say = Callable[[int, int, float], None]  # items made, items drawn, and the share of the work done


@dataclass(frozen=True)
class Drawn:
    """Something archived that is made afresh.

    kind: `grid`, `trajectory` or `landscape`, called `name` in its study. run: hash of the run, or
    of the landscape. bundle: the run alone, recorded as it was archived; of a landscape, the runs
    it is of. seconds: what one core takes for it, about.
    """

    study: str
    kind: str
    name: str
    run: str
    bundle: Bundle
    seconds: float


# ---- drawing ----


def strata_of(plan: Plan, speeds: Speeds | None) -> list[list[Drawn]]:
    """All that is archived, a list for each grid, trajectory and landscape that has anything."""
    strata = []
    for study, grids in plan.grids.items():
        known = archived_runs(plan.archive(study))
        for name, grid in grids.items():
            bundles = {cell.hash: Bundle((cell,)) for cell in grid if cell.hash in known}
            strata.append(_stratum(study, "grid", name, bundles, speeds))
        for name, recorded in plan.trajectories[study].items():
            if plan.kept(study, "trajectories", recorded.hash):
                cells = recorded.cells
                bundles = {cell.hash: Bundle((cell,), recorded.per_epoch) for cell in cells}
                strata.append(_stratum(study, "trajectory", name, bundles, speeds))
        for name, landscape in plan.landscapes[study].items():
            if plan.kept(study, "landscapes", landscape.hash):
                took = _evaluation(landscape, speeds)
                drawn = Drawn(study, "landscape", name, landscape.hash, landscape.runs, took)
                strata.append([drawn])
    return [stratum for stratum in strata if stratum]


def _stratum(
    study: str, kind: str, name: str, bundles: Mapping[str, Bundle], speeds: Speeds | None
) -> list[Drawn]:
    return [
        Drawn(study, kind, name, run, bundle, _seconds(bundle, speeds))
        for run, bundle in bundles.items()
    ]


def _seconds(bundle: Bundle, speeds: Speeds | None) -> float:
    """Of one core, about; where `per_epoch` is set, with an evaluation at each record."""
    if speeds is None or not speeds.covers([bundle]):
        return bundle.work() / UNKNOWN_SPEED
    cell = bundle.cells[0]
    known = speeds.problems[speed.problem_of(bundle)]
    records = bundle.recordings(cell) - cell.epochs
    return speeds.seconds(bundle) + records * known.record(cell.problem)


def _evaluation(landscape: LandscapeCell, speeds: Speeds | None) -> float:
    problem = landscape.runs.cells[0].problem
    if speeds is None or not speeds.covers([landscape.runs]):
        return POINTS * problem.test_samples * problem.parameters() / UNKNOWN_SPEED
    return POINTS * speeds.problems[speed.problem_of(landscape.runs)].record(problem)


def draw(strata: Iterable[list[Drawn]], seconds: float, cores: int, seed: int) -> list[Drawn]:
    """What to make afresh so that `cores` are done with it after `seconds`, in the order of doing.

    The strata take turns, in an order drawn once. The drawing ends after the first turn in which a
    run did not fit into the time left, so that cheap grids are not drawn from more often than that.
    A run that is in two grids is drawn once. The same strata and seed give the same.
    """
    chance = random.Random(seed)
    left = [chance.sample(stratum, len(stratum)) for stratum in strata]
    chance.shuffle(left)
    drawn: list[Drawn] = []
    seen: set[str] = set()
    ends, fits = [0.0] * cores, True
    while fits and left:
        for stratum in left:
            item = stratum.pop()
            if item.bundle.hash in seen:
                continue
            if ends[0] + item.seconds > seconds:
                fits = False
                continue
            seen.add(item.bundle.hash)
            drawn.append(item)
            heapq.heapreplace(ends, ends[0] + item.seconds)
        left = [stratum for stratum in left if stratum]
    return drawn


# ---- training ----


def train(
    drawn: list[Drawn], folder: Path, place: Place, cores: int, until: float, say: Say
) -> list[Drawn]:
    """Train the runs drawn, `cores` at once, into `folder`. Returns what can be compared.

    Quick runs come first, the others in order. A file there that is fresh is left as it is. What
    would not be done at `until`, a time of `time.monotonic`, is not begun.
    """
    device = resolve_device(place.device)
    done = 0.0

    def make(item: Drawn) -> Drawn | None:
        if time.monotonic() + item.seconds > until:
            return None
        output = output_of(item, folder)
        if not is_fresh(output, item.bundle):
            train_bundle(item.bundle, output, replace(place, threads=1))
        return item

    runs = [item for item in drawn if item.kind != "landscape"]
    runs.sort(key=lambda item: item.seconds > QUICK)
    made: set[str] = set()
    total = sum(item.seconds for item in runs) or 1.0
    # Each bundle settles PyTorch for its own thread, and unsettles it; here it stays settled.
    with settled_torch(device), ThreadPoolExecutor(1 if device.type == "cuda" else cores) as pool:
        making = [pool.submit(make, item) for item in runs]
        try:
            for each in as_completed(making):
                if (item := each.result()) is not None:
                    made.add(item.bundle.hash)
                    done += item.seconds
                    say(len(made), len(runs), done / total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [item for item in drawn if item.kind == "landscape" or item.bundle.hash in made]


def output_of(item: Drawn, folder: Path) -> Path:
    """Where `train` puts a run."""
    return folder / item.study / f"{item.bundle.hash}.csv"


# ---- holding to the archive ----


class Archive:
    """What the archives of a plan's studies hold, read once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._histories: dict[str, pd.DataFrame] = {}
        self._provenances: dict[str, dict[str, dict[str, Any]]] = {}

    def history(self, item: Drawn) -> pd.DataFrame:
        """Of all runs of its grid or trajectory."""
        folder = self.plan.archive(item.study)
        if item.kind == "trajectory":
            return read_csv(self._folder(item) / "history.csv.gz", "run", "epoch")
        if item.study not in self._histories:
            self._histories[item.study] = archived_history(folder)
        return self._histories[item.study]

    def provenance(self, item: Drawn) -> dict[str, Any]:
        """Of the run; empty where there is none."""
        if item.kind != "grid":
            return dict(json.loads((self._folder(item) / "provenance.json").read_text()))
        if item.study not in self._provenances:
            rows = read_csv(self.plan.archive(item.study) / "provenance.csv", "cells")
            self._provenances[item.study] = {
                run: row for row in rows.to_dict("records") for run in row["cells"].split()
            }
        return self._provenances[item.study].get(item.run, {})

    def grid(self, item: Drawn) -> dict[str, np.ndarray]:
        """The arrays of a landscape."""
        return read_arrays(self._folder(item) / "grid.npz")

    def seeds(self, item: Drawn) -> list[Cell]:
        """The archived runs that differ from it in their seed alone, itself among them."""
        (own,) = item.bundle.cells
        cells = (
            self.plan.trajectories[item.study][item.name].cells
            if item.kind == "trajectory"
            else self.plan.grids[item.study][item.name]
        )
        return [cell for cell in cells if replace(cell, seed=own.seed) == own]

    def _folder(self, item: Drawn) -> Path:
        kind = "trajectories" if item.kind == "trajectory" else "landscapes"
        of = self.plan.trajectories if item.kind == "trajectory" else self.plan.landscapes
        return archived_folder(self.plan.archive(item.study), kind, of[item.study][item.name].hash)


def check(archive: Archive, made: Iterable[Drawn], folder: Path, seed: int) -> pd.DataFrame:
    """One row an item of `made`, whose runs `train` has put into `folder`; columns are COLUMNS.

    seed: draws the points of landscapes.
    """
    place = Place.of(archive.plan.settings, 1)
    rows = []
    for item in made:
        if item.kind == "landscape":
            held = _landscape_held(archive, item, place, seed)
        else:
            held = _run_held(archive, item, output_of(item, folder))
        named = {"study": item.study, "kind": item.kind, "name": item.name, "run": item.run}
        rows.append(named | vars(held))
    return pd.DataFrame(rows, columns=COLUMNS)


def _run_held(archive: Archive, item: Drawn, output: Path) -> Held:
    made = json.loads(provenance_path(output).read_text())
    known = archive.provenance(item)
    return hold(
        archive.history(item),
        read_csv(output, "run", "epoch"),
        archive.seeds(item),
        same_digits=all(known.get(key) == made.get(key) for key in DECIDING),
    )


def _landscape_held(archive: Archive, item: Drawn, place: Place, seed: int) -> Held:
    arrays = archive.grid(item)
    x, y = arrays["x"], arrays["y"]
    drawn = random.Random(seed).sample(range(len(x) * len(y)), min(POINTS, len(x) * len(y)))
    rows, columns = np.divmod(np.array(drawn), len(x))
    points = np.column_stack([x[columns], y[rows]])
    coefficients = np.column_stack([np.ones(len(points)), points])
    basis = np.concatenate([arrays["origin"][None], arrays["axes"]])
    now = metrics_at(coefficients, basis, item.bundle.cells[0].problem, place)
    names = [f"{a:.6g}, {b:.6g}" for a, b in points]
    return hold_points(names, {name: arrays[name][rows, columns] for name in now}, now)


# ---- all of it ----


@dataclass(frozen=True)
class Extent:
    """What was drawn from what; written beside the rows of a check.

    archived: runs that could have been drawn; beyond: of these, those of which one alone takes
    longer than the time given. strata, of_strata: grids, trajectories and landscapes that were
    checked, and that there are. not_begun: drawn, and not trained in time.
    """

    seed: int
    minutes: float
    cores: int
    seconds: float
    archived: int
    beyond: int
    strata: int
    of_strata: int
    not_begun: int


def spot_check(
    plan: Plan, folder: Path, cores: int, seed: int, say: Say
) -> tuple[pd.DataFrame, Extent]:
    """Draw, train and compare within `plan.settings.check_minutes`.

    folder: what is trained is kept here. Returns the rows of `check` and their extent.
    """
    clock = time.monotonic()
    budget = 60 * plan.settings.check_minutes
    runs = [cell for grids in plan.grids.values() for grid in grids.values() for cell in grid]
    speeds = speed.measured_of_timed(
        plan.settings, {c.problem: Bundle((c,)) for c in runs}.values()
    )
    strata = strata_of(plan, speeds)
    if resolve_device(plan.settings.device).type == "cuda":
        cores = 1  # only one run at a time can be captured
    drawn = draw(strata, budget, cores, seed)
    place = Place.of(plan.settings, 1)
    made = train(drawn, folder, place, cores, clock + LATEST * budget, say)
    rows = check(Archive(plan), made, folder, seed)
    every = {item.bundle.hash: item for stratum in strata for item in stratum}
    extent = Extent(
        seed=seed,
        minutes=plan.settings.check_minutes,
        cores=cores,
        seconds=round(time.monotonic() - clock, 1),
        archived=len(every),
        beyond=sum(item.seconds > budget for item in every.values()),
        strata=len({(item.study, item.kind, item.name) for item in made}),
        of_strata=len(strata),
        not_begun=len(drawn) - len(made),
    )
    return rows, extent
