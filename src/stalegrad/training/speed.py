"""How long training takes on this machine: measurements of `training.timing`, and estimates.

A measurement is kept beside the compiled kernels. It belongs to one build of them, one processor,
one PyTorch and one backend; a home folder that several machines share holds one for each. Reading
it imports neither torch nor pandas.

The time of a step is measured at some sizes, a size being minibatch times weights, and interpolated
between them: a kernel computes whole tiles of images, so small minibatches cost more per sample.
Runs that are not stepped inside a kernel share the time of PyTorch's calls around a step. At the
end of an epoch each run is evaluated.
"""

import hashlib
import heapq
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stalegrad import specs
from stalegrad.io.cache import CacheUnavailable, cache_folder
from stalegrad.io.files import write_atomically
from stalegrad.io.wording import duration
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell
from stalegrad.planning.config import Settings
from stalegrad.problems import runs_in_step
from stalegrad.training import kernels

KERNELS = ("lenet5", "large_cnn", "linear_model", "chain")
TIMED = ("lenet5", "large_cnn", "chain", "least_squares", "linear_regression")
# A job starts Snakemake again and a script that imports PyTorch; both take about the same time.
STARTS_A_JOB = 2


@dataclass(frozen=True)
class Speed:
    """The time that one core takes for a problem, in seconds.

    instructions: vector instructions, those of the kernel where `backend` is `cpu`, else PyTorch's.
    reason: why there is no kernel, as half a sentence; '' where there is one or none is asked for.
    steps: sizes of a step (minibatch times weights), going up, each with the seconds of a run.
    alone: the size up to which a run steps alone, inside a kernel.
    call: of the calls around a step, shared by the runs that are stepped together.
    epoch: of evaluating and recording a run once, and `sample`, for each test sample, besides.
    rate, torch_rate: samples a second at the middle one of `steps`, and without a kernel.
    """

    backend: str
    instructions: str
    reason: str
    steps: tuple[tuple[int, float], ...]
    alone: int
    call: float
    epoch: float
    sample: float
    rate: float
    torch_rate: float

    @property
    def slowdown(self) -> float:
        """How many times as long as PyTorch it takes."""
        return self.torch_rate / self.rate

    def step(self, size: int) -> float:
        """Seconds of a step of one run; beyond the largest size, proportional to the size."""
        (least, seconds), (most, longest) = self.steps[0], self.steps[-1]
        if size <= least:
            return seconds
        for (a, low), (b, high) in pairwise(self.steps):
            if size <= b:
                return low + (high - low) * (size - a) / (b - a)
        return longest * size / most

    def cell(self, cell: Cell, together: int) -> float:
        """Seconds of a run in a bundle in which `together` runs are stepped at once."""
        size = cell.batch_size * cell.problem.parameters()
        steps = cell.samples() / cell.batch_size
        a_step = self.step(size)
        if size > self.alone or cell.rule.clip_norm is not None:
            a_step += self.call / together
        return steps * a_step + cell.epochs * self.record(cell.problem)

    def record(self, problem: Any) -> float:
        """Seconds of evaluating and recording a run once."""
        return self.epoch + getattr(problem, "test_samples", 0) * self.sample

    def bundle(self, bundle: Bundle) -> float:
        """Seconds of one core."""
        together = min(runs_in_step(bundle.cells[0].problem.parameters()), len(bundle.cells))
        return sum(self.cell(cell, together) for cell in bundle.cells)


@dataclass(frozen=True)
class Speeds:
    """start: seconds until a script has imported what it needs to train. problems: by name.
    cuda: training is on a GPU, whose speed is not known before training starts."""

    start: float
    cuda: bool
    problems: Mapping[str, Speed]

    def covers(self, bundles: Iterable[Bundle]) -> bool:
        """Whether the time of all these bundles can be estimated."""
        return not self.cuda and {problem_of(b) for b in bundles} <= self.problems.keys()

    def seconds(self, bundle: Bundle) -> float:
        """Estimated seconds of one core for a bundle that it `covers`."""
        return self.problems[problem_of(bundle)].bundle(bundle)


