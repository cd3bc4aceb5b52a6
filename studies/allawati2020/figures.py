"""The figures of allawati2020 (Al-Lawati and Draper 2020), numbered as there, and what lies beyond.

Filled marks count staleness just after the update that a gradient triggers, open ones just before.
"""

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from stalegrad.analysis import style
from stalegrad.analysis.results import StudyResults, student_half

from .tables import (
    CLOSE,
    by_update,
    error_curves,
    error_ratio,
    label,
    simulated,
    transient_updates,
    tuned,
)

BEFORE, AFTER = style.COLOURS[4], style.COLOURS[0]
THEOREM = style.PUBLISHED
CASE_1, CASE_2 = style.COLOURS[0], style.COLOURS[3]


def fig1(results: StudyResults) -> Figure:
    """Limit of the theorem and simulated means against the number of workers."""
    table = simulated(results, "fig1").sort_values("workers")
    rows = results.staleness.query("simulation == 'fig1'").groupby("workers")
    figure, ((ax,),) = style.panels(1, 1, 2.3, style.HALF)
    n = table["workers"]
    ax.plot(n, table["theorem"], color=THEOREM, label="theorem 2")
    ax.plot(n, table["exact"], color=style.GREY, linestyle="--", label="own worker set apart")
    for column, name, colour, face in (
        ("mean_after", "simulated, after the update", AFTER, AFTER),
        ("mean_before", "simulated, before the update", BEFORE, "white"),
    ):
        spread = rows[column].agg(["mean", "min", "max"]).loc[n]
        bars = [spread["mean"] - spread["min"], spread["max"] - spread["mean"]]
        ax.errorbar(n, spread["mean"], bars, color=colour, markerfacecolor=face, marker="o",
                    linestyle="", capsize=2, label=name)  # fmt: skip
    ax.set_xlabel("number of workers $n$")
    ax.set_ylabel("expected staleness")
    figure.legend(loc="outside lower center", ncol=2, columnspacing=1, fontsize=7)
    return figure


def fig2(results: StudyResults) -> Figure:
    """Mean staleness of the first fifty updates, with the limits, at both communication times."""
    clusters = simulated(results, "fig2")
    courses = [by_update(results, "fig2", int(index)) for index in clusters.index]
    figure, ((ax,),) = style.panels(1, 1, 2.3, style.HALF)
    for (_, cluster), course in zip(clusters.iterrows(), courses, strict=True):
        t_c = cluster["communication_time"]
        marker = "o" if t_c else "s"
        for shift, name, colour, face in (
            (1 / cluster["minibatches_per_update"], "after the update", AFTER, AFTER),
            (0.0, "before the update", BEFORE, "white"),
        ):
            mean = course["mean"] + shift
            half = student_half(course["error"], course["replicates"])
            ax.plot(course["update"], mean, color=colour, marker=marker, markersize=2.5,
                    markerfacecolor=face, label=name if t_c else None)  # fmt: skip
            ax.fill_between(course["update"], mean - half, mean + half, color=colour, alpha=0.3,
                            linewidth=0)  # fmt: skip
        ax.axhline(cluster["theorem"], color=THEOREM, label="theorem 2" if t_c else None)
        ax.text(50, cluster["theorem"] - 0.44, f"$T_c={t_c:g}$", ha="right", fontsize=7)
    ax.set_xlabel("iteration (update)")
    ax.set_ylabel("average staleness")
    ax.set_ylim(0, None)
    figure.legend(loc="outside lower center", ncol=3, columnspacing=1, fontsize=7)
    return figure


