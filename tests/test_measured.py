"""The archive of runs made at full scale: adding to it, and not training again what it holds."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from helpers import ROOT, home_of

from stalegrad.analysis.agreement import agreement, steady_cells
from stalegrad.analysis.archive import (
    add_to_archive,
    archived_history,
    archived_runs,
    gather,
    restore,
)
from stalegrad.analysis.claims import VERDICTS, claims_of, judge
from stalegrad.analysis.results import StudyResults, collect, read_csv
from stalegrad.cli import main
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.io.files import provenance_path
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell
from stalegrad.planning.plan import Plan
from stalegrad.training import kernels, replay, stepping
from stalegrad.training.backends import make_backend
from stalegrad.training.bundles import plan_run

STUDIES = sorted(path.parent.name for path in (ROOT / "studies").glob("*/measured"))
ARCHIVE = Path("studies/tiny/measured")
STUDY = {
    "title": "A tiny study",
    "cite": "tiny2024",
    "grids": {
        "curves": {
            "cell": {
                "problem": {"name": "lenet5", "dataset": "mnist", "train_samples": 320},
                "rule": {"name": "sgd"},
                "cluster": {"name": "constant_delay"},
                "batch_size": 32,
                "epochs": 3,
            },
            "axes": {"rule.lr": [0.05, 0.1], "cluster.delay": [0, 4]},
            "quick": {"cell": {"epochs": 1}},
        }
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty repository with a study of its own, where the archive is looked for."""
    (tmp_path / "studies" / "tiny").mkdir(parents=True)
    (tmp_path / "config" / "presets").mkdir(parents=True)
    for preset in ("paper", "quick"):
        file = tmp_path / "config" / "presets" / f"{preset}.yaml"
        file.write_text(yaml.safe_dump({"title": preset, "seeds": 2, "bundle_size": 3}))
    (tmp_path / "studies" / "tiny" / "study.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(**settings) -> Plan:
    return Plan.load({"preset": "paper", **settings}, Path("config"))


def history_of(cells) -> pd.DataFrame:
    """As training writes it; the accuracy tells the runs apart, and the second diverges."""
    rows = []
    for i, cell in enumerate(cells):
        for epoch in range(1, cell.epochs + 1):
            diverged = i == 1 and epoch == 2
            row = {"run": cell.hash, "epoch": epoch, "updates": 10 * epoch}
            row |= {"simulated_seconds": epoch / 3, "mean_staleness": 0.9, "max_staleness": 1}
            row |= {"train_loss": np.nan if diverged else 1 / (7 * epoch + i)}
            row |= {"test_loss": np.inf if diverged else 2 / 3, "test_accuracy": i / 7}
            rows.append(row | {"diverged": diverged})
            if diverged:
                break
    return pd.DataFrame(rows)


def train(bundles) -> list[Path]:
    """The files that training these bundles leaves."""
    outputs = []
    for bundle in bundles:
        output = Path("results") / f"{bundle.hash}.csv"
        output.parent.mkdir(exist_ok=True)
        csv = history_of(bundle.cells).to_csv(index=False, float_format="%.9g", lineterminator="\n")
        output.write_text(csv)
        provenance = {"machine": "made up", "bundle": bundle.hash, "runs": len(bundle.cells)}
        provenance_path(output).write_text(json.dumps(provenance))
        outputs.append(output)
    return outputs


def archive_bytes() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(ARCHIVE.iterdir())}


def bundles_of(plan: Plan) -> list:
    return list(plan.bundles["tiny"].values())


def runs_of(bundles) -> list[str]:
    return sorted(cell.hash for bundle in bundles for cell in bundle.cells)


def test_an_archive_holds_what_was_added():
    bundles = bundles_of(plan())
    outputs = train(bundles)
    assert add_to_archive(ARCHIVE, outputs) == 8
    assert archived_runs(ARCHIVE) == set(runs_of(bundles))
    history = archived_history(ARCHIVE)
    wanted = pd.concat([pd.read_csv(path) for path in outputs])
    wanted = wanted.sort_values(["run", "epoch"], ignore_index=True)
    pd.testing.assert_frame_equal(history, wanted)
    provenance = pd.read_csv(ARCHIVE / "provenance.csv")
    assert sorted(provenance["bundle"]) == sorted(bundle.hash for bundle in bundles)
    assert provenance["runs"].sum() == 8


def test_rows_of_before_instructions_were_recorded_stay_readable():
    first, second, *_ = train(bundles_of(plan()))
    add_to_archive(ARCHIVE, [first])
    path = provenance_path(second)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"instructions": "AVX2"}))
    assert add_to_archive(ARCHIVE, [second]) > 0
    provenance = pd.read_csv(ARCHIVE / "provenance.csv")
    assert list(provenance["instructions"]) == ["not recorded", "AVX2"]
    assert provenance.notna().all(axis=None)


