"""Paths that users write: the same place to all that use them, or refused by name."""

import argparse
from pathlib import Path

import pytest

from stalegrad import cli
from stalegrad.cli.flags import path
from stalegrad.io.errors import ConfigError
from stalegrad.planning.config import Settings, load_settings
from stalegrad.report.notebooks import open_results

SETTINGS = ("studies_folders", "data_folder", "local_data", "results_folder")
COMMANDS = ("data", "cells", "run", "bundles", "run-bundle", "archive", "gather", "figure")
UNUSABLE = {
    "$STALEGRAD_NO_SUCH/r": "there is no variable 'STALEGRAD_NO_SUCH' in the environment",
    "a/${STALEGRAD_NO_SUCH}": "there is no variable 'STALEGRAD_NO_SUCH' in the environment",
    "~no-such-user/r": "no home folder is known for '~no-such-user'",
    "./~/r": "no home folder is known for '~'",
    "": "must be a path, and not empty",
    " ": "must be a path, and not empty",
    "a\0b": "a path holds no zero byte",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch disk"))
    return tmp_path


def setting(name: str, text: str) -> str:
    """What a setting means where it is the text, be it one path or a list of them."""
    value = getattr(load_settings({name: [text] if name.endswith("s") else text}), name)
    return value[0] if isinstance(value, list) else value


@pytest.mark.parametrize("name", SETTINGS)
def test_home_and_variables_are_expanded_in_settings(name, home):
    assert setting(name, "~/r") == f"{home}/r"
    assert setting(name, "$SCRATCH/r") == setting(name, "${SCRATCH}/r") == f"{home}/scratch disk/r"
    assert setting(name, "a/$(b)") == "a/$(b)"


@pytest.mark.parametrize("text, reason", UNUSABLE.items())
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_name_no_path_are_refused(name, text, reason):
    with pytest.raises(ConfigError) as refusal:
        setting(name, text)
    assert f"'{name}" in str(refusal.value) and reason in str(refusal.value)


def test_no_setting_takes_a_path_as_it_stands():
    """All settings of free text are those above, and `studies`."""
    free = {name for name, field in Settings.model_fields.items() if "str" in str(field.annotation)}
    free |= {n for n, field in Settings.model_fields.items() if field.annotation is str}
    assert free - {"studies"} == set(SETTINGS)


@pytest.mark.parametrize("name", ["data_folder", "results_folder"])
def test_folders_that_cannot_be_made_are_refused(name, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for place, reason in {
        "file": f"{tmp_path / 'file'} is no folder",
        "file/below": f"{tmp_path / 'file'} is no folder",
        "link": f"is a link to {tmp_path / 'gone'}, which is no folder",
        "link/below": f"is a link to {tmp_path / 'gone'}, which is no folder",
        "round": "round",
        "a" * 300: "File name too long",
        "{study}": "braces in a path are Snakemake's own",
        "a}": "braces in a path are Snakemake's own",
    }.items():
        with pytest.raises(ConfigError) as refusal:
            setting(name, str(tmp_path / place))
        assert f"'{name}'" in str(refusal.value) and reason in str(refusal.value)
    assert setting(name, f"{tmp_path}/new/one/") == f"{tmp_path}/new/one"


# ---- the command line ----


def actions() -> list[tuple[str, argparse.Action]]:
    """Every flag of every command."""
    found = []
    for command in COMMANDS:
        parser = cli.parser_for([command])
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        found += [(command, action) for action in commands.choices[command]._actions]
    return found


def test_every_flag_of_a_path_is_read_as_settings_are():
    of_paths = [a for _, a in actions() if a.metavar in ("DIR", "FILE", "CSV")]
    assert len(of_paths) > 12 and all(action.type is path for action in of_paths)
    assert not [a for _, a in actions() if a.type is Path]


@pytest.mark.parametrize("text, reason", UNUSABLE.items())
def test_flags_that_name_no_path_are_refused(text, reason, capsys):
    assert cli.main(["data", "mnist", "--data-folder", text]) == 2
    said = capsys.readouterr().err
    assert "--data-folder" in said and reason in said


def test_home_is_expanded_in_flags(home, capsys):
    assert cli.main(["verdicts", "~/verdicts.csv"]) == 2
    assert f"{home}/verdicts.csv" in capsys.readouterr().err


# ---- the environment ----


@pytest.mark.parametrize("variable", ["STALEGRAD_RESULTS", "STALEGRAD_STUDY"])
def test_variables_of_notebooks_are_read_as_settings_are(variable, monkeypatch, home):
    monkeypatch.setenv(variable, "~/there")
    results = open_results("studies/jain2018")
    place = {"STALEGRAD_RESULTS": results.folder, "STALEGRAD_STUDY": results.home}[variable]
    assert place.is_relative_to(home / "there")
    monkeypatch.setenv(variable, "$STALEGRAD_NO_SUCH")
    with pytest.raises(ConfigError, match=f"{variable} is .*no variable 'STALEGRAD_NO_SUCH'"):
        open_results("studies/jain2018")
