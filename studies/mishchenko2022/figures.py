"""The figures of mishchenko2022 (the paper's experiment, and what its slides state)."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from stalegrad.analysis import style
from stalegrad.analysis.results import StudyResults, over_seeds

from .tables import (
    ADAPTIVE,
    ASYNCHRONOUS,
    CLASSES,
    FIXED,
    METHODS,
    MINIBATCH,
    NON_CONVEX,
    SHORT,
    SLOW,
    STRONGLY,
    constant_delay_runs,
    equal_time_runs,
    experiment_curves,
    horizon_runs,
    label_runs,
    largest_gradients,
    lenet_curves,
    rate_ratios,
    slowing_runs,
    tuned_experiment,
    virtual_means,
    virtual_rows,
    with_method,
    worker_runs,
)
from .tables import (
    budget as budget_table,
)
from .tables import (
    lenet as lenet_table,
)
from .tables import (
    lower_bound as lower_bound_table,
)

COLOUR = dict(zip(METHODS, style.COLOURS, strict=False))
MARKER = dict(zip(METHODS, style.MARKERS, strict=False))
PATTERNS = (SLOW, FIXED)
EXPERIMENT = ("rows", "dimension", "noise", "batch_size", "workers", "slowest")
CHAINS = ("smoothness", "strong_convexity", "dimension")
ERROR = {c: "least $f-f^*$" for c in CLASSES} | {NON_CONVEX: r"least $\|\nabla f\|^2$"}

# How a column of runs.csv is written where a figure states its constants.
SYMBOLS = {
    "smoothness": "L",
    "strong_convexity": r"\mu",
    "dimension": "d",
    "rows": "n",
    "noise": r"\sigma",
    "batch_size": "B",
    "workers": "M",
    "concurrency": "M",
    "slowest": r"s_{\max}",
    "lr": r"\gamma",
    "updates": "K",
    "steps": "K",
}


def _state(figure: Figure, runs: pd.DataFrame, *columns: str) -> None:
    """Say above the panels what was the same in all of `runs`, or which few values it had."""
    parts = []
    for column in columns:
        values = sorted(runs[column].dropna().unique())
        shown = r",\;".join(map(_number, values))
        parts.append(f"${SYMBOLS[column]}={shown}$".replace(",", "{,}").replace(r"{,}\;", r",\;"))
    # A narrow figure has room for three.
    line = 3 if figure.get_size_inches()[0] < style.WIDTH else len(parts)
    lines = [parts[i : i + line] for i in range(0, len(parts), line)]
    figure.suptitle("\n".join(r"$\quad$".join(some) for some in lines), fontsize=8)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else style.scientific(value).strip("$")


def budget(results: StudyResults) -> Figure:
    """Gradients a second and longest delay: simulated (marks) on the formulas (lines)."""
    rows = budget_table(results).frame
    figure, axes = style.panels(1, 3, 1.65)
    panels = (
        (axes[0, 0], "asynchronous", "gradients a second"),
        (axes[0, 1], "improvement", "times minibatch's gradients"),
        (axes[0, 2], "delay", r"longest delay $\tau_{\max}$"),
    )
    for ax, column, title in panels:
        for i, (profile, here) in enumerate(rows.groupby("profile", sort=False)):
            label = profile.replace("_", " ")
            ax.loglog(here["slowest"], here[f"{column}_formula"], color=style.COLOURS[i])
            ax.loglog(here["slowest"], here[column], color=style.COLOURS[i], linestyle="",
                      marker=style.MARKERS[i], markerfacecolor="none", label=label)  # fmt: skip
        ax.set_title(title)
        ax.set_xlabel(r"slowest worker $s_{\max}$")
        _plain_ticks(ax, sorted(rows["slowest"].unique()))
    style.legend_below(axes[0, 0])
    _state(figure, rows, "workers")
    return figure


def experiment(results: StudyResults) -> Figure:
    """F - F* against gradients at the printed steps, the delays, and the ratios of equal times."""
    curves = experiment_curves(results)
    published = results.published("experiment").set_index("method")["excess_loss"]
    figure, axes = style.panels(1, 3, 1.9)
    ax = axes[0, 0]
    for method in METHODS:
        here = curves[curves["method"] == method]
        cells = over_seeds(here, ["gradients"], "excess_loss")
        style.band(ax, cells, "gradients", colour=COLOUR[method], label=method)
        ax.plot(cells["gradients"].max(), published[method], color=COLOUR[method], marker="*",
                markersize=9, markeredgecolor=style.PUBLISHED, linestyle="", clip_on=False,
                label="" if method != MINIBATCH else "end published")  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("gradients")
    ax.set_ylabel("$F(x)-F^*$")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.set_title("printed steps")
    _delays(results, axes[0, 1])
    _equal_times(results, axes[0, 2])
    style.legend_below(ax)
    _state(figure, curves, *EXPERIMENT)
    return figure


def _delays(results: StudyResults, ax: Axes) -> None:
    """The share of delays up to each, beside what the printed histogram says of it."""
    counts = results.arrays("delays")["histogram_0"].sum(axis=0)
    delays = np.arange(1, len(counts) + 1)
    share = counts.cumsum() / counts.sum()
    printed = results.published("delays")
    first = printed.set_index("quantity").loc["share_at_most_14", "value"]
    longest = printed.loc[printed["quantity"] == "longest", "value"]
    last = int(np.flatnonzero(counts)[-1]) + 1
    ax.plot(delays[:last], share[:last], color=style.COLOURS[0])
    ax.plot(SHORT, first, marker="*", markersize=9, color=style.PUBLISHED, linestyle="")
    ax.annotate(f" printed: {first:.0%}", (SHORT, first), va="top",
                xytext=(4, -4), textcoords="offset points", fontsize=7)  # fmt: skip
    ax.axvspan(longest.min(), longest.max(), color=style.PUBLISHED, alpha=0.3, linewidth=0)
    ax.annotate("printed longest ", (longest.min(), 0.04), ha="right", fontsize=7)
    ax.plot(last, 1.0, color=style.COLOURS[0], marker="o", linestyle="", clip_on=False)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel(r"delay $\tau(k)$")
    ax.set_title("share of shorter delays")


def _equal_times(results: StudyResults, ax: Axes) -> None:
    """Minibatch SGD's time to its final error over asynchronous SGD's, against the formula."""
    table = equal_time_runs(results)
    for method in (ASYNCHRONOUS, ADAPTIVE):
        here = table[table["method"] == method]
        ax.loglog(here["formula_rounds"], here["ratio"], color=COLOUR[method], linestyle="",
                  marker=MARKER[method], markerfacecolor="none")  # fmt: skip
    x = np.array([table["formula_rounds"].min() / 1.5, table["formula_rounds"].max() * 1.5])
    ax.plot(x, x, color=style.GREY, linestyle="--")
    ax.fill_between(x, x / 2, 2 * x, color=style.GREY, alpha=0.2, linewidth=0)
    ax.set_xlabel(r"$\frac{1}{M}\sum_m s_{\max}/s_m$")
    ax.set_title("times faster to one error")


def steps(results: StudyResults) -> Figure:
    """The grid of steps: final F - F* of each method; the chosen step is filled."""
    cells = tuned_experiment(results)
    workers = int(results.grid("experiment")["workers"].iloc[0])
    figure, ((ax,),) = style.panels(1, 1, 2.4, style.HALF)
    for method in METHODS:
        here = cells[cells["method"] == method].sort_values("lr")
        here = here[np.isfinite(here["mean"]) & (here["mean"] < 1e3)]
        step = here["lr"] / (workers if method == MINIBATCH else 1)
        ax.loglog(step, here["mean"], color=COLOUR[method], marker=MARKER[method],
                  markerfacecolor="none", label=method)  # fmt: skip
        ax.fill_between(step, here["low"], here["high"], color=COLOUR[method], alpha=0.2,
                        linewidth=0)  # fmt: skip
        best = here["best"].to_numpy(bool)
        ax.plot(step[best], here["mean"][best], color=COLOUR[method], marker=MARKER[method],
                linestyle="", markersize=7)  # fmt: skip
    printed = results.published("experiment").set_index("method")["step_a_gradient"]
    for method, value in printed.drop(ADAPTIVE).items():
        ax.axvline(value, color=style.PUBLISHED, linewidth=0.8, linestyle="--")
        ax.annotate(f"{value} ({method}) ", (value, 0.98), xycoords=("data", "axes fraction"),
                    fontsize=7, rotation=90, va="top", ha="right")  # fmt: skip
    ax.set_xlabel("step a gradient (minibatch: step over $M$)")
    ax.set_ylabel("final $F-F^*$")
    figure.legend(loc="outside lower center", ncol=3, columnspacing=1)
    _state(figure, results.grid("experiment", "experiment_minibatch"), *EXPERIMENT)
    return figure


def slowing(results: StudyResults) -> Figure:
    """Least error of 16 workers against the longest delay, as one of them slows down."""
    runs = slowing_runs(results)
    figure, axes = style.panels(1, 3, 1.65)
    for ax, convexity in zip(axes.flat, CLASSES, strict=True):
        here = runs[runs["convexity"] == convexity]
        here = here.assign(tau=_longest_delay(here))
        for i, (noise, rows) in enumerate(here.groupby("noise")):
            cells = over_seeds(rows, ["tau"], "error")
            style.band(ax, cells, "tau", colour=style.COLOURS[i], label=_sigma(noise),
                       marker=style.MARKERS[i])  # fmt: skip
            old = cells["mean"].iloc[0] * cells["tau"] / cells["tau"].iloc[0]
            ax.plot(cells["tau"], old, color=style.GREY, linestyle="--",
                    label="" if i else r"$\propto\tau$")  # fmt: skip
        _log_log(ax, here["error"], r"longest delay $\tau$")
        ax.set_title(convexity)
        ax.set_ylabel(ERROR[convexity])
    _one_legend(figure, axes)
    _state(figure, runs, *CHAINS, "concurrency", "updates")
    return figure


def _sigma(noise: float) -> str:
    return rf"$\sigma={noise:g}$"


def _log_log(ax: Axes, values: pd.Series, label: str) -> None:
    """Logarithmic axes that reach as far as the values, and guides no further."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(values.min() / 3, values.max() * 10)
    ax.set_xlabel(label)
    ax.xaxis.set_minor_formatter(NullFormatter())


