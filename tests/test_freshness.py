"""Freshness: which files decide a result, and that no finished file is taken for another code's."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest

from stalegrad.io import files
from stalegrad.io.errors import ResultError
from stalegrad.io.files import provenance_path
from stalegrad.planning import sources
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.planning.freshness import can_take, closure, code_of, is_fresh, training_code
from stalegrad.planning.plan import Plan
from stalegrad.planning.sources import PACKAGE
from stalegrad.training import bundles
from stalegrad.training.bundles import Place, train_bundle

ROOT = Path(__file__).parents[1]
CELL = {
    "problem": {"name": "least_squares", "rows": 64, "dimension": 8, "epoch_samples": 64},
    "rule": {"name": "sgd", "lr": 0.1},
    "cluster": {"name": "constant_delay", "delay": 1},
    "batch_size": 16,
    "epochs": 2,
    "partition": "independent",
}


def cell(**changes):
    return parse_cell(CELL | changes, "a test")


BUNDLE = Bundle((cell(),))


def names(files) -> set[str]:
    return {str(file.relative_to(PACKAGE)) for file in files}


# ---- the closure ----


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A made-up package in which file -> source is written by `write`."""
    folder = tmp_path / "stalegrad"
    monkeypatch.setattr(sources, "PACKAGE", folder)
    return folder


def write(folder: Path, **sources: str) -> None:
    for name, source in sources.items():
        path = folder / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("import stalegrad.some.helper", True),
        ("from stalegrad.some import helper", True),
        ("from stalegrad.some.helper import x as y", True),
        ("from . import helper", True),
        ("from .helper import x", True),
        ("from stalegrad.some.between import x", True),
        (
            "def f():\n    try:\n        import stalegrad.some.helper\n    finally:\n        pass",
            True,
        ),
        ("match 1:\n    case 1:\n        import stalegrad.some.helper", True),
        ("import helper", False),
        ("from other.some import helper", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import helper", False),
        (
            "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    from . import helper",
            True,
        ),
        ("'import stalegrad.some.helper'", False),
    ],
)
def test_what_counts_as_imported(package, source, reached):
    write(package, some__start=source, some__helper="x = 1", some__between="from .helper import x")
    found = closure(package / "some" / "start.py")
    assert (package / "some" / "helper.py" in found) == reached


def test_packages_bring_their_own_code_and_cpp(package):
    write(package, some____init__="from stalegrad import other", some__start="", other="")
    (package / "some" / "kernel.cpp").write_text("")
    (package / "some" / "notes.txt").write_text("")
    (package / "user.py").write_text("from stalegrad.some import start")
    found = {str(file.relative_to(package)) for file in closure(package / "user.py")}
    assert found == {"user.py", "some/__init__.py", "some/start.py", "some/kernel.cpp", "other.py"}


@pytest.mark.parametrize(
    ("call", "loaded"),
    [
        ("spec_class('rules', 'sgd')", {"rules/sgd.py"}),
        ("specs.spec_class('rules', name)", {"rules/sgd.py", "rules/adam.py", "rules/dc_asgd.py"}),
        ("spec_class(kind, name)", set()),
    ],
)
def test_specs_that_are_loaded_by_name_are_imported(tmp_path, call, loaded):
    (tmp_path / "user.py").write_text(call)
    found = closure(tmp_path / "user.py") - {tmp_path / "user.py"}
    assert loaded <= names(found) and bool(found) == bool(loaded)


def test_a_rule_elsewhere_brings_the_helper_beside_it(tmp_path):
    (tmp_path / "_gap.py").write_text("")
    for source in ("from stalegrad.rules._gap import x", "from ._gap import x", "import _gap"):
        sources.imported.cache_clear()
        sources.parsed.cache_clear()
        (tmp_path / "mine.py").write_text(source)
        assert tmp_path / "_gap.py" in closure(tmp_path / "mine.py")


def test_training_is_of_the_engine_and_of_its_own_parts():
    found = names(code_of("training.bundles", BUNDLE.cells))
    assert {
        "training/replay.py",
        "training/kernel_replay.py",
        "schedule.py",
        "rules/__init__.py",
    } <= found
    assert {"problems/least_squares.py", "problems/_synthetic.py", "rules/sgd.py"} <= found
    assert {"clusters/constant_delay.py", "io/files.py", "planning/cell.py"} <= found
    kernels = {"calls.py", "replay.h", "linear_model.cpp"}
    assert {"training/backends/cpu.py", *(f"training/kernels/{name}" for name in kernels)} <= found
    assert not {"problems/lenet5.py", "clusters/hub_and_spoke.py"} & found


def test_what_a_part_is_built_on_is_its_code_too():
    rule = {"name": "dc_asgd", "lr": 0.1, "compensation": 1.0}
    found = names(code_of("training.bundles", [cell(rule=rule)]))
    assert {"rules/dc_asgd.py", "rules/sgd.py"} <= found


@pytest.mark.parametrize(
    "module",
    [
        "training.bundles",
        *(f"analysis.{name}" for name in ("virtual_iterates", "landscapes", "simulations")),
    ],
)
def test_nothing_that_draws_words_or_plans_makes_a_result_out_of_date(module):
    found = names(code_of(module, BUNDLE.cells))
    assert not [name for name in found if name.startswith(("cli/", "report/"))]
    alone = {
        *("planning/plan", "planning/config", "training/progress", "io/wording", "io/logs"),
        *(f"analysis/{name}" for name in ("figures", "style", "tables", "claims")),
        *(f"analysis/{name}" for name in ("results", "archive", "products")),
    }
    assert all((PACKAGE / f"{name}.py").exists() for name in alone)
    assert not {f"{name}.py" for name in alone} & found


