"""Provenance names the code that ran, or says that it is not known."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stalegrad.io.commit import commit_of
from stalegrad.report.values import short

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *settings, "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """A package in a repository of its own, all of it committed."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    package = tmp_path / "checkout" / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "rule.py").write_text("RATE = 1\n")
    (package.parents[1] / ".gitignore").write_text("__pycache__/\nlocal_*\n")
    git(tmp_path, "init", "--quiet", str(package.parents[1]))
    git(package.parents[1], "add", "--all")
    git(package, "commit", "--quiet", "-m", "all")
    return package


def test_a_clean_tree_is_its_commit(source):
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "rule.pyc").write_text("")
    (source.parents[1] / "results.csv").write_text("")
    assert commit_of(source) == git(source, "rev-parse", "HEAD")


def changed(source):
    (source / "rule.py").write_text("RATE = 2\n")


def staged(source):
    changed(source)
    git(source, "add", "--all")


def deleted(source):
    (source / "rule.py").unlink()


def untracked(source):
    (source / "other_rule.py").write_text("RATE = 2\n")


def untracked_and_not_shown(source):
    untracked(source)
    git(source, "config", "status.showUntrackedFiles", "no")


def untracked_folder(source):
    (source / "rules").mkdir()
    (source / "rules" / "new.py").write_text("RATE = 2\n")


def ignored(source):
    (source / "local_rule.py").write_text("RATE = 2\n")


def ignored_kernel(source):
    (source / "local_kernel.cpp").write_text("")


def assumed_unchanged(source):
    git(source, "update-index", "--assume-unchanged", str(source / "rule.py"))
    changed(source)


def skipped(source):
    git(source, "update-index", "--skip-worktree", str(source / "rule.py"))
    changed(source)


@pytest.mark.parametrize(
    "change",
    [
        *(changed, staged, deleted, untracked, untracked_and_not_shown, untracked_folder),
        *(ignored, ignored_kernel, assumed_unchanged, skipped),
    ],
)
def test_a_tree_that_is_not_its_commit_is_marked(change, source):
    change(source)
    assert commit_of(source) == git(source, "rev-parse", "HEAD") + "+"


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"])
def test_another_repository_that_the_environment_names_is_not_asked(
    variable, source, tmp_path, monkeypatch
):
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    git(other, "commit", "--quiet", "--allow-empty", "-m", "another")
    place = {"GIT_DIR": ".git", "GIT_INDEX_FILE": ".git/index", "GIT_WORK_TREE": "."}[variable]
    commit = git(source, "rev-parse", "HEAD")
    monkeypatch.setenv(variable, str(other / place))
    assert commit_of(source) == commit


def test_a_repository_that_does_not_hold_the_source_is_not_named(source):
    """As where it is installed into an environment inside another project's repository."""
    installed = source.parents[1] / "venv" / "site-packages" / "package"
    installed.parent.mkdir(parents=True)
    shutil.copytree(source, installed)
    said = commit_of(installed)
    assert said == "unknown: the repository around the source does not hold it"


def no_repository(source, monkeypatch):
    shutil.rmtree(source.parents[1] / ".git")
    return "not a git repository"


def no_commit(source, monkeypatch):
    shutil.rmtree(source.parents[1] / ".git")
    git(source, "init", "--quiet", str(source.parents[1]))
    return "Needed a single revision"


def no_git(source, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    return "there is no git"


def git_that_refuses(source, monkeypatch):
    """As it does where the folder belongs to somebody else."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    return "dubious ownership"


def damaged(source, monkeypatch):
    (source.parents[1] / ".git" / "index").write_bytes(b"cut short")
    return "git says: "


@pytest.mark.parametrize("case", [no_repository, no_commit, no_git, git_that_refuses, damaged])
def test_what_git_does_not_say_is_unknown_in_words(case, source, monkeypatch):
    reason = case(source, monkeypatch)
    said = commit_of(source)
    assert said.startswith("unknown: ") and reason in said and "\n" not in said
    assert short(said) == "unknown"


def test_what_ran_is_in_the_provenance():
    program = (
        "import torch; from stalegrad.training.machine import describe_machine;"
        "print(describe_machine(torch.device('cpu'))['commit'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    import stalegrad

    assert done.stdout.strip() == commit_of(Path(stalegrad.__file__).parent)
