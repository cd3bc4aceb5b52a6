"""The machine that trains: PyTorch set up so that results repeat, and facts for provenance."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stalegrad
from stalegrad.io.commit import commit_of
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
        "commit": commit_of(Path(stalegrad.__file__).parent),
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


# What has the libraries under PyTorch and numpy choose other instructions, or other sums.
_CHOOSING = (
    *("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_CBWR"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("DNNL_DEFAULT_FPMATH_MODE", "OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES"),
    *("NPY_ENABLE_CPU_FEATURES", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "NVIDIA_TF32_OVERRIDE"),
)


def dispatch(backend: str, device: torch.device) -> str:
    """What else decides the last bits of what `backend` trains, besides `vector_instructions`: what
    compiled its kernel, what PyTorch and numpy choose here, and where PyTorch computes gradients
    on a CPU, the processor, by which its libraries choose."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found") or ["none"]
    parts = [f"PyTorch with {torch.backends.cpu.get_cpu_capability()}", f"numpy with {found[-1]}"]
    if backend == "cpu":
        parts.append(f"a kernel by {kernels.compiled_by()}")
    elif device.type == "cpu":
        parts.append(_processor_name())
    parts += [f"{name}={os.environ[name]}" for name in _CHOOSING if os.environ.get(name)]
    return ", ".join(parts)


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
