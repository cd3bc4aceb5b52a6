"""What the notebooks share: a study's results, showing them, and saying what is not there."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.style import style
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.io.paths import read_path

# Of formulas in labels: spaces, and what is not read aloud.
_SPACE, _MARKUP = re.compile(r"\\(?:quad|[,;])|\n"), re.compile(r"[${}\\]")


def open_results(home: str | Path) -> StudyResults:
    """The results of the study in the folder `home`, at the preset and in the folder that the
    environment names: STALEGRAD_PRESET (`quick` where it is not set) and STALEGRAD_RESULTS
    (`results`). STALEGRAD_STUDY names another folder of the study.
    """
    home = _path_of("STALEGRAD_STUDY", home)
    preset = os.environ.get("STALEGRAD_PRESET", "quick")
    folder = _path_of("STALEGRAD_RESULTS", "results")
    return StudyResults(home, preset, folder / preset / home.name)


def _path_of(variable: str, otherwise: str | Path) -> Path:
    """The path that a variable of the environment names. Raises ConfigError where it names none."""
    try:
        return read_path(os.environ.get(variable, str(otherwise)))
    except ValueError as error:
        raise ConfigError(f"{variable} is {os.environ[variable]!r}: {error}.") from None


@contextmanager
def as_far_as_made() -> Iterator[None]:
    """Inside, figures look like the report's; results that are not there end it with a sentence.

    So do cells that a thinned grid leaves out, and results older than the code.
    """
    try:
        with style():
            yield
    except (ResultError, LookupError) as error:
        said = " ".join(str(error).split())
        print(f"Not shown, because the results it needs are not there ({said}).")


def show(what: Any) -> None:
    """Display a figure (as a picture, whatever matplotlib's backend), a table or anything else."""
    from IPython.display import Image, display

    if not isinstance(what, Figure):
        shown = {"max_colwidth": None, "max_columns": None, "float_format": "{:.5g}".format}
        options = [part for name, value in shown.items() for part in (f"display.{name}", value)]
        with pd.option_context(*options):
            display(what)
        return
    picture = io.BytesIO()
    what.savefig(picture, format="png")
    pyplot.close(what)
    display(Image(picture.getvalue(), width=100 * what.get_figwidth(), alt=described(what)))


def described(figure: Figure) -> str:
    """What a figure shows, for those who cannot see it: its panels by their titles and axes."""
    panels = [figure.get_suptitle(), *map(_panel, figure.axes)]
    found = dict.fromkeys(panel for panel in panels if panel)
    text = f"Figure: {'; '.join(found)}." if found else "Figure."
    return _MARKUP.sub("", _SPACE.sub(" ", text))


def _panel(axes: Axes) -> str:
    """'title: y over x', as far as it has them."""
    over = " over ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))
    return ": ".join(filter(None, (axes.get_title(), over)))