def test_adding_again_changes_no_byte():
    outputs = train(bundles_of(plan()))
    add_to_archive(ARCHIVE, outputs)
    before = archive_bytes()
    assert set(before) == {"history.csv.gz", "provenance.csv", "runs.txt"}
    assert add_to_archive(ARCHIVE, outputs) == 0
    assert add_to_archive(ARCHIVE, outputs[::-1]) == 0
    assert add_to_archive(ARCHIVE, []) == 0
    assert archive_bytes() == before
    header = before["history.csv.gz"][:10]
    assert header[3:8] == bytes(5)  # neither a file's name nor the time of day


def test_one_by_one_or_at_once_are_the_same_bytes(folder):
    outputs = train(bundles_of(plan()))
    assert len(outputs) > 2
    add_to_archive(ARCHIVE, outputs)
    at_once = archive_bytes()
    for path in ARCHIVE.iterdir():
        path.unlink()
    assert [add_to_archive(ARCHIVE, [output]) for output in outputs] == [
        len(bundle.cells) for bundle in bundles_of(plan(recompute=True))
    ]
    assert archive_bytes() == at_once


def test_a_run_that_is_there_stays_as_it_is():
    output, *_ = train(bundles_of(plan()))
    add_to_archive(ARCHIVE, [output])
    before = archive_bytes()
    other = pd.read_csv(output).assign(test_accuracy=0.5)
    other.to_csv(output, index=False)
    assert add_to_archive(ARCHIVE, [output]) == 0
    assert archive_bytes() == before


def test_nothing_added_to_nothing_leaves_nothing():
    assert add_to_archive(ARCHIVE, []) == 0
    assert not ARCHIVE.exists()
    assert archived_runs(ARCHIVE) == set()
    assert archived_history(ARCHIVE).empty


@pytest.mark.parametrize("written", ["history.csv.gz", "provenance.csv"])
def test_what_a_kill_leaves_is_put_right_by_the_next_call(written, monkeypatch):
    first, *others = train(bundles_of(plan()))
    add_to_archive(ARCHIVE, [first])

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed_after(written))
        with pytest.raises(KeyboardInterrupt):
            add_to_archive(ARCHIVE, others)
    assert archived_runs(ARCHIVE) == set(pd.read_csv(first)["run"])
    assert add_to_archive(ARCHIVE, others) == 8 - len(set(pd.read_csv(first)["run"]))
    left = archive_bytes()
    shutil.rmtree(ARCHIVE)
    add_to_archive(ARCHIVE, [first])
    add_to_archive(ARCHIVE, others)
    assert left == archive_bytes()


def killed_after(name: str) -> Callable[[Path, Path], None]:
    """`os.replace` of a process that is killed once a file of that name is in place."""
    replace = os.replace

    def replace_and_die(beside: Path, path: Path) -> None:
        replace(beside, path)
        if path.name == name:
            raise KeyboardInterrupt

    return replace_and_die


def test_another_folder_can_be_the_archive(tmp_path):
    outputs = train(bundles_of(plan()))
    add_to_archive(tmp_path / "elsewhere", outputs)
    assert len(archived_runs(tmp_path / "elsewhere")) == 8
    assert archived_runs(ARCHIVE) == set()


def test_a_broken_archive_is_named():
    add_to_archive(ARCHIVE, train(bundles_of(plan())))
    path = ARCHIVE / "history.csv.gz"
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:-20],
        whole[:60],
        b"run,epoch",
        whole[:30] + bytes(40) + whole[70:],
    ):
        path.write_bytes(content)
        with pytest.raises(ResultError, match="history.csv.gz is not a readable CSV"):
            archived_history(ARCHIVE)


def test_archived_runs_are_not_trained_again():
    first, *rest = bundles_of(plan())
    add_to_archive(ARCHIVE, train([first]))
    left = bundles_of(plan())
    assert runs_of(left) == runs_of(rest)
    add_to_archive(ARCHIVE, train(left))
    assert bundles_of(plan()) == []


def test_recompute_trains_all():
    everything = bundles_of(plan())
    add_to_archive(ARCHIVE, train(everything))
    again = plan(recompute=True)
    assert again.archived("tiny") == set()
    assert bundles_of(again) == everything


