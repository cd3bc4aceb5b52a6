"""The SLURM profile on a real SLURM of one node, with a partition for CPUs and one for GPUs."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy_slurm
import yaml

from stalegrad.bundles import Place, train_bundle
from stalegrad.cells import Bundle
from stalegrad.data import fetch_dataset
from stalegrad.plan import Plan

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "workflow" / "profiles" / "slurm"

pytestmark = pytest.mark.alone


def study(epochs: int, dimensions: Sequence[int]) -> dict:
    """Runs of so many epochs, some ten a second, of a problem that needs no data set.

    Of fewer than two hundred epochs a bundle would be short, and share a job with others.
    """
    cell = {
        "problem": {
            "name": "least_squares", "rows": 512, "epoch_samples": 51200
        },
        "rule": {"name": "sgd", "lr": 0.1},
        "cluster": {"name": "constant_delay", "delay": 2},
        "batch_size": 128,
        "epochs": epochs,
        "partition": "independent",
    }  # fmt: skip
    grids = {"one": {"cell": cell, "axes": {"problem.dimension": list(dimensions)}}}
    return {"title": "A long run", "cite": "jain2018", "grids": grids}


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory) -> Iterator[None]:
    toy_slurm.install()
    with toy_slurm.cluster(tmp_path_factory.mktemp("slurm")):
        yield


@dataclass(frozen=True)
class Site:
    """A checkout on the cluster."""

    folder: Path

    def has_one_study(self, epochs: int, dimensions: Sequence[int] = (20,)) -> None:
        """Configuration of its own: a bundle of one run for each of `dimensions`."""
        config = self.folder / "config"
        for name, content in (
            ("studies/long", study(epochs, dimensions)),
            ("presets/smoke", {"title": "smoke", "seeds": 1, "bundle_size": 1}),
        ):
            (config / name).parent.mkdir(parents=True)
            (config / name).with_suffix(".yaml").write_text(yaml.safe_dump(content))
        shutil.copy(ROOT / "config" / "config.yaml", config)

    def command(self, *arguments: str) -> list[str]:
        """Snakemake with the profile as committed, but that it does not wait long to look."""
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        soon = ["--slurm-init-seconds-before-status-checks", "2"]
        soon += ["--seconds-between-status-checks", "1", "--latency-wait", "10"]
        return [*snakemake, "--profile", str(PROFILE), *soon, *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=480,
        )

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def bundles(self) -> list[Bundle]:
        plan = Plan.load({"preset": "smoke"}, self.folder / "config")
        return list(plan.bundles["long"].values())

    def output(self, suffix: str = "") -> Path:
        """Of the first bundle."""
        folder = self.folder / "results" / "smoke" / "long" / "bundles"
        return folder / f"{self.bundles[0].hash}.csv{suffix}"

    def targets(self) -> list[str]:
        """What a command that asks for the bundles alone ends with."""
        names = [self.output().with_name(f"{bundle.hash}.csv") for bundle in self.bundles]
        names = [str(name.relative_to(self.folder)) for name in names]
        # Autograd, since the fused kernel would be done in no time.
        return ["--config", "preset=smoke", "backend=torch", "--", *names]

    def epochs_done(self) -> list[int]:
        """What the last job on the first bundle says it had done."""
        path = self.folder / f"results/smoke/logs/train_bundle/long-{self.bundles[0].hash}.log"
        return [int(line.split()[0]) for line in path.read_text().splitlines() if " of " in line]


@pytest.fixture
def site(tmp_path) -> Site:
    for name in ("src", "published", "paper", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    return Site(tmp_path)


def jobs(columns: str) -> list[list[str]]:
    """What squeue says of all jobs it remembers; the comment of a job names its rule."""
    command = ["squeue", "--states=all", "--noheader", "--array", f"--Format={columns}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [[word.strip() for word in line.split("|")] for line in said.splitlines()]


def running_job(site: Site, process: subprocess.Popen) -> str:
    """The number of the job that trains, once it has left a checkpoint."""
    end = time.monotonic() + 120
    while not site.output(".checkpoint.npz").exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.2)
    said = jobs("jobid:20|,state:20")
    return max((number for number, state in said if state == "RUNNING"), key=int)


def test_smoke_runs_through_the_profile_to_the_pdf(site):
    data = ROOT / "resources" / "data"
    fetch_dataset("mnist", data)
    (site.folder / "config").symlink_to(ROOT / "config")
    done = site.run("--config", "preset=smoke", "studies=[jain2018]", f"data_folder={data}")
    assert done.returncode == 0, done.stdout[-5000:]
    results = site.folder / "results" / "smoke"
    assert (results / "report.pdf").read_bytes().startswith(b"%PDF")
    assert len((results / "verdicts.csv").read_text().splitlines()) > 10
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
    sys.ballast = b"x" * 900_000_000
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
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=0:01"], check=True)
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
