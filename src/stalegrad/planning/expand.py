"""Expansion: the grids of a study at a preset, as the cells and bundles that they stand for."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle, LandscapeCell
from stalegrad.planning.cell import PARTS, Cell, SimulationCell, parse_cell, parse_simulation
from stalegrad.planning.config import (
    Grid,
    Landscape,
    Preset,
    Simulation,
    Study,
    Trajectory,
    at_preset,
)

MOST_RUNS = 1_000_000  # of a grid; published ones have thousands


def study_cells(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, list[Cell]]:
    """The runs of each grid of a study at a preset, seeds included, in the order of the grid."""
    return _by_name(study.grids, preset_name, preset, f"{where}, grids")


def study_traces(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, list[Cell]]:
    """The runs of each trace of a study at a preset."""
    return _by_name(study.traces, preset_name, preset, f"{where}, traces")


def _by_name(
    grids: Mapping[str, Grid], preset_name: str, preset: Preset, where: str
) -> dict[str, list[Cell]]:
    return {
        name: list(_grid_cells(grid, preset_name, preset, f"{where}.{name}"))
        for name, grid in grids.items()
    }


def study_trajectories(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, Bundle]:
    """The runs of each trajectory of a study at a preset, and how often they are recorded."""
    return {
        name: _recorded(trajectory, preset_name, preset, f"{where}, trajectories.{name}")
        for name, trajectory in study.trajectories.items()
    }


def _recorded(
    trajectory: Trajectory | Landscape, preset_name: str, preset: Preset, where: str
) -> Bundle:
    cells = tuple(_grid_cells(trajectory, preset_name, preset, where))
    if len({cell.problem for cell in cells}) > 1:
        raise ConfigError(
            f"{where}: the runs differ in their 'problem'; they must share one, so take it out of "
            f"'axes' and 'cases'."
        )
    merged = at_preset(trajectory, preset_name)
    batches = merged.get("gradient_batches")
    for cell in cells:
        if (batches or 0) * cell.batch_size > cell.problem.samples():
            raise ConfigError(
                f"{where}: 'gradient_batches' is {batches}, and so many minibatches of "
                f"{cell.batch_size} are more than the {cell.problem.samples()} training samples; "
                f"take fewer."
            )
    return Bundle(cells, merged["per_epoch"], batches)


def study_landscapes(
    study: Study, preset_name: str, preset: Preset, where: str
) -> dict[str, LandscapeCell]:
    """The landscapes of a study at a preset, by name."""
    return {
        name: _landscape(landscape, preset_name, preset, f"{where}, landscapes.{name}")
        for name, landscape in study.landscapes.items()
    }


def _landscape(landscape: Landscape, preset_name: str, preset: Preset, where: str) -> LandscapeCell:
    merged = at_preset(landscape, preset_name)
    runs = _recorded(landscape, preset_name, preset, where)
    left_out = [cell for cell in runs.cells if _matches(cell, merged["left_out"])]
    for wrong, said in (
        (merged["left_out"] and not left_out, "matches none of the runs"),
        (len(left_out) == len(runs.cells), "matches all of the runs, and some must be left"),
    ):
        if wrong:
            raise ConfigError(f"{where}: 'left_out' is {merged['left_out']!r}, which {said}.")
    fitted = sum(runs.recordings(c) for c in runs.cells if c not in left_out)
    if fitted < 3:
        raise ConfigError(
            f"{where}: 'per_epoch' is {runs.per_epoch}, which leaves {fitted} weight vectors to "
            f"fit a plane to; record more often, so that there are 3."
        )
    hashes = tuple(cell.hash for cell in left_out)
    return LandscapeCell(runs, merged["resolution"], merged["margin"], hashes)


def _matches(cell: Cell, keys: Mapping[str, Any]) -> bool:
    """Whether each of the dotted `keys` has the value given; false if there are no keys."""
    values = cell.as_dict()
    found = {f"{part}.{key}": v for part in PARTS for key, v in values[part].items()}
    return bool(keys) and all((values | found).get(key) == value for key, value in keys.items())


def _grid_cells(
    grid: Grid | Trajectory | Landscape, preset_name: str, preset: Preset, where: str
) -> Iterator[Cell]:
    merged = at_preset(grid, preset_name)
    seeds = merged["seeds"] or preset.seeds
    runs = seeds * len(merged["cases"]) * math.prod(map(len, merged["axes"].values()))
    if runs > MOST_RUNS:
        raise ConfigError(
            f"{where}: 'axes', 'cases' and 'seeds' ({seeds}) make {runs:,} runs, more than the "
            f"{MOST_RUNS:,} that a grid may have; leave some out."
        )
    made = set()
    for keys in combinations(merged["axes"], merged["cases"]):
        values = with_keys(merged["cell"], keys, where)
        first = parse_cell({"seed": 1} | values, where)  # all but the seed is checked once
        for seed in range(1, seeds + 1):
            cell = first if "seed" in values else dataclasses.replace(first, seed=seed)
            if cell.hash in made:  # it would count twice in every mean
                raise ConfigError(
                    f"{where}: 'axes', 'cases' and 'seeds' make one run twice, that of seed "
                    f"{cell.seed} with {json.dumps(keys)}; leave one of the two out."
                )
            made.add(cell.hash)
            yield cell


def combinations(
    axes: Mapping[str, list[Any]], cases: list[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Every case crossed with the product of the axes, the last axis fastest."""
    for case in cases:
        for values in itertools.product(*axes.values()):
            yield dict(case) | dict(zip(axes, values, strict=True))


def with_keys(base: Mapping[str, Any], keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of nested `base` with dotted `keys` set."""
    out = json.loads(json.dumps(base, default=str))
    for key, value in keys.items():
        *path, last = key.split(".")
        inner = out
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{where}: '{key}' goes into '{part}', which holds no keys.")
        inner[last] = value
    return out


def study_simulations(
    study: Study, preset_name: str, where: str
) -> dict[str, list[SimulationCell]]:
    """The simulations of a study at a preset, by name."""
    return {
        name: list(_simulation_cells(simulation, preset_name, f"{where}, simulations.{name}"))
        for name, simulation in study.simulations.items()
    }


def _simulation_cells(simulation: Simulation, preset: str, where: str) -> Iterator[SimulationCell]:
    merged = at_preset(simulation, preset)
    base = {key: value for key, value in merged.items() if key not in ("axes", "cases")}
    for keys in combinations(merged["axes"], merged["cases"]):
        yield parse_simulation(with_keys(base, keys, where), where)
