"""Where compiled code is kept: one folder, one rule, and damage that mends itself."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stalegrad.io import cache
from stalegrad.io.cache import CacheUnavailable, cache_folder
from stalegrad.io.compiled import compiled
from stalegrad.planning.config import load_settings
from stalegrad.planning.plan import Plan
from stalegrad.training import kernels, progress, speed, timing

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STALEGRAD_CACHE", str(tmp_path / "cache"))
    kernels._load.cache_clear()
    yield tmp_path / "cache"
    kernels._load.cache_clear()


# ---- the rule ----


def test_the_folder_is_named_or_the_users_or_a_temporary_one(tmp_path, monkeypatch):
    monkeypatch.delenv("STALEGRAD_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "stalegrad"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "stalegrad"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "stalegrad"
    monkeypatch.setenv("STALEGRAD_CACHE", "$HOME/mine")
    assert cache_folder() == tmp_path / "home" / "mine"


@pytest.mark.parametrize("home", ["/dev/null/none", "relative", "a file", "not writable"])
def test_without_a_home_there_is_a_temporary_folder(home, tmp_path, monkeypatch):
    if home == "a file":
        (tmp_path / "file").write_text("")
        home = str(tmp_path / "file")
    if home == "not writable":
        home = str(tmp_path)
        monkeypatch.setattr(cache.os, "access", lambda path, _: Path(path).parent.name != ".cache")
    monkeypatch.delenv("STALEGRAD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    assert cache_folder() == tmp_path / "tmp" / f"stalegrad-{os.getuid()}"


def test_no_place_at_all_is_a_sentence(tmp_path, monkeypatch):
    def no_temporary():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("STALEGRAD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    monkeypatch.setattr(tempfile, "gettempdir", no_temporary)
    with pytest.raises(CacheUnavailable, match="no folder for it can be written to .*STALEGRAD_CA"):
        cache_folder()


@pytest.mark.parametrize("named", ["/dev/null/none", "$STALEGRAD_NO_SUCH", "~no-such-user", " "])
def test_a_folder_that_is_named_and_cannot_be_had_is_refused_by_name(named, monkeypatch):
    monkeypatch.setenv("STALEGRAD_CACHE", named)
    with pytest.raises(CacheUnavailable, match="which STALEGRAD_CACHE names and which cannot be"):
        cache_folder()


# ---- loops ----

LOOP = """
from stalegrad.io.compiled import compiled

@compiled
def total(values):
    out = 0.0
    for value in values:
        out += value
    return out
"""
CALL = "import numpy, loops; print(loops.total(numpy.arange(4.0)))"


@pytest.fixture
def call(tmp_path, folder):
    """Calls a loop in a process of its own, whose source cannot be written beside."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "loops.py").write_text(LOOP)

    def run(**environment: str) -> tuple[str, str]:
        paths = os.pathsep.join([str(tmp_path / "source"), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", CALL],
            env=os.environ | {"PYTHONPATH": paths} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "numba").rglob("*.nb[ic]"))


def test_loops_are_kept_beside_the_kernels(call, folder, tmp_path):
    assert call() == ("6.0\n", "")
    assert len(kept(folder)) == 2
    before = [path.stat().st_mtime_ns for path in kept(folder)]
    assert call() == ("6.0\n", "")
    assert [path.stat().st_mtime_ns for path in kept(folder)] == before
    assert not list((tmp_path / "source").rglob("*.nb[ic]"))