def _one_legend(figure: Figure, axes: np.ndarray) -> None:
    """One legend below all panels, which have the same lines."""
    handles: dict[str, Artist] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncol=min(len(handles), 4))


def _longest_delay(runs: pd.DataFrame) -> pd.Series:
    """Over the seeds of each slowness, whose own longest delays differ by little."""
    return runs.groupby(["noise", "slowest"])["tau"].transform("max")


def rates(results: StudyResults) -> Figure:
    """Least error against updates K, with noise, below the theorems' bounds."""
    runs = horizon_runs(results)
    ratios = rate_ratios(results).query("of == 'K'").sort_values("updates")
    figure, axes = style.panels(1, 3, 1.65)
    for ax, convexity in zip(axes.flat, CLASSES, strict=True):
        here = runs[runs["convexity"] == convexity]
        of_class = ratios[ratios["convexity"] == convexity]
        for i, (noise, rows) in enumerate(here.groupby("noise")):
            colour = style.COLOURS[i]
            cells = over_seeds(rows, ["updates"], "error")
            style.band(ax, cells, "updates", colour=colour, label=_sigma(noise),
                       marker=style.MARKERS[i])  # fmt: skip
            of_noise = of_class[of_class["noise"] == noise]
            for what, column, line, label in (
                ("least", "bound", "--", "bound, constants 1"),
                ("serial", "error", ":", "no delay"),
            ):
                shown = of_noise[of_noise["what"] == what]
                ax.plot(shown["updates"], shown[column], color=colour, linestyle=line,
                        label="" if i else label)  # fmt: skip
        _log_log(ax, pd.concat([here["error"], of_class["bound"]]), "updates $K$")
        ax.set_title(convexity)
        ax.set_ylabel(ERROR[convexity])
    _one_legend(figure, axes)
    _state(figure, runs, *CHAINS, "concurrency", "slowest")
    return figure


