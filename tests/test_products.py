"""All figures or tables of a study made in one go."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import home_of

from stalegrad.analysis import products
from stalegrad.analysis.products import make_all
from stalegrad.analysis.results import StudyResults
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning import sources
from stalegrad.planning.config import Product, load_settings, read_yaml
from stalegrad.planning.plan import Plan, as_inputs
from stalegrad.planning.sources import PACKAGE

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
    results = StudyResults(Path("some"), "smoke", tmp_path / "some")
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
    results = StudyResults(Path("some"), "paper", tmp_path / "some")
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
            assert plan.homes[study] / f"{kind}.py" in files
            assert all(Path(name).exists() for name in as_inputs(files))
            foreign = {home for other, home in plan.homes.items() if other != study}
            assert not foreign & {file.parent for file in files}
    assert PACKAGE / "analysis/style.py" in plan.code("jain2018", "figures")
    assert PACKAGE / "analysis/style.py" not in plan.code("jain2018", "tables", "claims")


# ---- what is not there is found before anything is trained ----


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """A copy of the studies, which stands for them in a plan."""
    without = shutil.ignore_patterns("__pycache__", "measured")
    shutil.copytree(ROOT / "studies", tmp_path / "studies", ignore=without)
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return tmp_path


def plan_with(**product) -> Plan:
    """All studies as configured, jain2018 with one more figure."""
    plan = Plan.load({"preset": "smoke"}, ROOT / "config")
    figures = plan.studies["jain2018"].figures | {"another": Product(caption="", **product)}
    study = plan.studies["jain2018"].model_copy(update={"figures": figures})
    return replace(plan, studies={**plan.studies, "jain2018": study})


def test_all_code_is_there():
    Plan.load({"preset": "smoke"}, ROOT / "config").check_code()


@pytest.mark.parametrize(
    "make",
    [None, "figures.no_such", "no_such.learning_curves", "style.ResultError", "figures.pd.x"],
)
def test_a_figure_that_nothing_draws_is_refused(make):
    plan = plan_with(make=make)
    with pytest.raises(ConfigError) as refused:
        plan.check_code()
    module, _, function = (make or "figures.another").rpartition(".")
    home = home_of("jain2018")
    assert str(refused.value) == (
        f"{home}/study.yaml: 'figures.another' is made by {function} in {home}/{module}.py, which "
        f"does not exist; write that function, or name another with 'make'."
    )


def test_a_figure_may_be_made_by_a_name_of_any_kind():
    plan_with(make="figures.over_seeds").check_code()  # imported there


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("def f(:\n    pass", r"jain2018/claims.py, line \d+: not readable as Python"),
        (
            "from stalegrad.analysis.results import over_sedes",
            r"line \d+: it imports .*results.over_sedes,",
        ),
        (
            "from stalegrad.analysis.tables import Tabel",
            "it imports stalegrad.analysis.tables.Tabel, which does not exist",
        ),
        ("from .tables import fig2_cels", r"it imports \.?tables\.fig2_cels, which does not exist"),
        ("from .tabels import fig2", r"it imports \.?tabels\.fig2, which does not exist"),
        ("from stalegrad.resluts import x", "it imports stalegrad.resluts.x, which does not exist"),
        (
            "def f():\n    from stalegrad.planning.cell import Sell",
            "it imports stalegrad.planning.cell.Sell,",
        ),
        (
            '@claim(where="here")\ndef unquoted(results):\n    """It holds."""',
            r"jain2018/claims.py, line \d+: the claim 'unquoted' has no quotation",
        ),
        ('@claims.claim(where="here")\ndef bare(results):\n    pass', "'bare' has no quotation"),
    ],
)
def test_a_module_of_claims_that_cannot_be_imported_is_refused(copied, edit, said):
    plan = Plan.load({"preset": "smoke"}, copied / "config")
    plan.check_code()
    sources.parsed.cache_clear()
    sources.imported.cache_clear()
    with open(copied / "studies" / "jain2018" / "claims.py", "a") as file:
        file.write(f"\n\n{edit}\n")
    with pytest.raises(ConfigError, match=said):
        plan.check_code()
