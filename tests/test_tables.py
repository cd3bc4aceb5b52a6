"""Tables: their CSV and LaTeX, and the numbers of jain2018's on made-up results."""

import io

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, home_of, of_study
from made_up import (
    COLLAPSED,
    STUDY,
    as_claimed,
    first_of,
    published_fig2,
    write_results,
    write_staleness,
)

from stalegrad.analysis.products import maker
from stalegrad.analysis.tables import Table
from stalegrad.io.errors import ConfigError

# All that is published but the wall times, which come from logs.
PRINTED = sorted(
    path for path in ROOT.glob("studies/*/published/*.csv") if path.stem != "wall_times"
)
LAMOUR = home_of("lamour2023") / "published"
tables = of_study("jain2018", "tables")


def cells_of(latex):
    """The body of a tabular, cell by cell."""
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [line.removesuffix(r" \\").split(" & ") for line in body.splitlines()]


def one_cell(value, **options):
    table = Table(pd.DataFrame({"a": pd.Series([value])}), **options)
    return cells_of(table.latex())[0][0]


def test_latex_of_a_small_table():
    frame = pd.DataFrame({"rule": ["sgd", "adam"], "lr": [0.5, np.nan], "delay": [1, 2]})
    table = Table(frame, {"delay": "$d$", "lr": "rate", "rule": "rule"}, {"lr": "{:.2f}"})
    assert table.latex() == (
        "\\begin{tabular}{rrl}\n\\toprule\n$d$ & rate & rule \\\\\n\\midrule\n"
        "1 & 0.50 & sgd \\\\\n2 & -- & adam \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_published_numbers_are_in_their_colour_and_pairs_in_two_columns():
    frame = pd.DataFrame({"n": [1, 2], "theirs": [0.5, np.nan], "both": ["NC | 10 %", "–"]})
    headings = {"n": "$n$", "theirs": "theirs", "both": "both"}
    table = Table(frame, headings, published=["theirs"], pairs=["both"])
    assert table.latex() == (
        "\\begin{tabular}{rrr@{\\hspace{2.5pt}}l}\n\\toprule\n"
        "$n$ & theirs & \\multicolumn{2}{l}{both} \\\\\n\\midrule\n"
        "1 & \\textcolor{published}{0.5} & \\textcolor{published}{NC} & 10 \\% \\\\\n"
        "2 & -- & – &  \\\\\n\\bottomrule\n\\end{tabular}\n"
    )


def test_columns_without_headings_go_by_their_own_names():
    latex = Table(pd.DataFrame({"test_accuracy": [0.5], "n": [1]})).latex()
    assert r"test\_accuracy & n \\" in latex


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b", r"a\_b"),
        ("50 % & more", r"50 \% \& more"),
        ("#1", r"\#1"),
        ("$5", r"\$5"),
        ("{x}", r"\{x\}"),
        ("a^b", r"a\^{}b"),
        ("~", r"\~{}"),
        ("\\", r"\textbackslash{}"),
        ("\\_", r"\textbackslash{}\_"),
    ],
)
def test_text_is_escaped(text, latex):
    assert one_cell(text) == latex


@pytest.mark.parametrize("value", [None, np.nan, pd.NA, float("nan"), np.float64("nan")])
def test_what_is_not_there_is_a_dash(value):
    assert one_cell(value) == "--"
    assert one_cell(value, formats={"a": "{:.3f}"}) == "--"


@pytest.mark.parametrize(
    ("value", "format", "latex"),
    [
        (0.98765, None, "0.9877"),
        (0.98765, "{:.3f}", "0.988"),
        (12, None, "12"),
        (12, "{:.1f}", "12.0"),
        (-0.5, None, "$-0.5$"),
        (0.25, "{:+.2f}", "$+0.25$"),
        (-0.25, "{:+.2f}", "$-0.25$"),
        (1e-5, "{:g}", "$10^{-5}$"),
        (3.1623e-5, None, r"$3.162 \cdot 10^{-5}$"),
        (-2e10, "{:g}", r"$-2 \cdot 10^{10}$"),
        (np.inf, None, r"$\infty$"),
        (-np.inf, "{:.3f}", r"$-\infty$"),
        (True, None, "True"),
        (12.34, r"{:.1f}\%", r"12.3\%"),
        (3.0, "{:.0f} epochs", "3 epochs"),
        ("1e5", None, "1e5"),
        ("-", None, "-"),
    ],
)
def test_numbers_are_formatted(value, format, latex):
    assert one_cell(value, formats={"a": format} if format else {}) == latex