def workers(results: StudyResults) -> Figure:
    """Least error against workers M, without noise, as the longest delay grows with M and as not;
    of the strongly convex problem how far the error fell, on a logarithmic scale of its own."""
    runs = worker_runs(results)
    ratios = rate_ratios(results).query("of == 'M'").sort_values("workers")
    figure, axes = style.panels(1, 3, 1.65)
    for ax, convexity in zip(axes.flat, CLASSES, strict=True):
        here = runs[runs["convexity"] == convexity]
        for (pattern, modulus), rows in here.groupby(["pattern", "strong_convexity"]):
            options = {"color": style.COLOURS[PATTERNS.index(pattern)], "label": pattern,
                       "marker": style.MARKERS[PATTERNS.index(pattern)],
                       "markerfacecolor": "none"}  # fmt: skip
            rows = rows.sort_values("workers")
            ax.plot(rows["workers"], rows["error"], **options)
            if convexity == STRONGLY and pattern == SLOW:
                # Between the lines of two moduli: below the upper one and above the lower.
                low = modulus == here["strong_convexity"].max()
                ax.annotate(rf"$\mu={modulus:g}$", rows[["workers", "error"]].iloc[1],
                            fontsize=7, xytext=(-4, 8) if low else (7, -2),
                            textcoords="offset points", va="bottom" if low else "top")  # fmt: skip
        bounds = ratios[ratios["convexity"] == convexity].drop_duplicates(["bound", "workers"])
        for _, rows in bounds.groupby("where"):
            ax.plot(rows["workers"], rows["bound"], color=style.GREY, linestyle="--",
                    label="bound, constants 1")  # fmt: skip
        _log_log(ax, pd.concat([here["error"], bounds["bound"]]), "workers $M$")
        _plain_ticks(ax, sorted(here["workers"].unique()))
        ax.set_title(convexity)
        ax.set_ylabel(ERROR[convexity])
    _one_legend(figure, axes)
    _state(figure, runs, *CHAINS, "updates")
    return figure


