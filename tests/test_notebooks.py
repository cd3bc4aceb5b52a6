"""The notebooks: one a study, showing pictures of what is there and saying what is not."""

import re
import runpy
from pathlib import Path

import pandas as pd
import pytest
from helpers import home_of
from IPython import display
from made_up import as_claimed
from made_up import write_results as write_jain2018
from matplotlib import pyplot
from test_lamour2023 import write_results as write_lamour2023

from stalegrad.analysis.claims import claims_of
from stalegrad.io.errors import ResultError
from stalegrad.report.notebooks import as_far_as_made, described, open_results, show

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.parent.name: path for path in (ROOT / "studies").glob("*/notebook.py")}
STUDIES = [path.parent.name for path in (ROOT / "studies").glob("*/study.yaml")]


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    found = []
    monkeypatch.setattr(display, "display", found.append)
    return found


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """study -> what its notebook prints, over the results in `tmp_path`."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("STALEGRAD_RESULTS", str(tmp_path))

    def of(study, preset="smoke"):
        monkeypatch.setenv("STALEGRAD_PRESET", preset)
        runpy.run_path(str(NOTEBOOKS[study]))
        return capsys.readouterr().out

    return of


def pictures(shown):
    return [each.data for each in shown if isinstance(each, display.Image)]


def test_each_is_of_a_study_and_the_four_papers_have_one():
    papers = {"jain2018", "allawati2020", "lamour2023", "mishchenko2022"}
    assert papers <= set(NOTEBOOKS) <= set(STUDIES)


@pytest.mark.parametrize("study", sorted(NOTEBOOKS))
def test_results_that_are_not_there_are_said_and_no_crash(study, run, shown):
    printed = run(study)
    cells = NOTEBOOKS[study].read_text().count("with as_far_as_made():")
    assert printed.count("Not shown") == cells >= 4
    assert not pictures(shown)
    (verdicts,) = shown
    assert list(verdicts["claim"]) == list(claims_of(home_of(study)))
    assert set(verdicts["verdict"]) == {"cannot tell"}


def test_figures_are_pictures(run, shown, tmp_path):
    folder = tmp_path / "smoke" / "jain2018"
    folder.mkdir(parents=True)
    write_jain2018(folder, as_claimed, preset="smoke", seeds=1)
    before = pyplot.get_fignums()  # other tests'
    assert "Not shown" not in run("jain2018")
    drawn = NOTEBOOKS["jain2018"].read_text().count("show(figures.")
    assert len(pictures(shown)) == drawn >= 2
    assert all(picture.startswith(b"\x89PNG") for picture in pictures(shown))
    assert pyplot.get_fignums() == before


def test_what_is_there_is_shown_beside_what_is_not(run, shown, tmp_path):
    """Runs without simulations: all but the histograms of staleness."""
    folder = tmp_path / "smoke" / "lamour2023"
    folder.mkdir(parents=True)
    write_lamour2023(folder, preset="smoke", seeds=1)
    said = re.findall(r"Not shown.*", run("lamour2023"))
    assert len(said) == 1 and "staleness.csv is not there" in said[0]
    assert len(pictures(shown)) == NOTEBOOKS["lamour2023"].read_text().count("show(figures.") - 1


def test_only_missing_results_are_passed_over(capsys):
    for missing in (ResultError("runs.csv is not there"), KeyError("delay")):
        with as_far_as_made():
            raise missing
        assert str(missing) in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError), as_far_as_made():
        _ = 1 / 0


def test_the_environment_names_preset_and_folder(monkeypatch):
    monkeypatch.delenv("STALEGRAD_PRESET", raising=False)
    monkeypatch.delenv("STALEGRAD_RESULTS", raising=False)
    assert open_results("studies/jain2018").folder == Path("results/quick/jain2018")
    monkeypatch.setenv("STALEGRAD_PRESET", "paper")
    assert open_results("studies/jain2018").preset == "paper"


def test_sentences_in_tables_are_shown_whole(monkeypatch):
    texts = []
    monkeypatch.setattr(display, "display", lambda frame: texts.append(frame.to_html()))
    show(pd.DataFrame({"reason": ["a word " * 40]}))
    assert "..." not in texts[0]


def test_a_figure_is_described_by_its_panels():
    figure, (first, second, colours) = pyplot.subplots(1, 3)
    figure.suptitle("$n=4$\n$M=2\\quad\\sigma=1$")
    first.set(title="one", xlabel="delay $\\tau$", ylabel="loss")
    second.set(xlabel="delay $\\tau$")
    colours.set(xlabel="delay $\\tau$")
    said = "Figure: n=4 M=2 sigma=1; one: loss over delay tau; delay tau."
    assert described(figure) == said
    pyplot.close(figure)
    assert described(pyplot.Figure()) == "Figure."


def test_pictures_are_shown_with_their_description(shown):
    figure, axes = pyplot.subplots()
    axes.set(xlabel="delay", ylabel="loss")
    show(figure)
    assert [picture.alt for picture in shown] == ["Figure: loss over delay."]
