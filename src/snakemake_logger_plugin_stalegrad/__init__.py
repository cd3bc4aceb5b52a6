"""Snakemake's logger `stalegrad`: one bar a stage where there is a terminal, plain lines where not.

Snakemake finds logger plugins by the name of their package, so this one lies beside `stalegrad`.
It is imported by every call of Snakemake, also by those that a job makes; what takes long to import
is imported where it is used.
"""

import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_stalegrad.messages import failure, worth_showing
from snakemake_logger_plugin_stalegrad.stages import Job, Run

if TYPE_CHECKING:
    from snakemake_logger_plugin_stalegrad.lines import Lines
    from snakemake_logger_plugin_stalegrad.screen import Screen


class LogHandler(LogHandlerBase):
    """Follows a run by Snakemake's events.

    A dry run, and a run for which one of Snakemake's own flags for output is given (`--verbose`,
    `--quiet`, `--printshellcmds`, `--debug-dag`), is left to Snakemake's own handler.
    """

    def __post_init__(self) -> None:
        self.run = Run(time.monotonic)
        self.own = _snakemakes_own(self.common_settings)
        self.display = self._display()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.display is None:
                self.own.handle(record)
            else:
                self._follow(record, getattr(record, "event", None))
        except Exception:
            self.handleError(record)

    def _display(self) -> "Screen | Lines | None":
        settings = self.common_settings
        asked = (settings.verbose, settings.quiet, settings.printshellcmds, settings.debug_dag)
        if settings.dryrun or any(asked):
            return None
        if os.isatty(2) and os.environ.get("TERM") not in (None, "", "dumb"):
            from snakemake_logger_plugin_stalegrad.screen import Screen

            return Screen(self.run, colours=not settings.nocolor)
        from snakemake_logger_plugin_stalegrad.lines import Lines

        return Lines(self.run, sys.stderr)

    def _follow(self, record: Any, event: LogEvent | None) -> None:
        assert self.display is not None
        if event == LogEvent.RUN_INFO:
            self.run.plan(record.stats)
            self.display.begin()
        elif event == LogEvent.JOB_INFO:
            self.run.start(Job.of(record))
        elif event == LogEvent.JOB_FINISHED:
            self.display.finished(self.run.finish(record.job_id))
        elif event == LogEvent.JOB_ERROR:
            self.run.fail(record.jobid)
            self.display.say(failure(record), "red")
        elif text := worth_showing(record, event):
            style = {"ERROR": "red", "CRITICAL": "red", "WARNING": "yellow"}
            self.display.say(text, style.get(record.levelname, ""))

    def close(self) -> None:
        """Called more than once."""
        if self.display is not None:
            self.display.end()
        super().close()

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False


def _snakemakes_own(settings: Any) -> logging.Handler:
    """The handler that Snakemake uses where no plugin is asked for."""
    from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

    names = ("quiet", "debug_dag", "verbose", "dryrun", "printshellcmds")
    return ColorizingTextHandler(
        nocolor=settings.nocolor,
        stream=sys.stdout if settings.stdout else sys.stderr,
        formatter=DefaultFormatter(settings.quiet, settings.show_failed_logs),
        filter=DefaultFilter(*(getattr(settings, name) for name in names)),
    )
