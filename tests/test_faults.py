"""Killed, interrupted, a full disk, a read-only one, twice at once, a clock that was set back.

Always the same question: does the same command, given again, end with the very same files?
"""

import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from checkout import DATA, ROOT, Checkout, until
from helpers import small_cell

from stalegrad.io import datasets
from stalegrad.io.datasets import fetch_dataset
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.plan import Plan
from stalegrad.training.bundles import Place, train_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    (tmp_path / "here").mkdir()
    return Checkout.make(tmp_path / "here")


def undisturbed(checkout: Checkout, folder: Path) -> bytes:
    """What the one study's bundle gives where nothing goes wrong."""
    output = folder / "undisturbed.csv"
    train_bundle(checkout.bundles[0], output, Place(folder, "cpu", "torch"))
    return output.read_bytes()


# ---- processes, as the kernel knows them ----


def session(process: subprocess.Popen) -> dict[int, str]:
    """Command lines by number of all processes of a session that are not yet dead."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(state[3]) == process.pid and state[0] != "Z":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(entry.name)] = command
    return found


def end_session(process: subprocess.Popen) -> None:
    for number in session(process):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.communicate()


EPOCHS = 100  # three seconds of training

# ---- killed ----

STUDY_2020 = ("--config", "preset=smoke", "studies=[allawati2020]", "--")
STUDY = ("--config", "preset=smoke", "studies=[jain2018]", f"data_folder={DATA}")


def csvs(checkout: Checkout) -> dict[str, bytes]:
    """All CSVs that the pipeline gives."""
    results = checkout.results
    return {str(path.relative_to(results)): path.read_bytes() for path in results.rglob("*.csv")}


SCRIPT = re.compile(r"\.snakemake/scripts/\w+\.(\w+)\.py")
START = "start"  # stands for the script until a job runs one
VICTIMS = ("job", "Snakemake", "all")


@dataclass(frozen=True)
class Moment:
    """script: what runs. share: how much of its usual time it has run. victims: who is killed."""

    script: str
    share: float
    victims: str


def moments(scripts: Iterable[str]) -> list[Moment]:
    """One for each script, training twice, spread evenly over what each has run of its time, with
    each kind of victims in turn."""
    chance = random.Random(9)
    order = sorted([*scripts, "train_bundle"])
    chance.shuffle(order)
    shares = [(place + chance.random()) / (len(order) + 1) for place in range(len(order))]
    return [
        Moment(script, share, victims)
        for script, share, victims in zip(order, shares, itertools.cycle(VICTIMS), strict=False)
    ]


def running(process: subprocess.Popen) -> Iterator[tuple[dict[int, str], dict[str, int]]]:
    """The session, and the process of each script that a job runs, over and over until the end."""
    scripts = {START: process.pid}
    while process.poll() is None:
        there = session(process)
        found = {number: SCRIPT.search(command) for number, command in there.items()}
        jobs = {script[1]: number for number, script in found.items() if script}
        scripts = jobs if jobs or START not in scripts else scripts
        yield there, scripts
        time.sleep(0.05)


def watch(
    process: subprocess.Popen,
    left: Iterable[Moment] = (),
    usual: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Moment | None, dict[str, float]]:
    """Kill at the first of the moments to come; which that was, and for how long each script ran.

    usual: how long each runs where nothing is killed.
    """
    began: dict[str, float] = {}
    ran: dict[str, float] = {}
    for there, scripts in running(process):
        now = time.monotonic()
        ran |= {script: now - began.setdefault(script, now) for script in scripts}
        for moment in left:
            if (
                moment.script in scripts
                and ran[moment.script] >= moment.share * usual[moment.script]
            ):
                job = scripts[moment.script]
                victims = {"job": [job], "Snakemake": [process.pid], "all": there}[moment.victims]
                for number in victims:
                    with suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
                return moment, ran
    return None, ran


def test_killed_at_random_moments_the_same_command_gives_the_same_bytes(tmp_path):
    """The trainer or another job, Snakemake, or all at once, once while each script runs, and in
    training twice; from the beginning again where it came to the end between."""
    fetch_dataset("mnist", DATA)
    checkouts = []
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
        checkouts.append(Checkout.make(tmp_path / name))
        checkouts[-1].has_all_studies()
    calm, disturbed = checkouts
    command = [*STUDY, "--", "results/smoke/verdicts.csv"]
    started = [calm.start(*command)]
    try:
        _, usual = watch(started[0])
        said, _ = started[0].communicate(timeout=480)
        assert started[0].returncode == 0, said[-5000:]
        wanted = csvs(calm)
        assert {"jain2018/runs.csv", "jain2018/history.csv", "verdicts.csv"} <= wanted.keys()
        assert {START, "train_bundle", "collect_runs", "judge", "collect_verdicts"} <= usual.keys()

        left = moments(usual)
        while left or started[-1].returncode != 0:
            started.append(disturbed.start(*command))
            hit, ran = watch(started[-1], left, usual)
            said, _ = started[-1].communicate(timeout=480)
            assert "Traceback" not in said, said
            if hit:
                left.remove(hit)
            if started[-1].returncode == 0:
                assert csvs(disturbed) == wanted
                # What is faster now than before would never come to its latest moment.
                usual |= {script: min(seconds, usual[script]) for script, seconds in ran.items()}
                if left:
                    shutil.rmtree(disturbed.results)
            else:
                assert hit, said
    finally:
        for process in started:
            end_session(process)
    leftovers = [p.name for p in disturbed.results.rglob("*") if p.name.endswith(".part")]
    assert leftovers == []


DIES = """

