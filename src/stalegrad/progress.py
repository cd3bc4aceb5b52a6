"""How far training is, over all jobs of a replication, told by the jobs themselves.

Every job that trains notes after each epoch how far it is, in a file beside its output. Now and
then one of them adds these notes up and says the sum: there is no process beside the jobs, so
nothing is left behind when they are stopped.
"""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from stalegrad.files import write_atomically
from stalegrad.plan import Plan
from stalegrad.wording import duration

SECONDS_BETWEEN = 10.0  # two lines on the terminal
SECONDS_SILENT = 300.0  # a job that has noted nothing for so long is taken to have stopped


@dataclass(frozen=True)
class Overview:
    """Work in seconds of one core, as `Bundle.core_seconds` estimates it.

    total, done: of all bundles of the plan; rate: work a second of the jobs running now, which are
    told by what they themselves took so far. 0 where none has noted anything.
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
    total = done = rate = 0.0
    for study, bundles in plan.bundles.items():
        for bundle in bundles.values():
            work, output = bundle.core_seconds(), results / study / "bundles" / f"{bundle.hash}.csv"
            total += work
            if output.exists():
                done += work
                continue
            with suppress(FileNotFoundError, ValueError):  # none yet, or gone since
                note = _note(output)
                share, seconds = json.loads(note.read_text())
                done += share * work
                if now - note.stat().st_mtime < SECONDS_SILENT and seconds:
                    rate += share * work / seconds
    return Overview(total, done, rate)


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
        return self

    def __exit__(self, *_: object) -> None:
        _note(self._output).unlink(missing_ok=True)

    def report(self, progress: Any) -> None:
        """progress: what `stalegrad.bundles.train_bundle` tells after every epoch."""
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


def _note(output: Path) -> Path:
    return output.with_name(f"{output.name}.progress")
