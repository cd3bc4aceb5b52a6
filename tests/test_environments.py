"""The lock files, the conda files and pyproject.toml say the same, and every named file exists."""

import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import packages
import pytest
import yaml
from checkout import until
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))
RULE_FILES = [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))]

# What conda calls by another name than PyPI, and what PyPI does not have.
PYPI_NAME = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
CONDA_ONLY = {"cxx-compiler", "pip", "python", "tectonic"}

PIN = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][0-9a-z.]*)(?: ; (?P<marker>[^\\]+?))?")
HASHES = re.compile(r"(?: --hash=sha256:[0-9a-f]{64})+")


def requirement_lines(name: str) -> list[str]:
    """The requirements of a lock file, continued lines joined and comments left out."""
    text = re.sub(r" \\\n +", " ", (ROOT / name).read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def locked_versions() -> dict[str, set[str]]:
    """Versions by name; a package has two where they depend on the version of Python."""
    versions: dict[str, set[str]] = {}
    for name in ("requirements.lock", "requirements-torch.lock"):
        for line in requirement_lines(name):
            requirement = Requirement(line.split(" --hash")[0])
            version = str(requirement.specifier).removeprefix("==")
            versions.setdefault(canonicalize_name(requirement.name), set()).add(version)
    return versions


def named_environments(rule_file: Path) -> list[Path]:
    """The files that the rules of one file name under `conda:`, which are relative to it."""
    text = rule_file.read_text()
    names = re.findall(r"^\s+conda:\s*\"([^\"{}]+)\"", text, flags=re.MULTILINE)
    directives = re.findall(r"^\s+conda:", text, flags=re.MULTILINE)
    assert len(names) == len(directives), f"{rule_file}: conda: takes a plain path, in quotes"
    return [(rule_file.parent / name).resolve() for name in names]


def test_lock_holds_pins_and_hashes_and_nothing_else():
    lines = requirement_lines("requirements.lock")
    for line in lines:
        pin, separator, hashes = line.partition(" --hash")
        assert PIN.fullmatch(pin), line
        assert HASHES.fullmatch(separator + hashes), line
    assert len(lines) > len(PYPROJECT["project"]["dependencies"])


def test_torch_lock_holds_pins_without_hashes():
    lines = requirement_lines("requirements-torch.lock")
    assert all(PIN.fullmatch(line) for line in lines)
    assert {line.split("==")[0] for line in lines} == {"torch", "torchvision"}


def test_torch_is_locked_once():
    """A torch with a hash would refuse every build but one."""
    names = {line.split("==")[0] for line in requirement_lines("requirements.lock")}
    assert not names & {"torch", "torchvision", "triton"}
    assert not [name for name in names if name.startswith("nvidia-")]


def test_torch_dependencies_are_declared_for_the_locked_version():
    (metadata,) = PYPROJECT["tool"]["uv"]["dependency-metadata"]
    assert {metadata["version"]} == locked_versions()[metadata["name"]]


@pytest.mark.parametrize(
    "requirement",
    [
        *PYPROJECT["build-system"]["requires"],
        *PYPROJECT["project"]["dependencies"],
        *sum(PYPROJECT["project"]["optional-dependencies"].values(), []),
    ],
)
def test_lock_satisfies_pyproject(requirement):
    wanted = Requirement(requirement)
    versions = locked_versions()[canonicalize_name(wanted.name)]
    assert all(wanted.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_pins_equal_the_lock(path):
    locked = locked_versions()
    environment = yaml.safe_load(path.read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    for entry in environment["dependencies"]:
        name, _, version = entry.partition("=")
        if name in CONDA_ONLY:
            assert name not in locked
        else:
            assert {version} == locked[PYPI_NAME.get(name, name)], entry


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_conda_python_is_allowed(path):
    pins = [entry.partition("=")[::2] for entry in yaml.safe_load(path.read_text())["dependencies"]]
    allowed = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert all(allowed.contains(version) for name, version in pins if name == "python")


def test_every_named_environment_exists():
    named = {path for rule_file in RULE_FILES for path in named_environments(rule_file)}
    assert named, "no rule names a conda environment"
    assert named <= set(ENVIRONMENTS)


def test_tests_install_packages_in_ci_alone(monkeypatch):
    monkeypatch.setattr(packages.subprocess, "run", None)
    packages.need(["sh"], "dash")
    monkeypatch.delenv("TEST_PACKAGES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="TEST_PACKAGES=install lets root"):
        packages.need(["no-such-command"], "no-such-package")
    assert "export TEST_PACKAGES=install" in (ROOT / ".ci" / "run").read_text()


KILLED = """
import os, signal, sys
from pathlib import Path
import toy_slurm
toy_slurm.ETC = Path(sys.argv[1])
with toy_slurm.linked(Path(sys.argv[2])):
    assert len(os.listdir(toy_slurm.ETC)) == 2
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_test_leaves_no_configuration_of_slurm(tmp_path):
    etc, folder = tmp_path / "etc", tmp_path / "cluster"
    etc.mkdir(), folder.mkdir()
    (etc / "gres.conf").symlink_to("nothing")
    command = [sys.executable, "-c", KILLED, str(etc), str(folder)]
    done = subprocess.run(command, cwd=ROOT / "tests")
    assert done.returncode == -signal.SIGKILL
    until(lambda: not list(etc.iterdir()))


def test_every_environment_is_used_by_a_rule():
    named = {path for rule_file in RULE_FILES for path in named_environments(rule_file)}
    assert not set(ENVIRONMENTS) - named


def test_hosted_ci_runs_make_test_from_the_oldest_python_on():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    (job,) = workflow["jobs"].values()
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == oldest
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    actions = [step["uses"] for step in job["steps"] if "uses" in step]
    assert actions and all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in actions)