def lower_bound(results: StudyResults) -> Figure:
    """The chain under constant delay, without it on K / tau steps, and with one slow worker."""
    rows = lower_bound_table(results).frame.sort_values("ratio_square")
    figure, ((ax,),) = style.panels(1, 1, 2.4, style.HALF)
    x = rows["ratio_square"]
    ax.loglog(x, rows["bound"], color=style.GREY, linestyle="--", label="lower bound")
    for i, (column, label) in enumerate(
        (
            ("delayed", r"constant delay $\tau$, $K$ steps"),
            ("undelayed", r"no delay, $K/\tau$ steps"),
            ("slow_worker", r"$M=4$, one answers once ($\tau_{\max}=K$)"),
        )
    ):
        ax.loglog(x, rows[column], color=style.COLOURS[i], marker=style.MARKERS[i],
                  markerfacecolor="none", label=label)  # fmt: skip
    ax.set_xlabel(r"$\tau^2/K^2$")
    ax.set_ylabel(r"$(f-f^*)\,/\,L\|x_0-x^*\|^2$")
    figure.legend(loc="outside lower center")
    runs = results.grid("lower_bound").assign(steps=rows["steps"].iloc[0])
    _state(figure, runs, "smoothness", "steps")
    return figure


def constant_delay(results: StudyResults) -> Figure:
    """The error at constant delay over that without, against the delay, with noise and without."""
    runs = constant_delay_runs(results)
    # Of each noise the most updates: there it counts most.
    runs = runs[runs["updates"] == runs.groupby("noise")["updates"].transform("max")]
    figure, ((ax,),) = style.panels(1, 1, 2.4, style.HALF)
    for i, (noise, here) in enumerate(runs.groupby("noise")):
        updates = here["updates"].iloc[0]
        steps = _number(updates).replace(",", "{,}")
        style.band(ax, over_seeds(here, ["tau"], "relative"), "tau", colour=style.COLOURS[i],
                   label=rf"{_sigma(noise) if noise else 'no noise'}, $K={steps}$",
                   marker=style.MARKERS[i])  # fmt: skip
        if noise:
            ax.axvline(noise * np.sqrt(updates), color=style.COLOURS[i], linestyle=":")
    _log_log(ax, runs["relative"], r"constant delay $\tau$")
    ax.set_ylabel("times the undelayed error")
    figure.legend(loc="outside lower center")
    _state(figure, runs, "smoothness", "dimension")
    return figure


