"""The machine that trains: PyTorch set up so that results repeat, and facts for provenance."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stalegrad
from stalegrad.training import kernels
from stalegrad.training.backends import cpu


def cores() -> int:
    """Those this process may use, where the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def settled_torch(device: torch.device) -> Iterator[None]:
    """PyTorch set up so that results repeat, for the time of the block.

    On a CPU our threads divide the runs; PyTorch's own would compete with them and change
    roundings. On a GPU float32 stays float32: by default cuDNN rounds convolutions to TF32, and
    cuBLAS rounds products if TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is set, as it is in NVIDIA's
    containers.
    """
    # PyTorch makes the first of these when it is imported, where no type checker sees it.
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    threads, precisions = torch.get_num_threads(), [kind.fp32_precision for kind in kinds]
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        for kind in kinds:
            kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for kind, precision in zip(kinds, precisions, strict=True):
            kind.fp32_precision = precision


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Commit, versions and hardware, for provenance."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name()
    return {
        "commit": _commit(),
        "stalegrad": stalegrad.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": f"{device.type}: {name}",
        "cores": os.cpu_count(),
        "platform": platform.platform(),
    }


def vector_instructions(backend: str, problem: str, device: torch.device) -> str:
    """What decides the order of sums when `backend` trains `problem`: the vector instructions that
    its kernel is built for, or that PyTorch uses; on a GPU, its compute capability."""
    if device.type == "cuda":
        return "CUDA {}.{}".format(*torch.cuda.get_device_capability(device))
    if backend == "cpu":
        return kernels.instruction_set(cpu.KERNELS[problem])
    return torch.backends.cpu.get_cpu_capability()


def _commit() -> str:
    """The commit of the source tree, with '+' where it has been changed since; '' outside git."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder)]
    if shutil.which("git") is None:
        return ""
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return ""
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", str(folder)]).returncode
    return head.stdout.strip() + ("+" if changed else "")


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
