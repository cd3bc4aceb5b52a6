"""Figures of the page that answer the pointer: Vega-Lite, made by Vega-Altair.

Of the well kept libraries for the web, Vega is the one whose charts can be SVG with a name for each
mark, which screen readers read; whose scripts are 0.9 MB and not the 4.8 MB of Plotly's; and whose
specifications hold no code, so that the page can forbid the browser to evaluate any. Altair writes
them, and checks them against Vega-Lite's schema.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from stalegrad.planning.config import Curves, HeatMaps

PUBLISHED, OURS = "published", "reproduced"
# Columns of a table that says of each cell what was published and what our runs gave.
BOTH = frozenset(("published", "mean"))
# What over_seeds and others put beside a mean; every other column before it tells cells apart.
_MEASURED = ("std", "min", "max", "count", "replicates", "difference")
_HEADINGS = {
    "mean": OURS,
    "std": "deviation over seeds",
    "min": "smallest",
    "max": "largest",
    "count": "seeds",
    "lr": "learning rate",
}
_MOST_ROWS = 30  # of one panel of a dot chart; more are cut into panels, by the first column
_PANELS = range(2, 9)
_LISTED = 10  # values of a colour that have an entry each in the legend
# Heights in pixels: of a row of a dot chart and of a heat map, and of curves.
_ROW, _CELL, _CURVES = 20, 26, 190
_DIGITS = 5
_DRAWN_DIGITS = 3  # of the points of a line


@dataclass(frozen=True)
class Panel:
    """Rows that are drawn together, what they have in common, and how high in pixels."""

    title: str
    height: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class View:
    """A Vega-Lite specification whose data are the rows of a panel, under the name `rows`."""

    title: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """Every panel is drawn by every view.

    columns: of the rows, with their headings, for a table of the values. scale: ends of the colour
    scale that all views share; none where each has its legend.
    """

    panels: list[Panel]
    views: list[View]
    columns: dict[str, str]
    scale: tuple[float, float] | None = None


def heat_maps(table: pd.DataFrame, maps: HeatMaps) -> Chart:
    """Published values beside ours, with one scale of colours. `table` has `maps`' columns."""
    both = table[["published", "mean"]].to_numpy(float)
    ends = _rounded(float(np.nanmin(both))), _rounded(float(np.nanmax(both)))
    columns = [c for c in (maps.panels, maps.y, maps.x) if c] + _beside(table)
    views = [
        View(title, _spec(_heat_map(value, maps, ends, columns, table)))
        for title, value in ((PUBLISHED, "published"), (OURS, "mean"))
    ]
    rows = table.sort_values([maps.y, maps.x])[columns]
    by = [maps.panels] if maps.panels else []
    panels = _panels(rows, by, lambda part: _CELL * part[maps.y].nunique())
    return Chart(panels, views, _named(columns), ends)


def dots(table: pd.DataFrame) -> Chart:
    """A row a cell: the published value, and ours with the range of its seeds."""
    cells = table.dropna(subset=["published", "mean"])
    keys = _telling(table)
    first = keys[0]
    cut = len(cells) > _MOST_ROWS and cells[first].nunique() in _PANELS
    named = keys[1:] if cut else keys
    label = [", ".join(_text(cell[key]) for key in named) for cell in cells.to_dict("records")]
    columns = [*keys, *_beside(table)]
    rows = cells[columns].assign(cell=label)
    spec = _spec(_dots(", ".join(map(_heading, named)), columns, table))
    panels = _panels(rows, [first] if cut else [], lambda part: _ROW * len(part))
    return Chart(panels, [View("", spec)], _named(columns))


def curves(runs: pd.DataFrame, history: pd.DataFrame, wanted: Curves) -> Chart:
    """A line a run. runs: those of the grids; history: of all runs of the study."""
    series = history[history["run"].isin(runs["run"])]
    series = series[np.isfinite(series[[wanted.x, wanted.y]].astype(float)).all(axis=1)]
    if series.empty:
        return Chart([], [], {})
    if wanted.log:
        series = series[series[wanted.y] > 0]
    ends = _ends(series, wanted)
    points = pd.DataFrame(
        {"x": _drawn(series[wanted.x]), "y": _drawn(series[wanted.y])}, dtype=object
    )
    lists = points.groupby(series["run"].to_numpy())[["x", "y"]].agg(list)
    lists["last"] = series.groupby("run")[wanted.y].last()
    cell = _varying(runs, [*wanted.panels, *([wanted.colour] if wanted.colour else [])])
    columns = ["run", *cell, "seed", "last"]
    rows = runs[["run", *cell, "seed"]].join(lists, on="run", how="inner")
    views = [View("", _spec(_lines(wanted, ends, columns, runs)))]
    headings = _named(columns) | {"last": f"last {_heading(wanted.y)}"}
    return Chart(_panels(rows, wanted.panels, lambda _: _CURVES), views, headings)