def test_measured_only_takes_the_seeds_that_are_there_in_full():
    whole = plan().grids["tiny"]["curves"]
    spared = next(cell for cell in whole if cell.seed == 1)
    add_to_archive(ARCHIVE, train([Bundle(tuple(c for c in whole if c != spared))]))
    only = plan(measured_only=True)
    assert bundles_of(only) == []
    assert only.grids["tiny"]["curves"] == [cell for cell in whole if cell.seed == 2]


def test_measured_only_leaves_out_a_grid_that_is_not_there():
    add_to_archive(ARCHIVE, train(bundles_of(plan())))
    more = json.loads(json.dumps(STUDY))
    more["grids"]["later"] = more["grids"]["curves"] | {
        "axes": {"rule.lr": [0.7], "cluster.delay": [0]}
    }
    Path("studies/tiny/study.yaml").write_text(yaml.safe_dump(more))
    assert list(plan().grids["tiny"]) == ["curves", "later"]
    assert list(plan(measured_only=True).grids["tiny"]) == ["curves"]


def test_measured_only_of_nothing_is_refused():
    with pytest.raises(
        ConfigError, match="studies/tiny/measured holds no seed of all the cells of any"
    ):
        plan(measured_only=True)


@pytest.mark.parametrize("other", [{"preset": "quick"}, {"recompute": True}])
def test_measured_only_goes_with_nothing_that_trains(other):
    with pytest.raises(ConfigError, match="'measured_only' is True: measured/ holds runs of the"):
        plan(measured_only=True, **other)


def test_only_paper_uses_the_archive():
    quick = bundles_of(plan(preset="quick"))
    # Even a run of `quick` that, by some chance, stands in the archive is trained.
    add_to_archive(ARCHIVE, train(quick))
    assert bundles_of(plan(preset="quick")) == quick


def test_a_cell_that_changed_is_not_the_archived_one():
    add_to_archive(ARCHIVE, train(bundles_of(plan())))
    changed = json.loads(json.dumps(STUDY))
    changed["grids"]["curves"]["cell"]["epochs"] = 4
    Path("studies/tiny/study.yaml").write_text(yaml.safe_dump(changed))
    assert len(runs_of(bundles_of(plan()))) == 8


def test_the_plan_changes_with_what_the_archive_holds():
    before = plan().digest("tiny")
    assert plan().digest("tiny") == before
    add_to_archive(ARCHIVE, train(bundles_of(plan()))[:1])
    assert plan().digest("tiny") != before
    assert plan(recompute=True).digest("tiny") == before


def test_results_are_the_same_from_bundles_and_from_the_archive():
    whole = plan()
    outputs = train(bundles_of(whole))
    histories = [pd.read_csv(path) for path in outputs]
    trained = collect(whole.grids["tiny"], histories)
    add_to_archive(ARCHIVE, outputs[:2])
    mixed = collect(whole.grids["tiny"], [*histories[2:], archived_history(ARCHIVE)])
    doubled = collect(whole.grids["tiny"], [*histories, archived_history(ARCHIVE)])
    for tables in (mixed, doubled):
        for one, other in zip(trained, tables, strict=True):
            pd.testing.assert_frame_equal(one, other)
    assert trained[0]["diverged"].sum() > 0


def test_the_archive_in_this_repository_is_of_its_studies(monkeypatch):
    """Nothing archived is orphaned: every run is a cell of its study at `paper`."""
    monkeypatch.chdir(ROOT)  # from which a study names its files
    for study in STUDIES:
        everything = Plan.load(
            {"preset": "paper", "recompute": True, "studies": [study]}, ROOT / "config"
        )
        known = {cell.hash for grid in everything.grids[study].values() for cell in grid}
        held = archived_runs(home_of(study) / "measured")
        assert held <= known
        assert held == set(archived_history(home_of(study) / "measured")["run"])
        provenance = read_csv(home_of(study) / "measured" / "provenance.csv")
        assert sorted(" ".join(provenance["cells"]).split()) == sorted(held)
        assert provenance.notna().all(axis=None)


@pytest.mark.slow
@pytest.mark.parametrize("study", STUDIES)
def test_the_archive_comes_to_the_verdicts_beside_it(study, tmp_path, monkeypatch):
    """`measured/verdicts.csv` is what the claims make of the runs, none of them is out of reach.

    Simulations, trajectories and landscapes are not gathered: what asks for one has no answer here.
    """
    monkeypatch.chdir(ROOT)
    there = Plan.load({"preset": "paper", "measured_only": True, "studies": [study]})
    gather(there.archive(study), there.grids[study], tmp_path / study)
    table = judge(StudyResults(home_of(study), "paper", tmp_path / study)).set_index("claim")
    not_gathered = (
        rf"{tmp_path}/{study}/(?:staleness\.csv|(?:schedules|traces|trajectories|landscapes)/)"
    )
    table = table[~table["reason"].str.contains(not_gathered)]
    assert not table["reason"].str.contains("are not there|cannot be computed").any()
    beside = read_csv(Path("measured/verdicts.csv")).query("study == @study")
    beside = beside.set_index("claim")
    assert list(beside.index) == list(claims_of(home_of(study)))
    assert table["verdict"].to_dict() == beside.loc[table.index, "verdict"].to_dict()
    assert table["value"].to_dict() == pytest.approx(
        beside.loc[table.index, "value"].to_dict(), rel=1e-5, nan_ok=True
    )


