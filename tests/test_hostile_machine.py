"""The pipeline on a machine set up against it gives the bytes that it gives on a clean one."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
from checkout import DATA, HOSTILE, ROOT

from stalegrad.io.cache import cache_folder

SOURCES = ("Snakefile", "config", "envs", "paper", "profiles", "src", "studies", "workflow")
STUDIES = "[mishchenko2022]"


def clean(home: Path) -> dict[str, str]:
    """A new home with compiled kernels and a list of fonts, neither of which a hostile one has."""
    made = {"stalegrad": cache_folder(), "matplotlib": matplotlib.get_cachedir()}
    for name, folder in made.items():
        shutil.copytree(folder, home / ".cache" / name, ignore=shutil.ignore_patterns("numba"))
    return {"HOME": str(home), "LC_ALL": "C.UTF-8"}


def hostile(home: Path) -> dict[str, str]:
    """A home of somebody who has set up matplotlib, Jupyter and IPython for other work."""
    kernel = home / "jupyter" / "kernels" / "python3"
    matplotlib = home / ".config" / "matplotlib"
    startup = home / ".ipython" / "profile_default" / "startup"
    for folder in (kernel, matplotlib, startup):
        folder.mkdir(parents=True)
    argv = ["/opt/gone/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Gone", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    (matplotlib / "matplotlibrc").write_text(
        "axes.grid: True\nfont.size: 20\nsavefig.bbox: tight\nimage.origin: lower\n"
    )
    (home / ".config" / "jupytext.toml").write_text('formats = "md"\nno such key = 1\n')
    (home / ".latexmkrc").write_text("$out_dir = 'elsewhere';\n")
    (startup / "00.py").write_text("raise SystemExit('a startup file')\n")
    (home / "startup.py").write_text("raise SystemExit('a startup file')\n")
    return {
        "HOME": str(home),
        "JUPYTER_PATH": str(home / "jupyter"),
        "PYTHONSTARTUP": str(home / "startup.py"),
        "MPLBACKEND": "tkagg",
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "GIT_DIR": str(home / "gone.git"),
    }


def read_only(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)


def writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def bound_by_modes() -> list[str]:
    """What a command begins with, so that root may not write to what is read-only either."""
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-dac_override"]
    if not shutil.which("setpriv") or subprocess.run([*command, "true"]).returncode:
        pytest.skip("root can write to what is read-only")
    return command


@dataclass(frozen=True)
class Machine:
    """A copy of the sources, `source`, with a working directory, `work`, and an environment.

    results_folder: the name of that setting's folder.
    """

    source: Path
    work: Path
    environment: dict[str, str]
    results_folder: str = "results"

    @classmethod
    def make(
        cls,
        folder: Path,
        make_home: Callable[[Path], dict[str, str]],
        results_folder: str = "results",
    ) -> "Machine":
        source, work = folder / "source", folder / "work"
        source.mkdir(parents=True)
        work.mkdir()
        for name in SOURCES:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, source / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source / name)
            (work / name).symlink_to(source / name)
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        kept["PYTHONPATH"] = str(source / "src")
        environment = kept | make_home(folder / "a home with spaces")
        return cls(source, work, environment, results_folder)

    @property
    def results(self) -> Path:
        return self.work / self.results_folder / "smoke"

    def run(self, umask: int = 0o022) -> subprocess.CompletedProcess:
        """The smoke preset, with sources that are read-only while it runs."""
        settings = ["preset=smoke", f"studies={STUDIES}", f"data_folder={DATA}"]
        settings += [f"results_folder={self.results_folder}"]
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", *settings]
        read_only(self.source)
        try:
            return subprocess.run(
                [*bound_by_modes(), *command],
                cwd=self.work,
                env=self.environment,
                umask=umask,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        finally:
            writable(self.source)


def content(results: Path) -> dict[str, bytes]:
    """All tables, as CSV and LaTeX, and all figures."""
    kinds = (".csv", ".tex", ".pdf", ".png", ".npz")
    made = ("logs", "report", "report.pdf")  # these tell where and how long, too
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.suffix in kinds and path.relative_to(results).parts[0] not in made
    }


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> tuple[Machine, dict[str, bytes]]:
    """A clean machine, and what it has made."""
    if not shutil.which("latexmk"):
        pytest.skip("needs LaTeX")
    machine = Machine.make(tmp_path_factory.mktemp("clean"), clean)
    done = machine.run()
    assert done.returncode == 0, done.stdout[-6000:]
    return machine, content(machine.results)


@pytest.mark.slow
def test_a_hostile_machine_gives_the_bytes_of_a_clean_one(calm, tmp_path):
    """With results in a folder whose name no rule may take for a command."""
    _, wanted = calm
    machine = Machine.make(tmp_path, hostile, HOSTILE)
    done = machine.run(umask=0o077)
    assert done.returncode == 0, done.stdout[-6000:]
    found = content(machine.results)
    assert {".csv", ".pdf", ".png"} <= {Path(name).suffix for name in wanted}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert (machine.results / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len(list((machine.results / "notebooks").glob("*.html"))) == 1
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.slow
def test_a_notebook_that_fails_is_reported_and_leaves_the_rest_standing(calm):
    """All that is made of the runs is made again, beside the notebook."""
    machine, _ = calm
    results = machine.results
    for folder in ("figures", "tables", "notebooks"):
        shutil.rmtree(results / folder)
    for file in ("report.pdf", "verdicts.csv", "mishchenko2022/verdicts.csv"):
        (results / file).unlink()
    notebook = machine.source / "studies" / "mishchenko2022" / "notebook.py"
    notebook.write_text("# %%\nraise ValueError('spoilt')\n")
    done = machine.run()
    assert done.returncode != 0
    said = "studies/mishchenko2022/notebook.py: cell 1 of code failed with ValueError: spoilt"
    assert said in done.stdout
    assert (results / "report.pdf").exists() and (results / "verdicts.csv").exists()
    assert list((results / "figures").glob("*.pdf"))
    assert not list((results / "notebooks").glob("*.html"))
