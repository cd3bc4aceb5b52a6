"""Benchmarks are run by hand; here, that each of them starts and finds its files."""

import subprocess
import sys

import pytest
from helpers import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.glob("*.py")))
def test_a_benchmark_can_be_imported(name):
    command = [sys.executable, "-W", "error", "-c", f"import {name}"]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_authors_time_is_there():
    code = "import lamour2023; print(lamour2023.authors_seconds())"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); {code}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert float(done.stdout) > 0, done.stderr