def virtual(results: StudyResults) -> Figure:
    """|x_k - x^_k|^2 with the bounds of slides and paper, and the error of the identity."""
    rows, means = with_method(virtual_rows(results)), virtual_means(results)
    figure, axes = style.panels(1, 3, 1.9)
    for ax, penalty, title, bounds in (
        (axes[0, 0], "geman_mcclure", "bounded gradients",
         {"bound_equation_5": r"$(M-1)^2\gamma^2\,\max|g|^2$"}),
        (axes[0, 1], "square", "unbounded gradients",
         {"bound_unbounded": "slide's bound", "bound_lemma_3": "lemma 3"}),
    ):  # fmt: skip
        here = means[means["penalty"] == penalty]
        for method, mean in here.groupby("method"):
            options = {"color": COLOUR[method], "linewidth": 0.7}
            ax.semilogy(mean["version"], mean["distance_square"], label=method, **options)
            for (column, label), line in zip(bounds.items(), (":", "--"), strict=False):
                ax.semilogy(mean["version"], mean[column], linestyle=line, **options,
                            label=label if method == ASYNCHRONOUS else "")  # fmt: skip
        if penalty != "square":
            ax.axhline(here["bound"].iloc[0], color=style.GREY, linestyle="--",
                       label=r"$M^2(G^2+\sigma^2)\gamma^2$")  # fmt: skip
        ax.set_title(title)
        ax.set_ylabel(r"$\|x_k-\hat x_k\|^2$")
    for method, here in rows.groupby("method"):
        worst = here.groupby("version")["error"].max()
        axes[0, 2].semilogy(worst.index, worst.clip(lower=1e-18), color=COLOUR[method],
                            linewidth=0.7)  # fmt: skip
    axes[0, 2].axhline(1e-10, color=style.GREY, linestyle="--", label="$10^{-10}$")
    axes[0, 2].set_title("relative error of the identity")
    for ax in axes.flat:
        ax.set_xlabel("update $k$")
    _one_legend(figure, axes)
    _state(figure, rows, "smoothness", "dimension", "noise", "workers", "slowest", "lr")
    return figure


def limitations(results: StudyResults) -> Figure:
    """The first three limitations of the last slide, each with its assumption kept and broken."""
    figure, axes = style.panels(2, 2, 1.65)
    _unbounded(results, axes[0, 0])
    _dependent(results, axes[0, 1])
    _different(results, axes[1, 0])
    _labels(results, axes[1, 1])
    return figure


def _unbounded(results: StudyResults, ax: Axes) -> None:
    table = largest_gradients(results, "unbounded_random")
    for i, (penalty, method) in enumerate(table):
        bounded = "bounded" if penalty == "geman_mcclure" else "unbounded"
        # What has left the panel, or float32, is drawn at its upper edge.
        ax.loglog(table.index, table[(penalty, method)].clip(upper=1e6), color=style.COLOURS[i],
                  marker=style.MARKERS[i], markerfacecolor="none",
                  linestyle="-" if bounded == "bounded" else "--",
                  label=f"{bounded}, {method}")  # fmt: skip
    ax.set_title("1. gradients bounded or not")
    ax.set_xlabel(r"step $\gamma$")
    ax.set_ylabel(r"largest $\|\nabla f\|^2$ over the start's")
    ax.set_ylim(top=1e12)
    ax.legend(fontsize=6, loc="upper left")


