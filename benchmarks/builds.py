"""Every build of the kernels that this machine can run, each with its own table (`overview.py`).

A processor with AVX-512 runs the build for AVX2 as well. Each build is timed in a process of its
own, in which PyTorch, NumPy and Numba are held to the same instructions: the table is then what a
processor of that kind shows, but for its frequency and caches. The tables give rates, too, so that
one build can be set against the PyTorch of the other.

    benchmarks/run [--quick] [--markdown]      # some minutes a build
    benchmarks/run --build x86-64-v3           # that one alone
    benchmarks/run --against ../older          # this checkout and another one, in turn
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stalegrad.io.datasets import fetch_dataset
from stalegrad.io.errors import StalegradError
from stalegrad.training.kernels import ARCHITECTURE

HERE = Path(__file__).parent
NATIVE, AVX2 = "native", "x86-64-v3"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# What holds libraries to the instructions of an architecture, and is unset for the native build:
# a BLAS held to older ones by whoever set up the machine would make ours look fast.
LIBRARIES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NUMBA_CPU_NAME": "haswell",
}
UNSET = (*LIBRARIES, "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES")


def runnable() -> list[str]:
    """The architectures to build for: this processor's, and AVX2 where it has more."""
    return [NATIVE, AVX2] if "avx512f" in _told("flags").split() else [NATIVE]


def environment(architecture: str) -> dict[str, str]:
    """That of a process in which kernels and libraries use the instructions of `architecture`."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    chosen = ONE_THREAD | {ARCHITECTURE: architecture}
    if architecture == AVX2:
        chosen |= LIBRARIES | {"NPY_DISABLE_CPU_FEATURES": " ".join(_numpy_beyond_avx2())}
    return kept | chosen


def _numpy_beyond_avx2() -> list[str]:
    """NumPy's names of the AVX-512 code that it would choose on this processor."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    longer = ("AVX512", "X86_V4")
    return [n for n in __cpu_dispatch__ if n.startswith(longer) and __cpu_features__[n]]


def processor() -> str:
    """Its name, and what it tells of its kind beside: names of cloud machines say little."""
    import torch

    from stalegrad.training.machine import describe_machine

    name = describe_machine(torch.device("cpu"))["device"].removeprefix("cpu: ")
    told = {"family": _told("cpu family"), "model": _told("model"), "part": _told("CPU part")}
    kind = ", ".join(f"{what} {number}" for what, number in told.items() if number)
    return f"{name} ({kind})" if kind else name


def _told(key: str) -> str:
    """What /proc/cpuinfo tells of the first core under `key`; '' where it tells nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in fields if name.strip() == key), "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build", help="for one processor alone, as compilers name it")
    parser.add_argument("--markdown", action="store_true", help="as in the README")
    parser.add_argument("--quick", action="store_true", help="rough: a fifth of the time")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout to time beside")
    options = parser.parse_args(argv)
    if options.against and not (options.against / "src" / "stalegrad" / "training").is_dir():
        parser.error(
            f"--against is {options.against}, which is no checkout with the packages of this one: "
            f"it has no src/stalegrad/training"
        )
    try:
        for name in ("mnist", "fashion_mnist"):
            fetch_dataset(name, options.data_folder)
    except StalegradError as error:
        print(error, file=sys.stderr)
        return 2
    builds = [options.build] if options.build else runnable()
    flags = ["--data-folder", str(options.data_folder.resolve())]
    flags += [f"--{name}" for name in ("markdown", "quick") if getattr(options, name)]
    script = "overview.py"
    if options.against:
        script, builds = "against.py", builds[:1]
        flags += [str(options.against.resolve())]
    codes = [
        subprocess.run(
            [sys.executable, str(HERE / script), *flags], env=environment(each)
        ).returncode
        for each in builds
    ]
    return max(codes, key=abs)