def test_the_readme_counts_these_verdicts():
    counts = read_csv(ROOT / "measured" / "verdicts.csv").groupby("study")["verdict"].value_counts()
    rows = re.findall(r"^\| `(\w+)` .*?((?:\| \d+ )+)\|$", (ROOT / "README.md").read_text(), re.M)
    assert {study: [int(n) for n in cells.split("|")[1:]] for study, cells in rows} == {
        study: [counts.get((study, verdict), 0) for verdict in VERDICTS] for study in STUDIES
    }


BUILDS = {"native": "", "AVX2": "x86-64-v3"}


@pytest.mark.slow
@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("study", STUDIES)
def test_archived_runs_come_out_again(study, build, real_data, monkeypatch):
    """The first epoch of the two cheapest runs of steady cells that learn, trained again.

    Where they were measured all digits are the same; what other vector instructions may change is
    said by `stalegrad.analysis.agreement`.
    """
    if BUILDS[build] and " avx2 " not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    monkeypatch.chdir(ROOT)  # from which a study names its files
    monkeypatch.setenv(kernels.ARCHITECTURE, BUILDS[build])
    settings = {"preset": "paper", "recompute": True, "studies": [study]}
    grids = Plan.load(settings, ROOT / "config").grids[study]
    cells = {cell.hash: cell for grid in grids.values() for cell in grid}
    history = archived_history(home_of(study) / "measured")
    steady = history[history["run"].isin(steady_cells(history, cells.values()))]
    first = steady[steady["epoch"] == 1]
    learned = first.get("test_accuracy", pd.Series(dtype=float)).reindex(first.index)
    first = first[~(learned < 0.5)]  # at chance there is little to compare

    def cost(run: str) -> float:
        return Bundle((replace(cells[run], epochs=1),)).work()

    cheapest = sorted(first["run"], key=lambda run: (cost(run), run))[:2]
    again = pd.DataFrame([after_first_epoch(cells[run], real_data) for run in cheapest])
    assert agreement(history, again, cells.values()) == {run: [] for run in cheapest}


def after_first_epoch(cell: Cell, data: Path) -> dict[str, float]:
    """What is recorded of a run after one epoch."""
    task = cell.problem.load(data, torch.device("cpu"), torch.float32)
    backend = make_backend("auto", task)
    run = plan_run(cell, task.train[1].numpy()).run
    state, losses = stepping.advance(task, [run], replay.start(task, [run]), backend)
    metrics = {name: value.item() for name, value in backend.metrics(state.weights).items()}
    updates = int(run.applied[0]) // run.schedule.arrivals_per_update
    row = {"run": cell.hash, "epoch": 1, "updates": updates, "train_loss": losses.item()}
    return row | metrics


def test_gathering_gives_what_is_measured_so_far(folder):
    bundles = bundles_of(plan())
    with pytest.raises(ResultError, match="holds none of the runs"):
        gather(ARCHIVE, plan().grids["tiny"], folder / "out")
    first = train(bundles)[:1]
    add_to_archive(ARCHIVE, first)
    grids = plan(recompute=True).grids["tiny"]
    assert gather(ARCHIVE, grids, folder / "out") == len(bundles[0].cells)
    runs = pd.read_csv(folder / "out" / "runs.csv")
    assert set(runs["run"]) == {cell.hash for cell in bundles[0].cells}
    assert set(pd.read_csv(folder / "out" / "history.csv")["run"]) == set(runs["run"])


# ---- trajectories and landscapes ----

RECORDED = {
    "cell": STUDY["grids"]["curves"]["cell"] | {"rule": {"name": "sgd", "lr": 0.05}},
    "axes": {"cluster.delay": [0, 4]},
    "per_epoch": 2,
}


