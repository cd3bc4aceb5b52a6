"""`stalegrad new-study`: what it writes, what it says to do next, and what it refuses."""

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

from stalegrad import cli
from stalegrad.cli import new_study
from stalegrad.planning.config import load_settings, study_homes
from stalegrad.planning.studies import find_studies

FILES = {
    *("claims.py", "figures.py", "notebook.py", "section.tex", "study.yaml", "tables.py"),
    "test_claims_mine.py",
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The folder of a project with one study, `there`, in which commands are given."""
    folder = tmp_path / "project"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "config.yaml").write_text("preset: quick\n")
    (folder / "studies" / "there").mkdir(parents=True)
    (folder / "studies" / "there" / "study.yaml").write_text("")
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: object) -> int:
    return cli.main(["new-study", *map(str, arguments)])


def refused(capsys, *arguments: object) -> str:
    assert call(*arguments) == 2
    return capsys.readouterr().err


def settings_said(said: str) -> dict:
    """What the printed command sets, as Snakemake reads it."""
    (command,) = (shlex.split(line) for line in said.splitlines() if "snakemake" in line)
    pairs = (word.split("=", 1) for word in command[command.index("--config") + 1 :])
    return {key: yaml.load(value, yaml.BaseLoader) for key, value in pairs}


@pytest.mark.parametrize("folder", ["studies", "../project/studies/", "absolute"])
def test_a_study_of_the_project_is_found_as_it_is(folder, project, capsys):
    folder = project / "studies" if folder == "absolute" else folder
    assert call("mine", "--folder", folder) == 0
    assert {path.name for path in (project / "studies" / "mine").iterdir()} == FILES
    said = capsys.readouterr().out
    assert settings_said(said) == {"preset": "smoke", "studies": ["mine"]}
    assert f"pytest {Path(folder, 'mine')}" in said and "studies_folders" not in said


def test_the_usual_folder_is_that_of_the_project(project):
    assert call("mine") == 0
    assert (project / "studies" / "mine" / "study.yaml").exists()


@pytest.mark.parametrize("folder", ["../elsewhere", "../else, where: [x]", "absolute"])
def test_the_settings_that_it_says_find_a_study_elsewhere(folder, project, capsys):
    folder = Path(folder) if folder != "absolute" else project.parent / "absolute"
    assert call("mine", "--folder", folder) == 0
    said = capsys.readouterr().out
    settings = settings_said(said)
    homes = study_homes(load_settings(settings), project / "config")
    assert [home.resolve() for home in homes.values()] == [(project / folder / "mine").resolve()]
    assert settings["studies_folders"] == ["studies", str(folder)]
    (line,) = (line for line in said.splitlines() if line.startswith("With `"))
    assert yaml.safe_load(line.split("`")[1]) == {"studies_folders": ["studies", str(folder)]}


def test_paths_are_seen_from_the_project_where_the_command_is_given_elsewhere(
    project, monkeypatch, capsys
):
    (project.parent / "elsewhere").mkdir()
    monkeypatch.chdir(project.parent / "elsewhere")
    assert call("mine", "--folder", "own", "--config-folder", "../project/config") == 0
    settings = settings_said(capsys.readouterr().out)
    assert settings["studies_folders"] == ["studies", "../elsewhere/own"]
    notebook = Path("own", "mine", "notebook.py").read_text()
    assert 'open_results("../elsewhere/own/mine")' in notebook


def test_without_a_project_the_folder_is_named_in_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("mine", "--folder", "own") == 0
    settings = settings_said(capsys.readouterr().out)
    assert settings["studies_folders"] == ["studies", str(tmp_path / "own")]


@pytest.mark.parametrize("name", ["two words", "1st", "a-b", "a.b", "../x", "", "étude"])
def test_a_name_that_is_none_is_refused(name, project, capsys):
    assert "cannot name a study; use the letters" in refused(capsys, "--", name)
    assert [path.name for path in (project / "studies").iterdir()] == ["there"]


@pytest.mark.parametrize("name", new_study.TAKEN)
def test_a_name_of_what_is_made_of_all_studies_is_refused(name, project, capsys):
    assert f"results/<preset>/{name} holds what is made of all" in refused(capsys, name)


@pytest.mark.parametrize("folder", ["studies", "../elsewhere"])
def test_a_study_that_is_there_is_refused(folder, project, capsys):
    said = refused(capsys, "there", "--folder", folder)
    assert said == "stalegrad: There is a study 'there' in studies/there; choose another name.\n"
    assert (project / "studies" / "there" / "study.yaml").read_text() == ""


@pytest.mark.parametrize("there", ["folder", "file", "file above"])
def test_what_is_there_is_not_written_to(there, project, capsys):
    if there == "folder":
        (project / "own" / "mine").mkdir(parents=True)
    elif there == "file":
        (project / "own").mkdir()
        (project / "own" / "mine").write_text("mine")
    else:
        (project / "own").write_text("mine")
    assert "own/mine cannot be made: there is a file or" in refused(capsys, "mine", "--folder=own")
    assert not [path for path in project.rglob("*") if path.name in FILES - {"study.yaml"}]


def test_it_is_no_study_until_all_of_it_is_written(project, monkeypatch):
    write = new_study.write_atomically

    def until_tables(path: Path, text: str) -> None:
        if path.name == "tables.py":
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(new_study, "write_atomically", until_tables)
    assert call("mine") == 130
    assert (project / "studies" / "mine" / "claims.py").exists()
    assert list(find_studies([project / "studies"])) == ["there"]


def test_its_python_is_as_ours(project):
    assert call("mine") == 0
    for command in ("check", "format --check"):
        ruff = [sys.executable, "-m", "ruff", *command.split(), "--no-cache"]
        ruff += ["--config", str(ROOT / "pyproject.toml"), str(project / "studies" / "mine")]
        done = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_files_are_part_of_the_package():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    globs = tools["setuptools"]["package-data"]["stalegrad"]
    package = ROOT / "src" / "stalegrad"
    packed = {path for pattern in globs for path in package.glob(pattern)}
    template = set((package / "cli" / "study_template").iterdir())
    assert len(template) == len(FILES) and template <= packed
