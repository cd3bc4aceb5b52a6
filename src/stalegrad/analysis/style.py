"""The style of all figures: sized for the report, in its font, in colours all can tell apart."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.rcsetup import cycler

from stalegrad.io.files import replaced

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

WIDTH = 6.3  # inches; the text of the report is 6.5 wide
HALF = 3.05  # of two figures side by side

# Okabe and Ito's colours, distinguishable with any colour vision; one of them for PUBLISHED alone.
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
PUBLISHED = "#D55E00"  # the papers' own numbers and formulas, and nothing of ours
GREY = "#7f7f7f"

ACCURACY_MAP = "cividis"
DIFFERENCE_MAP = "RdBu"

_RC: "dict[RcKeyType, Any]" = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral"],
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "hatch.linewidth": 0.4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn inside looks alike, whatever the user's own matplotlibrc, environment or
    style say; these hold again afterwards."""
    backend = dict.get(mpl.rcParams, "backend")  # by [] one that is yet to be chosen would be
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.use("Agg")
        mpl.rcParams.update(_RC)
        try:
            yield
        finally:
            if isinstance(backend, str):
                with suppress(ImportError):  # of a display that is not there
                    pyplot.switch_backend(backend)


def save(figure: Figure, path: Path) -> None:
    """Write `path` (pdf or png) with nothing in it that changes from one time to the next."""
    dates = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    kind = path.suffix[1:]
    with replaced(path) as beside:
        figure.savefig(beside, format=kind, metadata=dates[kind])


def panels(
    rows: int, columns: int, height: float, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of the text's width with `rows` x `columns` axes, each `height` inches high."""
    return pyplot.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **options)


def not_measured(reason: str) -> Figure:
    """The stand-in for a figure whose results are missing: a sentence that says so."""
    figure = pyplot.figure(figsize=(HALF, 0.6), layout="none")
    lines = textwrap.wrap(f"Not measured yet: {reason}", 52)
    figure.text(0.5, 0.5, "\n".join(lines), ha="center", va="center", color=GREY)
    return figure


def heatmap(
    axes: Axes,
    values: pd.DataFrame,
    *,
    cmap: str,
    limits: tuple[float, float],
    digits: str = "{:.3f}",
    fontsize: float = 6.5,
    hatch: pd.DataFrame | None = None,
) -> AxesImage:
    """Rows and columns of a table as coloured, numbered cells.

    values: index and columns become tick labels; NaN stays blank. hatch: cells marked as
    unreadable, same shape, boolean.
    """
    image = axes.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(values.shape[1]), values.columns)
    axes.set_yticks(range(values.shape[0]), values.index)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(values.to_numpy(dtype=float)):
        if hatch is not None and hatch.iloc[row, column]:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, hatch="/////", edgecolor=GREY, linewidth=0)
            )
        if np.isfinite(value):
            colour = readable_on(image.cmap(image.norm(value)))
            text = digits.format(value).replace("-", "\N{MINUS SIGN}")
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=fontsize)
    return image


def ring(axes: Axes, values: pd.DataFrame, marked: pd.DataFrame) -> None:
    """Frame those cells of the heat map of `values` that are in the table `marked`, and not NaN."""
    there = marked.reindex(index=values.index, columns=values.columns)
    for row, column in np.argwhere(there.notna().to_numpy()):
        corner, side = (column - 0.46, row - 0.46), 0.92
        frame = Rectangle(corner, side, side, fill=False, edgecolor=COLOURS[2], linewidth=1.4)
        axes.add_patch(frame)


def readable_on(colour: tuple[float, ...] | np.ndarray) -> str:
    """Black or white, whichever stands out: contrast by the relative luminance of sRGB (WCAG)."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def band(
    axes: Axes, frame: pd.DataFrame, x: str, *, colour: str, label: str, **options: Any
) -> None:
    """Mean over seeds as a line, smallest to largest as a band; `frame` is of `over_seeds`."""
    axes.plot(frame[x], frame["mean"], color=colour, label=label, **options)
    axes.fill_between(frame[x], frame["min"], frame["max"], color=colour, alpha=0.2, linewidth=0)


def legend_below(axes: Axes, columns: int | None = None) -> None:
    """The legend of `axes` below all panels of its figure; in one line, but for `columns`."""
    handles, labels = axes.get_legend_handles_labels()
    columns = columns or len(labels)
    axes.figure.legend(handles, labels, loc="outside lower center", ncol=columns)


def whole_number_ticks(axes: Axes) -> None:
    """Ticks on the abscissa at whole numbers only."""
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from `low` to `high`."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [lead * 10.0**power for power in powers for lead in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def scientific(value: float) -> str:
    """A number as `:g` has it, with its power of ten written out."""
    mantissa, _, exponent = f"{value:g}".partition("e")
    if not exponent:
        return mantissa
    return rf"${mantissa}\cdot 10^{{{int(exponent)}}}$".replace(r"$1\cdot ", "$")


def log10_label(value: float) -> str:
    """A rate as the papers print their half decades: 10^{-2.5}."""
    exponent = round(2 * np.log10(value)) / 2
    if not np.isclose(10**exponent, value, rtol=0.01):
        return f"{value:g}"
    return f"$10^{{{exponent:g}}}$"