@pytest.fixture
def recorded(folder) -> Path:
    """The results folder of a study with a trajectory and a landscape that have been made."""
    study = STUDY | {
        "trajectories": {"curves": RECORDED},
        "landscapes": {"plane": RECORDED | {"resolution": 5}},
    }
    (folder / "studies" / "tiny" / "study.yaml").write_text(yaml.safe_dump(study))
    for (kind, content), made in plan().products_kept("tiny").items():
        for name, file in made.items():
            path = folder / "results" / "tiny" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{name} of {file}\n".encode() * 40)
        said = {"landscape" if kind == "landscapes" else "bundle": content}
        path.write_text(json.dumps(said))  # the last is the provenance
    return folder / "results"


def test_trajectories_and_landscapes_are_kept_and_come_back(recorded, capsys):
    assert main(["archive", "--study", "tiny", "--results", str(recorded)]) == 0
    assert capsys.readouterr().out.count("kept in studies/tiny/measured/") == 2
    here = plan()
    assert len(here.products_kept("tiny")) == 2
    for (kind, content), files in here.products_kept("tiny").items():
        kept = here.kept("tiny", kind, content)
        assert Path(kept) == ARCHIVE / kind / content
        outputs = {name: recorded / "again" / file for name, file in files.items()}
        restore(Path(kept), outputs)
        for name, file in files.items():
            assert outputs[name].read_bytes() == (recorded / "tiny" / file).read_bytes()
        assert plan(recompute=True).kept("tiny", kind, content) == ""
        assert plan(preset="quick").kept("tiny", kind, content) == ""
    assert main(["archive", "--study", "tiny", "--results", str(recorded)]) == 0
    assert capsys.readouterr().out.count("was already in") == 2


def test_landscape_of_other_content_is_not_taken_from_the_archive(recorded, folder):
    main(["archive", "--study", "tiny", "--results", str(recorded)])
    study = yaml.safe_load((folder / "studies" / "tiny" / "study.yaml").read_text())
    study["landscapes"]["plane"]["resolution"] = 6
    (folder / "studies" / "tiny" / "study.yaml").write_text(yaml.safe_dump(study))
    here = plan()
    assert here.kept("tiny", "landscapes", here.landscapes["tiny"]["plane"].hash) == ""
    assert here.kept("tiny", "trajectories", here.trajectories["tiny"]["curves"].hash) != ""


def test_measured_only_leaves_out_landscapes_that_are_not_kept(recorded):
    everything = {cell.hash for cell in plan().grids["tiny"]["curves"]}
    ARCHIVE.mkdir(parents=True)
    (ARCHIVE / "runs.txt").write_text("\n".join(everything))
    (ARCHIVE / "history.csv.gz").touch()
    only = plan(measured_only=True)
    assert only.trajectories == only.landscapes == {"tiny": {}}
    assert only.outputs("tiny") == ["runs.csv", "history.csv"]
    main(["archive", "--study", "tiny", "--results", str(recorded)])
    only = plan(measured_only=True)
    assert list(only.trajectories["tiny"]) == ["curves"]
    assert "landscapes/plane.npz" in only.outputs("tiny")


@pytest.mark.parametrize("written", ["history.csv.gz", "grid.npz", "points.csv.gz"])
def test_half_of_a_landscape_is_not_kept(recorded, written, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed_after(written))
        assert main(["archive", "--study", "tiny", "--results", str(recorded)]) == 130
    here, kind = plan(), "trajectories" if written.startswith("history") else "landscapes"
    ((_, content),) = (key for key in here.products_kept("tiny") if key[0] == kind)
    assert list(ARCHIVE.rglob(written))
    assert here.kept("tiny", kind, content) == ""
    assert main(["archive", "--study", "tiny", "--results", str(recorded)]) == 0
    assert here.kept("tiny", kind, content) != ""


def test_results_of_another_preset_are_not_kept(recorded, capsys):
    (path,) = (recorded / "tiny" / "landscapes").glob("*.provenance.json")
    path.write_text(json.dumps({"landscape": "0123456789abcdef"}))
    assert main(["archive", "--study", "tiny", "--results", str(recorded)]) == 2
    assert "plane.npz.provenance.json belongs to other runs" in capsys.readouterr().err
    assert not list(ARCHIVE.rglob("grid.npz"))


def test_what_is_not_made_is_not_kept(recorded, capsys):
    (recorded / "tiny" / "trajectories" / "curves.csv").unlink()
    (recorded / "tiny" / "landscapes" / "plane_lines.csv").unlink()
    assert main(["archive", "--study", "tiny", "--results", str(recorded)]) == 2
    said = capsys.readouterr()
    assert "curves.csv is not there, and is left out" in said.out
    assert "plane_lines.csv is not there" in said.err
    assert not list(ARCHIVE.rglob("*.gz"))