def fig3(results: StudyResults) -> Figure:
    """Error against simulated time of the two cases, one panel a step size, and at the best."""
    curves = error_curves(results)
    best = tuned(error_curves(results, ("fig3", "fig3_steps")))
    steps = sorted(curves["lr"].unique())
    columns = 3 if len(steps) > 1 else 2
    figure, axes = style.panels(-(-(len(steps) + 1) // columns), columns, 1.4,
                                sharex=True, sharey=True)  # fmt: skip
    for ax, lr in zip(axes.flat, steps, strict=False):
        here = curves[curves["lr"] == lr].groupby("time")
        for case, colour, line in (("case_1", CASE_1, "-"), ("case_2", CASE_2, "--")):
            low, middle, high = (here[case].quantile(q) for q in (0.05, 0.5, 0.95))
            ax.semilogy(middle.index, middle, color=colour, linestyle=line)
            ax.fill_between(low.index, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.set_title(f"step {lr:g}")
    ax = axes.flat[len(steps)]
    ax.semilogy(best.index, best["case_1"], color=CASE_1, label="Case 1: $b=1$, $K=10$")
    ax.semilogy(best.index, best["case_2"], color=CASE_2, linestyle="--",
                label="Case 2: $b=10$, $K=1$")  # fmt: skip
    ax.set_title("best step at each time")
    ax.set_ylim(best[["case_1", "case_2"]].min().min() / 5, 30)
    for ax in axes.flat[len(steps) + 1 :]:
        ax.set_visible(False)
    figure.supxlabel("simulated time (seconds)", fontsize=9)
    figure.supylabel("error", fontsize=9)
    handles, labels = axes.flat[len(steps)].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncol=2)
    return figure


def fig3_ratio(results: StudyResults) -> Figure:
    """Error of Case 2 over Case 1 at equal simulated time, one line a step size."""
    ratio = error_ratio(error_curves(results))
    figure, ((ax,),) = style.panels(1, 1, 1.75)
    for i, (lr, here) in enumerate(ratio.groupby("lr")):
        colour = style.COLOURS[i]
        line = style.LINES[i % len(style.LINES)]
        ax.semilogy(here["time"], here["ratio"], line, color=colour, label=f"step {lr:g}")
        ax.fill_between(here["time"], here["low"], here["high"], color=colour, alpha=0.2, lw=0)
    ax.axhline(1, color=style.GREY, linewidth=0.6)
    ax.set_ylim(0.05, 1e4)
    ax.set_xlabel("simulated time (seconds)")
    ax.set_ylabel("error, Case 2 / Case 1")
    figure.legend(loc="outside right center")
    return figure


def distributions(results: StudyResults) -> Figure:
    """Relative error of the theorem over distributions, staleness against T_c with constant compute
    times (a staircase), and the gradients until heavy tails have come close to the theorem."""
    figure = pyplot.figure(figsize=(style.WIDTH, 3.2))
    ((left, right),) = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1))
    _by_distribution(left.subplots(), simulated(results, "distributions"))
    top, bottom = right.subplots(2, 1)
    _staircase(top, simulated(results, "communication"))
    _patience(bottom, results)
    return figure


def _by_distribution(ax: Axes, table: pd.DataFrame) -> None:
    names = list(dict.fromkeys(table["compute_time"].map(label)))
    place = table["compute_time"].map(label).map(names.index)
    times = sorted(table["communication_time"].unique())
    handles = []
    for i, t_c in enumerate(times):
        here = table[table["communication_time"] == t_c]
        y = place[here.index] + 0.22 * (i - (len(times) - 1) / 2)
        colour, marker = style.COLOURS[i], style.MARKERS[i]
        for column, face in (("relative_before", "white"), ("relative_after", colour)):
            ax.plot(here[column], y, linestyle="", marker=marker, color=colour,
                    markerfacecolor=face)  # fmt: skip
        handles.append(Line2D([], [], linestyle="", marker=marker, color=colour,
                              label=f"$T_c={t_c:g}$"))  # fmt: skip
    ax.axvline(0, color=THEOREM, linewidth=0.8)
    ax.axvspan(-CLOSE, CLOSE, color=style.GREY, alpha=0.12, linewidth=0)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("simulated over theorem, less one")
    ax.figure.legend(handles=handles, loc="outside upper right", ncol=len(handles))


def _staircase(ax: Axes, table: pd.DataFrame) -> None:
    """Staleness against T_c, which with constant compute times grows in steps."""
    for i, (name, here) in enumerate(table.groupby(table["compute_time"].map(label))):
        here = here.sort_values("communication_time")
        ax.plot(here["communication_time"], here["mean_after"], marker=style.MARKERS[i],
                markersize=3, linestyle="", color=style.COLOURS[i], label=name)  # fmt: skip
    here = here.sort_values("communication_time")
    ax.plot(here["communication_time"], here["theorem"], color=THEOREM, label="theorem 2", zorder=0)
    ax.set_xlabel("communication time $T_c$")
    ax.set_ylabel("staleness (after)")
    ax.set_ylim(0, None)
    ax.legend(loc="upper left")


