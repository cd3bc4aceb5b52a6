"""Configuration: what to run (studies), at which size (presets), and how (settings).

Three kinds of YAML file, every one validated and every unknown key refused:

- `config/config.yaml`: `Settings`, how to run; the workflow's `--config` overrides them.
- `config/presets/<preset>.yaml`: `Preset`, defaults of one size of the whole replication.
- `studies/<study>/study.yaml`: `Study`, the grids, figures and tables of one paper. Each grid is
  written as published and may say what `quick` and `smoke` change.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import AfterValidator, Field

from stalegrad import specs
from stalegrad.io.errors import ConfigError
from stalegrad.io.paths import expanded, folder_to_make
from stalegrad.planning.studies import CONTENT, find_studies


def _without_braces(path: str) -> str:
    if "{" in path or "}" in path:
        raise ValueError("braces in a path are Snakemake's own; choose another name")
    return path


UserPath = Annotated[str, AfterValidator(expanded)]
# Of files that rules name.
WorkflowPath = Annotated[UserPath, AfterValidator(_without_braces)]
OutputFolder = Annotated[str, AfterValidator(folder_to_make), AfterValidator(_without_braces)]
Count = Annotated[int, Field(ge=1)]
Seeds = Annotated[int, Field(ge=1, le=10_000)]


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("it must be one value: a finite number, text, true, false or null")


Scalar = Annotated[Any, AfterValidator(_scalar)]
# An empty axis, or none of any case, would make a grid of no cells.
Axes = dict[str, Annotated[list[Scalar], Field(min_length=1)]]
CaseList = Annotated[list[dict[str, Scalar]], Field(min_length=1)]


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False
    )


class Settings(_Model):
    """`config/config.yaml`: which results are made, and where; not what a result means.

    preset: see `Preset`. studies_folders: where studies are, relative to the folder that holds
    `config/`. studies: their names; null for all. device, backend: `auto` takes CUDA if there is
    any, and the fastest backend that can do the problem (see `training.backends`).
    threads: of a bundle. data_folder: of the data sets; local_data: where to look for them before
    any network. results_folder: results are written to its folder `<preset>`. In
    these paths `~` and variables of the environment are expanded (see `io.paths`).
    recompute: train archived runs again (see `analysis.archive`).
    measured_only: train nothing, and use archived runs, trajectories and landscapes alone. Of each
    grid, those seeds are used that the archive holds for all cells. A figure or table whose results
    are missing says that it is not measured yet.
    check_minutes: how long archived runs, drawn at random, are trained afresh to be held to the
    archive (see `analysis.spot_check`); 0 for no such check. check_seed: of the draw; null for one
    drawn anew. Both count where the archive is used and runs may be trained: `Plan.is_checked`.
    """

    preset: Literal["smoke", "quick", "paper"] = "quick"
    studies_folders: Annotated[list[WorkflowPath], Field(min_length=1)] = ["studies"]
    studies: Annotated[list[str], Field(min_length=1)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["auto", "cpu", "torch", "batched", "batched_tf32"] = "auto"
    threads: Count = 1
    data_folder: OutputFolder = "resources/data"
    local_data: UserPath | None = None
    results_folder: OutputFolder = "results"
    recompute: bool = False
    measured_only: bool = False
    check_minutes: Annotated[float, Field(ge=0)] = 0.0
    check_seed: Annotated[int, Field(ge=0)] | None = None

    @pydantic.field_validator("measured_only")
    @classmethod
    def _of_the_archive(cls, value: bool, settings: pydantic.ValidationInfo) -> bool:
        if value and (settings.data.get("preset") != "paper" or settings.data.get("recompute")):
            raise ValueError(
                "measured/ holds runs of the paper preset, so this needs 'preset' paper, and "
                "'recompute' false"
            )
        return value


class Preset(_Model):
    """`config/presets/<preset>.yaml`: defaults for every grid that does not set its own.

    seeds: how many seeds each cell is run with. bundle_size: runs trained together in one job.
    bundle_memory: megabytes that the runs of one job may hold: weights, rule state, and the weights
    kept for gradients in flight.
    """

    title: str
    seeds: Seeds
    bundle_size: Count
    bundle_memory: Count = 2_000


class Cases(_Model):
    """Cells to run: the product of the axes, for each of the cases.

    cell: keys common to all cells. axes: key -> values, crossed. cases: sets of keys that change
    together. Keys inside a part are dotted: `rule.lr`.
    """

    cell: dict[str, Any] = {}
    axes: Axes = {}
    cases: CaseList = [{}]
    seeds: Seeds | None = None


class Grid(Cases):
    """One published table or figure made of training runs, with what thinner presets change."""

    quick: Cases | None = None
    smoke: Cases | None = None


class TrajectoryCases(Cases):
    per_epoch: Count | None = None


class Trajectory(TrajectoryCases):
    """Runs recorded at their start and `per_epoch` times in every epoch.

    gradient_batches: record also the variance of the gradient over so many minibatches, and the
    length of their mean (see `training.gradient_noise`); null records neither.
    """

    per_epoch: Count
    gradient_batches: Annotated[int, Field(ge=2)] | None = None
    quick: TrajectoryCases | None = None
    smoke: TrajectoryCases | None = None


class LandscapeCases(TrajectoryCases):
    resolution: Annotated[int, Field(ge=2)] | None = None
    margin: Annotated[float, Field(ge=0)] | None = None
    left_out: dict[str, Scalar] | None = None


class Landscape(LandscapeCases):
    """The loss around runs, in the plane of the first two principal components of their weights.

    The weights are taken at the start and `per_epoch` times in every epoch. The plane is cut into
    `resolution` x `resolution` points over the range of the projected weights, widened on each side
    by `margin` times that range. Runs in which every key of `left_out` (dotted, as in axes) has the
    value given are projected, but decide neither plane nor range.
    """

    per_epoch: Count
    resolution: Annotated[int, Field(ge=2)]
    margin: Annotated[float, Field(ge=0)] = 1.0
    left_out: dict[str, Scalar] = {}
    quick: LandscapeCases | None = None
    smoke: LandscapeCases | None = None


class SimulationCases(_Model):
    """Clusters simulated for their staleness alone; no gradient is computed.

    Axes and cases change keys of `cluster` (`cluster.workers`) or any of the others, which
    `planning.cell.SimulationCell` describes.
    """

    cluster: dict[str, Any] = {}
    axes: Axes = {}
    cases: CaseList = [{}]
    arrivals: Count | None = None
    updates: Count | None = None
    replicates: Count | None = None
    skip: Annotated[int, Field(ge=0)] | None = None
    schedule: bool | None = None


class Simulation(SimulationCases):
    quick: SimulationCases | None = None
    smoke: SimulationCases | None = None


class Product(_Model):
    """A figure or table: its caption, and the function that makes it.

    make: `<module>.<function>`, of a module of the study or of `stalegrad.analysis`; null is the
    study's own module (`figures` or `tables`) and the product's own name.
    """

    caption: str
    make: str | None = None


class HeatMaps(_Model):
    """For the page: the published and our values of a table as two heat maps that answer the
    pointer.

    table: of the study, with the columns `published` and `mean`. x, y: its columns that tell the
    cells of a map apart. panels: the column that has a pair of maps for each of its values.
    """

    table: str
    x: str
    y: str
    panels: str | None = None


class Curves(_Model):
    """For the page: one line a run, each answering the pointer with its run.

    grids: of the study. y, x: columns of `history.csv`. panels: columns of `runs.csv` of which each
    combination of values has a panel; colour: the column that colours the lines. log: y is drawn
    on a logarithmic axis.
    """

    grids: Annotated[list[str], Field(min_length=1)]
    y: str
    x: str = "epoch"
    panels: list[str] = []
    colour: str | None = None
    log: bool = False


class Study(_Model):
    """`<study>/study.yaml`: everything that is regenerated of one paper.

    traces: runs that are followed update by update beside their virtual iterates (see
    `analysis.virtual_iterates`). trajectories: runs recorded several times an epoch. landscapes:
    the loss around runs (see `analysis.landscapes`). heat_maps, curves: what the page shows beside
    the figure of the same name.
    """

    title: str
    cite: str
    grids: dict[str, Grid] = {}
    simulations: dict[str, Simulation] = {}
    traces: dict[str, Grid] = {}
    trajectories: dict[str, Trajectory] = {}
    landscapes: dict[str, Landscape] = {}
    figures: dict[str, Product] = {}
    tables: dict[str, Product] = {}
    heat_maps: dict[str, HeatMaps] = {}
    curves: dict[str, Curves] = {}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises ConfigError if the file is missing, holds no mapping, or has a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "nothing"
        raise ConfigError(f"{path}: there is no such file; {path.parent} holds {there}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: must hold keys and values, not {type(content).__name__}.")
    if not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: every key must be text.")
    return dict(content)


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML readers silently take the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line}: the key '{key.value}' stands there twice")
                seen.add(key.value)
        return node


def load_settings(values: Mapping[str, Any], where: str = "config/config.yaml") -> Settings:
    """Settings from plain values, such as Snakemake's merged `config`.

    Snakemake's `--config` passes `true`, `false` and `null` as text; they are read as in YAML.
    """
    words = {"true": True, "false": False, "null": None}
    plain = {k: words.get(v, v) if isinstance(v, str) else v for k, v in values.items()}
    return specs.validate(Settings, plain, where=where)


def load_preset(name: str, folder: Path = Path("config")) -> Preset:
    path = folder / "presets" / f"{name}.yaml"
    return specs.validate(Preset, read_yaml(path), where=str(path))


def load_study(home: Path) -> Study:
    """The study in the folder `home`."""
    path = home / CONTENT
    study = specs.validate(Study, read_yaml(path), where=str(path))
    for key, name, kind in _named_for_the_page(study):
        if name not in (there := getattr(study, kind)):
            raise ConfigError(
                f"{path}: '{key}' names {name!r}, which is not among the {kind} of this study; "
                f"choose from: {', '.join(there) or 'none, since it has none'}."
            )
    return study


def _named_for_the_page(study: Study) -> Iterator[tuple[str, str, str]]:
    """What charts of the page name: the key that does, the name, and what it must be one of."""
    for name, maps in study.heat_maps.items():
        yield f"heat_maps.{name}", name, "figures"
        yield f"heat_maps.{name}.table", maps.table, "tables"
    for name, curves in study.curves.items():
        yield f"curves.{name}", name, "figures"
        for grid in curves.grids:
            yield f"curves.{name}.grids", grid, "grids"


def study_homes(settings: Settings, folder: Path = Path("config")) -> dict[str, Path]:
    """Name -> folder of the studies to run: those that settings name, else all there are.

    folder: that of the configuration.
    """
    there = find_studies(folder.parent / name for name in settings.studies_folders)
    if settings.studies is None:
        return there
    for name in settings.studies:
        if name not in there:
            raise ConfigError(
                f"config/config.yaml: 'studies' names {name!r}, which is not known; choose from: "
                f"{', '.join(there)}."
            )
    return {name: there[name] for name in settings.studies}


def at_preset(grid: Grid | Simulation | Trajectory | Landscape, preset: str) -> dict[str, Any]:
    """The grid's keys, with the changes that `preset` makes.

    `cell`, `cluster` and `axes` are merged key by key; everything else is replaced. `paper` is the
    grid as written.
    """
    base = grid.model_dump(exclude={"quick", "smoke"})
    override = getattr(grid, preset, None)
    if override is None:
        return base
    changes = override.model_dump(exclude_unset=True)
    for key in ("cell", "cluster", "axes"):
        if key in changes:
            base[key] = _merged(base[key], changes.pop(key))
    return base | changes


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if nested else value
    return out