def test_csv_is_tidy_and_its_bytes_stable():
    frame = pd.DataFrame({"lr": [0.1 + 0.2, 1e-5], "run": ["a", "b,c"], "x": [np.nan, 2.0]})
    table = Table(frame, {"lr": "rate"}, {"lr": "{:.1f}"})
    assert table.csv() == 'lr,run,x\n0.3,a,\n1e-05,"b,c",2\n'
    assert Table(pd.read_csv(io.StringIO(table.csv()))).csv() == table.csv()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    write_staleness(folder)
    return write_results(folder)


@pytest.mark.parametrize("name", STUDY.tables)
@pytest.mark.parametrize("preset", ["paper", "quick", "smoke"])
def test_every_table_is_made(name, preset, results, tmp_path):
    if preset != "paper":
        write_staleness(tmp_path, workers=(4, 16))
        results = write_results(tmp_path, lambda c, e: 0.9, preset=preset)
    make = maker("tables", home_of("jain2018"), name, STUDY.tables[name].make)
    table = make(results)
    assert len(table.frame)
    assert table.csv() == make(results).csv()
    rows = cells_of(table.latex())
    assert len(rows) == len(table.frame)
    assert len({len(row) for row in rows}) == 1
    assert "nan" not in table.latex()


def test_a_table_that_nobody_makes_is_named():
    with pytest.raises(
        ConfigError, match=r"'tables\.fig9' is made by fig9 in .*jain2018/tables\.py"
    ):
        maker("tables", home_of("jain2018"), "fig9", None)
    with pytest.raises(ConfigError, match=r"fig9 in .*/absent\.py, which does not exist"):
        maker("tables", home_of("jain2018"), "fig9", "absent.fig9")


def test_fig1_by_hand(tmp_path):
    results = write_staleness(tmp_path, mean=lambda n: n - 0.9, spread=0.1, workers=(2, 4))
    frame = tables.fig1(results).frame.set_index("workers")
    assert frame.loc[4, ["published", "replicates"]].tolist() == [3, 3]
    assert frame.loc[4, "mean"] == pytest.approx(3.1)
    assert frame.loc[4, "mean_error"] == pytest.approx(0.1 / np.sqrt(3))
    assert frame.loc[4, "difference"] == pytest.approx(0.1)


def test_fig2_cells_stand_beside_the_published(results):
    cells = tables.fig2_cells(results)
    assert len(cells) == 300
    assert cells["published"].isna().sum() == 29
    assert (cells["published"].isna() == (cells["legibility"] == "missing")).all()
    readable = cells[cells["published"].notna()]
    assert (readable["mean"] - readable["published"]).abs().max() < 1e-12
    one = cells[(cells["delay"] == 8) & (cells["batch_size"] == 1024) & (cells["lr"] < 0.0032)]
    assert one["published"].to_list()[-2:] == [0.543, 0.626]  # rates 0.001 and 0.0031623


@pytest.mark.parametrize("path", PRINTED, ids=lambda path: f"{path.parts[-3]}_{path.stem}")
def test_what_a_paper_prints_says_how_legible_it_is(path):
    """Each number: clear; of a row whose keys are known by its place alone; uncertain; missing."""
    cells = pd.read_csv(path)
    assert set(cells["legibility"]) <= {"clear", "by place", "uncertain", "missing"}
    unread = cells.isna().any(axis=1)
    assert unread.equals(cells["legibility"] == "missing")


def test_the_misprints_of_lamour2023_are_marked():
    """'64.0.2' in Table IV, and a momentum of 0.99 in Table VI where its place asks for 0."""
    four = pd.read_csv(LAMOUR / "table4.csv")
    assert four[four["legibility"] != "clear"]["test_accuracy_percent"].tolist() == [64.02]
    gaussian = pd.read_csv(LAMOUR / "tables5-7.csv")
    six = gaussian.query("workers == 2 and delay_ms == 60 and partition == 'dataset'")
    assert six.set_index(["momentum", "compensation_lambda"])["legibility"][0.0, 0] == "by place"


