"""How far training is, over all jobs of a replication, told by the jobs themselves.

Before the first of them starts, how long it will take is told by what `training.speed` knows of
this machine. Every job that trains notes after each epoch how far it is, in a file beside its
output. Now and then one of them adds these notes up and says the sum: there is no process beside
the jobs, so nothing is left behind when they are stopped.
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
from stalegrad.io.wording import duration
from stalegrad.planning.cells import Bundle
from stalegrad.planning.freshness import is_fresh
from stalegrad.planning.plan import Plan
from stalegrad.training import speed
from stalegrad.training.speed import Speeds

SECONDS_BETWEEN = 10.0  # two lines on the terminal
SECONDS_SILENT = 300.0  # a job that has noted nothing for so long is taken to have stopped


@dataclass(frozen=True)
class Overview:
    """Work in seconds of one core where its speed has been measured, else as `Bundle.work`.

    total, done: of all bundles of the plan; rate: work a second of the jobs running now, told by
    what they themselves took so far; of one that has only begun, by the measured speed. 0 where
    nothing is known of any.
    """

    total: float
    done: float
    rate: float

    def __str__(self) -> str:
        share = 100 * self.done / self.total if self.total else 100.0
        if not self.rate:
            return f"training: {share:.0f} % done"
        left = duration((self.total - self.done) / self.rate)
        return f"training: {share:.0f} % done, about {left} left"


def overview(plan: Plan, results: Path, now: float) -> Overview:
    """How far the bundles of `plan` in the folder `results` are, at the time `now`."""
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
    """What is said before training, a line each: how long it will take and by what that is known,
    and what makes it slower than it could be. Nothing where nothing is left to train.

    cores: that jobs may use together; None where they run elsewhere, on a cluster. Measures this
    machine's speed where that has not been done: see `speed.measured`.
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
        return [f"{runs} {where}; how long they take is told once some of them are under way"]
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
    """Takes a bundle's progress: notes it, and says the sum over all bundles now and then.

    settings: as `Plan.load` takes them; output: of the bundle. The line goes to the terminal's
    error stream, past a redirection into a log.
    """

    def __init__(self, settings: Mapping[str, Any], output: Path):
        self._settings, self._output = settings, output
        self._results = output.parents[2]
        self._said = self._results / "logs" / "training.txt"

    def __enter__(self) -> "Reporter":
        write_atomically(_note(self._output), json.dumps([0.0, 0.0]))  # begun, of unknown speed
        return self

    def __exit__(self, *_: object) -> None:
        _note(self._output).unlink(missing_ok=True)

    def report(self, progress: Any) -> None:
        """progress: what `training.bundles.train_bundle` tells after every epoch."""
        print(f"{progress.done} of {progress.total} epochs, {progress.seconds:.0f} s")
        note = json.dumps([progress.done / progress.total, progress.seconds])
        write_atomically(_note(self._output), note)
        now = time.time()
        if progress.seconds >= SECONDS_BETWEEN and now - self._last() >= SECONDS_BETWEEN:
            line = str(overview(self._plan, self._results, now))
            write_atomically(self._said, f"{line}\n")
            print(line, file=sys.__stderr__, flush=True)

    @cached_property
    def _plan(self) -> Plan:
        """Of all studies, which takes a second at `paper`: expanded when first spoken of."""
        return Plan.load(self._settings)

    def _last(self) -> float:
        """When a job last said something."""
        try:
            return self._said.stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _output(results: Path, study: str, bundle: Bundle) -> Path:
    return results / study / "bundles" / f"{bundle.hash}.csv"


def _note(output: Path) -> Path:
    return output.with_name(f"{output.name}.progress")