def _ends(series: pd.DataFrame, wanted: Curves) -> tuple[float, float]:
    """Of the axis y. On a logarithmic one, a line that goes far above where it began leaves it."""
    low, high = float(series[wanted.y].min()), float(series[wanted.y].max())
    if wanted.log:
        high = min(high, 10 * float(series.groupby("run")[wanted.y].first().median()))
    return _rounded(low), _rounded(high)


def _heat_map(
    value: str,
    maps: HeatMaps,
    ends: tuple[float, float],
    columns: Sequence[str],
    table: pd.DataFrame,
) -> alt.LayerChart:
    y = alt.Y(
        field=maps.y,
        type="ordinal",
        title=_heading(maps.y),
        sort="descending",
        axis=_numbers(0),
    )
    base = _chart().encode(
        x=alt.X(field=maps.x, type="ordinal", title=_heading(maps.x), axis=_numbers(-90)),
        y=y,
        tooltip=_tooltip(columns, table),
    )
    colour = alt.Color(
        field=value, type="quantitative", scale=alt.Scale(domain=list(ends)), legend=None
    )
    edge = {"stroke": "#808080", "strokeWidth": 0.5}
    there = alt.expr.isValid(alt.datum[value])
    return alt.layer(
        base.mark_rect(fill="transparent", **edge).transform_filter(~there),
        base.mark_text(text="?", aria=False).transform_filter(~there),
        base.mark_rect(**edge).encode(color=colour).transform_filter(there),
    )


def _dots(title: str, columns: Sequence[str], table: pd.DataFrame) -> alt.LayerChart:
    base = _chart().encode(
        y=alt.Y(
            field="cell", type="nominal", sort=None, title=title, axis=alt.Axis(labelLimit=170)
        ),
        tooltip=_tooltip(columns, table),
    )
    x = {"type": "quantitative", "title": None, "scale": alt.Scale(zero=False)}
    ours = alt.ColorDatum(OURS, type="nominal")
    # The first layer has the first colour.
    layers = [
        base.mark_point(shape="diamond", size=90, filled=False, strokeWidth=2, opacity=1).encode(
            x=alt.X(field="published", **x), color=alt.ColorDatum(PUBLISHED, type="nominal")
        ),
        base.mark_point(size=50, filled=True, opacity=1).encode(
            x=alt.X(field="mean", **x), color=ours
        ),
        # All of a row answers, not its marks alone.
        base.mark_bar(opacity=0, aria=False).encode(x=alt.value(0), x2=alt.value("width")),
    ]
    if {"min", "max"} <= set(table):
        seeds = base.mark_rule(strokeWidth=3, opacity=0.35, aria=False).encode(
            x=alt.X(field="min", **x), x2=alt.X2(field="max"), color=ours
        )
        layers.insert(1, seeds)
    return alt.layer(*layers).resolve_scale(color="shared")


def _lines(
    wanted: Curves, ends: tuple[float, float], columns: Sequence[str], runs: pd.DataFrame
) -> alt.LayerChart:
    pointed = alt.selection_point(
        name="pointed", fields=["run"], on="pointerover", clear="pointerout", empty=False
    )
    kind = "log" if wanted.log else "linear"
    base = (
        _chart()
        .transform_flatten(["x", "y"])
        .encode(
            x=alt.X(field="x", type="quantitative", title=_heading(wanted.x)),
            y=alt.Y(
                field="y",
                type="quantitative",
                title=_heading(wanted.y),
                scale=alt.Scale(domain=list(ends), type=kind, nice=True),
                axis=alt.Axis(tickCount=5, format="~g"),
            ),
            detail=alt.Detail(field="run", type="nominal"),
        )
    )
    if wanted.colour:
        base = base.encode(color=_colour(wanted.colour, runs[wanted.colour].dropna()))
    seen = base.mark_line(clip=True).encode(
        strokeWidth=alt.condition(pointed, alt.value(4), alt.value(1.2)),
        opacity=alt.condition(pointed, alt.value(1), alt.value(0.6)),
    )
    # What the pointer meets is wider than what is seen.
    met = base.mark_line(strokeWidth=9, opacity=0, clip=True, aria=False).encode(
        tooltip=_tooltip(columns, runs, {"last": f"last {_heading(wanted.y)}"})
    )
    return alt.layer(seen, met.add_params(pointed))