def test_fig2_has_the_difference(tmp_path):
    results = write_results(tmp_path, lambda c, e: as_claimed(c, e) - 0.25, only=["fig2"])
    frame = tables.fig2(results).frame
    assert frame["difference"].dropna().to_numpy() == pytest.approx(-0.25)


def test_fig2_agreement_counts_every_cell_once(tmp_path):
    """At delay 0 ours collapses, at 1 it trains, at 2 it is 0.01 off, at 4 it is 0.02 off."""

    def accuracy(cell, epoch):
        off = {2: 0.01, 4: 0.02}.get(cell.delay, 0.0)
        return {0: COLLAPSED, 1: 0.98}.get(cell.delay, as_claimed(cell, epoch) + off)

    table = tables.fig2_agreement(write_results(tmp_path, accuracy, only=["fig2"]))
    frame = table.frame.set_index("delay")
    kinds = ["trained", "collapsed", "only_ours", "only_theirs"]
    assert (frame[kinds].sum(axis=1) == frame["cells"]).all()
    assert (frame["cells"] + frame["unreadable"] == 50).all()
    assert frame["unreadable"].sum() == 29
    assert frame.loc[0, ["trained", "only_ours"]].tolist() == [0, 0]
    assert frame.loc[1, ["collapsed", "only_theirs"]].tolist() == [0, 0]
    # 0.991 - 0.981 is, in floats, more than 0.01; it counts as close.
    assert frame.loc[2, "close"] == frame.loc[2, "trained"] > 0
    assert frame.loc[4, "close"] == 0 < frame.loc[4, "trained"]
    assert frame.loc[8, "close"] == frame.loc[8, "trained"]
    # Of the readable cells at rates and batch sizes whose printed side changes with delay.
    assert frame["decides"].sum() == 103
    assert (frame["agree"] <= frame["decides"]).all()
    assert frame.loc[8, "agree"] == frame.loc[8, "decides"]
    assert frame.loc[1, "agree"] < frame.loc[1, "decides"]


def test_delay_decides_where_the_published_side_changes_with_it():
    """At rate 0.1 it does; at 1 the run that changes it cannot be read."""
    cells = pd.DataFrame(
        {"delay": [0, 1, 2] * 2, "lr": [0.1] * 3 + [1.0] * 3, "batch_size": 64}
        | {"published": [0.9, 0.8, 0.1, 0.1, np.nan, 0.2], "mean": 0.9}
    )
    assert tables.where_delay_decides(cells).index.tolist() == [0, 1, 2]


def test_contested_is_within_half_a_decade_of_the_edge():
    """At delay 1 rates up to 0.1 train from the start, at delay 2 none, at delay 3 all."""
    rates = [0.01, 0.031623, 0.1, 0.31623, 1.0]
    runs = pd.DataFrame(
        [
            {"delay": delay, "lr": lr, "start": start, "final": 0.9 if lr <= edge else 0.1}
            for delay, edge in ((1, 0.1), (2, 0.0), (3, 2.0))
            for lr in rates
            for start in ("neither", "warm-up")
        ]
    )
    runs.loc[runs["start"] == "warm-up", "final"] = 0.1  # does not decide the edge
    found = tables.contested(runs)
    rates_at = found.groupby("delay")["lr"].unique().map(list).to_dict()
    assert rates_at == {1: rates[1:4], 2: rates[:1], 3: rates[3:]}


