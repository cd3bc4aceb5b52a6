"""All figures or tables of a study made in one go."""

from pathlib import Path

import pytest

from stalegrad import products
from stalegrad.config import load_settings, read_yaml
from stalegrad.errors import ResultError
from stalegrad.freshness import PACKAGE
from stalegrad.plan import Plan, as_inputs
from stalegrad.products import make_all
from stalegrad.results import StudyResults

ROOT = Path(__file__).parents[1]
NAMED = {"make": None, "caption": "What is seen."}


def test_one_that_fails_leaves_the_others(tmp_path, monkeypatch, capsys):
    def maker(kind, study, name, make):
        def made(results):
            if name == "second":
                raise ValueError("there are\nno seeds")
            return f"{kind} {study} {name} of {results.preset}"

        return made

    monkeypatch.setattr(products, "maker", maker)
    results = StudyResults("some", "smoke", tmp_path / "some")
    written = {}
    with pytest.raises(ResultError) as caught:
        names = dict.fromkeys(("first", "second", "third"), NAMED)
        make_all("tables", results, names, written.__setitem__)
    said = "1 of 3 tables of some could not be made: some_second (there are no seeds)."
    assert str(caught.value) == said
    assert "ValueError" in capsys.readouterr().err
    assert written == {
        tmp_path / "tables" / f"some_{name}": f"tables some {name} of smoke"
        for name in ("first", "third")
    }
    captions = {path.name: path.read_text() for path in (tmp_path / "tables").iterdir()}
    assert captions == dict.fromkeys(("some_first.rst", "some_third.rst"), "What is seen.\n")


def test_what_is_not_there_is_stood_in_for_and_what_fails_is_not(tmp_path, monkeypatch, capsys):
    def maker(kind, study, name, make):
        def made(results):
            if name == "lacking":
                raise ResultError("runs.csv holds\nno run of it")
            raise KeyError(name)

        return made

    monkeypatch.setattr(products, "maker", maker)
    results = StudyResults("some", "paper", tmp_path / "some")
    written = {}
    with pytest.raises(ResultError, match="1 of 2 tables .* some_broken"):
        names = dict.fromkeys(("lacking", "broken"), NAMED)
        make_all("tables", results, names, written.__setitem__, "not there: {}".format)
    there = tmp_path / "tables" / "some_lacking"
    assert written == {there: "not there: runs.csv holds no run of it"}


def test_only_its_own_code_makes_a_study_out_of_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = Plan.load(load_settings(read_yaml(Path("config/config.yaml"))).model_dump())
    for study in plan.studies:
        for kind in ("figures", "tables", "claims"):
            files = plan.code(study, kind)
            assert PACKAGE / kind / f"{study}.py" in files
            assert all(Path(name).exists() for name in as_inputs(files))
            foreign = {f"{other}.py" for other in plan.studies if other != study}
            assert not foreign & {file.name for file in files}
    assert PACKAGE / "figures/style.py" in plan.code("jain2018", "figures")
    assert PACKAGE / "figures/style.py" not in plan.code("jain2018", "tables", "claims")