def _colour(column: str, values: pd.Series) -> alt.Color:
    """A legend with an entry each value; of many numbers, one with a scale."""
    title = _heading(column)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not numeric or values.nunique() <= _LISTED:
        legend = alt.Legend(columns=5)
        return alt.Color(field=column, type="ordinal", title=title, legend=legend)
    scale = alt.Scale(type="log" if values.min() > 0 else "linear")
    legend = alt.Legend(tickCount=3)
    return alt.Color(field=column, type="quantitative", title=title, scale=scale, legend=legend)


def _chart() -> alt.Chart:
    return alt.Chart(alt.NamedData("rows"), width="container")


def _spec(chart: alt.LayerChart) -> dict[str, Any]:
    fitted = alt.AutoSizeParams(type="fit-x", contains="padding")
    return chart.properties(autosize=fitted).to_dict()


def _numbers(angle: int) -> alt.Axis:
    """Labels such as 0.0032 and 3.2e-5, which narrow cells have room for; angle: in degrees."""
    label = (
        "!isNumber(datum.value) || datum.value == 0 || abs(datum.value) >= 1 ? datum.label"
        " : format(datum.value, abs(datum.value) < 0.001 ? '.1~e' : '.2~g')"
    )
    return alt.Axis(labelExpr=label, labelAngle=angle)


def _tooltip(
    columns: Iterable[str], table: pd.DataFrame, headings: Mapping[str, str] | None = None
) -> list[alt.Tooltip]:
    named = _named(columns) | dict(headings or {})
    return [
        alt.Tooltip(
            field=column,
            title=heading,
            # Text and whole numbers as they are, others with the digits that count.
            type="quantitative" if _is_float(table, column) else "nominal",
            **({"format": ".4~g"} if _is_float(table, column) else {}),
        )
        for column, heading in named.items()
    ]


def _is_float(table: pd.DataFrame, column: str) -> bool:
    return column in table and pd.api.types.is_float_dtype(table[column])


def _panels(
    rows: pd.DataFrame, by: Sequence[str], height: Callable[[pd.DataFrame], int]
) -> list[Panel]:
    """The rows cut by some columns, each part titled with what they hold.

    height: of a part, in pixels.
    """
    if not by:
        return [Panel("", height(rows), _records(rows))]
    found = []
    for values, part in rows.groupby(list(by), sort=True, dropna=False):
        title = ", ".join(f"{_heading(c)} {_text(v)}" for c, v in zip(by, values, strict=True))
        found.append(Panel(title, height(part), _records(part)))
    return found


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Plain values; None for what is not there or not finite, for which JSON has no word."""
    return [{k: _plain(v) for k, v in row.items()} for row in rows.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, list | str | bool | np.bool_):
        return value
    if pd.isna(value) or not np.isfinite(value):
        return None
    return _rounded(float(value)) if isinstance(value, float | np.floating) else value


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _drawn(values: pd.Series) -> list[float | int]:
    if pd.api.types.is_integer_dtype(values):
        return values.tolist()
    return [float(f"{value:.{_DRAWN_DIGITS}g}") for value in values]


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _telling(table: pd.DataFrame) -> list[str]:
    """The columns that tell the rows of a table apart: those before `mean`, if they vary."""
    before = [c for c in table.columns[: list(table).index("mean")] if c != "published"]
    return [c for c in before if table[c].nunique(dropna=False) > 1] or before[:1]


def _varying(runs: pd.DataFrame, first: Sequence[str]) -> list[str]:
    """`first`, and the other columns of cells in which the runs differ."""
    cell = list(runs.columns[runs.columns.get_loc("run") + 1 : runs.columns.get_loc("seed")])
    return [*first, *(c for c in cell if c not in first and runs[c].nunique(dropna=False) > 1)]


def _beside(table: pd.DataFrame) -> list[str]:
    return ["published", "mean", *(c for c in _MEASURED if c in table)]


def _named(columns: Iterable[str]) -> dict[str, str]:
    return {column: _heading(column) for column in columns}


def _heading(column: str) -> str:
    return _HEADINGS.get(column, column.replace("_", " "))