def _patience(ax: Axes, results: StudyResults) -> None:
    """Error of the theorem against the gradients simulated, whose means heavy tails keep unsettled
    for long."""
    table = simulated(results, "heavy_tails")
    rows = results.staleness.query("simulation == 'heavy_tails'").groupby("index")["mean_after"]
    span = rows.agg(["min", "max"]).loc[table.index].div(table["theorem"], axis=0) - 1
    for i, (name, here) in enumerate(table.groupby(table["compute_time"].map(label), sort=False)):
        here = here.sort_values("arrivals")
        low, high = (span.loc[here.index, end] for end in ("min", "max"))
        ax.plot(here["arrivals"], here["relative_after"], style.LINES[i % 4],
                color=style.COLOURS[i], marker=style.MARKERS[i], label=name)  # fmt: skip
        ax.fill_between(here["arrivals"], low, high, color=style.COLOURS[i], alpha=0.15, lw=0)
    ax.axhline(0, color=THEOREM, linewidth=0.8)
    ax.set_xscale("log")
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("gradients simulated")
    ax.set_ylabel("error of the theorem")
    ax.set_ylim(top=1.7 * span["max"].max())
    ax.legend(fontsize=6.5, ncol=2, loc="upper right")


def transient(results: StudyResults) -> Figure:
    """Course of the mean staleness from a common start, and how many updates it takes to settle."""
    table = transient_updates(results)
    figure, axes = style.panels(1, 2, 2.0)
    _courses(axes[0, 0], results, table)
    ax = axes[0, 1]
    times = sorted(table["communication_time"].unique())
    ks = sorted(table["minibatches_per_update"].unique())
    for (t_c, k), here in table.groupby(["communication_time", "minibatches_per_update"]):
        i, j = times.index(t_c), ks.index(k)
        ax.loglog(here["workers"], here["updates"], style.LINES[i], color=style.COLOURS[i],
                  marker=style.MARKERS[j])  # fmt: skip
    handles = [
        Line2D([], [], color=style.COLOURS[i], linestyle=style.LINES[i], label=f"$T_c={t_c:g}$")
        for i, t_c in enumerate(times)
    ]
    handles += [
        Line2D([], [], color=style.GREY, linestyle="", marker=style.MARKERS[j], label=f"$K={k}$")
        for j, k in enumerate(ks)
    ]
    workers = sorted(table["workers"].unique())
    ax.set_xticks(workers, [str(n) for n in workers])
    ax.minorticks_off()
    ax.set_xlabel("number of workers $n$")
    ax.set_ylabel("updates until close to the limit")
    figure.legend(handles=handles, loc="outside upper right", ncol=len(handles))
    return figure


