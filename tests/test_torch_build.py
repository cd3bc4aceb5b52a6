"""The build of PyTorch that is installed fits the machine, and what was chosen is said."""

import http.server
import os
import platform
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import torch_build

LOCK = ROOT / "requirements-torch.lock"
VERSIONS = torch_build.locked(LOCK)
TAG = f"cp{sys.version_info[0]}{sys.version_info[1]}"
WHEEL_TAG = f"{TAG}-{TAG}-manylinux_2_17_{platform.machine()}"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch_build.DRIVER.exists(),
    reason="there is one choice alone on a machine that has an NVIDIA driver, or no Linux",
)


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A wheel of nothing but a module that says which it is."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"__version__ = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {WHEEL_TAG}\n",
    }
    record = "".join(f"{file},,\n" for file in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"{name}-{version}-{WHEEL_TAG}.whl", "w") as wheel:
        for file, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, content)


def serve(folder: Path) -> str:
    """The address of a simple index on loopback, of the wheels in folders named for them."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *said):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def index(tmp_path):
    """An index that has the locked versions, built for the CPU."""
    for name, version in VERSIONS.items():
        write_wheel(tmp_path / "index" / name, name, f"{version}+cpu")
    return serve(tmp_path / "index")


@pytest.fixture
def nowhere():
    """An address where nothing listens."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.server_close()
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """says -> a machine whose nvidia-smi prints that and fails if it prints nothing."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def of(says: str) -> None:
        command = tmp_path / "bin" / "nvidia-smi"
        command.write_text(f"#!/bin/sh\necho '{says}'\n[ -n '{says}' ]\n")
        command.chmod(0o755)

    of("")  # whatever this machine has itself
    return of


def chosen(cpu_index: str, index: str = "") -> tuple[str, str]:
    """What pip is given, and what is said."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "torch_build.py", LOCK]
        + ["--cpu-index", cpu_index, "--index", index],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr.strip()


def test_without_a_driver_the_cpu_build_is_taken(machine, index):
    options, said = chosen(index)
    assert options == f"--index-url {index}"
    assert said == (
        f"The CPU build of PyTorch is taken, from {index}: there is no NVIDIA driver."
        " TORCH_INDEX=usual takes the one with CUDA."
    )


def test_with_a_driver_the_usual_build_is_taken(machine, index):
    machine("GPU 0: a card")
    options, said = chosen(index)
    assert options == ""
    assert said == "The usual build of PyTorch is taken: nvidia-smi shows an NVIDIA driver."


def test_a_driver_is_seen_without_its_command(machine, index, tmp_path, monkeypatch):
    module = tmp_path / "version"
    monkeypatch.setattr(torch_build, "DRIVER", module)
    assert torch_build.driver(module) == ""
    module.write_text("NVRM version: 580")
    assert torch_build.driver(module) == str(module)


def test_where_the_index_is_out_of_reach_the_size_is_said_before(machine, nowhere):
    began = time.monotonic()
    options, said = chosen(nowhere)
    assert time.monotonic() - began < 3 * torch_build.SECONDS_TO_ANSWER
    assert options == ""
    assert f"there is no NVIDIA driver: {nowhere} cannot be reached" in said
    assert "make .venv about 5.6 GB, instead of 2. TORCH_INDEX=<url> names another index" in said


def test_an_index_that_answers_without_end_is_not_waited_for(machine, monkeypatch):
    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            for _ in range(60):
                self.wfile.write(b" ")
                time.sleep(0.1)

        def log_message(self, *said):
            pass

    monkeypatch.setattr(torch_build, "SECONDS_TO_ANSWER", 0.5)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    why = torch_build.lacking(f"http://127.0.0.1:{server.server_port}", VERSIONS)
    assert why.endswith("cannot be reached (no answer in 0.5 s)")
    assert time.monotonic() - began < 3.0


@pytest.mark.parametrize("had", ["2.0.0+cpu", "9.{}+cpu", "{}1+cpu", "{}.post1+cpu"])
def test_an_index_without_the_locked_versions_is_passed_over(machine, tmp_path, had):
    for name, version in VERSIONS.items():
        write_wheel(tmp_path / "old" / name, name, had.format(version))
    index = serve(tmp_path / "old")
    options, said = chosen(index)
    assert options == "" and f"{index} has no torch {VERSIONS['torch']}" in said


def test_the_user_has_the_last_word(machine, index, nowhere):
    machine("GPU 0: a card")
    options, said = chosen(index, nowhere)
    assert options == f"--index-url {nowhere}"
    assert said == f"PyTorch is taken from {nowhere}, as TORCH_INDEX says."
    machine("")
    options, said = chosen(index, "usual")
    assert (options, said) == ("", "The usual build of PyTorch is taken, as TORCH_INDEX says.")


def test_the_locked_versions_are_those_that_are_looked_for():
    assert set(VERSIONS) == {"torch", "torchvision"}
    assert all(version[0].isdigit() for version in VERSIONS.values())


@pytest.mark.slow
def test_make_installs_what_was_chosen(machine, index, nowhere, tmp_path):
    """By the project's own Makefile, of a lock that holds PyTorch alone."""
    project = tmp_path / "project"
    (project / "tools").mkdir(parents=True)
    for file in ("Makefile", "requirements-torch.lock", "tools/torch_build.py"):
        (project / file).write_text((ROOT / file).read_text())
    (project / "tools" / "system_packages.sh").write_text("#!/bin/sh\n")
    (project / "tools" / "system_packages.sh").chmod(0o755)
    (project / "requirements.lock").write_text("")
    (project / "pyproject.toml").write_text('[project]\nname = "nothing"\nversion = "1"\n')
    done = subprocess.run(
        ["make", ".venv/complete", f"PYTHON={sys.executable}", f"TORCH_CPU_INDEX={index}"],
        cwd=project,
        env=os.environ
        | {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_INDEX_URL": nowhere},
        capture_output=True,
        text=True,
    )
    assert "The CPU build of PyTorch is taken, from" in done.stderr, done.stdout + done.stderr
    for name, version in VERSIONS.items():
        code = f"import {name}; print({name}.__version__)"
        found = subprocess.check_output([project / ".venv/bin/python", "-c", code], text=True)
        assert found.strip() == f"{version}+cpu"
