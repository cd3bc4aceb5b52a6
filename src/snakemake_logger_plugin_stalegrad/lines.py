"""Where there is no terminal: a line when a stage is done, and now and then one in between."""

import sys
from typing import TextIO

from snakemake_logger_plugin_stalegrad.stages import Run, Stage
from stalegrad.io.wording import count, duration

SECONDS_BETWEEN = 60.0  # between two lines on a stage that goes on


class Lines:
    """Tells a run on a stream, in lines that stay as they are."""

    def __init__(self, run: Run, stream: TextIO = sys.stderr):
        self._run, self._stream = run, stream
        self._told = run.clock()

    def begin(self) -> None:
        stages = self._run.stages.values()
        self.say("to do: " + ", ".join(f"{s.name} ({count(s.jobs, 'job')})" for s in stages))

    def finished(self, stage: Stage | None) -> None:
        now = self._run.clock()
        if stage is None or not (stage.done or now - self._told >= SECONDS_BETWEEN):
            return
        self._told = now
        if stage.ended is not None and stage.began is not None:
            self.say(f"{stage.name}: done in {duration(stage.ended - stage.began)}")
            return
        left = self._run.left(stage)
        expected = "" if left is None else f", about {duration(left)} left"
        self.say(f"{stage.name}: {len(stage.took)} of {count(stage.jobs, 'job')} done{expected}")

    def say(self, text: str, style: str = "") -> None:
        print(text, file=self._stream, flush=True)

    def end(self) -> None:
        self._stream.flush()
