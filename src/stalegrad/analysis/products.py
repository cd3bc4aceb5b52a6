"""Making the figures and tables of a study: finding the function of each, and calling them all."""

import importlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ResultError
from stalegrad.io.files import write_atomically
from stalegrad.planning.sources import PACKAGE, find_maker
from stalegrad.planning.studies import study_module


def maker(kind: str, home: Path, name: str, make: str | None) -> Callable[[StudyResults], Any]:
    """The function for a product of the study in `home`, imported; see `sources.find_maker`."""
    file, function = find_maker(kind, home, name, make)
    if file.is_relative_to(PACKAGE):
        module = importlib.import_module(f"stalegrad.analysis.{file.stem}")
    else:
        module = study_module(home, file.stem)
    return getattr(module, function)


def make_all(
    kind: str,
    results: StudyResults,
    products: Mapping[str, Mapping[str, str | None]],
    write: Callable[[Path, Any], None],
    stand_in: Callable[[str], Any] | None = None,
) -> None:
    """Make all figures or tables of a study, and beside each its caption (.rst).

    products: name -> `make` and `caption`, as in the study's configuration. write: called with a
    path without suffix, `<results>/<kind>/<study>_<name>`, and the product. stand_in: takes the
    reason and makes what is written for a product whose results are missing; without it, such a
    product has failed.

    A product that fails does not stop the others: its traceback is printed, and at the end a
    ResultError names those that failed.
    """
    failed = []
    for name, product in products.items():
        path = results.folder.parent / kind / f"{results.study}_{name}"
        try:
            made = _made(maker(kind, results.home, name, product["make"]), results, stand_in)
            # Before the product: a job that was ended between is run again where that is missing.
            write_atomically(path.with_suffix(".rst"), f"{product['caption']}\n")
            write(path, made)
        except Exception as error:  # whatever it is, the others do not depend on it
            traceback.print_exc()
            failed.append(f"{path.name} ({' '.join(str(error).split()) or type(error).__name__})")
    if failed:
        raise ResultError(
            f"{len(failed)} of {len(products)} {kind} of {results.study} could not be made: "
            f"{'; '.join(failed)}."
        )


def _made(
    make: Callable[[StudyResults], Any],
    results: StudyResults,
    stand_in: Callable[[str], Any] | None,
) -> Any:
    try:
        return make(results)
    except ResultError as error:
        if stand_in is None:
            raise
        return stand_in(" ".join(str(error).split()))
