"""The numbers of lamour2023 beside ours. Accuracies are in per cent, as printed there."""

import json

import numpy as np
import pandas as pd

from stalegrad.analysis.results import StudyResults, over_seeds
from stalegrad.analysis.tables import Table

# 'NC = No Convergence, equivalent to test accuracies of 10 %': the model predicts one class.
NO_CONVERGENCE = 10.0
NEAR_CHANCE = 15.0  # per cent; below it a model has not learnt
CLASSES = 10
_SHARES = ("correct", "predicted", "labelled")

LANDSCAPES = ("momentum", "two_workers")  # Figures 1 and 2, and Figure 7

# The rows of Table II that Tables I, III and IV start from: one slow worker, split labels.
SLOW_LABELS = "delayed_workers == 'one' and partition == 'labels'"
TABLE2_KEYS = ["mode", "delayed_workers", "delay_ms", "workers", "partition"]
TABLE3_KEYS = ["delay_ms", "workers", "momentum"]
TABLE4_KEYS = ["delay_ms", "workers", "compensation_lambda"]
STRENGTHS = (2.0, 5.0)  # the lambdas of Table IV
OTHER_MOMENTA = (0.5, 0.9, 0.95)  # beside none, those that lead to convergence


def in_percent(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with `accuracy`, per cent, and whether there was no convergence."""
    accuracy = 100 * runs["final_test_accuracy"]
    return runs.assign(accuracy=accuracy, no_convergence=(accuracy - NO_CONVERGENCE).abs() < 0.005)


def beside(ours: pd.DataFrame, published: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One row a cell of ours: mean, std, min, max and count over seeds, `no_convergence` (seeds
    without), and where it was published, `published` and the difference.

    ours: runs with `accuracy`; published: with `test_accuracy_percent`.
    """
    cells = over_seeds(ours, keys, "accuracy")
    failed = ours.groupby(keys, sort=True)["no_convergence"].sum().reset_index()
    printed = published[[*keys, "test_accuracy_percent"]]
    cells = cells.merge(failed, on=keys).merge(
        printed.rename(columns={"test_accuracy_percent": "published"}), on=keys, how="left"
    )
    return cells.assign(difference=cells["mean"] - cells["published"])


def table2_runs(results: StudyResults) -> pd.DataFrame:
    """The runs of Table II with its own names for the rows."""
    runs = in_percent(results.grid("table2_undelayed", "table2"))
    delayed = runs["delayed"].where(runs["delay_ms"] > 0, "none")
    return runs.assign(mode=_mode(runs), delayed_workers=delayed)


def _mode(runs: pd.DataFrame) -> pd.Series:
    """As Table II has it: sync or async."""
    return runs["synchronous"].astype(bool).map({True: "sync", False: "async"})


def table2_cells(results: StudyResults) -> pd.DataFrame:
    published = results.published("table2")
    return beside(table2_runs(results), published, TABLE2_KEYS)


def _mean(cell: pd.Series) -> str:
    spread = "" if np.isnan(cell["std"]) else f" ± {cell['std']:.1f}"
    return f"{cell['mean']:.1f}{spread}"


def _printed(value: float) -> str:
    if np.isnan(value):
        return "–"
    return "NC" if value == NO_CONVERGENCE else f"{value:.2f}"


def _side_by_side(cells: pd.DataFrame, rows: list[str], columns: list[str]) -> pd.DataFrame:
    """One line each of `rows`; for each of `columns`, the published value | ours."""
    text = cells.apply(lambda cell: f"{_printed(cell['published'])} | {_mean(cell)}", axis=1)
    table = cells.assign(text=text).pivot(index=rows, columns=columns, values="text")
    table.columns = [
        " ".join(str(part) for part in (name if isinstance(name, tuple) else (name,)))
        for name in table.columns
    ]
    return table.fillna("–").reset_index()


def table2(results: StudyResults) -> Table:
    """Every cell of Table II; printed with rows and columns as published."""
    cells = table2_cells(results)
    layout = _side_by_side(cells, ["mode", "delayed_workers", "delay_ms"], ["workers", "partition"])
    place = {("sync", "none"): 0, ("async", "none"): 1, ("async", "all"): 2, ("async", "one"): 3}
    order = [place[row] for row in zip(layout["mode"], layout["delayed_workers"], strict=True)]
    layout = layout.assign(_order=order).sort_values(["_order", "delay_ms"]).drop(columns="_order")
    headings = {"mode": "mode", "delayed_workers": "delayed", "delay_ms": "ms"}
    pairs = list(layout.columns[3:])
    for workers, partition in map(str.split, pairs):
        lines = rf"{workers} workers\\split {partition}"
        headings[f"{workers} {partition}"] = rf"\shortstack[l]{{{lines}}}"
    return Table(cells, headings, layout=layout, pairs=pairs)


def table3_cells(results: StudyResults) -> pd.DataFrame:
    published = results.published("table3")
    return beside(in_percent(results.grid("table3")), published, TABLE3_KEYS)


def table3(results: StudyResults) -> Table:
    cells = table3_cells(results)
    layout = _side_by_side(cells, ["workers", "delay_ms"], ["momentum"])
    momenta = {f"{m}": f"momentum {m:g}" for m in cells["momentum"].unique()}
    headings = {"workers": "workers", "delay_ms": "ms"} | momenta
    return Table(cells, headings, layout=layout, pairs=list(momenta))


def compensated_runs(results: StudyResults) -> pd.DataFrame:
    """The runs of Table IV by the way to compensate, `kind`: as published, working, adaptive.

    As published, the backup is a reference to the live weights, and a run is that of Table II
    without compensation (`aliased_equals_off`), whatever its lambda.
    """
    off = table2_runs(results).query(SLOW_LABELS)
    kinds = [
        *(off.assign(kind="as published", compensation=strength) for strength in STRENGTHS),
        in_percent(results.grid("table4")).assign(kind="working"),
        in_percent(results.grid("table4_adaptive")).assign(kind="adaptive"),
    ]
    runs = pd.concat(kinds, ignore_index=True)
    return runs.rename(columns={"compensation": "compensation_lambda"})


def table4_cells(results: StudyResults) -> pd.DataFrame:
    """Table IV: one row a cell and way to compensate, see `compensated_runs`.

    `off` is the mean of the same cell of Table II, and `off_published` what is printed there.
    """
    published = results.published("table4").assign(kind="as published")
    cells = beside(compensated_runs(results), published, ["kind", *TABLE4_KEYS])
    off = table2_cells(results).query(SLOW_LABELS)
    off = off[["delay_ms", "workers", "mean", "published"]]
    off = off.rename(columns={"mean": "off", "published": "off_published"})
    return cells.merge(off, on=["delay_ms", "workers"], how="left")


def table4(results: StudyResults) -> Table:
    cells = table4_cells(results)
    rows = []
    for (workers, delay), here in cells.groupby(["workers", "delay_ms"]):
        row = {
            "workers": workers,
            "delay_ms": delay,
            "off_published": here["off_published"].iloc[0],
            "off": here["off"].iloc[0],
        }
        for _, cell in here.iterrows():
            strength = f"{cell['compensation_lambda']:g}"
            if cell["kind"] == "as published":  # ours are those of `off`
                row[f"printed {strength}"] = _printed(cell["published"])
            else:
                row[f"{cell['kind']} {strength}"] = _mean(cell)
        rows.append(row)
    headings = {
        "workers": "workers",
        "delay_ms": "ms",
        "off_published": "off, printed",
        "off": "off",
    }
    for strength in map("{:g}".format, STRENGTHS):
        headings |= {
            f"printed {strength}": rf"$\lambda={strength}$, printed",
            f"working {strength}": "working",
        }
    headings["adaptive 2"] = r"adaptive, $\lambda_0=2$"
    layout = pd.DataFrame(rows)
    there = {column: name for column, name in headings.items() if column in layout}
    formats = {"off": "{:.1f}", "off_published": "{:.2f}"}
    printed = [column for column in there if column.startswith(("printed", "off_published"))]
    return Table(cells, there, formats, layout, published=printed)


def aliased_equals_off(results: StudyResults) -> pd.DataFrame:
    """For each run of Table IV with the authors' aliased backup, the same run of Table II: the
    difference of their final accuracy and test loss."""
    keys = ["delay_ms", "workers", "seed"]
    values = ["final_test_accuracy", "final_test_loss"]
    aliased = results.grid("table4_aliased")
    plain = results.grid("table2").query("delayed == 'one' and partition == 'labels'")
    both = aliased.merge(plain[keys + values], on=keys, suffixes=("", "_off"))
    for value in values:
        both[f"{value}_difference"] = both[value] - both[f"{value}_off"]
    return both[[*keys, "compensation", *(f"{value}_difference" for value in values)]]


GAUSSIAN_KEYS = ["workers", "momentum", "delay_ms", "partition", "compensation_lambda"]


def gaussian_runs(results: StudyResults) -> pd.DataFrame:
    """The runs of Tables V to VII, once for each printed lambda, which had no effect there."""
    runs = in_percent(results.grid("tables5-7"))
    return pd.concat([runs.assign(compensation_lambda=s) for s in (0.0, 2.0)], ignore_index=True)


def gaussian_cells(results: StudyResults) -> pd.DataFrame:
    """Tables V to VII: the printed cells of both lambdas beside the same runs of ours."""
    return beside(gaussian_runs(results), results.published("tables5-7"), GAUSSIAN_KEYS)


def _gaussian(results: StudyResults, workers: int) -> Table:
    cells = gaussian_cells(results).query("workers == @workers").reset_index(drop=True)
    layout = _side_by_side(cells, ["momentum", "delay_ms"], ["partition", "compensation_lambda"])
    kinds = cells[["partition", "compensation_lambda"]].drop_duplicates()
    pairs = {
        f"{partition} {strength}": rf"{partition}, $\lambda={strength:g}$"
        for partition, strength in kinds.itertuples(index=False)
    }
    headings = {"momentum": "momentum", "delay_ms": "ms"} | pairs
    return Table(cells, headings, layout=layout, pairs=list(pairs))


def tables5to7(results: StudyResults) -> Table:
    """Tables V to VII side by side, in whole per cent; each by itself has the spread over seeds."""
    cells = gaussian_cells(results)
    whole = [_printed(p) if p == NO_CONVERGENCE else f"{p:.0f}" for p in cells["published"]]
    rows, columns = ["momentum", "delay_ms"], ["workers", "partition"]
    grouped = cells.assign(whole=whole).groupby([*rows, *columns])
    text = grouped["whole"].agg(", ".join) + " | " + grouped["mean"].first().map("{:.0f}".format)
    layout = text.unstack(columns)
    headings = {"momentum": "momentum", "delay_ms": "ms"}
    for workers, partition in layout.columns:
        headings[f"{workers} {partition}"] = rf"\shortstack[l]{{$n={workers}$\\{partition}}}"
    layout.columns = pairs = list(headings)[2:]
    return Table(cells, headings, layout=layout.reset_index(), pairs=pairs)


def table5(results: StudyResults) -> Table:
    """Ten workers, printed as 11 processes."""
    return _gaussian(results, 10)


def table6(results: StudyResults) -> Table:
    """Two workers, printed as 3 processes."""
    return _gaussian(results, 2)


def table7(results: StudyResults) -> Table:
    """Five workers, printed as 6 processes."""
    return _gaussian(results, 5)


def class_shares(curves: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """Rows and classes of a history or of runs, long: class, precision, recall and F1."""
    shares = [f"{p}{kind}_{c}" for p in ("", "final_") for kind in _SHARES for c in range(CLASSES)]
    rest = curves.drop(columns=shares, errors="ignore")
    parts = []
    for c in range(CLASSES):
        correct, predicted, labelled = (curves[f"{prefix}{kind}_{c}"] for kind in _SHARES)
        found = {
            "class": c,
            # Precision of a class that is never predicted counts as 0.
            "precision": (correct / predicted.where(predicted > 0)).fillna(0.0),
            "recall": correct / labelled,
            "f1": 2 * correct / (predicted + labelled),
        }
        parts.append(rest.assign(**found))
    return pd.concat(parts, ignore_index=True)


def table1_runs(results: StudyResults) -> pd.DataFrame:
    """The runs of Table I's cell: 10 workers, split labels, worker 1 slow at 90 ms."""
    return results.grid("table2").query(
        "workers == 10 and partition == 'labels' and delayed == 'one' and delay_ms == 90"
    )


def table1(results: StudyResults) -> Table:
    """Precision, recall and F1 of each class beside the published; ours are means over seeds."""
    shares = class_shares(table1_runs(results), "final_")
    ours = 100 * shares.groupby("class")[["precision", "recall", "f1"]].mean()
    lowest = 100 * shares.groupby("class")["recall"].min().rename("lowest_recall")
    highest = 100 * shares.groupby("class")["recall"].max().rename("highest_recall")
    published = results.published("table1").set_index("class")
    table = ours.join([lowest, highest, published]).reset_index()
    headings = {"class": "class"}
    for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1")):
        headings |= {f"{name}_percent": f"{title}, printed", name: "ours"}
    headings |= {"lowest_recall": "lowest recall", "highest_recall": "highest recall"}
    numbers = ("precision", "recall", "f1", "lowest_recall", "highest_recall")
    printed = [column for column in headings if column.endswith("_percent")]
    return Table(table, headings, dict.fromkeys(numbers, "{:.0f}"), published=printed)


def calibration(results: StudyResults) -> Table:
    """The authors' wall times beside simulated ones; differences relative to the authors'."""
    keys = ["workers", "delay_ms"]
    rows = results.staleness
    table = results.published("wall_times")
    for simulation, name in (("calibration", "authors"), ("calibration_ideal", "ideal")):
        seconds = rows[rows["simulation"] == simulation].groupby(keys)["seconds"]
        means = seconds.agg(["mean", "std"]).add_prefix(f"{name}_").reset_index()
        table = table.merge(means, on=keys, how="left")
    table["difference"] = table["authors_mean"] / table["wall_seconds"] - 1
    headings = {
        "workers": "workers",
        "delay_ms": "ms",
        "wall_seconds": "measured, s",
        "authors_mean": r"\texttt{authors}, s",
        "authors_std": "s.d.",
        "difference": "difference",
        "ideal_mean": r"\texttt{ideal}, s",
    }
    formats = dict.fromkeys(("authors_mean", "authors_std", "ideal_mean"), "{:.0f}")
    return Table(table, headings, formats | {"difference": "{:+z.3f}"})


def faults(results: StudyResults) -> Table:
    """What our runs say of each fault found in the paper: rows of `fault`, `quantity`, `value`.

    NaN where a thinned preset has no such cell.
    """
    rows = [
        *_compensation_faults(results),
        *_process_count_faults(results),
        *_nesterov_faults(results),
        *_saturation_faults(results),
        *_one_worker_faults(results),
        *_pull_faults(results),
        *_quoted_faults(results),
    ]
    table = pd.DataFrame(rows, columns=["fault", "quantity", "value"])
    headings = {"fault": "fault", "quantity": "", "value": ""}
    # The two readings of one worker's delay are too many rows to print, and stand in the text.
    printed = table[table["fault"] != "one"]
    return Table(table, headings, {"value": "{:.3g}"}, layout=printed)


_Rows = list[tuple[str, str, float]]


def _compensation_faults(results: StudyResults) -> _Rows:
    apart = aliased_equals_off(results)
    differences = apart[["final_test_accuracy_difference", "final_test_loss_difference"]].abs()
    printed = published_compensation(results)
    both = (printed["off"] > NO_CONVERGENCE) & (printed["test_accuracy_percent"] > NO_CONVERGENCE)
    change = (printed["test_accuracy_percent"] - printed["off"]).abs()[both]
    off = table2_runs(results).query(SLOW_LABELS)
    seeds = off.groupby(TABLE2_KEYS)["accuracy"].apply(_mean_distance)
    return [
        ("compensation", "runs compared", len(apart)),
        ("compensation", "runs that differ", int((differences > 0).any(axis=1).sum())),
        ("compensation", "largest difference", differences.max(axis=None)),
        ("compensation", "printed change, points", change.mean()),
        ("compensation", "distance of two seeds, points", seeds.mean()),
    ]


def _mean_distance(values: pd.Series) -> float:
    """Between two seeds, on average over all pairs; NaN of one."""
    array = values.to_numpy()
    pairs = np.abs(array[:, None] - array[None])[np.triu_indices(len(array), 1)]
    return float(pairs.mean()) if len(pairs) else np.nan


def _process_count_faults(results: StudyResults) -> _Rows:
    """Milliseconds a gradient takes beside the delay, by the printed wall times, were there 2
    workers or 3: n times the time between updates, less the delay. It should not depend on it."""
    simulated = results.staleness.query("simulation == 'calibration'")
    walls = results.published("wall_times").query("workers == 2")
    between = 1_000 * walls["wall_seconds"] / simulated["arrivals"].iloc[0]
    rows: _Rows = []
    for workers in (2, 3):
        beside_delay = workers * between - walls["delay_ms"]
        rows += [
            ("processes", f"{workers} workers, least ms", beside_delay.min()),
            ("processes", f"{workers} workers, most ms", beside_delay.max()),
        ]
    return rows


def _nesterov_faults(results: StudyResults) -> _Rows:
    keys = ["workers", "partition", "momentum"]
    runs = in_percent(results.grid("nesterov"))
    means = runs.groupby([*keys, "nesterov"])["accuracy"].mean().unstack().dropna()
    printed = results.published("table2")
    printed = printed.query("mode == 'async' and delayed_workers == 'one' and delay_ms == 90")
    # The printed cells have momentum 0.9.
    printed = printed.assign(momentum=0.9).set_index(keys)["test_accuracy_percent"]
    beside = means.join(printed, how="inner")
    rows: _Rows = [
        ("nesterov", "cells", len(means)),
        ("nesterov", "largest difference, points", (means[True] - means[False]).abs().max()),
    ]
    for kind, name in ((False, "heavy-ball"), (True, "Nesterov")):
        distance = (beside[kind] - beside["test_accuracy_percent"]).abs().mean()
        rows.append(("nesterov", f"distance of {name} from the printed, points", distance))
    return rows


def _saturation_faults(results: StudyResults) -> _Rows:
    """With 10 workers: what delays do to the wall time and to the longest staleness."""
    walls = calibration(results).frame.query("workers == 10").set_index("delay_ms")
    rows: _Rows = []
    for column, name in (
        ("wall_seconds", "printed"),
        ("authors_mean", "authors"),
        ("ideal_mean", "ideal"),
    ):
        ratio = walls[column][90] / walls[column][30]
        rows.append(("saturation", f"time at 90 ms over 30 ms, {name}", ratio))
    staleness = results.staleness.query("simulation == 'staleness'")
    for saturated, name in ((True, "authors"), (False, "ideal")):
        here = staleness[(staleness["machine_ms"] > 0) == saturated]
        who = here["delayed"].where(here["delay_ms"] > 0, "none")
        means = here.groupby(who)[["seconds", "largest"]].mean()
        ratio = means["seconds"]["one"] / means["seconds"]["none"]
        rows.append(("saturation", f"time with worker 1 slow over no delay, {name}", ratio))
        for delayed, case in (("none", "no delay"), ("one", "worker 1 slow")):
            largest = means["largest"][delayed]
            rows.append(("saturation", f"largest staleness, {name}, {case}", largest))
    return rows


def _one_worker_faults(results: StudyResults) -> _Rows:
    """The code's delay on 'one' worker beside what the words say, at 90 ms."""
    simulated = results.staleness.query("simulation == 'one_worker'")
    seconds = simulated.groupby(["workers", "delayed"])["seconds"].mean()
    rows: _Rows = [
        ("one", f"simulated seconds, {workers} workers, {delayed}", value)
        for (workers, delayed), value in seconds.items()
    ]
    keys = ["workers", "partition"]
    cells = table2_cells(results).query("delayed_workers == 'one' and delay_ms == 90")
    cells = cells.set_index(keys)[["mean", "published"]]
    only = in_percent(results.grid("only")).groupby(keys)["accuracy"].mean().rename("only")
    for (workers, partition), cell in cells.join(only, how="inner").iterrows():
        for column, name in (("published", "printed"), ("mean", "one"), ("only", "only")):
            quantity = f"accuracy, {workers} workers, split {partition}, {name}"
            rows.append(("one", quantity, cell[column]))
    return rows


def _pull_faults(results: StudyResults) -> _Rows:
    """What it changes that a worker fetches before its own update: ten-worker cells."""
    runs = in_percent(results.grid("pull"))
    found = runs.groupby("pull")["accuracy"]
    lost = found.agg(lambda accuracy: (accuracy <= NEAR_CHANCE).sum())
    return [
        ("pull", "runs of each", int(found.count()["after"])),
        ("pull", "near chance, fetched after", int(lost["after"])),
        ("pull", "near chance, fetched before", int(lost["before"])),
        ("pull", "accuracy, fetched after", found.mean()["after"]),
        ("pull", "accuracy, fetched before", found.mean()["before"]),
    ]


def _quoted_faults(results: StudyResults) -> _Rows:
    """What the printed cells say of sentences that quote or count them."""
    percent = "test_accuracy_percent"
    two = results.published("table2")
    slow = slow_worker_drop(two, percent)["points"]
    gains = compensation_gain(published_compensation(results), percent)["points"]
    three = results.published("table3").pivot(
        index=["delay_ms", "workers"], columns="momentum", values=percent
    )
    nine = two.query(SLOW_LABELS).set_index(["delay_ms", "workers"])[percent]
    return [
        ("quoted", "cells one slow worker lowers, printed", int((slow > 0).sum())),
        ("quoted", "of cells", len(slow)),
        ("quoted", "gain of compensation, printed, points", gains.mean()),
        ("quoted", "cells compensation raises, printed", int((gains > 0).sum())),
        ("quoted", "cells 0.9 is best in, printed", int((nine > three.max(axis=1)).sum())),
        ("quoted", "cells 0.5 raises, printed", int((three[0.5] > three[0.0]).sum())),
    ]


def initial_weights(results: StudyResults) -> pd.DataFrame:
    """The runs of the grid `weights`; `start_from` is the PyTorch seed of their initial weights."""
    runs = in_percent(results.grid("weights"))
    seeds = runs["initialisation"].map(lambda text: json.loads(text)["torch_seed"])
    return runs.assign(start_from=seeds)


MODELS = {"lenet5": "LeNet-5", "large_cnn": "larger model"}
_MODELS_KEYS = ["problem", "mode", "workers"]


def models_runs(results: StudyResults) -> pd.DataFrame:
    """The split-dataset runs without delay of LeNet-5 (of Table II) and of the larger model."""
    runs = in_percent(results.grid("table2_undelayed", "large"))
    runs = runs[runs["partition"] == "dataset"]
    return runs.assign(mode=_mode(runs))


def models_cells(results: StudyResults) -> pd.DataFrame:
    """One row a cell: accuracy over seeds, and how many runs ended near chance."""
    runs = models_runs(results)
    near_chance = (runs["accuracy"] <= NEAR_CHANCE).groupby([runs[k] for k in _MODELS_KEYS]).sum()
    cells = over_seeds(runs, _MODELS_KEYS, "accuracy")
    return cells.merge(near_chance.rename("near_chance").reset_index(), on=_MODELS_KEYS)


def models(results: StudyResults) -> Table:
    """LeNet-5 beside the larger model, synchronous and asynchronous."""
    cells = models_cells(results)
    failed = cells["near_chance"].astype(str) + " of " + cells["count"].astype(str)
    text = cells.assign(text=cells.apply(_mean, axis=1), failed=failed)
    rows = ["mode", "workers"]
    wide = text.pivot(index=rows, columns="problem", values=["text", "failed"]).fillna("–")
    wide = wide.sort_index(level=rows, ascending=[False, True])  # sync before async: Table II
    wide.columns = [f"{problem}_{kind}" for kind, problem in wide.columns]
    headings = {"mode": "mode", "workers": "workers"}
    for name, title in MODELS.items():
        headings |= {f"{name}_text": title, f"{name}_failed": "near chance"}
    return Table(cells, headings, layout=wide.reset_index())


def landscape(results: StudyResults) -> Table:
    """Where the runs of the loss landscapes end, and where the plane shows them.

    One row a run: the loss and accuracy of its last weights and of their projection, the largest
    ratio of the two losses over all recorded weights, and the distance of the last weights from the
    plane as a share of that from the plane's origin.
    """
    tables = []
    for name in LANDSCAPES:
        grid, points, _ = results.landscape(name)
        points = points.assign(
            landscape=name,
            loss_ratio=points["projected_test_loss"] / points["test_loss"],
            share_off_plane=points["off_plane"] / points["from_origin"],
        )
        last = points.groupby("run", sort=False).tail(1)
        largest = points.groupby("run")["loss_ratio"].max().rename("largest_ratio")
        share1, share2 = grid["explained_variance"]
        tables.append(last.join(largest, on="run").assign(explained_1=share1, explained_2=share2))
    headings = {
        "landscape": "landscape",
        "momentum": "momentum",
        "fitted": "in the fit",
        "test_loss": "test loss",
        "projected_test_loss": "projected",
        "loss_ratio": "ratio",
        "largest_ratio": "largest ratio",
        "test_accuracy": "accuracy",
        "projected_test_accuracy": "projected",
        "share_off_plane": "off the plane",
    }
    extra = ["epoch", "off_plane", "from_origin", "explained_1", "explained_2"]
    table = pd.concat(tables, ignore_index=True)[[*headings, *extra]]
    table["landscape"] = table["landscape"].str.replace("_", " ")
    formats = dict.fromkeys(("loss_ratio", "largest_ratio"), "{:.2f}")
    shown = ("test_loss", "projected_test_loss", "test_accuracy", "projected_test_accuracy")
    layout = table.assign(fitted=table["fitted"].map({True: "yes", False: "no"}))
    formats |= dict.fromkeys((*shown, "share_off_plane"), "{:.3f}")
    return Table(table, headings, formats, layout)


def barriers_by_seed(results: StudyResults) -> pd.DataFrame:
    """Between the last weights of any two momenta of one seed: one row a pair and seed.

    barrier: the most by which the test loss on the straight line between the two exceeds what lies
    on the straight line between their losses (Frankle et al. 2020); at least 0, which it is at the
    ends. All runs start from the same weights.
    """
    _, points, lines = results.landscape("ends")
    runs = points.drop_duplicates("run").set_index("run")[["momentum", "seed"]]
    rows = []
    for pair, line in lines.groupby(["first", "second"], sort=False):
        (first, seed), (second, other_seed) = (runs.loc[run] for run in pair)
        if seed != other_seed:
            continue
        loss, position = line["test_loss"].to_numpy(), line["position"].to_numpy()
        between = (1 - position) * loss[0] + position * loss[-1]
        rows.append(
            {
                "first": first,
                "second": second,
                "seed": int(seed),
                "first_loss": loss[0],
                "second_loss": loss[-1],
                "highest": loss.max(),
                "barrier": (loss - between).max(),
            }
        )
    return pd.DataFrame(rows)


def barriers(results: StudyResults) -> Table:
    """`barriers_by_seed` over seeds: means, and the lowest and highest barrier."""
    pairs = barriers_by_seed(results).groupby(["first", "second"], sort=False)
    table = pairs[["first_loss", "second_loss", "barrier"]].mean()
    table["lowest"], table["highest"] = pairs["barrier"].min(), pairs["barrier"].max()
    headings = {
        "first": "momentum",
        "second": "and",
        "first_loss": "test loss of the one",
        "second_loss": "of the other",
        "barrier": "barrier",
        "lowest": "lowest",
        "highest": "highest",
    }
    return Table(table.reset_index(), headings, dict.fromkeys(list(headings)[2:], "{:.3f}"))


def regularised_runs(results: StudyResults) -> pd.DataFrame:
    """Runs of three workers with each momentum that trains and with each decay, without doubles:
    `norm` of the weights and `gap` of test and training loss at the end."""
    runs = results.grid("momentum", "weight_decay").drop_duplicates("run")
    runs = in_percent(runs[runs["momentum"].isin((0.0, *OTHER_MOMENTA))])
    losses = runs[["final_train_loss", "final_test_loss"]]
    return (
        runs[["seed", "momentum", "weight_decay", "accuracy"]]
        .join(losses)
        .assign(
            norm=runs["final_weight_norm"],
            gap=losses["final_test_loss"] - losses["final_train_loss"],
        )
    )


def regularisation(results: StudyResults) -> Table:
    """What momentum and L2 do to norm and losses at the end: means over seeds."""
    headings = {
        "momentum": "momentum",
        "weight_decay": "L2",
        "norm": "norm of the weights",
        "final_train_loss": "training loss",
        "final_test_loss": "test loss",
        "gap": "gap",
        "accuracy": "accuracy",
    }
    keys, values = list(headings)[:2], list(headings)[2:]
    means = regularised_runs(results).groupby(keys)[values].mean().reset_index()
    formats = {"weight_decay": "{:g}", "norm": "{:.1f}", "accuracy": "{:.1f}"}
    return Table(means, headings, dict.fromkeys(values, "{:.3f}") | formats)


def l2_and_momentum(results: StudyResults) -> pd.DataFrame:
    """By how much L2 and momentum lower the norm of the weights and the gap of test and training
    loss below those of plain SGD of the same seed.

    One row a seed, `weight_decay`, `momentum` and `reading`: at the `end`, and at `equal` training
    loss, the highest that the three runs end at; between epochs numbers are interpolated, and NaN
    where a run has none so high. Columns `l2_norm`, `l2_gap`, `momentum_norm`, `momentum_gap`.
    """
    curves = results.curves("momentum", "weight_decay").drop_duplicates(["run", "epoch"])
    keys = ["seed", "weight_decay", "momentum"]
    gap = curves["test_loss"] - curves["train_loss"]
    curves = curves[[*keys, "epoch", "train_loss"]].assign(norm=curves["weight_norm"], gap=gap)
    by_run = {key: run.sort_values("epoch") for key, run in curves.groupby(keys)}
    rows = []
    for (seed, decay, _), shrunk in by_run.items():
        for momentum in OTHER_MOMENTA if decay else ():
            three = by_run[seed, 0.0, 0.0], shrunk, by_run[seed, 0.0, momentum]
            equal = max(run["train_loss"].iloc[-1] for run in three)
            for reading, found in (
                ("end", [run[["norm", "gap"]].iloc[-1] for run in three]),
                ("equal", [_at_training_loss(run, equal) for run in three]),
            ):
                plain, l2, moved = found
                key = {"seed": seed, "weight_decay": decay, "momentum": momentum}
                lowered = {f"l2_{name}": value for name, value in (plain - l2).items()}
                lowered |= {f"momentum_{name}": value for name, value in (plain - moved).items()}
                rows.append({**key, "reading": reading, **lowered})
    return pd.DataFrame(rows)


def _at_training_loss(run: pd.DataFrame, loss: float) -> pd.Series:
    """Norm and gap of a run where its training loss was `loss`; NaN where it never was."""
    run = run.sort_values("train_loss")
    return pd.Series(
        {
            name: np.interp(loss, run["train_loss"], run[name], left=np.nan, right=np.nan)
            for name in ("norm", "gap")
        }
    )


def label_drop(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """Split dataset less split labels with one slow worker, cell by cell of Table II."""
    slow = cells[cells["delayed_workers"] == "one"]
    wide = slow.pivot(index=["delay_ms", "workers"], columns="partition", values=value)
    return _difference(wide["dataset"], wide["labels"], base=wide["dataset"])


def slow_worker_drop(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """Delay on all workers alike less delay on all and twice on worker 1, cell by cell of Table II
    (see `delayed` of `stalegrad.clusters.parameter_server`)."""
    delayed = cells[cells["delay_ms"] > 0]
    keys = ["delay_ms", "workers", "partition"]
    wide = delayed.pivot(index=keys, columns="delayed_workers", values=value)
    return _difference(wide["all"], wide["one"], base=wide["all"])


def compensation_gain(cells: pd.DataFrame, value: str) -> pd.DataFrame:
    """With compensation (column `value`) less without (`off`), cell by cell of Table IV."""
    keyed = cells.set_index(["delay_ms", "workers", "compensation_lambda"])
    return _difference(keyed[value], keyed["off"], base=keyed["off"])


def _difference(first: pd.Series, second: pd.Series, base: pd.Series) -> pd.DataFrame:
    """first less second: `points`, `relative` as per cent of `base`, and `failed`, 1 where either
    ends near chance, as printed cells without convergence do."""
    failed = (first <= NEAR_CHANCE) | (second <= NEAR_CHANCE)
    points = first - second
    return pd.DataFrame(
        {"points": points, "relative": 100 * points / base, "failed": failed.astype(int)}
    )


def published_compensation(results: StudyResults) -> pd.DataFrame:
    """The printed cells of Table IV, with those of Table II without compensation as `off`."""
    off = results.published("table2")
    off = off.query(SLOW_LABELS)
    off = off.rename(columns={"test_accuracy_percent": "off"})[["delay_ms", "workers", "off"]]
    return results.published("table4").merge(off, on=["delay_ms", "workers"])


def averages(results: StudyResults) -> Table:
    """The averages that the text quotes, from the published cells and from the means of ours.

    Each in points, over all cells and over those where both converge, and relative to the cell that
    the loss or gain starts from: split dataset, delay on all workers, no compensation. Over all
    cells, an accuracy without convergence counts as printed, 10 %.
    """
    two, four = table2_cells(results), table4_cells(results)
    working = four[four["kind"] == "working"]
    printed2 = results.published("table2")
    printed4 = published_compensation(results)
    percent = "test_accuracy_percent"
    rows = []

    def add(quantity: str, quoted: float, published: pd.DataFrame, ours: pd.DataFrame) -> None:
        good = published[published["failed"] == 0]
        rows.append(
            {
                "quantity": quantity,
                "quoted": quoted,
                "published_points": published["points"].mean(),
                "converged_points": good["points"].mean(),
                "converged_points_std": good["points"].std(),
                "converged_relative": good["relative"].mean(),
                "converged_relative_std": good["relative"].std(),
                "ours_points": ours["points"].mean(),
                "ours_points_std": ours["points"].std(),
                "ours_relative": ours.loc[ours["failed"] == 0, "relative"].mean(),
            }
        )

    add("labels against dataset", 27.8, label_drop(printed2, percent), label_drop(two, "mean"))
    add("one slow worker", 11.0, slow_worker_drop(printed2, percent), slow_worker_drop(two, "mean"))
    printed_gains = compensation_gain(printed4, percent)
    gains = compensation_gain(working, "mean")
    for strength, quoted in ((2, 7.0), (5, 3.0)):
        chosen = f"compensation_lambda == {strength}"
        add(f"compensation {strength}", quoted, printed_gains.query(chosen), gains.query(chosen))
    improved = "points > 0"
    add("compensation where improved", 16.0, printed_gains.query(improved), gains.query(improved))
    headings = {
        "quantity": "",
        "quoted": "quoted",
        "published_points": "printed cells, points",
        "converged_points": "without NC",
        "converged_points_std": "s.d.",
        "converged_relative": "relative",
        "converged_relative_std": "s.d.",
        "ours_points": "ours, points",
        "ours_points_std": "s.d.",
        "ours_relative": "relative",
    }
    table = pd.DataFrame(rows)
    names = table["quantity"].str.replace(r" (\d)", r", strength \1", regex=True)
    formats = dict.fromkeys(table.columns[1:], "{:.1f}")
    return Table(table, headings, formats, table.assign(quantity=names), published=["quoted"])