def read(settings: Settings) -> Speeds | None:
    """The measurements on this machine; None if there are none, or they cannot be read."""
    try:
        values = json.loads(_file(settings).read_text())
        problems = {
            name: Speed(**each | {"steps": tuple(map(tuple, each["steps"]))})
            for name, each in values["problems"].items()
        }
        return Speeds(float(values["start"]), bool(values["cuda"]), problems)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, CacheUnavailable):
        return None


def write(settings: Settings, speeds: Speeds) -> None:
    """Keep `speeds` for `read`. Raises CacheUnavailable if there is no folder for them."""
    write_atomically(_file(settings), json.dumps(asdict(speeds), indent=1) + "\n")


def measured(settings: Settings, bundles: Iterable[Bundle]) -> Speeds | None:
    """The speeds of this machine, once all that `bundles` need has been measured.

    That takes some seconds the first time; kernels that are compiled for it are named on the error
    stream. None if it cannot be measured: there is no PyTorch, or a problem is not in `TIMED`.
    """
    bundles = list(bundles)
    names = {problem_of(bundle) for bundle in bundles}
    found = read(settings)
    if _suffices(found, bundles):
        return found
    if not names <= set(TIMED) or importlib.util.find_spec("torch") is None:
        return None
    # In a process of its own, like a job: its start is measured too, and this process need not
    # import PyTorch.
    command = [sys.executable, "-m", "stalegrad.training.timing"]
    subprocess.run([*command, settings.device, settings.backend, *sorted(names)], check=False)
    found = read(settings)
    return found if _suffices(found, bundles) else None


def measured_of_timed(settings: Settings, bundles: Iterable[Bundle]) -> Speeds | None:
    """`measured` for those of the bundles whose problems can be timed; None if none can be."""
    timed = [bundle for bundle in bundles if problem_of(bundle) in TIMED]
    return measured(settings, timed) if timed else None


def _suffices(speeds: Speeds | None, bundles: Iterable[Bundle]) -> bool:
    return speeds is not None and (speeds.cuda or speeds.covers(bundles))


def problem_of(bundle: Bundle) -> str:
    """The name of its problem."""
    return specs.name_of(bundle.cells[0].problem)


def _file(settings: Settings) -> Path:
    return cache_folder() / f"speed-{_key(settings)}.json"


def _key(settings: Settings) -> str:
    """A digest of what decides how long training takes, and of how that is measured."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    here = Path(__file__)
    parts = [
        *(kernels.fingerprint(name) for name in KERNELS),
        *(torch, settings.device, settings.backend),
        *(path.read_text() for path in (here, here.parents[1] / "training" / "timing.py")),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# ---- printed before training ----


def lasting(seconds: Iterable[float], places: int) -> float:
    """Seconds until jobs of `seconds` each are done, `places` at once, the longest first."""
    ends = [0.0] * places
    for each in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def slowed(names: Iterable[str], speeds: Speeds, seconds: Mapping[str, float]) -> list[str]:
    """Sentences about the problems that are trained more slowly than they could be.

    seconds: of one core that each problem takes.
    """
    lacking: dict[str, list[str]] = {}
    said = []
    for name in names:
        speed, took = speeds.problems[name], duration(seconds[name])
        if speed.reason:
            lacking.setdefault(speed.reason, []).append(f"{name} (about {took} of one core)")
        elif speed.slowdown > 1:
            spared = duration(seconds[name] / speed.slowdown)
            said.append(
                f"the kernel of {name} takes {speed.slowdown:.1f} times as long as PyTorch here, "
                f"about {took} of one core; with `--config backend=torch` it is about {spared}."
            )
    for reason, which in lacking.items():
        said.append(
            f"trained by PyTorch: {', '.join(which)}. The fused kernels, which are several times "
            f"as fast, are not used, because {reason}."
        )
    return said


def described(name: str, speeds: Speeds) -> str:
    """'lenet5 78,000 samples/s a core, AVX-512 kernel'"""
    speed = speeds.problems[name]
    how = "kernel" if speed.backend == "cpu" else "PyTorch"
    return f"{name} {round(speed.rate, -2):,.0f} samples/s a core, {speed.instructions} {how}"
