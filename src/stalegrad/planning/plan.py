"""The plan of a whole replication: what the workflow makes, expanded from configuration.

Read by the Snakefile at every start, so it imports neither torch nor pandas.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stalegrad.io.errors import ConfigError
from stalegrad.io.files import archived_folder, archived_runs, is_kept
from stalegrad.planning import expand, freshness, sources
from stalegrad.planning.bundle import Bundle, LandscapeCell, bundles
from stalegrad.planning.cell import Cell, SimulationCell
from stalegrad.planning.config import (
    Preset,
    Product,
    Settings,
    Study,
    load_preset,
    load_settings,
    load_study,
    study_homes,
)
from stalegrad.planning.sources import PACKAGE
from stalegrad.planning.studies import CONTENT, archive_of

SOURCE = "src/stalegrad"
# Half a million images through LeNet-5: some seconds, while a job that imports torch takes about
# three to start. The limit is work, not measured seconds: which bundles share a job must be the
# same in every job, on every node and in later calls, or Snakemake would train bundles again that
# move from one rule to another.
SHORT_WORK = 3.2e10


@dataclass(frozen=True)
class Plan:
    """Settings, preset and studies, checked and expanded.

    homes: study -> its folder. folder: where the configuration stands.
    """

    settings: Settings
    preset: Preset
    studies: Mapping[str, Study]
    homes: Mapping[str, Path]
    folder: Path

    @classmethod
    def load(cls, values: Mapping[str, Any], folder: Path = Path("config")) -> "Plan":
        """From the settings' plain values. Raises ConfigError for any mistake, down to the last
        cell of the last grid."""
        settings = load_settings(values)
        homes = study_homes(settings, folder)
        studies = {name: load_study(home) for name, home in homes.items()}
        plan = cls(settings, load_preset(settings.preset, folder), studies, homes, folder)
        for expanded in ("bundles", "simulations", "traces", "trajectories", "landscapes"):
            getattr(plan, expanded)
        return plan

    @cached_property
    def grids(self) -> dict[str, dict[str, list[Cell]]]:
        """Study -> grid -> its runs; with `measured_only`, the seeds and grids measured in full."""
        grids = self.grids_at(self.settings.preset, self.preset)
        if not self.settings.measured_only:
            return grids
        return {name: _measured(self.archive(name), study) for name, study in grids.items()}

    def grids_at(self, name: str, preset: Preset) -> dict[str, dict[str, list[Cell]]]:
        """Study -> grid -> all its runs at a preset, which need not be the plan's own."""
        return self._expanded(expand.study_cells, name, preset)

    def _expanded(
        self, expand: Callable[[Study, str, Preset, str], Any], name: str, preset: Preset
    ) -> dict[str, Any]:
        """Study -> what one of the functions `expand.study_...` makes of it at a preset."""
        return {
            study: expand(content, name, preset, self._file(study))
            for study, content in self.studies.items()
        }

    @cached_property
    def bundles(self) -> dict[str, dict[str, Bundle]]:
        """Study -> hash -> bundle: the runs to train."""
        out = {}
        for name, grids in self.grids.items():
            known = self.archived(name)
            runs = [c for grid in grids.values() for c in grid if c.hash not in known]
            try:
                cut = bundles(runs, self.preset)
            except ConfigError as error:
                preset = self.folder / "presets" / f"{self.settings.preset}.yaml"
                raise ConfigError(f"{self._file(name)} with {preset}: {error}") from None
            out[name] = {bundle.hash: bundle for bundle in cut}
        return out

    def short_bundles(self, study: str) -> dict[str, Bundle]:
        """Bundles with so little work that a job for each would spend most of its time starting;
        they are trained in one job."""
        bundles = self.bundles[study].items()
        return {h: bundle for h, bundle in bundles if bundle.work() < SHORT_WORK}

    def archive(self, study: str) -> Path:
        """The folder of a study's archived runs."""
        return archive_of(self.homes[study])

    def archived(self, study: str) -> set[str]:
        """Runs taken from the archive and not trained: at `paper`, unless `recompute` is set."""
        if self.settings.preset != "paper" or self.settings.recompute:
            return set()
        return archived_runs(self.archive(study))

    @property
    def is_checked(self) -> bool:
        """Whether some archived runs are trained afresh and held to the archive."""
        settings = self.settings
        trains = not settings.recompute and not settings.measured_only
        return settings.preset == "paper" and trains and settings.check_minutes > 0

    def archive_files(self, study: str) -> list[Path]:
        """All files of a study's archive that a check reads, sorted."""
        archive = self.archive(study)
        kept = [archive / kind for kind in ("trajectories", "landscapes")]
        within = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
        return sorted([*(path for path in archive.glob("*") if path.is_file()), *within])

    def kept(self, study: str, kind: str, content: str) -> str:
        """The folder of the archive that a trajectory or landscape (`kind`) is taken from; '' where
        it is made: see `archived`."""
        if self.settings.preset != "paper" or self.settings.recompute:
            return ""
        folder = archived_folder(self.archive(study), kind, content)
        return str(folder) if is_kept(folder) else ""

    @cached_property
    def simulations(self) -> dict[str, dict[str, list[SimulationCell]]]:
        """Study -> simulation -> its clusters."""
        return {
            name: expand.study_simulations(study, self.settings.preset, self._file(name))
            for name, study in self.studies.items()
        }

    @cached_property
    def traces(self) -> dict[str, dict[str, list[Cell]]]:
        """Study -> trace -> its runs."""
        return self._expanded(expand.study_traces, self.settings.preset, self.preset)

    @cached_property
    def trajectories(self) -> dict[str, dict[str, Bundle]]:
        """Study -> trajectory -> its runs and how often they are recorded."""
        found = self._expanded(expand.study_trajectories, self.settings.preset, self.preset)
        return self._measured_of("trajectories", found)

    @cached_property
    def landscapes(self) -> dict[str, dict[str, LandscapeCell]]:
        """Study -> landscape -> its runs and its grid."""
        found = self._expanded(expand.study_landscapes, self.settings.preset, self.preset)
        return self._measured_of("landscapes", found)

    def _measured_of(
        self, kind: str, found: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """With `measured_only`, those trajectories or landscapes that the archive keeps."""
        if not self.settings.measured_only:
            return found
        return {
            study: {name: one for name, one in of.items() if self.kept(study, kind, one.hash)}
            for study, of in found.items()
        }

    @cached_property
    def figures(self) -> dict[str, tuple[str, str, Product]]:
        """File name -> study, name within it, product."""
        return self._products("figures")

    @cached_property
    def tables(self) -> dict[str, tuple[str, str, Product]]:
        return self._products("tables")

    def _products(self, kind: str) -> dict[str, tuple[str, str, Product]]:
        return {
            f"{study}_{name}": (study, name, product)
            for study, content in self.studies.items()
            for name, product in getattr(content, kind).items()
        }

    def outputs(self, study: str) -> list[str]:
        """The files that gathering a study writes to `results/<preset>/<study>/`."""
        content = self.studies[study]
        files = ["runs.csv", "history.csv"] if content.grids else []
        if content.simulations:
            files += ["staleness.csv", *(f"schedules/{name}.npz" for name in content.simulations)]
        files += [f"traces/{name}.csv" for name in content.traces]
        files += [f"trajectories/{name}.csv" for name in self.trajectories[study]]
        kinds = (".npz", ".csv", "_lines.csv")
        return files + [f"landscapes/{name}{k}" for name in self.landscapes[study] for k in kinds]

    def products_kept(self, study: str) -> dict[tuple[str, str], dict[str, str]]:
        """(kind, content hash) -> name in the archive -> file below `results/<preset>/<study>/`, of
        each trajectory and landscape."""
        files = {
            ("trajectories", bundle.hash): {
                "history": f"trajectories/{name}.csv",
                "provenance": f"trajectories/{name}.csv.provenance.json",
            }
            for name, bundle in self.trajectories[study].items()
        }
        return files | {
            ("landscapes", cell.hash): {
                "grid": f"landscapes/{name}.npz",
                "points": f"landscapes/{name}.csv",
                "lines": f"landscapes/{name}_lines.csv",
                "provenance": f"landscapes/{name}.npz.provenance.json",
            }
            for name, cell in self.landscapes[study].items()
        }

    def digest(self, study: str) -> str:
        """A digest of the runs of a study, the grids they belong to, and the code of training."""
        runs = {name: [cell.hash for cell in grid] for name, grid in self.grids[study].items()}
        code = freshness.digest(self.code_of("training.bundles", *self.bundles[study].values()))
        return _digest(json.dumps([runs, sorted(self.archived(study)), code]))

    def products_digest(self, study: str, *kinds: str) -> str:
        """A digest of all that decides a study's figures, tables or claims (`kinds`): the results
        they read (`outputs`), the code that makes these, and their own code."""
        trajectories, landscapes = self.trajectories[study], self.landscapes[study]
        traces = {name: Bundle(tuple(cells)) for name, cells in self.traces[study].items()}
        beside: list[Mapping[str, Bundle | LandscapeCell]] = [trajectories, landscapes, traces]
        hashes = [{name: each.hash for name, each in of.items()} for of in beside]
        recorded = [*trajectories.values(), *(each.runs for each in landscapes.values())]
        code = {
            *self.code_of("analysis.landscapes", *recorded),
            *self.code_of("analysis.virtual_iterates", *traces.values()),
            *self.simulation_code(study),
            *self.code(study, *kinds),
        }
        parts = [
            self.digest(study),
            json.dumps(hashes),
            repr(self.simulations[study]),
            freshness.digest([*self.published(study), *code]),
        ]
        return _digest(" ".join(parts))

    def datasets(self, bundle: Bundle) -> list[str]:
        return sorted({d for cell in bundle.cells for d in cell.problem.datasets()})

    @staticmethod
    def code_of(module: str, *bundles: Bundle) -> list[Path]:
        """The files that decide what a module of the package computes of bundles."""
        return freshness.code_of(module, [cell for bundle in bundles for cell in bundle.cells])

    def simulation_code(self, study: str) -> list[Path]:
        """The files that decide what the simulations of a study give."""
        cells = [cell for of in self.simulations[study].values() for cell in of]
        return freshness.code_of("analysis.simulations", cells)

    def products(self, study: str, kind: str) -> dict[str, dict[str, str | None]]:
        """The figures or tables of a study as plain values."""
        return {
            n: product.model_dump() for n, product in getattr(self.studies[study], kind).items()
        }

    def code(self, study: str, *kinds: str) -> list[Path]:
        """The files that decide a study's figures, tables or claims (`kinds`)."""
        home, files = self.homes[study], {PACKAGE / "analysis" / "products.py"}
        for kind in kinds:
            files |= {PACKAGE / "analysis" / f"{kind}.py", home / f"{kind}.py"}
            made = {} if kind == "claims" else getattr(self.studies[study], kind)
            for name, product in made.items():
                if product.make:
                    files.add(sources.find_maker(kind, home, name, product.make)[0])
        return sorted(freshness.closure(*(file for file in files if file.exists())))

    def check_code(self) -> None:
        """Raises ConfigError if a function that makes a figure or table does not exist, a module of
        figures, tables or claims imports what does not exist, or a claim has no quotation."""
        for study, content in self.studies.items():
            for kind in ("figures", "tables"):
                for name, product in getattr(content, kind).items():
                    sources.find_maker(kind, self.homes[study], name, product.make)
            for file in self.code(study, "figures", "tables", "claims"):
                if file.suffix == ".py":
                    sources.check_imports(file)
            if (claims := self.homes[study] / "claims.py").exists():
                sources.check_claims(claims)

    def published(self, study: str) -> list[str]:
        """Files with a paper's own numbers."""
        return sorted(map(str, (self.homes[study] / "published").glob("*.csv")))

    def _file(self, study: str) -> str:
        return str(self.homes[study] / CONTENT)


def as_inputs(files: Iterable[Path]) -> list[str]:
    """Source files as the workflow's rules name them: those of the package below SOURCE."""
    return [
        f"{SOURCE}/{file.relative_to(PACKAGE)}" if file.is_relative_to(PACKAGE) else str(file)
        for file in sorted(files)
    ]


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _measured(archive: Path, grids: Mapping[str, list[Cell]]) -> dict[str, list[Cell]]:
    """Of each grid, the runs of the seeds that the archive holds in full; empty grids left out."""
    held, known = {}, archived_runs(archive)
    for name, grid in grids.items():
        lacking = {cell.seed for cell in grid if cell.hash not in known}
        if whole := [cell for cell in grid if cell.seed not in lacking]:
            held[name] = whole
    if grids and not held:
        raise ConfigError(
            f"config/config.yaml: 'measured_only' is set, but {archive} holds no seed of all "
            f"the cells of any grid. measured/README.md says how they are made; or leave "
            f"{archive.parent.name} out of 'studies'."
        )
    return held