def _dependent(results: StudyResults, ax: Axes) -> None:
    runs = with_method(results.grid("dependent"))
    for i, ((partition, method), here) in enumerate(runs.groupby(["partition", "method"])):
        cells = over_seeds(here, ["lr"], "final_excess_loss")
        label = f"{'dependent' if partition == 'labels' else 'independent'}, {method}"
        style.band(ax, cells, "lr", colour=style.COLOURS[i], label=label, marker=style.MARKERS[i])
    ax.set_xscale("log")
    ax.set_yscale("log")
    rates = sorted(runs["lr"].unique())
    ax.set_xticks(rates, [style.log10_label(rate) for rate in rates])
    ax.minorticks_off()
    ax.set_title("2. noise and delay")
    ax.set_xlabel(r"step $\gamma$")
    ax.set_ylabel("final $f-f^*$")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 1e5)
    ax.legend(fontsize=6, loc="upper left")


def _different(results: StudyResults, ax: Axes) -> None:
    runs = with_method(results.grid("different_data"))
    runs = runs[(runs["lr"] == runs["lr"].min()) & (runs["workers"] == runs["workers"].max())]
    _own_or_same(ax, runs, "final_excess_loss")
    ax.set_yscale("log")
    ax.set_title(f"3. kinds of data, {runs['workers'].iloc[0]} workers")
    ax.set_ylabel("final $f-f^*$")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * 1e4)


def _labels(results: StudyResults, ax: Axes) -> None:
    runs = label_runs(results)
    _own_or_same(ax, runs, "final_test_accuracy")
    ax.set_title(f"3. LeNet-5's labels, {runs['workers'].iloc[0]} workers")
    ax.set_ylabel("final test accuracy")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.7 * (high - low))
    ax.set_yticks(np.linspace(0, 1, 5)[np.linspace(0, 1, 5) >= low])


def _own_or_same(ax: Axes, runs: pd.DataFrame, value: str) -> None:
    for i, ((partition, method), here) in enumerate(runs.groupby(["partition", "method"])):
        cells = over_seeds(here, ["slowest"], value)
        label = f"{'own' if partition == 'labels' else 'same'} data, {method}"
        style.band(ax, cells, "slowest", colour=style.COLOURS[i], label=label,
                   marker=style.MARKERS[i])  # fmt: skip
    ax.set_xscale("log")
    _plain_ticks(ax, sorted(runs["slowest"].unique()))
    ax.set_xlabel("how many times slower one worker is")
    ax.legend(fontsize=6, loc="upper left")


def lenet(results: StudyResults) -> Figure:
    """LeNet-5 on MNIST: accuracy over steps, and against simulated time at the chosen step."""
    curves = lenet_curves(results)
    chosen = lenet_table(results).frame.set_index("method")["lr"]
    figure, axes = style.panels(1, 2, 2.4, style.HALF, sharey=True)
    for method in METHODS:
        here = curves[curves["method"] == method]
        cells = over_seeds(here[here["epoch"] == here["epochs"]], ["lr"], "test_accuracy")
        style.band(axes[0, 0], cells, "lr", colour=COLOUR[method], label=method,
                   marker=MARKER[method])  # fmt: skip
        best = here[here["lr"] == chosen[method]]
        line = over_seeds(best, ["epoch"], "test_accuracy")
        line["seconds"] = best.groupby("epoch")["simulated_seconds"].mean().to_numpy()
        style.band(axes[0, 1], line, "seconds", colour=COLOUR[method], label=method,
                   marker=MARKER[method])  # fmt: skip
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xlabel("step")
    axes[0, 0].set_ylabel("test accuracy")
    axes[0, 1].set_xscale("log")
    axes[0, 1].set_xlabel("seconds, best step")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=3, columnspacing=1)
    _state(figure, curves, "workers", "slowest", "batch_size")
    return figure


def _plain_ticks(ax: Axes, values: list[float]) -> None:
    ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()
