"""What the server tells its workers when they connect: the cell, and how it is computed."""

from collections.abc import Mapping
from typing import Any

import torch

from stalegrad import specs
from stalegrad.io.errors import ConfigError
from stalegrad.planning.cell import Cell, check_cell
from stalegrad.recording.processes import Processes

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}


def recorded_cell(values: Mapping[str, Any], where: str) -> Cell:
    """A cell whose cluster is real processes, from plain values, checked key by key.

    Raises ConfigError as `planning.cell.parse_cell`.
    """
    parts = dict(values)
    for key, kind in {"problem": "problems", "rule": "rules"}.items():
        parts[key] = specs.parse(kind, values.get(key), where=where, key=key)
    keys = {key: value for key, value in values["cluster"].items() if key != "name"}
    parts["cluster"] = specs.validate(Processes, keys, where=where, key="cluster")
    cell = specs.validate(Cell, parts, where=where)
    check_cell(cell, where)
    return cell


def plan_of(
    cell: Cell, data_folder: str, backend: str, precision: str, patience: float
) -> dict[str, Any]:
    """What `links.set_plan` tells the workers; `cell_of` and `precision` read it."""
    return {
        "cell": cell.as_dict(),
        "data_folder": data_folder,
        "backend": backend,
        "precision": precision,
        "patience": patience,
    }


def cell_of(plan: Mapping[str, Any], where: str) -> Cell:
    return recorded_cell(plan["cell"], where)


def precision(plan: Mapping[str, Any]) -> torch.dtype:
    name = plan["precision"]
    if name not in PRECISIONS:
        raise ConfigError(f"'precision' is {name!r}; choose {' or '.join(PRECISIONS)}.")
    return PRECISIONS[name]
