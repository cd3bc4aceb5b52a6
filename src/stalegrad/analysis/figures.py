"""Figures that any study can use by naming them: `make: figures.learning_curves`."""

import pandas as pd
from matplotlib.figure import Figure

from stalegrad.analysis import style
from stalegrad.analysis.results import StudyResults, over_seeds

MOST_LINES = 12  # a legend longer than this says nothing


def learning_curves(results: StudyResults) -> Figure:
    """The test metric against epochs, one panel a grid, one line a cell, seeds as bands."""
    grids = list(results.runs["grid"].unique())
    figure, axes = style.panels(len(grids), 1, 2.2)
    for ax, grid in zip(axes.flat, grids, strict=True):
        curves = results.curves(grid)
        metric = "test_accuracy" if "test_accuracy" in curves else "test_loss"
        varying = varying_columns(results.grid(grid))
        lines = curves.groupby(varying, dropna=False) if varying else [((), curves)]
        for i, (values, cell) in enumerate(lines):
            label = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
                              for k, v in zip(varying, values, strict=True))  # fmt: skip
            colour = style.COLOURS[i % len(style.COLOURS)]
            means = over_seeds(cell, ["epoch"], metric)
            style.band(ax, means, "epoch", colour=colour, label=label.replace("_", " "))
        if len(lines) <= MOST_LINES and varying:
            ax.legend(fontsize=7)
        ax.set_title(grid.replace("_", " "))
        ax.set_xlabel("epoch")
        style.whole_number_ticks(ax)
        ax.set_ylabel(metric.replace("_", " "))
    return figure


def varying_columns(runs: pd.DataFrame) -> list[str]:
    """The columns of a grid's cells in which they differ, seeds and results left out."""
    last = list(runs.columns).index("seed")
    cell = runs.columns[2:last]  # after grid and run
    return [column for column in cell if runs[column].nunique(dropna=False) > 1]