def test_a_study_is_of_the_problems_that_its_tables_and_figures_load():
    plan = Plan.load({"preset": "smoke"}, ROOT / "config")
    problems = PACKAGE / "problems"
    assert problems / "least_squares.py" in plan.code("mishchenko2022", "tables")
    assert problems / "large_cnn.py" in plan.code("lamour2023", "figures")  # by spec_class
    assert problems / "large_cnn.py" not in plan.code("lamour2023", "tables", "claims")


# ---- finished files ----


@pytest.fixture
def trained(tmp_path) -> Path:
    output = tmp_path / "out.csv"
    train_bundle(BUNDLE, output, Place(tmp_path, "cpu", "torch"))
    return output


def test_the_provenance_says_what_was_trained_by_which_code(trained):
    made = json.loads(provenance_path(trained).read_text())
    assert (made["bundle"], made["code"]) == (BUNDLE.hash, training_code(BUNDLE.cells))
    assert is_fresh(trained, BUNDLE)


def test_what_is_not_finished_is_not_taken(trained, capsys):
    provenance_path(trained).unlink()
    assert not can_take(trained, BUNDLE) and capsys.readouterr().err == ""


@pytest.mark.parametrize("made", [{"code": "of yesterday"}, {}])
def test_what_other_code_has_trained_is_not_taken_and_said(trained, made, capsys):
    provenance_path(trained).write_text(json.dumps({"bundle": BUNDLE.hash} | made))
    assert not is_fresh(trained, BUNDLE) and not can_take(trained, BUNDLE)
    said = capsys.readouterr().err
    assert (
        said
        == f"note: {trained} was made by other code than the present one; it is trained again.\n"
    )


def test_a_file_of_another_run_is_refused(trained):
    other = Bundle((cell(seed=2),))
    assert not is_fresh(trained, other)
    with pytest.raises(ResultError, match=f"holds another run .*{BUNDLE.hash}, not {other.hash}"):
        can_take(trained, other)


@pytest.mark.parametrize("text", ["", "[1]", '"text"'])
def test_a_damaged_provenance_is_refused(trained, text):
    provenance_path(trained).write_text(text)
    with pytest.raises(ResultError, match="provenance.json is not readable"):
        can_take(trained, BUNDLE)


@pytest.mark.parametrize(("meanwhile", "taken"), [(BUNDLE, True), (Bundle((cell(seed=2),)), False)])
def test_what_another_process_made_is_taken_only_for_the_same_run(
    trained, meanwhile, taken, monkeypatch, tmp_path
):
    """The lock is free when the other is done: its output must be of this run."""
    place = Place(tmp_path, "cpu", "torch")
    trained.unlink()

    def held(output, wait):
        with monkeypatch.context() as patch:
            patch.setattr(bundles, "held", files.held)
            train_bundle(meanwhile, output, place)
        return files.held(output, wait)

    told = []
    monkeypatch.setattr(bundles, "held", held)
    with nullcontext() if taken else pytest.raises(ResultError, match="holds another run"):
        train_bundle(BUNDLE, trained, place, told.append)
    assert not told
    assert set(pd.read_csv(trained, dtype=str)["run"]) == {meanwhile.cells[0].hash}


# ---- an edit of the code ----


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package that can be edited."""
    shutil.copytree(PACKAGE, tmp_path / "stalegrad", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edit(copy: Path, name: str, old: str, new: str) -> None:
    path = copy / "stalegrad" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stalegrad(copy: Path, *arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-m", "stalegrad", *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


STANDS_STILL = ("rules/sgd.py", "value=-1), state", "value=0), state")


def test_an_edited_rule_does_not_show_the_old_losses(copy):
    command = ["run", "--problem", "least_squares", "--rows", "64", "--dimension", "8", "--lr"]
    command += ["0.1", "--delay", "1", "--batch-size", "16", "--epochs", "2", "--backend", "torch"]
    command += ["--partition", "independent", "--epoch-samples", "64", "--output", "out.csv"]
    before, again = stalegrad(copy, *command), stalegrad(copy, *command)
    assert again.stdout == before.stdout and again.stderr == ""
    edit(copy, *STANDS_STILL)
    after = stalegrad(copy, *command)
    assert "note: out.csv was made by other code than the present one" in after.stderr
    losses = pd.read_csv(copy / "out.csv")["excess_loss"]
    assert losses.nunique() == 1  # it never moves
    assert after.stdout.splitlines()[1:] != before.stdout.splitlines()[1:]


def test_an_edited_rule_trains_bundle_files_anew(copy):
    (copy / "one.json").write_text(BUNDLE.to_json())
    command = ["run-bundle", "one.json", "--output", "done", "--backend", "torch"]
    stalegrad(copy, *command)
    assert "1 of them trained already" in stalegrad(copy, *command).stdout
    edit(copy, *STANDS_STILL)
    after = stalegrad(copy, *command)
    assert "0 of them trained already" in after.stdout and "other code" in after.stderr
