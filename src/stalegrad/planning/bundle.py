"""Bundles: runs that are trained in one job, and how runs are grouped into them."""

import functools
import itertools
import json
import math
from dataclasses import dataclass

from stalegrad import specs
from stalegrad.io.errors import ConfigError
from stalegrad.planning import memory
from stalegrad.planning.cell import Cell, described, digest, parse_cell
from stalegrad.planning.config import Preset
from stalegrad.problems import runs_in_step

# How a bundle says what is recorded of its runs, and the least of each.
_RECORDED = {"per_epoch": 1, "gradient_batches": 2}

# The calls around a step of a small problem cost as much as this many weights times samples.
_WORK_OF_A_CALL = 400_000


@dataclass(frozen=True)
class Bundle:
    """Runs of one problem that are trained in one job and written to one file.

    Runs with the same `lockstep_key` can be stepped together, as one batch of models.
    per_epoch: record each run at its start and this many times in each epoch; None records it at
        the end of every epoch.
    gradient_batches: record also the variance of the gradient over so many minibatches.
    """

    cells: tuple[Cell, ...]
    per_epoch: int | None = None
    gradient_batches: int | None = None

    @functools.cached_property
    def hash(self) -> str:
        given = [self.per_epoch, self.gradient_batches]
        recorded = [value for value in given if value is not None]
        return digest([*(cell.hash for cell in self.cells), *recorded])

    def megabytes(self) -> int:
        """Memory to request for a job with this bundle."""
        return memory.of_job(self.cells)

    def work(self) -> float:
        """Weights times samples, plus a fixed amount for each call that steps runs together.

        It compares jobs, and is the same on every machine. `training.speed` estimates seconds.
        """
        samples = sum(cell.samples() for cell in self.cells)
        steps = sum(cell.samples() // cell.batch_size for cell in self.cells)
        parameters = self.cells[0].problem.parameters()
        calls = steps / min(runs_in_step(parameters), len(self.cells))
        return samples * parameters + calls * _WORK_OF_A_CALL

    def recordings(self, cell: Cell) -> int:
        """How often a run of it is recorded, its start included where that is recorded."""
        return cell.epochs if self.per_epoch is None else cell.epochs * self.per_epoch + 1

    def to_json(self) -> str:
        content = {"cells": [cell.as_dict() for cell in self.cells]}
        content |= {name: getattr(self, name) for name in _RECORDED}
        return json.dumps({k: v for k, v in content.items() if v is not None}, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str) -> "Bundle":
        """Raises ConfigError where `text` is not what `to_json` writes."""
        try:
            content = json.loads(text)
            cells, recorded = content["cells"], {name: content.get(name) for name in _RECORDED}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{where}: not a bundle; it must be JSON with a list 'cells', as "
                f"`stalegrad bundles` writes it."
            ) from None
        if not isinstance(cells, list) or not cells:
            raise ConfigError(f"{where}: 'cells' must be a list of at least one cell.")
        for name, value in recorded.items():
            if value is not None and (type(value) is not int or value < _RECORDED[name]):
                raise ConfigError(
                    f"{where}: '{name}' is {value!r}; it must be a whole number >= "
                    f"{_RECORDED[name]}."
                )
        parsed = tuple(parse_cell(c, f"{where}, cell {i}") for i, c in enumerate(cells))
        if len({cell.problem for cell in parsed}) > 1:
            raise ConfigError(f"{where}: the cells of a bundle must share one problem.")
        return cls(parsed, **recorded)


@dataclass(frozen=True)
class LandscapeCell:
    """What decides a loss landscape (see `planning.config.Landscape`).

    left_out: hashes of the runs that do not decide the plane.
    """

    runs: Bundle
    resolution: int
    margin: float
    left_out: tuple[str, ...] = ()

    def megabytes(self) -> int:
        """Memory a job that computes it may take: PyTorch and the data, all weights recorded a few
        times over in float64, and the images of a chunk of points going through the network."""
        recorded = sum(map(self.runs.recordings, self.runs.cells))
        weights = recorded * self.runs.cells[0].problem.parameters() * 8 / 1e6
        return math.ceil(2_000 + 5 * weights)

    @property
    def hash(self) -> str:
        return digest([self.runs.hash, self.resolution, self.margin, *self.left_out])


def bundles(cells: list[Cell], preset: Preset) -> list[Bundle]:
    """Distinct runs grouped into bundles; runs that can be stepped together are neighbours.

    A bundle holds runs of one problem: at most `bundle_size` times `runs_in_step` of the problem,
    and fewer where these would take more than `bundle_memory` megabytes. Raises ConfigError if one
    run alone takes more.
    """
    distinct = list({cell.hash: cell for cell in cells}.values())
    out: list[Bundle] = []
    for problem in dict.fromkeys(cell.problem for cell in distinct):
        alike = [cell for cell in distinct if cell.problem == problem]
        alike.sort(key=lambda cell: (lockstep_key(cell), _held(cell)))
        needs = [_held(cell) for cell in alike]
        _check_largest(max(alike, key=_held), preset)
        size = preset.bundle_size * runs_in_step(problem.parameters())
        for count in range(math.ceil(len(alike) / size), len(alike) + 1):
            bounds = [len(alike) * i // count for i in range(count + 1)]
            cuts = [slice(a, b) for a, b in itertools.pairwise(bounds)]
            if max(sum(needs[cut]) for cut in cuts) <= preset.bundle_memory:
                break
        out += [Bundle(tuple(alike[cut])) for cut in cuts]
    return out


def lockstep_key(cell: Cell) -> str:
    """A key that is equal for cells whose runs can be stepped together: only numbers differ."""
    switches = {k: v if isinstance(v, bool) else None for k, v in cell.rule.numbers().items()}
    rule, grouping = specs.name_of(cell.rule), cell.cluster.arrivals_per_update()
    sizes = [cell.batch_size, cell.epochs, grouping, cell.local_steps]
    return json.dumps([rule, switches, *sizes], sort_keys=True)


def _held(cell: Cell) -> float:
    """Megabytes that a run of it holds from its beginning to its end."""
    return memory.of_cell(cell).held


def _check_largest(cell: Cell, preset: Preset) -> None:
    if _held(cell) > preset.bundle_memory:
        raise ConfigError(
            f"preset '{preset.title}': 'bundle_memory' is {preset.bundle_memory}, but a run takes "
            f"{_held(cell):,.0f} megabytes with its {cell.cluster.in_flight()} gradients in "
            f"flight (cell {cell.hash}); allow more, or leave that cell out. {described(cell)}"
        )
