"""How far a run is: its stages, their jobs, and the time that is left. Nothing here is shown.

Snakemake's events come on one thread while another asks how far things are: what is asked copies
first what it walks through.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stalegrad.io.wording import read_training_line
from stalegrad.training.stages import NO_STAGE, STAGES, stage_of

# What training says is forgotten after so many seconds: the jobs that said it have ended.
SECONDS_SAID = 60.0
_TAIL = 2048  # bytes of a log in which its last line is looked for
_OF = re.compile(r"([\d,]+) of ([\d,]+) ")


@dataclass(frozen=True)
class Job:
    """A job that has begun.

    bundles: files of runs that it makes one after the other; log: its log, None if it has none.
    """

    number: int
    rule: str
    about: str = ""
    bundles: tuple[Path, ...] = ()
    log: Path | None = None

    @classmethod
    def of(cls, record: Any) -> "Job":
        """From the record that Snakemake logs at a job's beginning."""
        outputs = map(Path, record.output)
        bundles = (path for path in outputs if path.parent.name == "bundles")
        return cls(
            record.jobid,
            record.rule_name,
            " ".join(map(str, (record.wildcards or {}).values())),
            tuple(path for path in bundles if path.suffix == ".csv"),
            Path(record.log[0]) if record.log else None,
        )

    def last_line(self) -> str:
        """The last whole line of its log; empty if there is none."""
        try:
            with open(self.log, "rb") as log:  # type: ignore[arg-type]
                log.seek(max(0, log.seek(0, 2) - _TAIL))
                lines = log.read().decode("utf-8", "replace").split("\n")[:-1]
        except (OSError, TypeError):
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def share(self) -> float:
        """How much of it is done, from 0 to 1, by its files and by the last line of its log."""
        made = sum(path.exists() for path in self.bundles)
        found = _OF.match(self.last_line())
        done, total = (float(n.replace(",", "")) for n in found.groups()) if found else (0.0, 1.0)
        part = done / total if total else 0.0
        if part == 1 and made:
            part = 0.0  # of the bundle that is made already
        return min((made + part) / max(1, len(self.bundles)), 1.0)


@dataclass
class Stage:
    """jobs: how many it has; running: beginning of each by the job; took: seconds of each that has
    ended well; failed: numbers of jobs that have not. began, ended: times, None before."""

    name: str
    jobs: int = 0
    running: dict[Job, float] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)
    began: float | None = None
    ended: float | None = None

    @property
    def done(self) -> bool:
        return len(self.took) >= self.jobs

    def share(self) -> float:
        """How much of it is done, from 0 to 1, each job counting the same."""
        done = len(self.took) + sum(job.share() for job in tuple(self.running))
        return min(done / self.jobs, 1.0)

    def left(self, now: float) -> float | None:
        """Seconds until it is done at the pace of its jobs so far; None where nothing is known."""
        running, took = dict(self.running), tuple(self.took)
        passed = {job: now - began for job, began in running.items()}
        shares = {job: job.share() for job in running}
        whole = [*took, *(passed[job] / share for job, share in shares.items() if share)]
        if not running or not whole:
            return None
        mean = sum(whole) / len(whole)
        of_running = sum(
            mean * (1 - share) if share else max(mean - passed[job], 0.0)
            for job, share in shares.items()
        )
        waiting = max(self.jobs - len(took) - len(running), 0)
        return (waiting * mean + of_running) / len(running)


class Run:
    """All stages of a run of Snakemake, by its events.

    clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.stages: dict[str, Stage] = {}
        self._said: tuple[float, float | None, float] | None = None  # share, seconds left, when
        self._jobs: dict[int, Job] = {}

    def plan(self, counts: Mapping[str, int]) -> None:
        """counts: how many jobs each rule has."""
        self.stages.clear()
        names = {rule: stage_of(rule) for rule in counts if rule not in NO_STAGE}
        order = [*STAGES, *names.values()]
        for name in sorted(set(names.values()), key=order.index):
            jobs = sum(counts[rule] for rule, stage in names.items() if stage == name)
            self.stages[name] = Stage(name, jobs)

    def start(self, job: Job) -> None:
        stage = self._stage(job)
        if stage is None:
            return
        now = self.clock()
        self._jobs[job.number] = job
        stage.failed.discard(job.number)  # tried again
        stage.running[job] = now
        stage.began = now if stage.began is None else stage.began

    def finish(self, number: int) -> Stage | None:
        """The stage of the job; None if it has none."""
        job = self._jobs.pop(number, None)
        stage = self._stage(job)
        if job is None or stage is None:
            return None
        stage.took.append(self.clock() - stage.running.pop(job))
        if stage.done:
            stage.ended = self.clock()
        return stage

    def fail(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        stage = self._stage(job)
        if job is not None and stage is not None:
            stage.running.pop(job)
            stage.failed.add(number)

    def hear(self, line: str) -> bool:
        """Take a line of the terminal; is it one in which training says how far it is?"""
        said = read_training_line(line)
        if said is not None:
            self._said = (*said, self.clock())
        return said is not None

    def share(self, stage: Stage) -> float:
        """How much of a stage is done, from 0 to 1; by what training says where it does."""
        said = self._heard(stage)
        if stage.done or said is None:
            return stage.share()
        return min(said[0], 0.99)

    def left(self, stage: Stage) -> float | None:
        """Seconds until a stage is done; None where nothing is known."""
        said = self._heard(stage)
        if said is None or said[1] is None:
            return stage.left(self.clock())
        return max(said[1] - (self.clock() - said[2]), 0.0)

    def at_work(self) -> list[str]:
        """What each running job that tells how far it is says last, the newest job last."""
        found = []
        for job in tuple(self._jobs.values()):
            if _OF.match(line := job.last_line()):
                found.append(f"{f'{job.rule} {job.about}'.replace('_', ' ').strip()}: {line}")
        return found

    def _heard(self, stage: Stage) -> tuple[float, float | None, float] | None:
        said = self._said if stage.name == "training" else None
        if said is None or self.clock() - said[2] > SECONDS_SAID:
            return None
        return said

    def _stage(self, job: Job | None) -> Stage | None:
        return None if job is None else self.stages.get(stage_of(job.rule))
