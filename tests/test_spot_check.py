"""The spot check of the archive: what is drawn, that it is held to the archive, what is said."""

import json
import math
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checkout import Checkout
from helpers import ROOT, home_of, write_check

from stalegrad.analysis import spot_check
from stalegrad.analysis.archive import add_to_archive, archived_history, keep
from stalegrad.analysis.holding import hold, hold_points
from stalegrad.analysis.spot_check import LATEST, Archive, Drawn, check, draw, strata_of, train
from stalegrad.io.files import (
    archived_folder,
    archived_history_path,
    csv_text,
    provenance_path,
)
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.plan import Plan
from stalegrad.report.checked import noticed_share, read_check
from stalegrad.training import kernels
from stalegrad.training.bundles import Place, train_bundle

PLACE = Place(Path("resources/data"), "cpu")
CELL = {
    "problem": {"name": "least_squares", "rows": 64, "dimension": 5, "epoch_samples": 640},
    "rule": {"name": "sgd", "lr": 0.2},
    "cluster": {"name": "constant_delay", "delay": 2},
    "batch_size": 8,
    "epochs": 4,
    "partition": "independent",
}
STUDY = {
    "title": "A study to be checked",
    "cite": "jain2018",
    "grids": {
        "few": {"cell": CELL, "axes": {"rule.lr": [0.2]}},
        "many": {"cell": CELL, "axes": {"cluster.delay": [0, 1, 3, 4, 5]}},
    },
    "trajectories": {
        "followed": {"cell": CELL, "axes": {"rule.lr": [0.1]}, "per_epoch": 2},
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A repository with one small study."""
    for name, content in (
        ("config/config", {"preset": "paper"}),
        ("config/presets/paper", {"title": "paper", "seeds": 3, "bundle_size": 6}),
        ("studies/small/study", STUDY),
    ):
        file = (tmp_path / name).with_suffix(".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(**settings) -> Plan:
    return Plan.load({"preset": "paper", "check_minutes": 1, **settings})


def archive_all(**changes) -> Plan:
    """Train the study and archive it. changes: of the rule that all is in fact trained with."""
    wanted = plan(recompute=True)
    outputs = []
    for bundle in wanted.bundles["small"].values():
        output = Path("made") / f"{bundle.hash}.csv"
        cells = tuple(replace(c, rule=replace(c.rule, **changes)) for c in bundle.cells)
        train_bundle(Bundle(cells), output, PLACE)
        names = {wrong.hash: cell.hash for wrong, cell in zip(cells, bundle.cells, strict=True)}
        history = pd.read_csv(output)
        output.write_text(csv_text(history.assign(run=history["run"].map(names))))
        outputs.append(output)
    add_to_archive(wanted.archive("small"), outputs)
    return plan()


def forget_provenance(there: Plan) -> None:
    """As rows of earlier versions, which do not say which instructions they were made with."""
    path = there.archive("small") / "provenance.csv"
    pd.read_csv(path).drop(columns=["instructions", "dispatch"]).to_csv(path, index=False)


def every_run(there: Plan) -> list[Drawn]:
    return [item for stratum in strata_of(there, None) for item in stratum]


def checked(there: Plan, items: list[Drawn]) -> pd.DataFrame:
    made = train(items, Path("check"), PLACE, 2, math.inf, lambda *_: None)
    assert len(made) == len(items)
    return check(Archive(there), made, Path("check"), 1)


def change_a_byte(there: Plan, run: str, column: str = "excess_loss") -> None:
    """The last digit of one number of one archived history."""
    path = archived_history_path(there.archive("small"))
    history = pd.read_csv(path, dtype=str)
    row = history.index[(history["run"] == run) & (history["epoch"] == "3")][0]
    number = history.loc[row, column]
    mantissa, e, exponent = number.partition("e")
    last = "8" if mantissa[-1] != "8" else "7"
    history.loc[row, column] = mantissa[:-1] + last + e + exponent
    history.to_csv(path, index=False)


# ---- drawing ----


def made_up(seconds: dict[str, list[float]]) -> list[list[Drawn]]:
    """Strata of runs that take so long; a run is told by its hash alone."""
    cell = next(iter(plan().grids["small"]["few"]))
    strata = []
    for name, each in seconds.items():
        cells = [replace(cell, seed=100 * len(strata) + i) for i in range(len(each))]
        strata.append(
            [
                Drawn("small", "grid", name, c.hash, Bundle((c,)), took)
                for c, took in zip(cells, each, strict=True)
            ]
        )
    return strata


def names(drawn: list[Drawn]) -> list[str]:
    return [item.name for item in drawn]


def test_the_same_seed_draws_the_same_and_another_others(folder):
    strata = made_up({name: [1.0] * 50 for name in "abc"})
    first = [item.run for item in draw(strata, 20, 2, 5)]
    assert first == [item.run for item in draw(strata, 20, 2, 5)]
    assert len(first) == 40 and len(set(first)) == 40
    assert set(first) != {item.run for item in draw(strata, 20, 2, 6)}


def test_every_grid_is_drawn_from_before_any_is_twice(folder):
    strata = made_up({"large": [1.0] * 500, "small": [1.0] * 2, "slow": [20.0] * 9, "b": [0.1] * 9})
    for seed in range(20):
        drawn = names(draw(strata, 60, 2, seed))
        assert set(drawn[:4]) == {"large", "small", "slow", "b"}
        assert drawn.count("small") == 2 or drawn.count("slow") >= 2


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_what_is_drawn_fits_into_the_time(folder, cores):
    chance = random.Random(3)
    strata = made_up({name: [chance.uniform(1, 40) for _ in range(60)] for name in "abcdefg"})
    for seed in range(20):
        drawn = draw(strata, 300, cores, seed)
        total = sum(item.seconds for item in drawn)
        assert 300 * cores - 100 * cores < total <= 300 * cores
        ends = [0.0] * cores
        for item in drawn:
            ends.sort()
            ends[0] += item.seconds
        assert max(ends) <= 300


def test_cheap_grids_do_not_outweigh_the_others(folder):
    strata = made_up({"cheap": [0.01] * 900, "dear": [50.0] * 900})
    assert names(draw(strata, 120, 1, 1)).count("cheap") <= 3


def test_a_run_of_two_grids_is_drawn_once(folder):
    stratum = made_up({"a": [1.0] * 3})[0]
    assert len(draw([stratum, [replace(item, name="b") for item in stratum]], 100, 1, 1)) == 3


def test_all_that_is_archived_can_be_drawn_and_nothing_else(folder):
    assert strata_of(plan(), None) == []
    there = archive_all()
    assert [(len(s), s[0].name) for s in strata_of(there, None)] == [(3, "few"), (15, "many")]


def test_the_strata_of_this_repository():
    there = Plan.load({"preset": "paper"}, ROOT / "config")
    strata = strata_of(there, None)
    kinds = [stratum[0].kind for stratum in strata]
    assert kinds.count("landscape") == sum(map(len, there.landscapes.values()))
    assert kinds.count("trajectory") == sum(map(len, there.trajectories.values()))
    assert kinds.count("grid") == sum(map(len, there.grids.values()))
    assert {stratum[0].study for stratum in strata} == set(there.studies)


def test_nothing_is_begun_that_would_end_too_late(folder, monkeypatch):
    begun = []
    monkeypatch.setattr(
        spot_check, "train_bundle", lambda b, *_: (begun.append(b), time.sleep(0.2))
    )
    (stratum,) = made_up({"a": [0.1] * 20})
    until = time.monotonic() + 0.5
    made = train(stratum, folder, PLACE, 2, until, lambda *_: None)
    assert time.monotonic() < until + 0.5
    assert 2 <= len(made) == len(begun) <= 8
    assert LATEST < 1.4  # of what is announced


# ---- holding to the archive ----


def test_a_whole_archive_agrees_to_the_byte(folder):
    there = archive_all()
    rows = checked(there, every_run(there))
    assert len(rows) == 18 and rows[["agrees", "to_the_byte", "in_full"]].all(axis=None)


def test_a_changed_byte_is_found(folder):
    there = archive_all()
    wrong = there.grids["small"]["many"][7].hash
    change_a_byte(there, wrong)
    rows = checked(plan(), every_run(there)).set_index("run")
    assert list(rows.index[~rows["agrees"]]) == [wrong]
    assert (
        "The same code, libraries and vector instructions give every digit"
        in rows.loc[wrong, "reason"]
    )
    assert "after epoch 3" in rows.loc[wrong, "reason"]
    histories = [rows.loc[wrong, side].splitlines() for side in ("archived", "fresh")]
    assert [len(h) for h in histories] == [5, 5]
    assert sum(a != b for a, b in zip(*histories, strict=True)) == 1


def test_a_trajectory_is_trained_run_by_run(folder):
    recorded = plan().trajectories["small"]["followed"]
    output = Path("made/followed.csv")
    train_bundle(recorded, output, PLACE)
    kept = archived_folder(plan().archive("small"), "trajectories", recorded.hash)
    keep(kept, {"history": output, "provenance": provenance_path(output)})
    items = every_run(plan())
    assert [(item.kind, item.name, len(item.bundle.cells)) for item in items] == [
        ("trajectory", "followed", 1)
    ] * 3
    rows = checked(plan(), items)
    assert rows[["agrees", "to_the_byte"]].all(axis=None)
    history = pd.read_csv(kept / "history.csv.gz")
    history.loc[history.index[-1], "mean_staleness"] += 0.5
    history.to_csv(kept / "history.csv.gz", index=False)
    assert list(checked(plan(), items)["agrees"]) == [True, True, False]


def test_a_trajectory_from_before_a_cell_got_another_field_is_held(folder):
    """Its rows have the columns of the cell as it was then."""
    recorded = plan().trajectories["small"]["followed"]
    output = Path("made/followed.csv")
    train_bundle(recorded, output, PLACE)
    history = pd.read_csv(output)
    assert {"local_steps", "local_lr"} <= set(history.columns)
    history.drop(columns=["local_steps", "local_lr"]).to_csv(output, index=False)
    kept = archived_folder(plan().archive("small"), "trajectories", recorded.hash)
    keep(kept, {"history": output, "provenance": provenance_path(output)})
    rows = checked(plan(), every_run(plan()))
    assert rows[["agrees", "to_the_byte"]].all(axis=None)


def test_a_record_that_is_gone_is_found(folder):
    there = archive_all()
    path = archived_history_path(there.archive("small"))
    history = pd.read_csv(path)
    run = there.grids["small"]["few"][0].hash
    history[~((history["run"] == run) & (history["epoch"] == 4))].to_csv(path, index=False)
    items = [item for item in every_run(there) if item.run == run]
    (reason,) = checked(plan(), items)["reason"]
    assert "here are 4 records where the archive has 3" in reason
    forget_provenance(there)
    (reason,) = checked(plan(), items)["reason"]
    assert "4 records, and 3 in the archive" in reason


def test_without_its_whole_provenance_a_last_digit_may_differ(folder):
    there = archive_all()
    wrong = there.grids["small"]["many"][7].hash
    change_a_byte(there, wrong)
    forget_provenance(there)
    rows = checked(plan(), every_run(there)).set_index("run")
    assert rows["agrees"].all() and rows["in_full"].all()
    assert list(rows.index[~rows["to_the_byte"]]) == [wrong]


def test_a_cell_that_was_trained_with_another_rate_is_found(folder):
    """All seeds of it, of all cells: a mistake in the archive that its seeds do not show."""
    there = archive_all(lr=0.19)
    forget_provenance(there)
    rows = checked(there, every_run(there))
    assert not rows["agrees"].any()
    assert rows["reason"].str.contains("times what is allowed at an epoch").all()


def test_a_changed_byte_of_a_network_is_found_whatever_its_provenance():
    """Its cell may be at the edge of collapse: roundings that have grown do not go away."""
    _, history, cells = archived("jain2018", "fig2")
    for seeds in random.Random(6).sample(by_cell(cells), 12):
        fresh = history[history["run"] == seeds[1].hash].dropna(axis=1, how="all")
        changed = history.copy()
        changed.loc[fresh.index[2], "test_loss"] *= 1 + 1e-7
        held = hold(changed, fresh, seeds, same_digits=False)
        assert len(fresh) < 5 or not held.agrees
        assert len(fresh) < 5 or "those after epoch 3 are not" in held.reason


def test_one_seed_that_was_trained_with_another_rate_is_found():
    """Its cell is then not steady by the archive; with the fresh run in its place, it is."""
    there, history, cells = archived("jain2018", "fig2")
    seeds = steady(history, cells)[0]
    run = seeds[0].hash
    fresh = history[history["run"] == run].dropna(axis=1, how="all")
    wrong = history.copy()
    wrong.loc[wrong["run"] == run, "test_accuracy"] *= 0.96
    held = hold(wrong, fresh, seeds, same_digits=False)
    assert not held.agrees and "test_accuracy differs from the archive by" in held.reason
    assert hold(history, fresh, seeds, same_digits=False).agrees


def test_rounding_decides_at_the_edge_and_the_schedule_is_compared():
    _, history, cells = archived("jain2018", "fig2")
    run, seeds = next(
        (cell.hash, of)
        for of in by_cell(cells)
        for cell in of
        if collapses(history, of) == 1 and collapses(history, [cell]) == 1
    )
    was = history[history["run"] == run].dropna(axis=1, how="all")
    learned = was.assign(test_accuracy=0.98, test_loss=0.05, train_loss=0.05)
    held = hold(history, learned, seeds, same_digits=False)
    assert held.agrees and not held.in_full and "Rounding decides" in held.reason
    late = learned.assign(mean_staleness=was["mean_staleness"] + 1)
    assert not hold(history, late, seeds, same_digits=False).agrees


def test_a_cell_of_which_all_seeds_diverged_must_diverge():
    cells = plan_of("jain2018").grids["jain2018"]["fig2"][:300:100]
    seeds = [replace(cells[0], seed=seed) for seed in (1, 2, 3)]
    row = {"epoch": 1, "updates": 5, "train_loss": math.nan, "test_accuracy": 0.098}
    history = pd.DataFrame([{"run": c.hash, **row, "diverged": True} for c in seeds])
    goes_on = history[:1].assign(train_loss=0.1, test_accuracy=0.9, diverged=False)
    held = hold(history, goes_on, seeds, same_digits=False)
    assert not held.agrees and "It diverged in the archive, with all seeds" in held.reason
    other = history[:1].assign(test_accuracy=0.1)
    assert hold(history, other, seeds, same_digits=False).agrees


def plan_of(study: str) -> Plan:
    return Plan.load({"preset": "paper", "studies": [study]}, ROOT / "config")


def archived(study: str, grid: str) -> tuple[Plan, pd.DataFrame, list]:
    there = plan_of(study)
    return there, archived_history(home_of(study) / "measured"), there.grids[study][grid]


def by_cell(cells: list) -> list[list]:
    """The seeds of each cell."""
    groups: dict = {}
    for cell in cells:
        groups.setdefault(replace(cell, seed=1), []).append(cell)
    return list(groups.values())


def collapses(history: pd.DataFrame, seeds: list) -> int:
    last = history[history["run"].isin([c.hash for c in seeds])].groupby("run").last()
    return int((last["test_accuracy"] < 0.2).sum())


def steady(history: pd.DataFrame, cells: list) -> list[list]:
    """Cells that learn with all seeds."""
    last = history.groupby("run")["test_accuracy"].last()
    return [s for s in by_cell(cells) if last[[c.hash for c in s]].min() > 0.97]


@pytest.mark.slow
def test_cells_of_the_other_kind_of_processor_agree(real_data, tmp_path, monkeypatch):
    """Kernels built for AVX2 against an archive made with AVX-512, some whole cheap runs."""
    if " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    monkeypatch.setenv(kernels.ARCHITECTURE, "x86-64-v3")
    monkeypatch.chdir(ROOT)
    for study, grid in (
        ("mishchenko2022", "lenet"),
        ("lamour2023", "only"),
        ("allawati2020", "fig3"),
    ):
        there = plan_of(study)
        stratum = next(s for s in strata_of(there, None) if s[0].name == grid)
        items = random.Random(4).sample(stratum, 2)
        place = replace(PLACE, backend="auto")
        made = train(items, tmp_path, place, 1, math.inf, lambda *_: None)
        rows = check(Archive(there), made, tmp_path, 1)
        assert rows["agrees"].all(), rows["reason"].tolist()


@pytest.mark.parametrize("kept", ["agree", "differ"])
def test_archived_runs_of_avx2_agree_by_the_stated_rule(kept):
    """Cells that both kinds of kernel have trained, of the edge of collapse: none is called wrong,
    and one that was trained otherwise is, where its seeds agree."""
    there, history, cells = archived("jain2018", "fig2")
    other = archived_history(home_of("jain2018") / "measured" / "avx2")
    groups = {cell.hash: seeds for seeds in by_cell(cells) for cell in seeds}
    found = []
    for run, fresh in other.groupby("run"):
        columns = [c for c in fresh if not fresh[c].isna().all()]
        fresh = fresh[columns].reset_index(drop=True)
        if kept == "differ":
            fresh = fresh.assign(updates=fresh["updates"] + 1)
        found.append(hold(history, fresh, groups[str(run)], same_digits=False))
    assert len(found) == 50
    if kept == "agree":
        assert [held.reason for held in found if not held.agrees] == []
        assert any(held.in_full for held in found) and not all(held.in_full for held in found)
    else:
        assert not any(held.agrees for held in found)


def test_points_of_a_landscape_are_held_to_rounding():
    was = {"test_loss": np.array([1.0, 200.0, np.nan]), "test_accuracy": np.array([0.5, 0.1, 0.1])}
    places = ["a", "b", "c"]
    assert hold_points(places, was, was).to_the_byte
    near = was | {"test_loss": was["test_loss"] * (1 + 1e-6)}
    held = hold_points(places, was, near)
    assert held.agrees and not held.to_the_byte
    far = was | {"test_loss": was["test_loss"] * [1, 1.01, 1]}
    held = hold_points(places, was, far)
    assert not held.agrees
    assert "test_loss at the point b is 202, and 200 in the archive; 1 of 3" in held.reason


def test_a_landscape_of_this_repository_agrees(real_data, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    there = plan_of("lamour2023")
    items = [s[0] for s in strata_of(there, None) if s[0].kind == "landscape"][:1]
    rows = check(Archive(there), items, tmp_path, 3)
    assert rows["agrees"].all(), rows["reason"].tolist()


# ---- what is said ----


def test_the_line_of_a_check(tmp_path):
    write_check(tmp_path, [{}] * 41)
    said = read_check(tmp_path)
    assert said.line == (
        "41 of 41 runs drawn at random agree with the archive; a share of wrong runs above 7 % "
        "would have been noticed with 95 % confidence."
    )
    assert not said.disagreements
    assert "seed 5 from 40 of 44 grids" in said.details[0]


def test_runs_that_could_not_be_compared_do_not_count(tmp_path):
    write_check(tmp_path, [{}] * 41 + [{"to_the_byte": False, "in_full": False}] * 9)
    assert "50 of 50 runs" in read_check(tmp_path).line
    assert "above 7 %" in read_check(tmp_path).line


def test_where_one_disagrees_no_share_is_claimed(tmp_path):
    wrong = {"agrees": False, "run": "f" * 16, "reason": "It is 3, not 2.", "archived": "2"}
    write_check(tmp_path, [{}] * 40 + [wrong])
    said = read_check(tmp_path)
    assert said.line == (
        f"40 of 41 runs drawn at random agree with the archive; not as archived: the run "
        f"{'f' * 16} of s, grid g."
    )
    assert [each.reason for each in said.disagreements] == ["It is 3, not 2."]


@pytest.mark.parametrize("runs", [1, 5, 41, 300])
def test_the_share_is_that_of_no_wrong_run_in_so_many(runs):
    share = noticed_share(runs)
    assert (1 - share) ** runs == pytest.approx(0.05)
    assert noticed_share(0) == 1.0


@pytest.mark.parametrize(
    ("settings", "is_checked"),
    [
        ({}, True),
        ({"check_minutes": 0}, False),
        ({"measured_only": True}, False),
        ({"recompute": True}, False),
    ],
)
def test_a_check_is_made_where_the_archive_is_used(folder, settings, is_checked):
    archive_all()
    assert plan(**settings).is_checked == is_checked


# ---- the workflow ----


@pytest.fixture
def checkout(folder) -> Checkout:
    return Checkout.make(folder, "--cores", "2", "--config", "preset=paper", "check_seed=3")


def lines_on(folder: Path) -> list[str]:
    return (folder / "results" / "paper" / "check.txt").read_text().splitlines()


@pytest.mark.slow
def test_the_workflow_checks_and_ends_with_an_error_where_a_run_disagrees(checkout, folder):
    study = json.loads(json.dumps(STUDY))
    del study["trajectories"]
    (folder / "studies" / "small" / "study.yaml").write_text(yaml.safe_dump(study))
    there = archive_all()
    process = checkout.run("check_minutes=0.2")
    assert process.returncode == 0, process.stdout
    assert "CHECK_SEED=3" in process.stdout
    line, *_ = lines_on(folder)
    assert line.startswith("18 of 18 runs drawn at random agree with the archive; a share")
    assert line in process.stdout
    results = folder / "results" / "paper"
    assert line in (results / "index.html").read_text()

    wrong = there.grids["small"]["many"][4].hash
    change_a_byte(there, wrong)
    process = checkout.run("check_minutes=0.2")
    assert process.returncode != 0
    for part in (wrong, "17 of 18 runs", "in the archive:", "trained here:", "after epoch 3"):
        assert part in process.stdout, part
    assert not (results / "check.txt").exists()
    assert wrong in (results / "index.html").read_text()
    assert wrong in (results / "report" / "check.tex").read_text()
    assert (results / "report.pdf").stat().st_mtime > (results / "check.csv").stat().st_mtime

    process = checkout.run("check_minutes=0")
    assert process.returncode == 0, process.stdout
    assert "No archived run was trained again" in (results / "index.html").read_text()
    shutil.rmtree(folder / "made")
