"""The figures of the study `policies`."""

import numpy as np
from matplotlib.figure import Figure

from stalegrad.analysis import style
from stalegrad.analysis.results import StudyResults

from .tables import (
    ASYNCHRONOUS,
    BACKUP,
    BOUNDED,
    BUFFER,
    DROP,
    DROP_PAPER,
    FRESH,
    OPTIMIZERS,
    SCALED,
    SYNCHRONOUS,
    at_best_rate,
    bounds,
    far_apart,
    tried,
)

PROFILES = {"one_slow": "one worker slow", "geometric": "speeds spread"}
SHOWN = (SYNCHRONOUS, BACKUP, BOUNDED, ASYNCHRONOUS, SCALED, DROP, DROP_PAPER, FRESH, BUFFER)
BOUNDS = {"synchronous": ":", "asynchronous": "--", "optimal": "-"}


def heterogeneity(results: StudyResults) -> Figure:
    """Time to the target over how far speeds are apart, a panel a profile, and what is stated."""
    table, stated = far_apart(results), bounds(results)
    table = table[np.isfinite(table["seconds"])]
    equal = stated[stated["slowest"] == 1].iloc[0]
    ours = table.query("method == @SYNCHRONOUS and slowest == 1")["seconds"].mean()
    scale = 1.0 if np.isnan(ours) else ours / equal["synchronous"]
    figure, axes = style.panels(1, 2, 2.1, sharey=True)
    for ax, (profile, title) in zip(axes.flat, PROFILES.items(), strict=True):
        for i, method in enumerate(SHOWN):
            rows = table.query("profile == @profile and method == @method").sort_values("slowest")
            if rows.empty:
                continue
            below, above = rows["seconds"] - rows["low"], rows["high"] - rows["seconds"]
            spread = np.maximum([below, above], 0)  # rounding, where there is one seed
            colour = style.COLOURS[i % len(style.COLOURS)]
            ax.errorbar(rows["slowest"], rows["seconds"], yerr=spread, color=colour,
                        marker=style.MARKERS[i % len(style.MARKERS)], label=method,
                        linestyle=style.LINES[i // len(style.COLOURS)])  # fmt: skip
        here = stated[stated["profile"] == profile].sort_values("slowest")
        for bound, line in BOUNDS.items():
            ax.plot(here["slowest"], scale * here[bound], color=style.PUBLISHED, linestyle=line,
                    label=f"stated: {bound}")  # fmt: skip
        ax.set(xscale="log", yscale="log", title=title, xlabel="slowest over fastest worker")
    axes[0, 0].set_ylabel("seconds to the target")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7)
    return figure


def optimizers(results: StudyResults) -> Figure:
    """Accuracy over delay: at the best rate, and behind it at every rate."""
    rows, every = at_best_rate(results), tried(results)
    figure, axes = style.panels(1, len(OPTIMIZERS), 1.35, sharey=True)
    colours = style.COLOURS[: len(OPTIMIZERS)]
    for ax, name, colour in zip(axes.flat, OPTIMIZERS, colours, strict=True):
        own = rows[rows["optimizer"] == name].sort_values("delay")
        for _, rate in every[every["optimizer"] == name].groupby("lr"):
            rate = rate.sort_values("delay")
            ax.plot(rate["delay"] + 1, rate["mean"], color=style.GREY, linewidth=0.5, alpha=0.6)
        spread = [own["mean"] - own["min"], own["max"] - own["mean"]]
        ax.errorbar(own["delay"] + 1, own["mean"], yerr=spread, color=colour, marker="o")
        ax.set(xscale="log", title=name, xlabel="delay + 1")
    axes[0, 0].set_ylabel("test accuracy")
    return figure
