"""What one core does at most: multiply-adds between registers a second (`peak.cpp`), and cycles.

The limit is compiled for the processor that the kernels are compiled for, and checked against the
core's frequency: a core begins one to four multiply-adds of whole vectors in a cycle.
"""

import ctypes
import functools
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stalegrad.training import kernels

NAME = "multiply-adds between registers"
TURNS = 5_000_000  # of one measurement, which takes some hundredths of a second
ADDITIONS = 64  # in one turn of the chain that tells the frequency
# Begun in a cycle: a core whose only unit for long vectors slows the clock down does a little less
# than one, and no core begins more than four.
LEAST_A_CYCLE, MOST_A_CYCLE = 0.7, 4.3


class WrongLimit(SystemExit):
    """What is measured against the limit would mean nothing; the message says why."""


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "peak.so"
        source = Path(__file__).with_name("peak.cpp")
        command = kernels.compile_command(kernels.architecture())
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def multiply_adds(dtype: torch.dtype) -> Callable[[], float]:
    """What does `operations(dtype)` of them."""
    function = getattr(_library(), f"multiply_adds_{str(dtype).removeprefix('torch.')}")
    function.restype = ctypes.c_float if dtype == torch.float32 else ctypes.c_double
    return lambda: function(ctypes.c_int64(TURNS))


def operations(dtype: torch.dtype) -> int:
    """Multiplications and additions in one call."""
    return 2 * _library().chains() * lanes(dtype) * TURNS


def lanes(dtype: torch.dtype) -> int:
    return _library().vector_bytes() // dtype.itemsize


def seconds(work: Callable[[], object]) -> float:
    """Of the processor's time."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def check(repeats: int = 9) -> str:
    """The limit in float32 and what it was checked against, in a sentence.

    Raises WrongLimit where that is fewer or more multiply-adds a cycle than any core begins.
    """
    turns, kind = TURNS // ADDITIONS, torch.float32
    chain, multiply = _library().additions, multiply_adds(kind)
    rates = []
    for _ in range(repeats):  # in turn, since the frequency wanders
        cycles = (
            turns * ADDITIONS / seconds(lambda: chain(ctypes.c_int64(turns), ctypes.c_int64(1)))
        )
        rates.append((operations(kind) / seconds(multiply), cycles))
    most, frequency = map(max, zip(*rates, strict=True))
    return told(most, frequency, lanes(kind))


def told(most: float, frequency: float, lanes: int) -> str:
    """`most` operations a second at `frequency` cycles a second, in a sentence; see `check`."""
    begun = most / (2 * lanes * frequency)
    sentence = (
        f"{most / 1e9:.0f} GFLOP/s of {NAME} in float32: {begun:.2f} "
        f"of {lanes} lanes a cycle at {frequency / 1e9:.2f} GHz"
    )
    if not LEAST_A_CYCLE <= begun <= MOST_A_CYCLE:
        raise WrongLimit(
            f"The limit is wrong: {sentence}; a core begins one to four. See benchmarks/peak.cpp."
        )
    return sentence
