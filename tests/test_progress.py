"""How far training is, added up over jobs that know nothing of each other."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import small_cell

from stalegrad.io.wording import duration, read_training_line
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.config import Settings
from stalegrad.training import progress, speed
from stalegrad.training.progress import Overview, Reporter, overview
from stalegrad.training.speed import Speed, Speeds

# Of equal cost.
BUNDLES = [Bundle((small_cell(seed=seed),)) for seed in range(4)]
WORK = BUNDLES[0].work()
PLAN = SimpleNamespace(
    bundles={"some": {b.hash: b for b in BUNDLES[:3]}, "other": {"x": BUNDLES[3]}},
    settings=Settings(),
    short_bundles=lambda study: {"x": BUNDLES[3]} if study == "other" else {},
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Where no speed has been measured yet."""
    monkeypatch.setenv("STALEGRAD_CACHE", str(tmp_path_factory.mktemp("cache")))


def output_of(results: Path, number: int) -> Path:
    study = "other" if number == 3 else "some"
    return results / study / "bundles" / f"{BUNDLES[number].hash}.csv"


def told(done: int, seconds: float) -> SimpleNamespace:
    return SimpleNamespace(done=done, total=10, seconds=seconds)


@pytest.fixture
def settings(monkeypatch):
    """The settings of a replication of these bundles."""
    settings = {"preset": "smoke"}
    monkeypatch.setattr(progress.Plan, "load", lambda values: PLAN if values is settings else None)
    return settings


def test_what_is_left_at_the_rate_of_the_jobs_that_run(tmp_path, settings):
    assert overview(PLAN, tmp_path, 0.0) == Overview(4 * WORK, 0.0, 0.0)
    output_of(tmp_path, 0).parent.mkdir(parents=True)
    output_of(tmp_path, 0).touch()  # trained, in this call or in one before
    Reporter(settings, output_of(tmp_path, 1)).report(told(5, 2.0))
    Reporter(settings, output_of(tmp_path, 3)).report(told(1, 1.0))
    now = output_of(tmp_path, 1).with_suffix(".csv.progress").stat().st_mtime
    seen = overview(PLAN, tmp_path, now)
    assert seen.done == pytest.approx(1.6 * WORK)
    assert seen.rate == pytest.approx(0.25 * WORK + 0.1 * WORK)
    assert str(seen) == f"training: 40 % done, about {2.4 / 0.35:.0f} s left"
    # What was killed long ago counts as far as it came, and not as running.
    later = overview(PLAN, tmp_path, now + 2 * progress.SECONDS_SILENT)
    assert later == Overview(seen.total, seen.done, 0.0)
    assert str(later) == "training: 40 % done"


def test_a_job_that_has_only_begun_goes_as_fast_as_was_measured(tmp_path, settings):
    """Two seconds of one core each; one is half done after ten seconds, another has begun."""
    lenet = Speed("cpu", "AVX2", "", ((1, 0.0), (1 << 40, 0.0)), 1 << 40, 0.0, 2 / 3, 0.0, 1.0, 1.0)
    speed.write(PLAN.settings, Speeds(1.0, False, {"lenet5": lenet}))
    with (
        Reporter(settings, output_of(tmp_path, 0)) as half,
        Reporter(settings, output_of(tmp_path, 1)),
    ):
        half.report(told(5, 10.0))
        now = output_of(tmp_path, 1).with_suffix(".csv.progress").stat().st_mtime
        seen = overview(PLAN, tmp_path, now)
    assert (seen.total, seen.done) == (pytest.approx(8.0), pytest.approx(1.0))
    assert seen.rate == pytest.approx(0.1 + 1.0)


def test_the_log_says_what_is_trained(tmp_path, settings, capsys):
    Reporter(settings, output_of(tmp_path, 0)).report(told(1, 3.0))
    Reporter(settings, output_of(tmp_path, 0), "12 runs of lenet5").report(told(2, 6.0))
    said = ["1 of 10 epochs, 3 s", "2 of 10 epochs, 6 s (12 runs of lenet5)"]
    assert capsys.readouterr().out.splitlines() == said


def test_it_is_said_now_and_then_past_a_redirection(tmp_path, settings, monkeypatch, capfd):
    monkeypatch.setattr(sys, "__stderr__", os.fdopen(os.dup(2), "w"))
    output = output_of(tmp_path, 1)
    with Reporter(settings, output) as reporter:
        reporter.report(told(1, 3.0))  # too early
        assert capfd.readouterr().err == ""
        reporter.report(told(2, 20.0))
        reporter.report(told(3, 30.0))  # too soon after the last
        assert capfd.readouterr().err == "training: 5 % done, about 6 min left\n"
        said = tmp_path / "logs" / "training.txt"
        os.utime(said, (0, 0))
        reporter.report(told(4, 40.0))
        assert capfd.readouterr().err.startswith("training: 10 % done")
    assert not list(output.parent.iterdir())  # the note goes with the job
    sys.__stderr__.close()


@pytest.mark.parametrize(
    "seconds, said",
    [
        (8.3, "8 s"),
        (119, "119 s"),
        (200, "3 min"),
        (7140, "119 min"),
        (9060, "2 h 31 min"),
        (7_200_000, "2,000 h 0 min"),
    ],
)
def test_durations(seconds, said):
    assert duration(seconds) == said
    line = f"training: 50 % done, about {said} left"
    assert str(Overview(2.0, 1.0, 1 / seconds)) == line
    share, left = read_training_line(line)
    assert share == 0.5 and duration(left) == said


def test_only_what_training_says_is_read():
    assert read_training_line("training: 50 % done\n") == (0.5, None)
    assert read_training_line("training: 56 runs, about 4 s on 2 cores") is None
    assert read_training_line("training: 50 % done, and a word more") is None
