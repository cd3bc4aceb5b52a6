"""The figures of jain2018 (Jain, Srinivasan, Barekatain 2018), numbered as there."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from stalegrad.analysis import style
from stalegrad.analysis.results import StudyResults, over_seeds

from .tables import delay_kinds, fig2_cells, largest_trained_rate, rounding_cells


def fig1(results: StudyResults) -> Figure:
    """Distribution of update delay for N workers with N(1, 0.2^2) times, and the normal fit."""
    rows = results.staleness.query("simulation == 'fig1'")
    histograms = results.arrays("fig1")
    cells = rows.groupby("index").first()
    columns = min(4, len(cells))
    figure, axes = style.panels(-(-len(cells) // columns), columns, 1.1)
    for ax, (index, cell) in zip(axes.flat, cells.iterrows(), strict=False):
        counts = histograms[f"histogram_{index}"].sum(axis=0)
        delays = np.arange(len(counts))
        share = counts / counts.sum()
        mean = (delays * share).sum()
        deviation = np.sqrt(((delays - mean) ** 2 * share).sum())
        near = np.abs(delays - mean) < max(4.5 * deviation, 2)
        edges = np.append(delays[near], delays[near][-1] + 1) - 0.5
        ax.stairs(share[near], edges, fill=True, color=style.COLOURS[0], alpha=0.6)
        x = np.linspace(delays[near].min() - 0.5, delays[near].max() + 0.5, 300)
        ax.plot(x, stats.norm.pdf(x, mean, deviation), color="black", linewidth=0.9)
        ax.set_title(f"$N = {cell['workers']}$: {mean:.2f} $\\pm$ {deviation:.2f}")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    for ax in axes.flat[len(cells) :]:
        ax.set_visible(False)
    figure.supxlabel("update delay (gradients applied since the weights were read)", fontsize=9)
    return figure


def fig2(results: StudyResults) -> Figure:
    """Test accuracy over learning rate and batch size, one heat map a delay."""
    runs = results.grid("fig2")
    cells = over_seeds(runs, ["delay", "batch_size", "lr"])
    delays = sorted(cells["delay"].unique())
    by_rounding = rounding_cells(results.home).query("other_side > 0")
    figure, axes = _delay_panels(delays)
    for ax, delay in zip(axes.flat, delays, strict=False):
        table = _rate_by_batch(cells[cells["delay"] == delay])
        image = style.heatmap(ax, table, cmap=style.ACCURACY_MAP, limits=(0, 1))
        decided = by_rounding[by_rounding["delay"] == delay]
        style.ring(ax, table, _rate_by_batch(decided.assign(mean=1.0)))
        ax.set_title(f"{delay} batch delay")
    _label_panels(axes, len(delays))
    figure.colorbar(image, ax=axes, label="test accuracy", shrink=0.6, aspect=40)
    return figure


def fig2_difference(results: StudyResults) -> Figure:
    """Ours less the published value; what the scan leaves unreadable is hatched."""
    both = fig2_cells(results)
    both["mean"] = both["mean"] - both["published"]
    delays = sorted(both["delay"].unique())
    figure, axes = _delay_panels(delays)
    for ax, delay in zip(axes.flat, delays, strict=False):
        here = both[both["delay"] == delay]
        unreadable = here.assign(mean=here["legibility"] == "missing")
        image = style.heatmap(
            ax, _rate_by_batch(here), cmap=style.DIFFERENCE_MAP, limits=(-1, 1),
            digits="{:+z.2f}", hatch=_rate_by_batch(unreadable).astype(bool),
        )  # fmt: skip
        ax.set_title(f"{delay} batch delay")
    _label_panels(axes, len(delays))
    figure.colorbar(image, ax=axes, label="ours $-$ published", shrink=0.6, aspect=40)
    return figure


def fig3(results: StudyResults) -> Figure:
    """Test accuracy against epochs for SGD and Adam at large delays, one line a rate and batch."""
    curves = results.curves("fig3_sgd", "fig3_adam")
    delays = [d for d in sorted(curves["delay"].unique()) if d > 0]
    figure, axes = style.panels(len(delays), 2, 1.2, sharex=True, sharey=True)
    batches = sorted(curves["batch_size"].unique())
    for row, delay in enumerate(delays):
        for ax, rule in zip(axes[row], ("sgd", "adam"), strict=True):
            here = curves[(curves["delay"] == delay) & (curves["rule"] == rule)]
            batch, lr, accuracy = _accuracy_curves(ax, here, batches)
            name = "SGD" if rule == "sgd" else "Adam"
            rate = style.scientific(lr)
            ax.set_title(f"{name}, delay {delay}: {accuracy:.4f} (batch {batch}, rate {rate})")
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy")
    handles = [
        axes[0, 0].plot([], [], color=colour, label=f"batch {batch}")[0]
        for colour, batch in zip(style.COLOURS, batches, strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncol=len(handles))
    return figure


def _accuracy_curves(
    ax: Axes, curves: pd.DataFrame, batches: list[int]
) -> tuple[int, float, float]:
    """One line a cell, coloured by batch size, the best on top; its batch, rate and accuracy."""
    means = curves.groupby(["batch_size", "lr", "epoch"])["test_accuracy"].mean()
    lines = {cell: line.droplevel([0, 1]) for cell, line in means.groupby(level=[0, 1])}
    best = max(lines, key=lambda cell: lines[cell].iloc[-1])
    for (batch, lr), line in lines.items():
        colour = style.COLOURS[batches.index(batch) % len(style.COLOURS)]
        strong = (batch, lr) == best
        ax.plot(line.index, line, color=colour, alpha=1 if strong else 0.35,
                linewidth=2 if strong else 0.8, zorder=3 if strong else 2)  # fmt: skip
    ax.set_ylim(0, 1.02)
    style.whole_number_ticks(ax)
    return *best, lines[best].iloc[-1]


def front(results: StudyResults) -> Figure:
    """The largest rate that still trains, against delay: ours and the published."""
    both = fig2_cells(results)
    batches = sorted(both["batch_size"].unique())
    figure, axes = style.panels(1, len(batches), 1.7, sharey=True)
    for ax, batch in zip(axes.flat, batches, strict=True):
        here = both[both["batch_size"] == batch]
        for column, label, colour, marker in (
            ("published", "published", style.PUBLISHED, "s"),
            ("mean", "ours", style.COLOURS[0], "o"),
        ):
            edge = largest_trained_rate(here, column)
            ax.semilogy(edge.index, edge, color=colour, marker=marker, label=label, alpha=0.85)
        ax.set_title(f"batch {batch}")
        ax.set_xlabel("delay")
        ax.set_xticks(sorted(here["delay"].unique()))
    axes[0, 0].set_ylabel("largest rate that trains")
    style.legend_below(axes[0, 0], columns=2)
    return figure


def warmup(results: StudyResults) -> Figure:
    """Test accuracy against epochs with learning-rate warm-up, gradual start, and neither."""
    curves = results.curves("warmup")
    delays, rates = sorted(curves["delay"].unique()), sorted(curves["lr"].unique())
    figure, axes = style.panels(len(delays), len(rates), 1.15, sharex=True, sharey=True)
    for row, delay in enumerate(delays):
        for column, lr in enumerate(rates):
            ax = axes[row, column]
            here = curves[(curves["delay"] == delay) & (curves["lr"] == lr)]
            _start_curves(ax, here)
            ax.set_title(f"delay {delay}, rate {style.log10_label(lr)}")
            ax.set_ylim(0, 1.02)
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy")
    style.legend_below(axes[0, 0])
    return figure


def _start_curves(ax: Axes, curves: pd.DataFrame) -> None:
    for i, ((warm, ramp), here) in enumerate(curves.groupby(["warmup_epochs", "ramp_epochs"])):
        label = "neither"
        if warm:
            label = f"rate warmed up over {warm} epochs"
        elif ramp:
            label = f"workers added over {ramp} epochs"
        if warm or ramp:
            ax.axvline(warm or ramp, color=style.COLOURS[i], linewidth=0.6, linestyle=":")
        cells = over_seeds(here, ["epoch"], "test_accuracy")
        line = {"colour": style.COLOURS[i], "linestyle": style.LINES[i], "label": label}
        style.band(ax, cells, "epoch", **line)
    style.whole_number_ticks(ax)


def start(results: StudyResults) -> Figure:
    """Variance of the minibatch gradient along training, and against the squared mean gradient."""
    rows = results.trajectory("variance")
    rates, delays = sorted(rows["lr"].unique()), sorted(rows["delay"].unique())
    figure, axes = style.panels(1, 2 * len(rates), 1.6, sharex=True)
    for i, lr in enumerate(rates):
        for ax, value in (
            (axes[0, i], rows["gradient_variance"]),
            (axes[0, len(rates) + i], rows["gradient_variance"] / rows["mean_gradient_square"]),
        ):
            here = rows.assign(value=value)[rows["lr"] == lr]
            for j, delay in enumerate(delays):
                cells = over_seeds(here[here["delay"] == delay], ["epoch"], "value")
                line = {"colour": style.COLOURS[j], "linestyle": style.LINES[j]}
                style.band(ax, cells, "epoch", label=f"delay {delay}", **line)
            ax.set_yscale("log")
            ax.set_title(f"rate {style.log10_label(lr)}")
            ax.set_xlabel("epoch")
            style.whole_number_ticks(ax)
    axes[0, 0].set_ylabel("gradient variance")
    axes[0, len(rates)].set_ylabel("over squared mean")
    style.legend_below(axes[0, 0])
    return figure


def heuristic(results: StudyResults) -> Figure:
    """Best accuracy against workers: rate and batch halved as workers double, and held fixed."""
    figure, ((ax,),) = style.panels(1, 1, 2.3, style.HALF)
    for grid, label, colour, marker in (
        ("heuristic", "rate and batch halved as workers double", style.COLOURS[0], "o"),
        ("no_heuristic", "rate and batch fixed", style.COLOURS[3], "s"),
    ):
        runs = results.grid(grid)
        runs = runs.assign(workers=runs["delay"] + 1)
        cells = over_seeds(runs, ["workers"])
        style.band(ax, cells, "workers", colour=colour, label=label, marker=marker)
    ax.set_xscale("log", base=2)
    workers = sorted(runs["workers"].unique())
    ax.set_xticks(workers, [str(w) for w in workers])
    ax.minorticks_off()
    ax.set_xlabel("workers (delay + 1)")
    ax.set_ylabel("final test accuracy")
    figure.legend(loc="outside lower center")
    return figure


def asynchronous(results: StudyResults) -> Figure:
    """Final accuracy against learning rate: constant delay, and random delay of its mean."""
    cells = delay_kinds(results).reset_index()
    figure, ((ax,),) = style.panels(1, 1, 2.3, style.HALF)
    for i, (delay, here) in enumerate(cells.groupby("mean_delay")):
        for kind, options in (
            ("constant", {"linestyle": "-", "marker": "."}),
            ("random", {"linestyle": "--", "marker": style.MARKERS[i], "markerfacecolor": "none"}),
        ):
            label = f"{kind}, {delay:g}"
            ax.plot(here["lr"], here[kind], color=style.COLOURS[i], label=label, **options)
    rates = sorted(cells["lr"].unique())
    ax.set_xscale("log")
    ax.set_xticks(rates, [style.log10_label(lr) for lr in rates])
    ax.minorticks_off()
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("final test accuracy")
    figure.legend(title="delay, its mean", loc="outside lower center", ncol=3, fontsize=7,
                  title_fontsize=7, columnspacing=1)  # fmt: skip
    return figure


def _delay_panels(delays: list[int]) -> tuple[Figure, np.ndarray]:
    columns = min(3, len(delays))
    return style.panels(-(-len(delays) // columns), columns, 1.75, sharey=True)


def _rate_by_batch(cells: pd.DataFrame) -> pd.DataFrame:
    table = cells.pivot(index="lr", columns="batch_size", values="mean")
    table.index = [style.log10_label(lr) for lr in table.index]
    return table


def _label_panels(axes: np.ndarray, used: int) -> None:
    for ax in axes.flat[used:]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("learning rate")
    for ax in axes[-1]:
        ax.set_xlabel("batch size")
