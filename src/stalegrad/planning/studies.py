"""Studies: a paper is a folder, found by its name.

    <study>/study.yaml      grids, figures and tables, as `stalegrad.planning.config.Study` has them
    <study>/tables.py       functions that make its tables; likewise figures.py and claims.py
    <study>/published/      the paper's own numbers, as CSV
    <study>/section.tex     its section of the report, and references.bib what it cites
    <study>/criteria.csv    criteria that were changed after runs, and why
    <study>/notebook.py     its notebook
    <study>/measured/       its archived runs

Only the first is required. Modules of a study import one another by `from .tables import ...`.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from stalegrad.io.errors import ConfigError

CONTENT = "study.yaml"
SECTION, REFERENCES, CRITERIA = "section.tex", "references.bib", "criteria.csv"
ARCHIVE = "measured"


def find_studies(folders: Iterable[Path]) -> dict[str, Path]:
    """Name -> folder of every study in `folders`, sorted by name.

    Raises ConfigError if a folder does not exist, or if two studies have one name.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(
                f"config/config.yaml: 'studies_folders' names {folder}, which is no folder; name "
                f"folders that hold studies."
            )
        for home in sorted(path.parent for path in folder.glob(f"*/{CONTENT}")):
            if home.name in found:
                raise ConfigError(
                    f"config/config.yaml: 'studies_folders' has two studies called '{home.name}', "
                    f"{found[home.name]} and {home}; rename one of them."
                )
            found[home.name] = home
    return dict(sorted(found.items()))


def archive_of(home: Path) -> Path:
    """The folder of the archived runs of the study in `home`."""
    return home / ARCHIVE


def words_of(home: Path) -> list[Path]:
    """What the report takes from the study in `home` as it stands there."""
    files = (home / name for name in (SECTION, REFERENCES, CRITERIA))
    return [file for file in files if file.exists()]


def study_module(home: Path, name: str) -> ModuleType:
    """The module `<name>.py` of the study in `home`, imported.

    Raises ModuleNotFoundError, whose `name` ends in `.<name>`, where there is none.
    """
    return importlib.import_module(f"{_package(home)}.{name}")


def _package(home: Path) -> str:
    """The package whose modules are the files in `home`, created if need be.

    Its name contains a digest of the path, so that folders of one name stay apart.
    """
    place = str(home.resolve())
    name = f"stalegrad_study_{home.name}_{hashlib.sha256(place.encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [place]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    importlib.invalidate_caches()  # a file may have been written since
    return name
