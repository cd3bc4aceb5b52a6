"""What a run shows: one bar a stage on a terminal, plain lines elsewhere, errors in full."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from logging import makeLogRecord
from pathlib import Path

import pytest
from checkout import Checkout, heed_interrupts, until

from snakemake_logger_plugin_stalegrad import stages
from snakemake_logger_plugin_stalegrad.lines import Lines
from snakemake_logger_plugin_stalegrad.messages import worth_showing
from snakemake_logger_plugin_stalegrad.stages import Job, Run

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
SHOW_CURSOR = "\x1b[?25h"
SNAKEFILE = """
rule all:
    input: "one", "two", "three"

rule simulate_one:
    output: "one"
    log: "one.log"
    shell: "echo a warning of a library >&2; touch {output}"

rule train_short_two:
    input: "one"
    output: "two"
    log: "two.log"
    shell: "echo 3 of 12 epochs, 7 s > {log};"
        " echo 'training: 25 % done, about 3 min left' >&2; sleep 2; touch {output}"

rule polish_three:
    input: "two"
    output: "three"
    log: "three.log"
    shell: "LAST"
"""
POLISHED = "touch {output}"
SPOILT = "printf 'ValueError: {wildcards}spoilt\\\\nin its second line\\\\n' > {log}; exit 1"


def command(folder: Path, last: str, *flags: str) -> list[str]:
    """Snakemake on a workflow of three rules, with what the last of them does."""
    (folder / "Snakefile").write_text(SNAKEFILE.replace("LAST", last))
    flags = flags or ("--cores", "2")
    return [sys.executable, "-m", "snakemake", "--logger", "stalegrad", *flags]


class Terminal:
    """A process on a terminal of its own, with what it has written there."""

    def __init__(self, arguments: list[str], folder: Path, size: tuple[int, int] = (40, 100)):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen(
            arguments,
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"},
            preexec_fn=heed_interrupts,
        )
        os.close(theirs)
        self._ours, self.raw = ours, ""

    def read(self) -> bool:
        """One piece more; is there any?"""
        try:
            piece = os.read(self._ours, 1 << 16)
        except OSError:  # all who could write have ended
            piece = b""
        self.raw += piece.decode("utf-8", "replace")
        return bool(piece)

    def read_until(self, text: str) -> None:
        while text not in self.shown:
            assert self.read(), self.shown

    def end(self) -> int:
        while self.read():
            pass
        os.close(self._ours)
        return self.process.wait(60)

    @property
    def shown(self) -> str:
        """All that was ever shown, one thing below the other."""
        return CONTROL.sub("", self.raw).replace("\r", "\n")

    @property
    def bars(self) -> dict[str, str]:
        """Each stage as it was drawn last."""
        lines = [line.strip() for line in self.shown.splitlines() if "━" in line]
        return {line.split("  ")[0]: line for line in lines}


def test_a_terminal_has_a_bar_a_stage_with_the_time_left(tmp_path):
    terminal = Terminal(command(tmp_path, POLISHED), tmp_path)
    terminal.read_until("about 3 min left")
    terminal.read_until("train short two: 3 of 12 epochs, 7 s")
    assert terminal.bars["training"].endswith("25 %  about 3 min left")
    assert "done in" in terminal.bars["simulations"]
    assert terminal.end() == 0
    assert list(terminal.bars) == ["simulations", "training", "polish three"]
    assert all(re.search(r"100 %  done in \d+ s$", bar) for bar in terminal.bars.values())
    assert terminal.shown.count("a warning of a library") == 1
    assert "training: 25 % done" not in terminal.shown  # it is in the bar
    for noise in ("Select jobs", "Execute", "jobid", "Building DAG", "Complete log"):
        assert noise not in terminal.shown
    assert terminal.raw.rindex(SHOW_CURSOR) > terminal.raw.rindex("━")


@pytest.mark.parametrize("size", [(40, 100), (24, 60)])
def test_a_failure_is_shown_in_full_above_the_bars(tmp_path, size):
    terminal = Terminal(command(tmp_path, SPOILT, "--cores", "1"), tmp_path, size)
    assert terminal.end() == 1
    assert "polish_three (for three) has failed." in terminal.shown
    assert "ValueError: spoilt\n" in terminal.shown and "in its second line\n" in terminal.shown
    assert terminal.bars["polish three"].endswith("1 failed")
    assert "100 %" in terminal.bars["training"]
    assert SHOW_CURSOR in terminal.raw


def test_an_interrupted_run_gives_the_terminal_back(tmp_path):
    terminal = Terminal(command(tmp_path, "sleep 60"), tmp_path)
    terminal.read_until("polish three")
    until(lambda: (terminal.read(), (tmp_path / "two").exists())[1])
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() != 0
    assert terminal.raw.rindex(SHOW_CURSOR) > terminal.raw.rindex("━")


def run_without_terminal(folder: Path, last: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(folder, last, *flags),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    done = run_without_terminal(tmp_path, SPOILT)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    expected = [
        r"to do: simulations \(1 job\), training \(1 job\), polish three \(1 job\)",
        "a warning of a library",
        r"simulations: done in \d+ s",
        "training: 25 % done, about 3 min left",
        r"training: done in \d+ s",
        r"polish_three \(for three\) has failed\.",
    ]
    found = [line for line in lines if any(re.fullmatch(each, line) for each in expected)]
    assert len(found) == len(expected) and all(map(re.fullmatch, expected, found)), done.stdout
    assert "ValueError: spoilt\nin its second line\n" in done.stdout
    assert "\x1b" not in done.stdout and "jobid" not in done.stdout

    again = run_without_terminal(tmp_path, POLISHED)
    assert "polish three: done in" in again.stdout and "training" not in again.stdout
    assert "Nothing to be done" in run_without_terminal(tmp_path, POLISHED).stdout


@pytest.mark.parametrize("flag", ["--dry-run", "--verbose", "--printshellcmds"])
def test_snakemakes_own_flags_have_its_own_output(tmp_path, flag):
    done = run_without_terminal(tmp_path, POLISHED, "--cores", "2", flag)
    assert done.returncode == 0 and "rule train_short_two:" in done.stdout
    assert "to do:" not in done.stdout


@pytest.mark.slow
def test_training_tells_a_terminal_how_far_it_is(tmp_path):
    checkout = Checkout.make(tmp_path, "--cores", "2", "--logger", "stalegrad")
    checkout.has_one_study(300)
    terminal = Terminal(checkout.command(*checkout.targets()), tmp_path)
    terminal.read_until("training: 1 run")
    terminal.read_until("train bundle long")
    terminal.read_until(" of 300 epochs")
    terminal.read_until("% done" if "% done" in terminal.shown else "left")
    assert terminal.end() == 0
    assert "100 %  done in" in terminal.bars["training"]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def run(clock):
    """Four landscapes and two jobs of training."""
    run = Run(clock)
    run.plan({"compute_landscape": 4, "train_bundle": 2, "all": 1, "total": 7})
    return run


def test_the_time_left_is_that_of_the_jobs_so_far(run, clock, tmp_path):
    assert list(run.stages) == ["training", "landscapes"]
    stage = run.stages["landscapes"]
    run.start(Job(1, "compute_landscape"))
    assert (run.share(stage), run.left(stage)) == (0.0, None)
    clock.now = 10.0
    assert run.finish(1) is stage
    assert (run.share(stage), run.left(stage)) == (0.25, None)  # nothing runs
    run.start(Job(2, "compute_landscape"))
    clock.now = 14.0  # six seconds of this one, and two of ten
    assert run.left(stage) == pytest.approx(26.0)
    (tmp_path / "log").write_text("200 of 1,000 points\n300 of")
    run.start(Job(3, "compute_landscape", log=tmp_path / "log"))
    clock.now = 16.0  # a fifth in two seconds: ten seconds, too
    assert run.share(stage) == pytest.approx(1.2 / 4)
    assert run.left(stage) == pytest.approx((4 + 8 + 10) / 2)


def test_bundles_of_a_job_count_as_they_are_made(run, tmp_path):
    bundles = tuple(tmp_path / "bundles" / f"{name}.csv" for name in "abcd")
    bundles[0].parent.mkdir()
    log = tmp_path / "log"
    job = Job(1, "train_short_x", bundles=bundles, log=log)
    assert job.share() == 0.0
    log.write_text("4 of 8 epochs, 1 s\n")
    assert job.share() == 0.125
    log.write_text("8 of 8 epochs, 2 s\n")
    assert job.share() == 0.25
    bundles[0].touch()  # the same one
    assert job.share() == 0.25
    log.write_text("2 of 8 epochs, 1 s\n")
    assert job.share() == 0.25 + 0.25 / 4


def test_what_training_says_goes_before_what_its_jobs_tell(run, clock):
    stage = run.stages["training"]
    run.start(Job(1, "train_bundle"))
    assert run.hear("training: 40 % done, about 3 min left")
    assert not run.hear("training: 56 runs, about 4 s on 2 cores")
    clock.now = 30.0
    assert (run.share(stage), run.left(stage)) == (0.4, 150.0)
    assert run.left(run.stages["landscapes"]) is None
    clock.now = 1.0 + stages.SECONDS_SAID
    assert (run.share(stage), run.left(stage)) == (0.0, None)
    run.hear("training: 100 % done")
    assert run.share(stage) == 0.99  # a job is under way
    run.finish(1)
    run.start(Job(2, "train_bundle"))
    run.finish(2)
    assert run.share(stage) == 1.0 and stage.ended == clock.now


def test_jobs_that_tell_how_far_they_are_are_quoted(run, tmp_path):
    for number, line in enumerate(("4 of 8 epochs, 1 s\n", "4 of 8 ep", "a warning\n", "")):
        log = tmp_path / f"{number}.log"
        log.write_text(line)
        run.start(Job(number, "train_short_x", f"y{number}", log=log))
    run.start(Job(9, "train_bundle"))
    assert run.at_work() == ["train short x y0: 4 of 8 epochs, 1 s"]


def test_a_job_that_is_tried_again_has_not_failed(run):
    stage = run.stages["training"]
    for _ in range(2):
        run.start(Job(1, "train_bundle"))
        run.fail(1)
    assert stage.failed == {1}
    run.start(Job(1, "train_bundle"))
    assert not stage.failed
    run.finish(1)
    assert len(stage.took) == 1 and not stage.failed


def test_a_stage_that_goes_on_is_told_now_and_then(run, clock, capsys):
    lines = Lines(run, sys.stdout)
    for number in (1, 2):
        run.start(Job(number, "compute_landscape"))
    clock.now = 20.0
    lines.finished(run.finish(1))
    assert capsys.readouterr().out == ""
    clock.now = 61.0
    run.start(Job(3, "compute_landscape"))
    lines.finished(run.finish(2))
    said = "landscapes: 2 of 4 jobs done, about 81 s left\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    "level, said, shown",
    [
        (20, "Select jobs to execute...", False),
        (20, "Nothing to be done (all requested files are present and up to date).", True),
        (20, "Trying to restart job 3.", True),
        (30, "Select jobs to execute...", True),
        (40, "WorkflowError:\nno such preset", True),
        (40, "None", False),
    ],
)
def test_what_says_only_that_snakemake_is_at_work_is_left_out(level, said, shown):
    record = makeLogRecord({"levelno": level, "msg": said})
    assert worth_showing(record, None) == (said if shown else "")
