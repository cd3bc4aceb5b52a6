"""The figures of lamour2023 (Lamour, Reategui, Junod 2023), and what its tables leave open."""

import re
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from stalegrad.analysis import style
from stalegrad.analysis.results import StudyResults, over_seeds
from stalegrad.data_order import PARTITION, deal_labels, generator
from stalegrad.specs import spec_class

from . import architecture
from .tables import (
    CLASSES,
    MODELS,
    NO_CONVERGENCE,
    TABLE2_KEYS,
    class_shares,
    in_percent,
    initial_weights,
    models_runs,
    regularised_runs,
    table2_cells,
    table2_runs,
)

OURS = style.COLOURS[0]
LOSS_MAP = "viridis"
DEEP = 100  # seen from the top, losses are told apart up to so many times the least
SLOW = "worker 1 slow"
AUTHORS_SEED = 614310
CHANCE = {"color": style.GREY, "linewidth": 0.6, "linestyle": ":"}


def fig1(results: StudyResults) -> Figure:
    """The loss landscape of five momenta in 3-D, with trajectories on it."""
    return _surface(*results.landscape("momentum")[:2], height=3.0)


def fig2(results: StudyResults) -> Figure:
    """The same from the top."""
    grid, points, _ = results.landscape("momentum")
    figure, ((ax,),) = style.panels(1, 1, 3.0, style.HALF)
    low = grid["test_loss"].min()
    high = min(grid["test_loss"].max(), DEEP * low)
    shades = {"norm": LogNorm(low, high), "cmap": LOSS_MAP, "alpha": 0.8, "extend": "max"}
    levels = np.geomspace(low, high, 25)
    filled = ax.contourf(grid["x"], grid["y"], grid["test_loss"], levels=levels, **shades)
    for i, (label, colour, path) in enumerate(_trajectories(grid, points)):
        ax.plot(path["pc1"], path["pc2"], color=colour, marker=".", label=label)
        # Smaller and smaller, so that none covers another that ends in the same place.
        ax.plot(path["pc1"].iloc[-1:], path["pc2"].iloc[-1:], "*", color=colour,
                markersize=16 - 2.6 * i, markeredgecolor="white", markeredgewidth=0.3)  # fmt: skip
    ax.set_xlabel(_component(grid, 1))
    ax.set_ylabel(_component(grid, 2))
    bar = figure.colorbar(filled, label="test loss", ticks=style.log_ticks(low, high))
    bar.minorticks_off()
    bar.formatter = StrMethodFormatter("{x:g}")
    figure.legend(loc="outside lower center", ncol=2)
    return figure


def fig7(results: StudyResults) -> Figure:
    """The loss landscape of 2 workers with split dataset and 90 ms."""
    return _surface(*results.landscape("two_workers")[:2], height=2.6)


