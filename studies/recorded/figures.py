"""The figures of the study `recorded`."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from stalegrad.analysis import style
from stalegrad.analysis.recordings import fit_trace, staleness_of, timeline
from stalegrad.analysis.results import StudyResults
from stalegrad.io.traces import APPLIED

from .tables import monte_carlo, real_runs, saturated, shares, simulated_runs

SHOWN = 60  # arrivals of a timeline
RECORDED, FITTED = style.COLOURS[0], style.COLOURS[3]


def timelines(results: StudyResults) -> Figure:
    """Who was served when, recorded and simulated, of ten workers of which one is slow."""
    runs = real_runs(results).query("delayed == 'one'").sort_values(["delay_ms", "seed"])
    trace = results.recording(runs["recording"].iloc[-1])
    simulated = fit_trace(trace).simulated()
    figure, axes = style.panels(1, 2, 1.6, sharey=True)
    first = min(trace.arrivals, len(simulated.worker)) // 4
    here = slice(first, first + SHOWN)
    timeline(axes[0, 0], trace.columns["worker"][here], trace.columns[APPLIED][here], "recorded")
    timeline(axes[0, 1], simulated.worker[here], simulated.time[here], "simulated")
    axes[0, 1].set_ylabel("")
    return figure


def staleness(results: StudyResults) -> Figure:
    """Histograms of staleness: recorded, fitted, and by the paper's Monte Carlo simulation."""
    table = saturated(results)
    counts = sorted(table["workers"].unique())
    figure, axes = style.panels(1, len(counts), 1.75)
    for ax, workers in zip(axes.flat, counts, strict=True):
        names = table[table["workers"] == workers]["recording"]
        traces = [results.recording(name) for name in names]
        recorded = shares(np.concatenate([staleness_of(trace) for trace in traces]))
        fitted = shares(fit_trace(traces[0]).simulated().staleness_before)
        published = monte_carlo(results, workers)
        most = 3 * workers
        ax.bar(np.arange(len(recorded)), recorded, width=1.0, color=RECORDED, alpha=0.5,
               label="recorded")  # fmt: skip
        ax.plot(np.arange(len(fitted)), fitted, color=FITTED, label="fitted cluster")
        ax.plot(np.arange(len(published)), published, color=style.PUBLISHED, linestyle="--",
                label="Monte Carlo of the paper")  # fmt: skip
        ax.set_xlim(-0.5, most)
        ax.set_title(f"$N = {workers}$")
        ax.set_xlabel("staleness")
    axes[0, 0].set_ylabel("share of gradients")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=3, fontsize=7)
    return figure


def real_cells(results: StudyResults) -> Figure:
    """Final accuracy of each recorded run beside the simulated ones: a panel for each partition, a
    row for each delay."""
    parts = {"recorded": real_runs(results), "simulated": simulated_runs(results)}
    named = {name: runs.assign(row=_delays(runs)) for name, runs in parts.items()}
    both = set(named["recorded"]["row"]) & set(named["simulated"]["row"])
    order = named["recorded"].sort_values(["delayed", "delay_ms"])["row"].drop_duplicates()
    rows = {label: row for row, label in enumerate(order[order.isin(both)])}
    partitions = ("dataset", "labels")
    figure, axes = style.panels(1, 2, 0.7 + 0.17 * len(rows), sharex=True, sharey=True)
    for (name, runs), colour, marker, shift in zip(
        named.items(), (RECORDED, FITTED), ("o", "x"), (-0.12, 0.12), strict=True
    ):
        for ax, partition in zip(axes.flat, partitions, strict=True):
            here = runs[(runs["partition"] == partition) & runs["row"].isin(rows)]
            y = here["row"].map(rows) + shift
            ax.plot(100 * here["final_test_accuracy"], y, linestyle="", marker=marker,
                    markersize=4, color=colour, label=name)  # fmt: skip
    for ax, partition in zip(axes.flat, partitions, strict=True):
        ax.set_title(f"split {partition}")
        ax.set_xlabel("final test accuracy, per cent")
    axes[0, 0].set_yticks(list(rows.values()), list(rows))
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=2, fontsize=7)
    return figure


def _delays(runs: pd.DataFrame) -> list[str]:
    return [
        f"{row.delayed}, {row.delay_ms:.0f} ms" if row.delay_ms else "no delay"
        for row in runs.itertuples()
    ]