import os
import signal

_whole_table = {table}


def {table}(results: StudyResults) -> Table:
    if "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return _whole_table(results)
"""


@pytest.mark.parametrize("table", ["theory_vs_simulation", "cases"])
def test_a_job_killed_among_its_files_makes_them_all_the_next_time(checkout, table):
    """Where only its last file is asked for; before the first of its tables and after some."""
    checkout.has_own_studies()
    with open(checkout.folder / "studies" / "allawati2020" / "tables.py", "a") as file:
        file.write(DIES.format(table=table))
    command = [*STUDY_2020, "results/smoke/verdicts.csv"]
    done = checkout.run(*command, DIES="yes")
    assert done.returncode != 0 and "Error in rule judge_allawati2020" in done.stdout
    done = checkout.run(*command)
    assert done.returncode == 0, done.stdout[-5000:]
    plan = Plan.load({"preset": "smoke", "studies": ["allawati2020"]})
    names = [f"allawati2020_{name}" for name in plan.studies["allawati2020"].tables]
    made = {path.name for path in (checkout.results / "tables").iterdir()}
    assert made == {f"{name}.{kind}" for name in names for kind in ("csv", "tex", "rst")}


# ---- interrupted ----


def interrupted(checkout: Checkout, send) -> str:
    """What Snakemake says when it is sent a signal while a bundle is trained."""
    process = checkout.start(*checkout.targets())
    try:
        until(checkout.output(".checkpoint.npz").exists, process)
        send(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=240)
        assert process.returncode != 0 and session(process) == {}, said
    finally:
        end_session(process)
    assert "give the same command again" in said and "Traceback" not in said
    return said


def test_interrupt_of_snakemake_alone_leaves_no_orphan(checkout):
    """It lets what runs come to its end, and starts nothing more."""
    checkout.has_one_study(epochs=EPOCHS)
    interrupted(checkout, os.kill)
    assert checkout.output().exists()


def test_control_c_ends_at_once_and_the_same_command_goes_on(checkout, tmp_path):
    checkout.has_one_study(epochs=EPOCHS)
    interrupted(checkout, os.killpg)  # as a terminal does
    assert not checkout.output().exists()
    done = checkout.run(*checkout.targets())
    assert done.returncode == 0, done.stdout[-5000:]
    assert checkout.epochs_done()[0] > 1
    assert checkout.output().read_bytes() == undisturbed(checkout, tmp_path)


# ---- twice at once ----


def test_second_run_on_the_same_results_is_refused_with_the_reason(checkout, tmp_path):
    checkout.has_one_study(epochs=EPOCHS)
    first = checkout.start(*checkout.targets())
    try:
        until(checkout.output(".checkpoint.npz").exists, first)
        second = checkout.run(*checkout.targets())
        assert second.returncode != 0
        assert f"results/smoke is being worked on by process {first.pid} on " in second.stdout
        assert "Traceback" not in second.stdout
        elsewhere = ["results_folder=elsewhere", "preset=smoke"]
        third = checkout.run("--config", *elsewhere, "--", "elsewhere/smoke/long/runs.csv")
        assert third.returncode == 0, third.stdout
        said, _ = first.communicate(timeout=120)
        assert first.returncode == 0, said
    finally:
        end_session(first)
    assert checkout.output().read_bytes() == undisturbed(checkout, tmp_path)


def test_two_trainers_of_one_bundle_give_it_once(tmp_path, checkout):
    checkout.has_one_study(epochs=EPOCHS)
    bundle = checkout.bundles[0]
    (tmp_path / "bundle.json").write_text(bundle.to_json())
    command = [sys.executable, "-m", "stalegrad", "run-bundle", "bundle.json", "--output", "done"]
    both = [
        subprocess.Popen(
            [*command, "--backend", "torch"], cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    waited = [process.pid for process, text in zip(both, said, strict=True) if "waiting" in text]
    assert len(waited) == 1, said
    output = tmp_path / "done" / f"{bundle.hash}.csv"
    assert sorted(p.name for p in output.parent.iterdir()) == [
        output.name, f"{output.name}.provenance.json"
    ]  # fmt: skip
    assert output.read_bytes() == undisturbed(checkout, tmp_path)


# ---- a disk that is full, or may not be written to ----


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


# Three epochs whose checkpoint, with sixty old weights for the delay, is some fifteen megabytes.
LARGE = Bundle((small_cell(cluster__delay=60, batch_size=1),))


@pytest.mark.parametrize("kind", ["full", "limited"])
def test_full_disk_is_a_sentence_and_the_same_command_goes_on(tmp_path, data_folder, kind):
    """As a disk of 1 MB, and as a limit on the size of files, which takes no root."""
    (tmp_path / "bundle.json").write_text(LARGE.to_json())
    code = "import json, sys; from stalegrad import cli\nfrom stalegrad.io import datasets\n"
    code += "datasets.SHA256 = json.loads(sys.argv[1]); sys.exit(cli.main(sys.argv[2:]))"
    hashes = json.dumps({"mnist": datasets.SHA256["mnist"]})
    command = [sys.executable, "-c", code, hashes, "run-bundle", "bundle.json"]
    command += ["--output", "done/x", "--data-folder", str(data_folder), "--threads", "1"]

    def call(**keywords) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, **keywords)

    def refused(done: subprocess.CompletedProcess, reason: str) -> None:
        assert done.returncode == 2
        said = rf"^stalegrad: done/x/.* cannot be written: {reason}\. "
        assert re.search(said, done.stderr, re.MULTILINE), done.stderr
        assert "Traceback" not in done.stderr
        assert [path.name for path in (tmp_path / "done" / "x").iterdir()] == []

    if kind == "full":
        with mounted(tmp_path / "done", "size=1M"):
            refused(call(), "No space left on device")
            remount(tmp_path / "done", "size=100M")
            assert call().returncode == 0
            written = (tmp_path / "done" / "x" / f"{LARGE.hash}.csv").read_bytes()
    else:
        refused(call(preexec_fn=limit_files), "File too large")
        assert call().returncode == 0
        written = (tmp_path / "done" / "x" / f"{LARGE.hash}.csv").read_bytes()
    train_bundle(LARGE, tmp_path / "alone.csv", Place(data_folder, "cpu"))
    assert written == (tmp_path / "alone.csv").read_bytes()


def test_full_disk_ends_the_pipeline_with_a_sentence(checkout):
    checkout.has_one_study(epochs=EPOCHS)
    with mounted(checkout.folder / "results", "size=8k"):
        done = checkout.run(*checkout.targets())
        assert done.returncode != 0 and "Traceback" not in done.stdout
        assert re.search(r"error: results/smoke/\S* cannot be written: No space left", done.stdout)
        assert not checkout.output().exists()
        remount(checkout.folder / "results", "size=100M")
        done = checkout.run(*checkout.targets())
        assert done.returncode == 0, done.stdout[-5000:]


def test_read_only_results_are_refused_before_any_work(checkout):
    checkout.has_one_study(epochs=EPOCHS)
    with mounted(checkout.folder / "results", "ro"):
        done = checkout.run(*checkout.targets())
    assert done.returncode != 0
    assert "results/smoke cannot be written: Read-only file system. " in done.stdout
    assert "Traceback" not in done.stdout and "rule train_bundle" not in done.stdout


def test_finished_results_that_are_read_only_need_no_work(checkout):
    checkout.has_one_study(epochs=EPOCHS)
    with mounted(checkout.folder / "results", "size=100M"):
        assert checkout.run(*checkout.targets()).returncode == 0
        remount(checkout.folder / "results", "ro")
        done = checkout.run(*checkout.targets())
        assert done.returncode == 0 and "Nothing to be done" in done.stdout


# ---- a clock that was set back ----

DAY = 86_400.0


def shift(folder: Path, seconds: float) -> None:
    """Move the dates of all files below `folder`."""
    for path in folder.rglob("*"):
        when = path.stat().st_mtime + seconds
        os.utime(path, (when, when), follow_symlinks=False)


def asked_for(checkout: Checkout, *command: str, **environment: str) -> set[str]:
    """The rules that Snakemake would run."""
    done = checkout.run("--dry-run", *command, **environment)
    assert done.returncode == 0, done.stdout
    return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.MULTILINE))


def test_results_from_before_the_clock_was_set_back_are_not_made_again(checkout):
    """Data and results stand in the future then, each after what it was made from; what is yet to
    be made of them is older than they are."""
    fetch_dataset("mnist", DATA)
    shutil.copytree(DATA / "mnist", checkout.folder / "data" / "mnist")
    checkout.has_all_studies()
    settings = ["--config", "preset=smoke", "studies=[jain2018]", "data_folder=data", "--"]
    runs, verdicts = "results/smoke/jain2018/runs.csv", "results/smoke/jain2018/verdicts.csv"
    assert checkout.run(*settings, runs).returncode == 0
    shift(checkout.folder / "data", 2 * DAY)
    shift(checkout.results, DAY)
    assert asked_for(checkout, *settings, runs) == set()
    done = checkout.run(*settings, verdicts)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "judge_jain2018" in done.stdout and "rule train_" not in done.stdout
    assert asked_for(checkout, *settings, runs, verdicts) == set()


def test_data_that_are_older_than_the_script_that_fetches_them_are_used(checkout):
    """They were copied here, or the script has changed since: that keeps no job from its run."""
    fetch_dataset("mnist", DATA)
    shutil.copytree(DATA / "mnist", checkout.folder / "data" / "mnist")
    shift(checkout.folder / "data", -10_000 * DAY)
    checkout.has_all_studies()
    settings = ["--config", "preset=smoke", "studies=[jain2018]", "data_folder=data"]
    asked = asked_for(checkout, *settings, "--", "results/smoke/jain2018/runs.csv")
    assert "collect_runs" in asked and "fetch_dataset" not in asked


@pytest.fixture
def own(checkout) -> dict[str, str]:
    """The checkout gets sources that can be changed; the environment to run it in."""
    (checkout.folder / "src").unlink()
    shutil.copytree(ROOT / "src", checkout.folder / "src")
    return {"PYTHONPATH": str(checkout.folder / "src")}


def change(checkout: Checkout, file: str) -> None:
    """A source file is changed while the clock stands a day before the results."""
    path = checkout.folder / file
    path.write_text(path.read_text() + "# changed\n")
    when = time.time() - DAY
    os.utime(path, (when, when))


def test_code_changed_after_the_clock_was_set_back_is_not_overlooked(checkout, own):
    """Its date is before that of the results it puts out of date."""
    checkout.has_one_study(epochs=2)
    command = ["--config", "preset=smoke", "--", "results/smoke/long/runs.csv"]
    assert checkout.run(*command, **own).returncode == 0
    assert asked_for(checkout, *command, **own) == set()
    change(checkout, "src/stalegrad/training/replay.py")
    assert asked_for(checkout, *command, **own) == {"train_short_long", "collect_runs"}


MADE_2020 = ("results/smoke/verdicts.csv", "results/smoke/figures/allawati2020_fig3.pdf")
JUDGED, PLOTTED = {"judge_allawati2020", "collect_verdicts"}, {"plot_allawati2020"}


def test_changes_after_the_clock_was_set_back_reach_verdicts_and_figures(checkout, own):
    checkout.has_own_studies()
    command = [*STUDY_2020, *MADE_2020]
    done = checkout.run(*command, **own)
    assert done.returncode == 0, done.stdout[-5000:]
    for file, wanted in (
        ("studies/allawati2020/claims.py", JUDGED),
        ("src/stalegrad/analysis/style.py", PLOTTED),
        ("src/stalegrad/analysis/simulations.py", {"simulate_allawati2020"} | JUDGED | PLOTTED),
    ):
        before = (checkout.folder / file).read_bytes()
        change(checkout, file)
        assert asked_for(checkout, *command, **own) == wanted, file
        (checkout.folder / file).write_bytes(before)

    # Made again as far as the simulations, and with a date before what was made of the former ones.
    change(checkout, "src/stalegrad/analysis/simulations.py")
    done = checkout.run(*STUDY_2020, "results/smoke/allawati2020/staleness.csv", **own)
    assert done.returncode == 0 and "simulate_allawati2020" in done.stdout, done.stdout
    tomorrow = time.time() + DAY
    made = [checkout.results / name for name in ("verdicts.csv", "allawati2020/verdicts.csv")]
    made += [path for kind in ("tables", "figures") for path in (checkout.results / kind).iterdir()]
    for path in made:
        os.utime(path, (tomorrow, tomorrow))
    assert asked_for(checkout, *command, **own) == JUDGED | PLOTTED