@pytest.mark.parametrize("content", [b"", b"cut short", None], ids=["empty", "other", "cut"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_loop_is_compiled_again(suffix, content, call, folder):
    call()
    (path,) = (path for path in kept(folder) if path.suffix == suffix)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    said = call()
    assert said[0] == "6.0\n" and said[1] in (
        "", "note: compiling loops.total again, whose cache is damaged.\n"
    )  # fmt: skip
    assert call() == ("6.0\n", "")


def test_without_any_folder_loops_are_compiled_anew(call):
    assert call(STALEGRAD_CACHE="/dev/null/none") == ("6.0\n", "")


def test_an_error_of_the_loop_itself_is_its_own(folder):
    calls = []

    @compiled
    def divided(values, by):
        values[0] += 1
        return values[0] // by

    values = np.zeros(1, np.int64)
    with pytest.raises(ZeroDivisionError):
        calls.append(divided(values, 0))
    assert values[0] == 1


# ---- kernels ----


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("chain-*.so"))


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:5000], lambda b: b[:-1] + b"\1"])
def test_a_damaged_kernel_is_compiled_again(damage, folder):
    kernels.load("chain")
    (library,) = libraries(folder)
    whole = library.read_bytes()
    kernels._load.cache_clear()
    other = library.with_name(f"{library.stem}.copy")
    other.write_bytes(damage(whole))
    os.replace(other, library)  # what is loaded already is another file
    kernels.load("chain")
    assert libraries(folder) == [library] and library.read_bytes() == whole


# ---- what is asked for and cannot be had ----

UNUSABLE = {
    "no program": ({"CXX": "no-such-compiler"}, "CXX is 'no-such-compiler', but no-such-compiler"),
    "several words": (
        {"CXX": "no-such-cache g++"},
        "CXX is 'no-such-cache g++', but no-such-cache",
    ),
    "no command": ({"CXX": "g++ '"}, 'CXX is "g++ \'", which is no command'),
    "blank": ({"CXX": " "}, "CXX is ' ', which is no command"),
    "a folder": ({"CXX": "/tmp"}, "CXX is '/tmp', but /tmp is no program"),
    "does nothing": ({"CXX": "true"}, "CXX is 'true': correct CXX, or unset it"),
    "refuses": ({"CXX": "false"}, "CXX is 'false': correct CXX, or unset it"),
    "no option": ({"CXX": "g++ --no-such"}, "CXX is 'g++ --no-such': correct CXX, or unset it"),
    "processor": (
        {"STALEGRAD_ARCHITECTURE": "i860"},
        "STALEGRAD_ARCHITECTURE is 'i860': name a processor as this compiler does, or unset it",
    ),
    "folder": (
        {"STALEGRAD_CACHE": "/dev/null/none"},
        "which STALEGRAD_CACHE names and which cannot",
    ),
    "folder's variable": ({"STALEGRAD_CACHE": "$NO_SUCH"}, "which STALEGRAD_CACHE names and which"),
}


@pytest.fixture(params=UNUSABLE)
def unusable(request, folder, monkeypatch) -> str:
    """Sets what cannot be used; the reason."""
    variables, reason = UNUSABLE[request.param]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return reason


def test_what_cannot_be_used_is_named_with_what_to_do(unusable):
    with pytest.raises(kernels.KernelUnavailable) as refusal:
        kernels.load("chain")
    assert unusable in str(refusal.value) and "unset" in str(refusal.value)


@pytest.mark.slow
def test_what_cannot_be_used_is_announced_before_training(unusable, tmp_path, monkeypatch):
    """The measurement that finds out runs in this process here; in one of its own it is tested in
    test_expectations.py."""
    here = SimpleNamespace(run=lambda command, check: timing.main(command[3:]))
    monkeypatch.setattr(speed, "subprocess", here)
    monkeypatch.chdir(ROOT)
    values = {"preset": "smoke", "studies": ["allawati2020"], "results_folder": str(tmp_path)}
    lines = progress.announcement(Plan.load(values), tmp_path / "smoke", 2)
    assert any(line.startswith("note: ") and unusable in line for line in lines), lines


def test_kernels_that_are_not_asked_for_are_not_missed(unusable, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(speed, "measured", lambda *_: None)
    values = {"preset": "smoke", "studies": ["mishchenko2022"], "results_folder": str(tmp_path)}
    plan = Plan.load(values | {"backend": "torch"})
    assert load_settings(values).backend == "auto"
    assert not [line for line in progress.announcement(plan, tmp_path, 2) if "note: " in line]
