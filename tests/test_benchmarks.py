"""Benchmarks are run by hand; here, that each of them starts and finds its files."""

import pytest
from forked import Ended, run_all
from helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture(scope="module")
def imported() -> dict[str, Ended]:
    """How the import of each ended, as given in its folder."""
    return run_all({name: f"import {name}" for name in NAMES}, BENCHMARKS, BENCHMARKS)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name, imported):
    assert imported[name].returncode == 0, imported[name].stderr


def test_the_authors_time_is_there():
    program = "import lamour2023; print(lamour2023.authors_seconds())"
    (done,) = run_all({"lamour2023": program}, ROOT, BENCHMARKS).values()
    assert float(done.stdout) > 0, done.stderr
