"""The kernels are fast in every build that this machine can run, and the benchmark knows its limit.

A kernel whose vectors do not fit the processor's registers computes the same numbers, fifteen times
as slowly. Nothing is held to a time: an epoch in the kernel is set against one in plain PyTorch, in
turn in one process, and five times as fast is usual where half of that is asked for.
"""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from networks import need_compiled

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LEAST = 2


def benchmark(name: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module(name)


builds, peak, table = map(benchmark, ("builds", "peak", "table"))


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
    if architecture == builds.AVX2:
        assert done.stdout.count("(AVX2)") == 2, f"kernel and PyTorch: {done.stdout}"


@pytest.mark.parametrize(
    "begun, believed", [(0.13, False), (1, True), (2, True), (4, True), (4.5, False)]
)
def test_limit_is_held_to_the_frequency(begun, believed):
    """0.13 is what vectors of 64 bytes did on a processor with AVX2."""
    measured = begun * 2 * 8 * 3.4e9, 3.4e9, 8
    if believed:
        assert f"{begun:.2f} of 8 lanes a cycle at 3.40 GHz" in peak.told(*measured)
        return
    with pytest.raises(peak.WrongLimit, match=f"The limit is wrong: .* {begun:.2f} of 8 lanes"):
        peak.told(*measured)


@pytest.mark.parametrize("limit, wrong", [(peak.NAME, True), ("2 times", False)])
def test_more_than_the_limit_is_a_wrong_limit(limit, wrong):
    rows = [
        table.Row("slow", 60, "plain", 10, limit, 100),
        table.Row("fast", 990, "plain", 10, limit, 100),
        table.Row("unlimited", 990, "plain", 10),
    ]
    sentences = table.beyond_the_limit(rows)
    assert len(sentences) == wrong
    assert all("fast would reach 9.90" in sentence for sentence in sentences)
