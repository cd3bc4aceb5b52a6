"""The kernels are fast in every build that this machine can run.

A kernel whose vectors do not fit the processor's registers computes the same numbers, fifteen times
as slowly. Nothing is held to a time: an epoch in the kernel is set against one in plain PyTorch, in
turn in one process, and five times as fast is usual where half of that is asked for.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from networks import need_compiled

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LEAST = 2


def _load_builds():
    spec = importlib.util.spec_from_file_location("benchmark_builds", BENCHMARKS / "builds.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builds = _load_builds()


@pytest.mark.alone
@pytest.mark.parametrize("architecture", builds.runnable())
def test_epoch_of_lenet5_is_faster_than_plain_pytorch(architecture):
    need_compiled("lenet5")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "lenet5_epoch.py")],
        env=builds.environment(architecture),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) >= LEAST, f"built for {architecture}: {done.stdout}"
