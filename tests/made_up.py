"""Made-up results of jain2018: its grids as configured, with accuracies from one function; and
verdicts on a few claims of any study."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import home_of

from stalegrad.analysis import claims
from stalegrad.analysis.results import StudyResults, collect
from stalegrad.planning.cell import Cell
from stalegrad.planning.config import Preset, load_study
from stalegrad.planning.expand import study_cells, study_trajectories

STUDY = load_study(home_of("jain2018"))
# Grids of which more than the last epoch is read.
CURVES = ("fig3_adam", "fig3_sgd", "warmup", "late_delay", "compensation")
COLLAPSED = 0.113

# Of a cell (its columns and `grid`, by name) and an epoch, the test accuracy; NaN where the run
# diverges, and None to leave it to the next function.
Accuracy = Callable[[SimpleNamespace, int], float | None]


@cache
def grids(preset: str) -> dict[str, list[Cell]]:
    """The grids of jain2018, one seed."""
    return study_cells(STUDY, preset, Preset(title="", seeds=1, bundle_size=1), "a test")


@cache
def published_fig2() -> dict[tuple[int, int, int], float]:
    """(delay, batch size, half decades of the rate) -> accuracy; unread cells as the one before."""
    table = pd.read_csv(home_of("jain2018") / "published" / "fig2.csv")
    table = table.sort_values(["delay", "lr", "batch_size"])
    table["half_decades"] = np.round(2 * np.log10(table["lr"])).astype(int)
    keys = table[["delay", "batch_size", "half_decades"]].itertuples(index=False, name=None)
    return dict(zip(keys, table["test_accuracy"].ffill(), strict=True))


def as_claimed(cell: SimpleNamespace, epoch: int) -> float:
    """Accuracies that meet what the paper claims; of Figure 2, the paper's own."""
    if cell.grid == "fig2":
        return published_fig2()[cell.delay, cell.batch_size, round(2 * np.log10(cell.lr))]
    if cell.grid == "fig3_adam":
        best = {0: 0.988, 32: 0.9821, 128: 0.9819, 256: 0.9794}[cell.delay]
        trains = cell.lr < (0.0002 if cell.batch_size < 128 else 0.00005)
        return best - 0.1 / epoch**2 if trains else COLLAPSED
    if cell.grid == "fig3_sgd":
        best = {0: 0.988, 32: 0.975}.get(cell.delay, COLLAPSED)
        trains = 0.0002 < cell.lr < (0.0005 if cell.delay else 0.002) and cell.batch_size < 128
        return max(best - 0.5 / epoch**2, 0.0) if trains else COLLAPSED
    if cell.grid == "warmup":
        warm = epoch < cell.warmup_epochs
        return 0.95 if warm or cell.ramp_epochs or cell.lr < 0.005 else COLLAPSED
    if cell.grid in ("late_delay", "compensation", "adagrad"):
        return 0.98
    if cell.grid == "large_minibatch":
        return 0.98 if cell.warmup_epochs else 0.97
    if cell.grid == "heuristic":
        return 0.98
    if cell.grid == "no_heuristic":
        return 0.985 if cell.delay < 32 else COLLAPSED
    return 0.98 if cell.lr < 0.01 else COLLAPSED


def first_of(*functions: Accuracy) -> Accuracy:
    """The first that answers."""

    def accuracy(cell: SimpleNamespace, epoch: int) -> float:
        return next(a for f in functions if (a := f(cell, epoch)) is not None)

    return accuracy


def write_results(
    folder: Path,
    accuracy: Accuracy = as_claimed,
    *,
    only: Iterable[str] | None = None,
    preset: str = "paper",
    seeds: int = 1,
) -> StudyResults:
    """`runs.csv` and `history.csv` of the grids `only` (none: all), as the workflow gathers them.

    The cells are those of `preset`, with so many seeds.
    """
    cells = {
        grid: [replace(cell, seed=seed) for cell in here for seed in range(1, seeds + 1)]
        for grid, here in grids(preset).items()
        if only is None or grid in only
    }
    rows = [
        row
        for grid, here in cells.items()
        for cell in here
        for row in _history(grid, cell, accuracy)
    ]
    for name, table in zip(("runs", "history"), collect(cells, [pd.DataFrame(rows)]), strict=True):
        table.to_csv(folder / f"{name}.csv", index=False)
    return results_in(folder, preset)