def _trajectories(grid: dict, points: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Label, colour and points of each run, as far as they lie within the grid."""
    runs = points.drop_duplicates("run")
    for i, run in enumerate(runs.itertuples()):
        path = points[points["run"] == run.run]
        inside = path["pc1"].between(grid["x"][0], grid["x"][-1])
        inside &= path["pc2"].between(grid["y"][0], grid["y"][-1])
        label = f"momentum {run.momentum:g}" + ("" if run.fitted else " (not fitted)")
        yield label, style.COLOURS[i], path[inside.cummin()]


def _component(grid: dict, number: int) -> str:
    return f"PC{number} ({100 * grid['explained_variance'][number - 1]:.1f} % of variance)"


def _surface(grid: dict, points: pd.DataFrame, height: float) -> Figure:
    figure = pyplot.figure(figsize=(style.HALF, height), layout="none")  # it knows no 3-D
    legend = 0.18 * -(-points["run"].nunique() // 2) + 0.28  # inches
    ax: Any  # of axes in three dimensions matplotlib has no types
    ax = figure.add_axes((0.06, legend / height, 0.8, 1 - legend / height), projection="3d")
    ax.set_box_aspect(None, zoom=0.92)
    ax.tick_params(pad=-1, labelsize=7)
    x, y = np.meshgrid(grid["x"], grid["y"])
    loss = np.log10(grid["test_loss"])
    ax.plot_surface(x, y, loss, cmap=LOSS_MAP, alpha=0.6, linewidth=0, rcount=60, ccount=60)
    for label, colour, path in _trajectories(grid, points):
        above = np.log10(path["projected_test_loss"])
        ax.plot(path["pc1"], path["pc2"], above, color=colour, marker=".", label=label, zorder=10)
    ax.set_xlabel(_component(grid, 1), labelpad=-2, fontsize=8)
    ax.set_ylabel(_component(grid, 2), labelpad=-2, fontsize=8)
    ax.set_zlabel("test loss", labelpad=-3, fontsize=8)
    low, high = np.floor(loss.min()), np.ceil(loss.max())
    ticks = np.arange(low, high + 1, 1 if high - low < 5 else 2)
    ax.set_zticks(ticks, [f"$10^{{{tick:g}}}$" for tick in ticks])
    # Seen over the lowest corner, so that nothing stands in the way.
    corners = {-120: loss[0, 0], -60: loss[0, -1], 60: loss[-1, -1], 120: loss[-1, 0]}
    ax.view_init(elev=35, azim=min(corners, key=corners.__getitem__))
    figure.legend(loc="lower center", ncol=2)
    return figure


def projection(results: StudyResults) -> Figure:
    """True beside projected loss along each run, how far off the plane it is, and barriers."""
    grid, points, lines = results.landscape("momentum")
    figure, axes = style.panels(1, 3, 2.2)
    loss, off, between = axes[0]
    runs = points.drop_duplicates("run").reset_index()
    for i, run in runs.iterrows():
        path, colour = points[points["run"] == run["run"]], style.COLOURS[i]
        loss.plot(path["epoch"], path["test_loss"], color=colour)
        loss.plot(path["epoch"], path["projected_test_loss"], color=colour, linestyle="--")
        share = path["off_plane"] / path["from_origin"]
        off.plot(path["epoch"], share, color=colour, label=f"momentum {run['momentum']:g}")
    best = runs.loc[runs["momentum"] == 0.9, "run"].item()
    colours = dict(zip(runs["run"], style.COLOURS, strict=False))
    for (first, second), line in lines.groupby(["first", "second"], sort=False):
        if best in (first, second):
            position = line["position"] if first == best else 1 - line["position"]
            other = second if first == best else first
            between.plot(position, line["test_loss"], color=colours[other])
    off.plot([], [], color=style.GREY, label="the weights")
    off.plot([], [], color=style.GREY, linestyle="--", label="their projection")
    for ax in (loss, between):
        ax.set_yscale("log")
        ax.set_yticks(style.log_ticks(*ax.get_ylim()))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("test loss")
    off.set_ylabel("share off the plane")
    off.set_ylim(0, 1.02)
    for ax in (loss, off):
        ax.set_xlabel("epoch")
        style.whole_number_ticks(ax)
    between.set_xlabel("way from momentum 0.9")
    style.legend_below(off, columns=4)
    return figure


def fig3(results: StudyResults) -> Figure:
    """Loss and weight norm against time: 10 workers, split labels, worker 1 slow at 90 ms."""
    return _training(results.trajectory("training").query("delay_ms > 0"))


def fig4(results: StudyResults) -> Figure:
    """The same without delay."""
    return _training(results.trajectory("training").query("delay_ms == 0 and not synchronous"))


def fig5(results: StudyResults) -> Figure:
    """The same with synchronous workers."""
    return _training(results.trajectory("training").query("synchronous"))


def _training(curves: pd.DataFrame) -> Figure:
    figure, (axes,) = style.panels(1, 2, 1.35)
    loss, norm = axes
    for _, run in curves.groupby("seed"):
        time = run["simulated_seconds"]
        for column, colour in (("train_loss", OURS), ("test_loss", style.COLOURS[1])):
            loss.plot(time, run[column], color=colour, alpha=0.7)
        norm.plot(time, run["weight_norm"], color=OURS, alpha=0.7)
    loss.plot([], [], color=OURS, label="training")
    loss.plot([], [], color=style.COLOURS[1], label="test")
    loss.axhline(np.log(CLASSES), **CHANCE, label="chance")
    figure.legend(loc="outside right center")
    loss.set_ylabel("loss")
    norm.set_ylabel("weight norm")
    for ax in axes:
        ax.set_xlabel("simulated time, s")
        ax.set_xlim(left=0)
    return figure


def fig6(results: StudyResults) -> Figure:
    """The larger model, as it was trained."""
    (problem,) = results.grid("large")["problem"].unique()
    return architecture.draw(spec_class("problems", problem).network)


def models(results: StudyResults) -> Figure:
    """Accuracy of LeNet-5 and the larger model without delay against workers, sync and async."""
    runs = models_runs(results)
    figure, (axes,) = style.panels(1, 2, 2.6, style.HALF, sharey=True)
    for ax, (problem, title) in zip(axes, MODELS.items(), strict=True):
        here = runs[runs["problem"] == problem]
        for i, (mode, name) in enumerate((("sync", "synchronous"), ("async", "asynchronous"))):
            chosen = here[here["mode"] == mode]
            means = chosen.groupby("workers")["accuracy"].mean()
            look = {"color": style.COLOURS[i], "marker": style.MARKERS[i]}
            ax.plot(means.index, means, **look, label=name)
            ax.plot(chosen["workers"], chosen["accuracy"], ".", color=style.COLOURS[i], alpha=0.6)
        ax.axhline(NO_CONVERGENCE, **CHANCE)
        ax.set_title(title)
        ax.set_xlabel("workers")
        ax.set_xticks(sorted(runs["workers"].unique()))
        ax.set_ylim(0, 100)
    axes[0].set_ylabel("test accuracy, %")
    style.legend_below(axes[0])
    return figure


def table2(results: StudyResults) -> Figure:
    """Every cell of Table II: seeds, mean over seeds and the published run."""
    runs, cells = table2_runs(results), table2_cells(results)
    rows = [("sync", "none", 0), ("async", "none", 0)]
    rows += [("async", who, ms) for who in ("all", "one") for ms in (30, 60, 90)]
    names = ["sync", "async", *(f"{who} {ms}" for _, who, ms in rows[2:])]
    workers, partitions = sorted(cells["workers"].unique()), ("dataset", "labels")
    figure, axes = style.panels(2, len(workers), 1.35, sharex=True, sharey=True)
    for (line, column), ax in np.ndenumerate(axes):
        here = (workers[column], partitions[line])
        for x, row in enumerate(rows):
            chosen = dict(zip(TABLE2_KEYS, (*row, *here), strict=True))
            _cell(ax, x, _where(runs, chosen)["accuracy"], _where(cells, chosen))
        ax.axhline(NO_CONVERGENCE, **CHANCE)
        ax.set_title(f"{here[0]} workers, split {here[1]}")
        ax.set_xticks(range(len(rows)), names, rotation=90)
        ax.set_ylim(0, 100)
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy, %")
    ours = axes[0, 0].bar([0], [0], color=OURS, alpha=0.35)
    (published,) = axes[0, 0].plot([], [], color=style.PUBLISHED, linewidth=2)
    figure.legend([ours, published], ["ours", "published"], loc="outside lower center", ncol=2)
    return figure


def _where(frame: pd.DataFrame, chosen: dict) -> pd.DataFrame:
    return frame[(frame[list(chosen)] == pd.Series(chosen)).all(axis=1)]


def _cell(ax: Axes, x: float, seeds: pd.Series, cell: pd.DataFrame) -> None:
    if cell.empty:
        return
    ax.bar(x, cell["mean"], width=0.7, color=OURS, alpha=0.35)
    ax.plot(np.full(len(seeds), x), seeds, linestyle="", marker=".", color=OURS)
    published = cell["published"].iloc[0]
    ax.plot([x - 0.4, x + 0.4], [published] * 2, color=style.PUBLISHED, linewidth=2)


def _case(runs: pd.DataFrame) -> pd.Series:
    """Cases of one partition by name: workers, and whether worker 1 is slow."""
    slow = (runs["delayed"] == "one") & (runs["delay_ms"] > 0)
    kind = slow.map({True: f"{SLOW} (90 ms)", False: "no delay"})
    return runs["workers"].astype(str) + " workers, " + kind


def _published_case(results: StudyResults, partition: str = "labels") -> pd.Series:
    """The printed cells of those cases, by name."""
    cells = results.published("table2").rename(columns={"delayed_workers": "delayed"})
    cells = cells[(cells["partition"] == partition) & (cells["mode"] == "async")]
    plain = cells["delay_ms"] == 0
    cells = cells[plain | ((cells["delayed"] == "one") & (cells["delay_ms"] == 90))]
    return cells.set_index(_case(cells))["test_accuracy_percent"]


def spread(results: StudyResults) -> Figure:
    """Split-labels accuracy against the spread of worker speeds, and with a queueing server."""
    runs, queue = (in_percent(results.grid(name)) for name in ("spread", "queue"))
    published = _published_case(results)
    cases = list(dict.fromkeys(_case(runs)))
    figure, axes = style.panels(1, len(cases), 1.7, sharey=True)
    for ax, case in zip(axes.flat, cases, strict=False):
        here = runs[_case(runs) == case]
        means = here.groupby("spread")["accuracy"].mean()
        ax.plot(100 * means.index, means, color=OURS, label="shared machine")
        ax.plot(100 * here["spread"], here["accuracy"], ".", color=OURS)
        waiting = queue[_case(queue) == case]
        ax.plot(100 * waiting["spread"], waiting["accuracy"], "x", color=style.COLOURS[1],
                label="server in turn")  # fmt: skip
        ax.axhline(published[case], color=style.PUBLISHED, label="published")
        ax.axhline(NO_CONVERGENCE, **CHANCE)
        ax.set_title(case.replace(", ", "\n"))
        ax.set_ylim(0, 100)
        ax.set_xlabel("spread of speeds, %")
    axes[0, 0].set_ylabel("test accuracy, %")
    style.legend_below(axes[0, 0])
    return figure


def start(results: StudyResults) -> Figure:
    """Split-dataset accuracy against the time between the starts of one worker and the next."""
    runs = in_percent(results.grid("start"))
    cases = list(dict.fromkeys(_case(runs)))
    published = _published_case(results, "dataset")
    figure, axes = style.panels(1, len(cases), 1.8, sharey=True)
    times = sorted(runs["start_ms"].unique())
    for case, ax in zip(cases, axes.flat, strict=True):
        here = runs[_case(runs) == case]
        at = here["start_ms"].map(times.index)
        means = here.groupby(at)["accuracy"].mean()
        ax.plot(means.index, means, color=OURS, label="mean")
        ax.plot(at, here["accuracy"], ".", color=OURS, label="seeds")
        ax.axhline(published[case], color=style.PUBLISHED, label="published")
        ax.axhline(NO_CONVERGENCE, **CHANCE)
        ax.set_title(case)
        ax.set_ylim(0, 100)
        ax.set_xlabel("time between starts, s")
        ax.set_xticks(range(len(times)), [f"{time / 1_000:g}" for time in times])
    axes[0, 0].set_ylabel("test accuracy, %")
    style.legend_below(axes[0, 0])
    return figure


def weights(results: StudyResults) -> Figure:
    """Accuracy of ten workers from the authors' initial weights and from others."""
    runs, own = initial_weights(results), in_percent(results.grid("other_weights"))
    own = own.query("delay_ms == 0 or (delayed == 'one' and delay_ms == 90)")
    starts = sorted(runs["start_from"].unique(), key=lambda seed: seed != AUTHORS_SEED)
    panels = list(product(("dataset", "labels"), dict.fromkeys(_case(runs))))
    figure, axes = style.panels(1, len(panels), 1.8, sharey=True)
    for ax, (partition, case) in zip(axes.flat, panels, strict=True):
        here, there = (r[(r["partition"] == partition) & (_case(r) == case)] for r in (runs, own))
        for x, start in enumerate(starts):
            seeds = here.loc[here["start_from"] == start, "accuracy"]
            colour = style.COLOURS[1] if start == AUTHORS_SEED else OURS
            ax.plot(np.full(len(seeds), x), seeds, ".", color=colour)
            ax.plot([x - 0.3, x + 0.3], [seeds.mean()] * 2, color=colour)
        ax.plot(np.full(len(there), len(starts)), there["accuracy"], "x", color=style.GREY)
        printed = _published_case(results, partition)[case]
        ax.axhline(printed, color=style.PUBLISHED, linewidth=1)
        ax.axhline(NO_CONVERGENCE, **CHANCE)
        ax.set_title(f"split {partition}\n{case.split(', ')[1]}")
        ax.set_xticks(
            range(len(starts) + 1), ["authors", *map(str, starts[1:]), "own"], rotation=90
        )
        ax.set_ylim(0, 100)
    axes[0, 0].set_ylabel("test accuracy, %")
    axes[0, 0].plot([], [], ".-", color=style.COLOURS[1], label="the authors' initial weights")
    axes[0, 0].plot([], [], ".-", color=OURS, label="four others")
    axes[0, 0].plot([], [], "x", color=style.GREY, label="a seed's own")
    axes[0, 0].plot([], [], color=style.PUBLISHED, label="published")
    style.legend_below(axes[0, 0])
    return figure


def staleness(results: StudyResults) -> Figure:
    """Histograms of staleness: one line of panels a cluster, one column a case."""
    lines: dict[tuple[int, float], list[tuple[pd.Series, np.ndarray]]] = {}
    for simulation in ("staleness_fewer", "staleness"):
        rows, arrays = results.staleness, results.arrays(simulation)
        cells = rows[rows["simulation"] == simulation].groupby("index").first()
        for index, cell in cells.iterrows():
            counts = arrays[f"histogram_{index}"].sum(axis=0)
            lines.setdefault((cell["workers"], cell["machine_ms"]), []).append((cell, counts))
    figure, axes = style.panels(len(lines), max(map(len, lines.values())), 0.8, sharey="row")
    for row, cases in zip(axes, lines.values(), strict=True):
        for ax, (cell, counts) in zip(row, cases, strict=True):
            _histogram(ax, cell, counts)
    figure.supylabel("share of gradients", fontsize=9)
    for ax in axes[-1]:
        ax.set_xlabel("staleness")
    return figure


def _histogram(ax: Axes, cell: pd.Series, counts: np.ndarray) -> None:
    """counts: of the gradients of staleness 0, 1, ... in the cluster that `cell` describes."""
    share, values = counts / counts.sum(), np.arange(len(counts))
    mean = (share * values).sum()
    shown = values <= max(2 * cell["workers"], np.flatnonzero(share > 1e-3).max())
    ax.bar(values[shown], share[shown], width=1, color=OURS, alpha=0.6)
    ax.axvline(mean, color="black", linewidth=0.8)
    ax.text(0.98, 0.85, f"mean {mean:.1f}", transform=ax.transAxes, ha="right", fontsize=7)
    who = SLOW if cell["delayed"] == "one" else "all"
    case = f"{cell['delay_ms']:g} ms, {who}" if cell["delay_ms"] else "no delay"
    # 2 workers leave the authors' machine room to spare, and so have no `machine_ms` either.
    name = "authors" if cell["machine_ms"] or cell["workers"] == 2 else "ideal"
    ax.set_title(f"{name}, {cell['workers']} workers: {case}", fontsize=7.5)
    style.whole_number_ticks(ax)


def delay(results: StudyResults) -> Figure:
    """Accuracy against injected delay for 10 workers, saturated machine and one for each."""
    authors = table2_runs(results).query("workers == 10 and mode == 'async'")
    ideal = in_percent(results.grid("ideal")).query("workers == 10")
    printed = results.published("table2").query("workers == 10 and mode == 'async'")
    figure, axes = style.panels(1, 4, 1.7, sharey=True)
    panels = product(("dataset", "labels"), ("all", "one"))
    for (partition, who), ax in zip(panels, axes.flat, strict=True):
        for runs, name, colour in ((authors, "authors", OURS), (ideal, "ideal", style.COLOURS[1])):
            here = runs[runs["partition"] == partition]
            here = here[(here["delayed"] == who) | (here["delay_ms"] == 0)]
            cells = over_seeds(here, ["delay_ms"], "accuracy")
            style.band(ax, cells, "delay_ms", colour=colour, label=name, marker="o")
        here = printed[printed["partition"] == partition]
        here = here[here["delayed_workers"].isin([who, "none"])]
        ax.plot(here["delay_ms"], here["test_accuracy_percent"], "_", markersize=12,
                markeredgewidth=2, color=style.PUBLISHED, label="published")  # fmt: skip
        ax.axhline(NO_CONVERGENCE, **CHANCE)
        ax.set_title(f"split {partition}\n{'all alike' if who == 'all' else SLOW}")
        ax.set_ylim(0, 100)
        ax.set_xlabel("injected delay, ms")
        ax.set_xticks([0, 30, 60, 90])
    axes[0, 0].set_ylabel("test accuracy, %")
    style.legend_below(axes[0, 0])
    return figure


def stop(results: StudyResults) -> Figure:
    """Split-labels accuracy where workers train on alone, and where all stop with the first."""
    runs = in_percent(results.grid("stop"))
    cases = list(dict.fromkeys(_case(runs)))
    published = _published_case(results)
    figure, ((ax,),) = style.panels(1, 1, 2.4, style.HALF)
    for x, case in enumerate(cases):
        here = runs[_case(runs) == case]
        for shift, on, colour in ((-0.2, True, OURS), (0.2, False, style.COLOURS[1])):
            seeds = here[here["run_on"].astype(bool) == on]["accuracy"]
            ax.bar(x + shift, seeds.mean(), width=0.36, color=colour, alpha=0.35)
            ax.plot(np.full(len(seeds), x + shift), seeds, ".", color=colour)
        ax.plot([x - 0.4, x], [published[case]] * 2, color=style.PUBLISHED, linewidth=2)
    ax.bar([0], [0], color=OURS, alpha=0.35, label="each finishes its epochs")
    ax.bar([0], [0], color=style.COLOURS[1], alpha=0.35, label="all stop with the first")
    ax.plot([], [], color=style.PUBLISHED, linewidth=2, label="published")
    ax.axhline(NO_CONVERGENCE, **CHANCE)
    ax.set_xticks(
        range(len(cases)), [re.sub(r", | (?=\()", "\n", case) for case in cases], fontsize=7
    )
    ax.set_ylabel("test accuracy, %")
    ax.set_ylim(0, 100)
    figure.legend(loc="outside lower center", ncol=2)
    return figure


def recall(results: StudyResults) -> Figure:
    """Recall over time of the slow worker's classes and of all others, one panel a case."""
    curves = results.curves("table2")
    curves = curves[(curves["partition"] == "labels") & (curves["delay_ms"] == 90)]
    shares = class_shares(curves)
    workers = sorted(shares["workers"].unique())
    figure, axes = style.panels(2, len(workers), 1.15, sharey=True)
    for (line, column), ax in np.ndenumerate(axes):
        who = ("all", "one")[line]
        here = shares[(shares["workers"] == workers[column]) & (shares["delayed"] == who)]
        for seed, run in here.groupby("seed"):
            first, *_ = deal_labels(
                np.arange(CLASSES), workers[column], generator(int(seed), PARTITION)
            )
            own = run["class"].isin(first)
            for chosen, colour in ((own, OURS), (~own, style.GREY)):
                means = run[chosen].groupby("simulated_seconds")["recall"].mean()
                ax.plot(means.index, means, color=colour, marker=".", alpha=0.8)
        ax.set_title(f"{workers[column]} workers, {'all alike' if who == 'all' else SLOW}")
        ax.set_ylim(0, 1.02)
        ax.set_xlim(left=0)
    for ax in axes[-1]:
        ax.set_xlabel("simulated time, s")
    for ax in axes[:, 0]:
        ax.set_ylabel("recall")
    axes[0, 0].plot([], [], color=OURS, label="classes of worker 1")
    axes[0, 0].plot([], [], color=style.GREY, label="classes of the others")
    figure.legend(loc="outside lower center", ncol=2)
    return figure


def nesterov(results: StudyResults) -> Figure:
    """Final accuracy with heavy-ball momentum against Nesterov's, one point a cell."""
    runs = in_percent(results.grid("nesterov"))
    keys = ["workers", "partition", "momentum"]
    kinds = [runs[runs["nesterov"].astype(bool) == kind] for kind in (False, True)]
    cells = over_seeds(kinds[0], keys, "accuracy").merge(
        over_seeds(kinds[1], keys, "accuracy"), on=keys, suffixes=("_heavy", "_nesterov")
    )
    figure, ((ax,),) = style.panels(1, 1, 2.4, style.HALF)
    ax.plot([0, 100], [0, 100], color=style.GREY, linewidth=0.6)
    for i, ((partition, momentum), here) in enumerate(cells.groupby(["partition", "momentum"])):
        y, x = (_reach(here, kind) for kind in ("nesterov", "heavy"))
        ax.errorbar(here["mean_heavy"], here["mean_nesterov"], y, x, linestyle="",
                    marker=style.MARKERS[i], color=style.COLOURS[i], elinewidth=0.6,
                    label=f"split {partition}, momentum {momentum:g}")  # fmt: skip
    ax.set_xlabel("with heavy-ball momentum, %")
    ax.set_ylabel("with Nesterov's, %")
    ax.set_xlim(0, 100)
    ax.set_ylim(0, 100)
    ax.set_aspect("equal")
    figure.legend(loc="outside lower center", ncol=2, fontsize=7, columnspacing=1)
    return figure


def _reach(cells: pd.DataFrame, kind: str) -> np.ndarray:
    """From the mean down to the smallest seed and up to the largest, [2, cells]."""
    mean, low, high = (cells[f"{column}_{kind}"] for column in ("mean", "min", "max"))
    return np.abs([mean - low, high - mean])  # rounding makes some of them -0.0000001


def _regularised(ax: Axes, runs: pd.DataFrame, momenta: list[float]) -> None:
    """Norm of the weights and gap of the losses where runs end, a dot a seed: momenta in the colour
    of their line, L2 as diamonds with its factor above them."""
    for (momentum, decay), here in runs.groupby(["momentum", "weight_decay"]):
        if decay:
            ax.plot(here["norm"], here["gap"], "D", color="black", markersize=3.5,
                    markeredgewidth=0.6, fillstyle="none")  # fmt: skip
            ax.annotate(f"{decay:g}", (here["norm"].mean(), here["gap"].max()), (0, 5), size=5.5,
                        textcoords="offset points", rotation=90, ha="center")  # fmt: skip
        else:
            colour = style.COLOURS[momenta.index(momentum)]
            ax.plot(here["norm"], here["gap"], ".", color=colour)
    ax.set_xlabel("norm of the weights")
    ax.set_ylabel("gap of the losses")


def momentum(results: StudyResults) -> Figure:
    """Test loss and accuracy of three workers, one line a momentum; norm and gap beside L2."""
    curves = results.curves("momentum")
    figure, ((*axes, ends),) = style.panels(1, 3, 1.7)
    for i, (value, here) in enumerate(curves.groupby("momentum")):
        for ax, metric in zip(axes, ("test_loss", "test_accuracy"), strict=True):
            cells = over_seeds(here, ["epoch"], metric)
            style.band(ax, cells, "epoch", colour=style.COLOURS[i], label=f"{value:g}", marker=".")
    axes[0].set_ylabel("test loss")
    axes[0].set_ylim(0, 1.1 * np.log(CLASSES))  # what diverges leaves at the top
    axes[0].axhline(np.log(CLASSES), **CHANCE)
    axes[1].set_ylabel("test accuracy")
    axes[1].set_ylim(0, 1)
    for ax in axes:
        ax.set_xlabel("epoch")
        style.whole_number_ticks(ax)
    _regularised(ends, regularised_runs(results), sorted(curves["momentum"].unique()))
    handles, labels = axes[1].get_legend_handles_labels()
    labels = [f"momentum {label}" for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncol=len(labels))
    return figure
