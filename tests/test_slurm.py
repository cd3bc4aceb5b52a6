"""The SLURM profile on a real SLURM of one node, with a partition for CPUs and one for GPUs."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import toy_slurm
from checkout import DATA, ROOT, Checkout, until

from stalegrad.io.datasets import fetch_dataset
from stalegrad.io.traces import COMPLETE, read_trace
from stalegrad.training.bundles import Place, train_bundle

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
# The profile as committed, but that it does not wait long to look.
FLAGS = ["--profile", str(PROFILE), "--slurm-init-seconds-before-status-checks", "2"]
FLAGS += ["--seconds-between-status-checks", "1", "--latency-wait", "10"]
LOOKING_OFTEN = ("-P", str(ROOT / "tests" / "looking_often.py"))

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory) -> Iterator[None]:
    toy_slurm.install()
    with toy_slurm.cluster(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def site(tmp_path: Path) -> Checkout:
    return replace(Checkout.make(tmp_path, *FLAGS), program=LOOKING_OFTEN)


def jobs(columns: str) -> list[list[str]]:
    """What squeue says of all jobs it remembers; the comment of a job names its rule."""
    command = ["squeue", "--states=all", "--noheader", "--array", f"--Format={columns}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[word.strip() for word in line.split("|")] for line in said.splitlines()]


def running_job(site: Checkout, process: subprocess.Popen) -> str:
    """The number of the job that trains, once it has left a checkpoint."""
    until(site.output(".checkpoint.npz").exists, process)
    said = jobs("jobid:20|,state:20")
    return max((number for number, state in said if state == "RUNNING"), key=int)


def test_smoke_runs_through_the_profile_to_the_pdf(site):
    fetch_dataset("mnist", DATA)
    site.has_all_studies()
    done = site.run("--config", "preset=smoke", "studies=[jain2018]", f"data_folder={DATA}")
    assert done.returncode == 0, done.stdout[-5000:]
    assert (site.results / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len((site.results / "verdicts.csv").read_text().splitlines()) > 10
    rules, states, partitions = zip(*jobs("comment:80|,state:20|,partition:8"), strict=True)
    assert set(states) == {"COMPLETED"}
    # All bundles of smoke are short, and share a job that is worth no GPU.
    assert set(partitions) == {"cpu"}
    assert any(rule.startswith("rule_train_short_jain2018") for rule in rules)
    # Compute nodes may reach no network.
    assert not any("fetch_dataset" in rule for rule in rules)


# As if a bundle took more memory than was reckoned: found by every Python of the job.
BALLAST = """
import sys
if sys.orig_argv[-1].endswith("train_bundle.py"):
    sys.ballast = b"x" * 1_400_000_000
"""


def test_job_killed_for_memory_is_retried_with_more(site):
    site.has_one_study(epochs=200)
    (site.folder / "sitecustomize.py").write_text(BALLAST)
    path = [str(site.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = site.run(*site.targets(), PYTHONPATH=os.pathsep.join(path))
    assert done.returncode == 0, done.stdout[-5000:]
    asked = [int(mb) for mb in re.findall(r"\bmem_mb=(\d+)", done.stdout)]
    least = site.bundles[0].megabytes()
    assert asked == [least, 2 * least]
    assert "Trying to restart job" in done.stdout and site.output().exists()


def test_scancelled_bundle_goes_on_from_its_checkpoint(site, tmp_path_factory):
    site.has_one_study(epochs=200)
    process = site.start("--retries", "0", *site.targets())
    number = running_job(site, process)
    shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True)
    assert "Partition=gpu " in shown.stdout and "TresPerJob=gres:gpu:1" in shown.stdout
    subprocess.run(["scancel", number], check=True)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "status is: 'CANCELLED'" in said, said
    reached = site.epochs_done()[-1]
    assert 0 < reached < 200 and not site.output().exists()

    done = site.run(*site.targets())
    assert done.returncode == 0, done.stdout[-5000:]
    # A checkpoint may stand that its epoch had not been told of yet.
    assert 1 < site.epochs_done()[0] <= reached + 2 and site.epochs_done()[-1] == 200
    undisturbed = tmp_path_factory.mktemp("undisturbed") / "out.csv"
    train_bundle(site.bundles[0], undisturbed, Place(site.folder, "cpu", "torch"))
    assert site.output().read_bytes() == undisturbed.read_bytes()


def test_job_over_its_time_is_reported_by_name_and_can_be_gone_on_from(site):
    site.has_one_study(epochs=5000)
    process = site.start("--retries", "0", *site.targets())
    job = running_job(site, process)
    # SLURM counts a `TimeLimit` in whole minutes, but takes an end to the second.
    subprocess.run(["scontrol", "update", f"JobId={job}", "EndTime=now+2"], check=True)
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 1
    assert set(re.findall(r"Error in rule (.*):", said)) == {"train_bundle"}
    assert f"SLURM-job '{job}' failed, SLURM status is: 'TIMEOUT'" in said
    assert site.bundles[0].hash in said
    assert site.output(".checkpoint.npz").exists() and not site.output().exists()


def test_array_jobs_train_the_bundles_of_a_study(site):
    site.has_one_study(epochs=200, dimensions=[19, 20])
    before = {number for number, _ in jobs("arrayjobid:20|,arraytaskid:20")}
    done = site.run("--slurm-array-jobs", "train_bundle", *site.targets())
    assert done.returncode == 0, done.stdout[-5000:]
    numbers = jobs("arrayjobid:20|,arraytaskid:20")
    tasks = [task for number, task in numbers if number not in before]
    assert sorted(tasks) == ["1", "2"]


def test_srun_records_with_a_server_and_workers(tmp_path):
    """The command that runs alone, as one step: rank 0 serves, and the others work."""
    file = tmp_path / "trace.csv"
    flags = ["--problem", "chain", "--lr", "0.01", "--batch-size", "16", "--epochs", "1"]
    command = [sys.executable, "-m", "stalegrad", "record", *flags, "--output", str(file)]
    done = subprocess.run(
        ["srun", "-n", "3", "--overcommit", "--mem=0", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    trace = read_trace(file)
    assert trace.ended == COMPLETE and trace.workers == 2
    assert set(trace.columns["worker"]) == {0, 1}
    assert not of_command(str(file)), "srun's processes are left"


def of_command(word: str) -> list[Path]:
    """Processes that have a word in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in path.read_bytes().split(b"\0"):
                found.append(path)
    return found
