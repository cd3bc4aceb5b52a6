"""A checkout in a folder of its own, for tests that run Snakemake, end it and run it again."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stalegrad.planning.bundle import Bundle
from stalegrad.planning.plan import Plan

ROOT = Path(__file__).parents[1]
DATA = ROOT / "resources" / "data"
# A folder's name that ends the word of a shell command which does not quote it.
HOSTILE = "a folder; 'quoted' \"twice\" $(touch escaped) `touch escaped` & |"


def long_study(epochs: int, dimensions: Sequence[int]) -> dict:
    """Runs of so many epochs, some ten a second, of a problem that needs no data set.

    Of fewer than two hundred epochs a bundle would be short, and share a job with others.
    """
    cell = {
        "problem": {"name": "least_squares", "rows": 512, "epoch_samples": 51200},
        "rule": {"name": "sgd", "lr": 0.1},
        "cluster": {"name": "constant_delay", "delay": 2},
        "batch_size": 128,
        "epochs": epochs,
        "partition": "independent",
    }
    grids = {"one": {"cell": cell, "axes": {"problem.dimension": list(dimensions)}}}
    return {"title": "A long run", "cite": "jain2018", "grids": grids}


def heed_interrupts() -> None:
    """As from a terminal; a shell's background job, and all it starts, would ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Checkout:
    """folder: the working directory; sources are links, results and configuration its own.

    flags: what every call of Snakemake gets. program: what Python is told to run as Snakemake.
    """

    folder: Path
    flags: tuple[str, ...] = ("--cores", "2")
    program: tuple[str, ...] = ("-m", "snakemake")

    @classmethod
    def make(cls, folder: Path, *flags: str) -> "Checkout":
        for name in ("src", "paper", "workflow"):
            (folder / name).symlink_to(ROOT / name)
        return cls(folder, flags or cls.flags)

    def has_all_studies(self) -> None:
        for name in ("config", "studies"):
            (self.folder / name).symlink_to(ROOT / name)

    def has_own_studies(self) -> None:
        """All studies, as copies that can be changed."""
        self.has_all_studies()
        (self.folder / "studies").unlink()
        shutil.copytree(ROOT / "studies", self.folder / "studies")

    def has_one_study(self, epochs: int, dimensions: Sequence[int] = (20,)) -> None:
        """A bundle of one run for each of `dimensions`."""
        for name, content in (
            ("studies/long/study", long_study(epochs, dimensions)),
            ("config/presets/smoke", {"title": "smoke", "seeds": 1, "bundle_size": 1}),
        ):
            path = (self.folder / name).with_suffix(".yaml")
            path.parent.mkdir(parents=True)
            path.write_text(yaml.safe_dump(content))
        shutil.copy(ROOT / "config" / "config.yaml", self.folder / "config")

    def command(self, *arguments: str) -> list[str]:
        snakemake = [sys.executable, *self.program, "--snakefile", str(ROOT / "Snakefile")]
        return [*snakemake, *self.flags, *arguments]

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run Snakemake to its end; `stdout` is all it says."""
        process = self.start(*arguments, **environment)
        said, _ = process.communicate(timeout=480)
        return subprocess.CompletedProcess(process.args, process.returncode, said)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """In a session of its own, as from a terminal."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=heed_interrupts,
        )

    @property
    def results(self) -> Path:
        return self.folder / "results" / "smoke"

    @property
    def bundles(self) -> list[Bundle]:
        plan = Plan.load({"preset": "smoke"}, self.folder / "config")
        return list(plan.bundles["long"].values())

    def output(self, suffix: str = "") -> Path:
        """Of the first bundle of the one study."""
        return self.results / "long" / "bundles" / f"{self.bundles[0].hash}.csv{suffix}"

    def targets(self) -> list[str]:
        """What a command that asks for the bundles alone ends with."""
        names = [self.output().with_name(f"{bundle.hash}.csv") for bundle in self.bundles]
        names = [str(name.relative_to(self.folder)) for name in names]
        # Autograd, since the fused kernel would be done in no time.
        return ["--config", "preset=smoke", "backend=torch", "--", *names]

    def epochs_done(self) -> list[int]:
        """What the last job on the one bundle says it had done."""
        (path,) = (self.results / "logs").glob("train_*/long*.log")
        return [int(line.split()[0]) for line in path.read_text().splitlines() if " of " in line]


def until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Wait for `condition`; fail where it does not come about, or `process` ends before."""
    end = time.monotonic() + 120
    while not condition():
        ended = process is not None and process.poll() is not None
        assert not ended and time.monotonic() < end, process and process.communicate()[0]
        time.sleep(0.1)
