"""Progress of training over all jobs of a replication, reported by the jobs themselves.

Before the first job starts, the time is estimated from what `training.speed` measured on this
machine. Each training job writes a note after every epoch, in a file beside its output. Now and
then one of the jobs adds up the notes and prints the sum. No process runs beside the jobs, so
nothing is left behind when they are stopped.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stalegrad.io.files import write_atomically
from stalegrad.io.wording import duration, training_line
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.freshness import is_fresh
from stalegrad.planning.plan import Plan
from stalegrad.training import kernels, speed
from stalegrad.training.speed import Speeds

SECONDS_BETWEEN = 10.0  # between two lines on the terminal
SECONDS_SILENT = 300.0  # a job whose note is older counts as stopped


@dataclass(frozen=True)
class Overview:
    """Work, in seconds of one core if the speed has been measured, else as `Bundle.work`.

    total, done: of all bundles of the plan; rate: work per second of the running jobs, from the
    time they took so far; of a job that has just begun, from the measured speed. 0 if nothing is
    known.
    """

    total: float
    done: float
    rate: float

    def __str__(self) -> str:
        share = self.done / self.total if self.total else 1.0
        return training_line(share, (self.total - self.done) / self.rate if self.rate else None)


def overview(plan: Plan, results: Path, now: float) -> Overview:
    """Progress of the bundles of `plan` in the folder `results`, at the time `now`."""
    every = [bundle for bundles in plan.bundles.values() for bundle in bundles.values()]
    speeds = speed.read(plan.settings)
    if speeds is not None and not speeds.covers(every):
        speeds = None
    threads = plan.settings.threads
    total = done = rate = 0.0
    for study, bundles in plan.bundles.items():
        for bundle in bundles.values():
            work = bundle.work() if speeds is None else speeds.seconds(bundle) / threads
            output = _output(results, study, bundle)
            total += work
            if output.exists():
                done += work
                continue
            with suppress(FileNotFoundError, ValueError):  # none yet, or gone since
                note = _note(output)
                share, seconds = json.loads(note.read_text())
                done += share * work
                if now - note.stat().st_mtime < SECONDS_SILENT:
                    if share and seconds:
                        rate += share * work / seconds
                    elif speeds is not None:
                        rate += 1.0
    return Overview(total, done, rate)


def announcement(plan: Plan, results: Path, cores: int | None) -> list[str]:
    """The lines to print before training: the expected time, how it was estimated, and what slows
    training down. Empty if nothing is left to train.

    cores: how many the jobs may use together; None if they run elsewhere, on a cluster. Measures
    this machine's speed if that has not been done: see `speed.measured`.
    """
    left = {
        study: {h: b for h, b in bundles.items() if not is_fresh(_output(results, study, b), b)}
        for study, bundles in plan.bundles.items()
    }
    every = [bundle for bundles in left.values() for bundle in bundles.values()]
    if not every:
        return []
    runs = f"training: {sum(len(bundle.cells) for bundle in every):,} runs"
    speeds = speed.measured(plan.settings, every)
    if speeds is None or speeds.cuda:
        where = "on a GPU" if speeds else "on a machine whose speed is not known"
        said = f"{runs} {where}; how long they take is told once some of them are under way"
        return [said, *(f"note: {reason}" for reason in _without_kernels(plan, speeds))]
    seconds: dict[str, float] = defaultdict(float)
    for bundle in every:
        seconds[speed.problem_of(bundle)] += speeds.seconds(bundle)
    if cores is None:
        took = f"about {duration(sum(seconds.values()))} of one core like this machine's"
    else:
        threads = plan.settings.threads
        took = duration(speed.lasting(_jobs(plan, left, speeds), max(1, cores // threads)))
        took = f"about {took} on {cores} core{'' if cores == 1 else 's'}"
    by_time = sorted(seconds, key=seconds.__getitem__, reverse=True)
    return [
        f"{runs}, {took} (measured: {speed.described(by_time[0], speeds)})",
        *(f"note: {said}" for said in speed.slowed(by_time, speeds, seconds)),
    ]


def _without_kernels(plan: Plan, speeds: Speeds | None) -> list[str]:
    """Why no kernel can be had for training whose speed is not known, as a sentence; none where
    kernels can, or are not asked for."""
    if speeds is not None or plan.settings.backend not in ("auto", "cpu"):
        return []
    reason = kernels.reason_against()
    return [f"the fused CPU kernels are not used, because {reason}."] if reason else []


def _jobs(plan: Plan, left: Mapping[str, Mapping[str, Bundle]], speeds: Speeds) -> list[float]:
    """Seconds of each job that is left, from its start."""
    start, threads = speed.STARTS_A_JOB * speeds.start, plan.settings.threads
    seconds = []
    for study, bundles in left.items():
        shared = plan.short_bundles(study)
        each = {h: speeds.seconds(bundle) / threads for h, bundle in bundles.items()}
        seconds += [start + took for h, took in each.items() if h not in shared]
        if short := [took for h, took in each.items() if h in shared]:
            seconds.append(start + sum(short))
    return seconds


class Reporter:
    """Notes a bundle's progress, and now and then prints the sum over all bundles.

    settings: as `Plan.load` takes them; output: of the bundle; about: what is trained, in words,
    for its log. The sum goes to the terminal's error stream, past a redirection into a log.
    """

    def __init__(self, settings: Mapping[str, Any], output: Path, about: str = ""):
        self._settings, self._output, self._about = settings, output, about
        self._results = output.parents[2]
        self._said = self._results / "logs" / "training.txt"

    def __enter__(self) -> "Reporter":
        write_atomically(_note(self._output), json.dumps([0.0, 0.0]))  # begun, of unknown speed
        return self

    def __exit__(self, *_: object) -> None:
        _note(self._output).unlink(missing_ok=True)

    def report(self, progress: Any) -> None:
        """progress: what `training.bundles.train_bundle` reports after every epoch."""
        about = f" ({self._about})" if self._about else ""
        print(f"{progress.done} of {progress.total} epochs, {progress.seconds:.0f} s{about}")
        note = json.dumps([progress.done / progress.total, progress.seconds])
        write_atomically(_note(self._output), note)
        now = time.time()
        if progress.seconds >= SECONDS_BETWEEN and now - self._last() >= SECONDS_BETWEEN:
            line = str(overview(self._plan, self._results, now))
            write_atomically(self._said, f"{line}\n")
            print(line, file=sys.__stderr__, flush=True)

    @cached_property
    def _plan(self) -> Plan:
        """The plan of all studies; expanded on first use, since it takes a second at `paper`."""
        return Plan.load(self._settings)

    def _last(self) -> float:
        """When a job last printed a line."""
        try:
            return self._said.stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _output(results: Path, study: str, bundle: Bundle) -> Path:
    return results / study / "bundles" / f"{bundle.hash}.csv"


def _note(output: Path) -> Path:
    return output.with_name(f"{output.name}.progress")