def results_in(folder: Path, preset: str = "paper") -> StudyResults:
    return StudyResults(home_of("jain2018"), preset, folder)


def _history(grid: str, cell: Cell, accuracy: Accuracy) -> Iterable[dict]:
    columns, run = SimpleNamespace(grid=grid, **cell.columns()), cell.hash
    # Of Figure 2 the runs without delay are read at other epochs too.
    whole = grid in CURVES or (grid == "fig2" and columns.delay == 0)
    for epoch in range(1 if whole else cell.epochs, cell.epochs + 1):
        reached = accuracy(columns, epoch)
        diverged = np.isnan(reached)
        yield {
            "run": run,
            "epoch": epoch,
            "updates": 100 * epoch,
            "simulated_seconds": 100.0 * epoch,
            "mean_staleness": 1.0,
            "max_staleness": 2,
            "train_loss": np.nan if diverged else 1 - reached,
            "test_loss": np.nan if diverged else 1 - reached,
            "test_accuracy": 0.098 if diverged else reached,
            "diverged": diverged,
        }
        if diverged:
            return


def write_staleness(
    folder: Path,
    *,
    mean: Callable[[int], float] = lambda workers: workers - 1,
    normal_distance: Callable[[int], float] = lambda workers: 0.01,
    spread: float = 0.0,
    workers: tuple[int, ...] = (2, 4, 16, 257),
    replicates: int = 3,
) -> StudyResults:
    """`staleness.csv`, and the histograms of a binomial staleness with the mean N - 1.

    spread: how far apart the means of successive replicates are.
    """
    rows, arrays = [], {}
    for index, n in enumerate(workers):
        for replicate in range(replicates):
            before = mean(n) + spread * (replicate - (replicates - 1) / 2)
            row = {"simulation": "fig1", "index": index, "cluster": "hub_and_spoke", "workers": n}
            row |= {"replicate": replicate, "mean_before": before, "mean_after": before + 1}
            row |= {"largest": 2 * n, "update_rate": n, "deviation": 0.5, "skewness": 0.01}
            rows.append(row | {"normal_distance": normal_distance(n)})
        drawn = np.random.default_rng(index).binomial(2 * (n - 1), 0.5, (replicates, 1000))
        counts = [np.bincount(one, minlength=2 * n) for one in drawn]
        arrays[f"histogram_{index}"] = np.array(counts)
    pd.DataFrame(rows).to_csv(folder / "staleness.csv", index=False)
    (folder / "schedules").mkdir(exist_ok=True)
    np.savez(folder / "schedules" / "fig1.npz", **arrays)
    return results_in(folder)


def falls(cell: SimpleNamespace, epoch: float) -> tuple[float, float]:
    """Variance and squared mean of the gradient such that both readings fall with time."""
    return 1 / (1 + epoch), 1.0


def write_trajectory(
    folder: Path,
    noise: Callable[[SimpleNamespace, float], tuple[float, float]] = falls,
    accuracy: Callable[[SimpleNamespace], float] = lambda cell: 0.98,
    *,
    seeds: int = 3,
) -> StudyResults:
    """`trajectories/variance.csv`.

    noise: of a cell and an epoch, the variance of the gradient and the squared mean gradient, that
    in which there is no noise. accuracy: at the end.
    """
    rows = []
    preset = Preset(title="", seeds=seeds, bundle_size=1)
    bundle = study_trajectories(STUDY, "paper", preset, "a test")["variance"]
    for cell in bundle.cells:
        columns = SimpleNamespace(**cell.columns())
        for stop in range(cell.epochs * bundle.per_epoch + 1):
            epoch = stop / bundle.per_epoch
            variance, square = noise(columns, epoch)
            rows.append(
                {
                    **{"run": cell.hash, "delay": columns.delay, "lr": columns.lr},
                    **{"seed": cell.seed, "epoch": epoch, "test_accuracy": accuracy(columns)},
                    "gradient_variance": variance,
                    "mean_gradient_square": square + variance / bundle.gradient_batches,
                }
            )
    (folder / "trajectories").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "trajectories" / "variance.csv", index=False)
    return results_in(folder)


def judge_only(names: Iterable[str], results: StudyResults) -> pd.DataFrame:
    """Rows of `judge` for some claims of a study, by claim."""
    known = claims.claims_of(results.home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "claims_of", lambda home: {name: known[name] for name in names})
        return claims.judge(results).set_index("claim")
