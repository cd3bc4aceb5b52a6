"""The pipeline on a machine set up against it gives the bytes that it gives on a clean one."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import DATA, ROOT

SOURCES = ("Snakefile", "config", "envs", "paper", "profiles", "src", "studies", "workflow")
STUDIES = "[mishchenko2022]"


def clean(home: Path) -> dict[str, str]:
    home.mkdir()
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


def run_in(
    folder: Path,
    make_home: Callable[[Path], dict[str, str]] = clean,
    umask: int = 0o022,
    change: Callable[[Path], object] = lambda source: None,
) -> tuple[Path, subprocess.CompletedProcess]:
    """Results of the smoke preset, made in `folder` from a read-only copy of the sources, and how
    that ended.

    change: is given the copy before.
    """
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
    change(source)
    read_only(source)
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    environment = kept | make_home(folder / "a home with spaces")
    settings = ["preset=smoke", f"studies={STUDIES}", f"data_folder={DATA}"]
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", *settings]
    try:
        done = subprocess.run(
            [*bound_by_modes(), *command],
            cwd=work,
            env=environment | {"PYTHONPATH": str(source / "src")},
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    finally:
        writable(source)
    return work / "results" / "smoke", done


def reproduced(*arguments) -> Path:
    results, done = run_in(*arguments)
    assert done.returncode == 0, done.stdout[-6000:]
    return results


def content(results: Path) -> dict[str, bytes]:
    """All tables, as CSV and LaTeX, and all figures."""
    kinds = (".csv", ".tex", ".pdf", ".png", ".npz")
    made = ("logs", "report", "report.pdf")  # these tell where and how long, too
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.suffix in kinds and path.relative_to(results).parts[0] not in made
    }


@pytest.mark.slow
def test_a_hostile_machine_gives_the_bytes_of_a_clean_one(tmp_path):
    if not shutil.which("latexmk"):
        pytest.skip("needs LaTeX")
    wanted = content(reproduced(tmp_path / "clean", clean, 0o022))
    results = reproduced(tmp_path / "hostile", hostile, 0o077)
    found = content(results)
    assert {".csv", ".pdf", ".png"} <= {Path(name).suffix for name in wanted}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
    assert (results / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len(list((results / "notebooks").glob("*.html"))) == 1


@pytest.mark.slow
def test_a_notebook_that_fails_is_reported_and_leaves_the_rest_standing(tmp_path):
    if not shutil.which("latexmk"):
        pytest.skip("needs LaTeX")

    def spoil(source: Path) -> None:
        notebook = source / "studies" / "mishchenko2022" / "notebook.py"
        notebook.write_text("# %%\nraise ValueError('spoilt')\n")

    results, done = run_in(tmp_path, change=spoil)
    assert done.returncode != 0
    said = "studies/mishchenko2022/notebook.py: cell 1 of code failed with ValueError: spoilt"
    assert said in done.stdout
    assert (results / "report.pdf").exists() and (results / "verdicts.csv").exists()
    assert list((results / "figures").glob("*.pdf"))
    assert not list((results / "notebooks").glob("*.html"))