def test_remedies_are_compared_after_as_many_epochs(tmp_path):
    """Accuracies are the epoch in hundredths, and a tenth more with each remedy."""

    def accuracy(cell, epoch):
        more = {"late_delay": 0.1, "compensation": 0.3 if cell.rule == "dc_asgd" else 0}
        adaptive = cell.grid == "compensation" and cell.adaptive
        return 0.01 * epoch + more.get(cell.grid, 0.0) + 0.1 * adaptive + (cell.delay == 0)

    grids = ["fig2", "warmup", "late_delay", "compensation"]
    frame = tables.remedies(write_results(tmp_path, accuracy, only=grids, seeds=2)).frame
    assert len(frame) == 9
    assert frame["without"].to_numpy() == pytest.approx(1.04)
    assert frame["with"].to_numpy() == pytest.approx(0.04)
    assert frame["late"].to_numpy() == pytest.approx(0.14)
    there = frame.dropna()
    assert len(there) == 4
    assert there["dc"].to_numpy() == pytest.approx(0.34)
    assert there["dc_adaptive"].to_numpy() == pytest.approx(0.44)


def test_largest_trained_rate():
    """A rate of 0.5 trains; a delay at which none does is not there."""
    cells = pd.DataFrame(
        {"delay": [0, 0, 0, 1, 1], "lr": [0.1, 1.0, 10.0, 0.1, 1.0]}
        | {"mean": [0.9, 0.5, 0.49, 0.1, 0.1]}
    )
    assert tables.largest_trained_rate(cells, "mean").to_dict() == {0: 1.0}


def test_best_cells_are_best_on_average(tmp_path):
    """One lucky seed at rate 0.0003 does not choose."""

    def accuracy(cell, epoch):
        if cell.batch_size == 64 and cell.lr == 0.0003:
            return {1: 0.99, 2: 0.7, 3: 0.7}[cell.seed]
        return 0.9 if (cell.batch_size, cell.lr) == (32, 0.0001) else 0.5

    results = write_results(tmp_path, accuracy, only=["fig3_adam"], seeds=3)
    best = tables.best_cells(results, "fig3_adam")
    assert list(best["delay"]) == [0, 32, 128, 256]
    assert set(best["batch_size"]) == {32}
    assert set(best["lr"]) == {0.0001}
    assert best["mean"].to_numpy() == pytest.approx(0.9)


def test_best_adam_stands_beside_the_published(results):
    frame = tables.best_adam(results).frame.set_index("delay")
    assert frame["published"].isna().to_list() == [True, False, False, False]
    assert frame["difference"].dropna().to_numpy() == pytest.approx(-0.1 / 20**2)
    assert frame["mean_sgd"].to_numpy() == pytest.approx([0.98675, 0.97375, COLLAPSED, COLLAPSED])


def test_warmup_is_read_before_the_full_rate(tmp_path):
    """Epochs 1 to 4 of a warm-up over 5; in the fifth the rate reaches its full height."""
    results = write_results(tmp_path, lambda c, e: 0.01 * e, only=["warmup"])
    frame = tables.warmup(results).frame
    assert set(frame["start"]) == {"neither", "warm-up", "gradual workers"}
    assert len(frame) == 27
    assert frame["during"].to_numpy() == pytest.approx(0.025)
    assert frame["best"].to_numpy() == pytest.approx(0.2)
    assert frame["final"].to_numpy() == pytest.approx(0.2)


def test_heuristic_path_is_in_order_of_workers(tmp_path):
    results = write_results(tmp_path, only=["heuristic", "no_heuristic"])
    frame = tables.heuristic(results).frame
    assert list(frame["workers"]) == [1, 2, 4, 8, 16, 32, 64, 128, 257]
    assert (frame["mean"] == 0.98).all()
    assert list(frame["mean_fixed"] == COLLAPSED) == [False] * 6 + [True] * 3


def test_delay_kinds_pair_n_workers_with_a_delay_of_one_less(tmp_path):
    def accuracy(cell, epoch):
        return 0.1 * (cell.delay if cell.cluster == "constant_delay" else cell.workers)

    grids = ["asynchronous", "asynchronous_many"]
    cells = tables.delay_kinds(write_results(tmp_path, accuracy, only=grids))
    assert len(cells) == 18
    assert (cells["random"] - cells["constant"]).to_numpy() == pytest.approx(0.1)
    assert set(cells.index.get_level_values("mean_delay")) == {2, 4, 8, 32}


def test_made_up_results_follow_the_first_function_that_answers():
    answer = first_of(lambda c, e: None, lambda c, e: 0.5)
    assert answer(None, 1) == 0.5
    assert published_fig2()[0, 64, -10] == 0.141