def _courses(ax: Axes, results: StudyResults, table: pd.DataFrame) -> None:
    """Few and many workers, with an update at each gradient and with the most gradients."""
    times = sorted(table["communication_time"].unique())
    here = table[table["communication_time"] == times[len(times) // 2]]
    few, many = here["workers"].min(), here["workers"].max()
    largest = here.groupby("workers")["minibatches_per_update"].max()
    shown = [(few, 1), (few, largest[few]), (many, 1), (many, largest[many])]
    for i, (n, k) in enumerate(shown):
        chosen = (here["workers"] == n) & (here["minibatches_per_update"] == k)
        cluster = here[chosen].iloc[0]
        course = by_update(results, "transient", int(cluster["index"]))
        mean_compute_time = n / (k * cluster["rate"])
        latency = cluster["communication_time"] + mean_compute_time
        latencies = course["update"] / cluster["rate"] / latency
        near = latencies <= 8
        ax.plot(latencies[near], course["mean"][near] / cluster["limit"], style.LINES[i],
                color=style.COLOURS[i], label=f"$n={n}$, $K={k}$")  # fmt: skip
    ax.axhspan(1 - CLOSE, 1 + CLOSE, color=style.GREY, alpha=0.2, linewidth=0)
    ax.set_xlabel("time from the start, in units of $T_c+\\mu$")
    ax.set_ylabel("mean staleness / its limit")
    ax.legend(title=f"$T_c={cluster['communication_time']:g}$", loc="lower right")


def error_map(results: StudyResults) -> Figure:
    """Relative error of the theorem over n and T_c / mu, a panel for each K and counting."""
    table = simulated(results, "error_map")
    table["ratio"] = table["communication_time"] / [d.mean for d in table["compute_time"]]
    ks = sorted(table["minibatches_per_update"].unique())
    figure, axes = style.panels(2, len(ks), 1.5, sharex=True)
    most = table[["relative_before", "relative_after"]].abs().max().max()
    for row, counted in enumerate(("before", "after")):
        for ax, k in zip(axes[row], ks, strict=True):
            here = table[table["minibatches_per_update"] == k]
            cells = here.pivot(index="workers", columns="ratio", values=f"relative_{counted}")
            cells = 100 * cells.sort_index(ascending=False)
            cells.columns = [f"{ratio:g}" for ratio in cells.columns]
            image = style.heatmap(ax, cells, cmap=style.DIFFERENCE_MAP,
                                  limits=(-100 * most, 100 * most), digits="{:+z.1f}",
                                  fontsize=5.5)  # fmt: skip
            ax.set_title(f"$K={k}$, {counted} the update")
    for ax in axes[-1]:
        ax.set_xlabel("$T_c/\\mu$")
    for ax in axes[:, 0]:
        ax.set_ylabel("workers $n$")
    figure.colorbar(image, ax=axes, label="simulated over theorem, less one (%)", shrink=0.7,
                    aspect=40)  # fmt: skip
    return figure


def timeline(results: StudyResults) -> Figure:
    """Workers as rows, compute intervals coloured by staleness, arrivals and updates."""
    cluster = results.staleness.query("simulation == 'timeline'").iloc[0]
    arrays = results.arrays("timeline")
    workers, k = int(cluster["workers"]), int(cluster["minibatches_per_update"])
    delay = cluster["communication_time"] / 2
    worker, time, version = (arrays[f"{name}_0"] for name in ("worker", "time", "read_version"))
    bars = intervals(worker, time - delay, version, k)
    most = int(bars["staleness"].max())
    colours = mpl.colormaps["viridis_r"].resampled(most + 1)
    figure, ((ax,),) = style.panels(1, 1, 2.1)
    for bar in bars.itertuples():
        colour, length = colours(bar.staleness), bar.finish - bar.start
        box = Rectangle((bar.start, bar.worker - 0.38), length, 0.76)
        box.set(facecolor=colour, edgecolor="white", linewidth=1.2)
        ax.add_patch(box)
        ax.text(bar.start + length / 2, bar.worker, bar.read_version, ha="center", va="center",
                fontsize=6.5, color=style.readable_on(colour))  # fmt: skip
    # The way to the master, along the lower edge of the row, ends in the arrival.
    ax.hlines(worker + 0.42, time - delay, time, color=style.GREY, linewidth=0.7)
    ax.plot(time, worker + 0.42, linestyle="", marker=7, markersize=3, color=style.GREY)
    master = workers + 0.4
    ax.plot(time, np.full(len(time), master), linestyle="", marker="|", markersize=6,
            color=style.GREY)  # fmt: skip
    for number, moment in enumerate(time[k - 1 :: k], start=1):
        ax.axvline(moment, color=THEOREM, linewidth=0.6, linestyle=":", zorder=0)
        ax.text(moment, master + 0.75, number, ha="center", va="center", fontsize=6.5,
                color=THEOREM, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )  # fmt: skip
    ax.set_xlim(0, time[-1] + 0.2)
    ax.set_ylim(master + 1.1, -0.6)
    names = [*(f"worker {w + 1}" for w in range(workers)), "arrivals", "version"]
    ax.set_yticks([*range(workers), master, master + 0.75], names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("simulated time (seconds)")
    limits = mpl.colors.BoundaryNorm(np.arange(most + 2) - 0.5, most + 1)
    shades = mpl.cm.ScalarMappable(limits, colours)
    figure.colorbar(shades, ax=ax, ticks=range(most + 1), label="staleness", aspect=30, pad=0.01)
    return figure


def intervals(
    worker: np.ndarray, finish: np.ndarray, read_version: np.ndarray, per_update: int
) -> pd.DataFrame:
    """Computations of a schedule whose workers never wait: worker, start, finish, read_version and
    staleness (before) of each gradient, in the order in which they arrive."""
    frame = pd.DataFrame({"worker": worker, "finish": finish, "read_version": read_version})
    frame["start"] = frame.groupby("worker")["finish"].shift(fill_value=0.0)
    frame["staleness"] = np.arange(len(frame)) // per_update - frame["read_version"]
    return frame
