"""Where there is a terminal: one bar a stage, and what the running jobs said last."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from snakemake_logger_plugin_stalegrad.stages import Run, Stage
from stalegrad.io.wording import duration

MOST_JOBS = 4  # shown below the bars
_BESIDE_A_BAR = 52  # columns of its stage's name, share and time
_A_SECOND = 4  # how often the bars are drawn


class Screen:
    """Bars that stay at the end of the terminal; all that is printed goes above them, whoever
    prints it."""

    def __init__(self, run: Run, *, colours: bool = True):
        self._run = run
        self._terminal = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")
        self._console = Console(file=self._terminal, no_color=not colours, highlight=False)
        self._live: Live | None = None
        self._printed = Printed(self._hear)

    def begin(self) -> None:
        if self._live is not None:
            return
        self._printed.take()
        self._live = Live(
            get_renderable=self._bars,
            console=self._console,
            refresh_per_second=_A_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._live.start()

    def finished(self, stage: Stage | None) -> None:
        """The next drawing shows it."""

    def say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def end(self) -> None:
        self._printed.give_back()
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._terminal.flush()

    def _hear(self, line: str) -> None:
        if not self._run.hear(line):
            self._console.print(Text.from_ansi(line), soft_wrap=True)

    def _bars(self) -> ConsoleRenderable:
        table = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("left", "left", "right", "left"):
            table.add_column(justify=justify, no_wrap=True)
        for stage in tuple(self._run.stages.values()):
            table.add_row(*self._row(stage))
        jobs = [Text(line, "dim", no_wrap=True, overflow="ellipsis") for line in self._at_work()]
        return Group(table, *jobs)

    def _at_work(self) -> list[str]:
        return self._run.at_work()[-MOST_JOBS:]

    def _row(self, stage: Stage) -> tuple[Text, ProgressBar, str, Text]:
        share = self._run.share(stage)
        failed = bool(stage.failed)
        bar = ProgressBar(
            total=1.0,
            completed=share,
            width=max(5, min(30, self._console.width - _BESIDE_A_BAR)),
            complete_style="red" if failed else "cyan",
            finished_style="green",
        )
        return Text(stage.name), bar, f"{int(100 * share)} %", self._when(stage)

    def _when(self, stage: Stage) -> Text:
        if stage.began is None:
            return Text("")
        if stage.ended is not None:
            return Text(f"done in {duration(stage.ended - stage.began)}", "green")
        left = None if not stage.running else self._run.left(stage)
        told = [f"about {duration(left)} left"] if left is not None else []
        if stage.failed:
            told.append(f"{len(stage.failed)} failed")
        return Text(", ".join(told), "red" if stage.failed else "")


class Printed:
    """What this process and its children print on the terminal, handed on line by line.

    Their standard output and error, where these are the terminal, become a pipe: written to the
    terminal itself, a line would land in the midst of the bars.
    """

    def __init__(self, hear: Callable[[str], None]):
        self._hear = hear
        self._kept: dict[int, int] = {}
        self._reader: threading.Thread | None = None

    def take(self) -> None:
        if self._kept:
            return
        receive, send = os.pipe()
        for descriptor in filter(os.isatty, (1, 2)):
            self._kept[descriptor] = os.dup(descriptor)
            os.dup2(send, descriptor)
        os.close(send)
        self._reader = threading.Thread(target=self._read, args=(receive,), daemon=True)
        self._reader.start()

    def give_back(self) -> None:
        """A child that is still alive keeps the pipe open; it is not waited for."""
        for descriptor, kept in self._kept.items():
            os.dup2(kept, descriptor)
            os.close(kept)
        self._kept.clear()
        if self._reader is not None:
            self._reader.join(timeout=2.0)
            self._reader = None

    def _read(self, receive: int) -> None:
        with open(receive, encoding="utf-8", errors="replace") as printed:
            for line in printed:
                with suppress(OSError):  # the terminal is gone; who prints must not wait for ever
                    self._hear(line.rstrip("\n"))
