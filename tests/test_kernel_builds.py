"""The LeNet-5 kernel built for other processors than this one, and run: under emulation if need be.

The lanes of the kernel are the compiler's vector type, which it splits to what a processor has; a
build for one is another program. Each is held to autograd in float64, as the native one is.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import packages
import pytest
import torch

from stalegrad import kernels
from stalegrad.problems.lenet5 import NETWORK, LeNet5

KERNEL = Path(kernels.__file__).with_name("lenet5.cpp")
DRIVER = Path(__file__).with_name("kernel_driver.cpp")
RUNS, BATCH = 2, 21  # a full tile of sixteen images and one that is not full


@dataclass(frozen=True)
class Build:
    """A processor: the flag that names it, compiler and emulator with the packages they are in, or
    what it needs of /proc/cpuinfo where nothing emulates it."""

    flag: str
    compiler: str = "g++"
    emulator: Sequence[str] = ()
    packages: Sequence[str] = ("g++",)
    instructions: str = ""


ARM = ("g++-aarch64-linux-gnu", "qemu-user")
BUILDS = {
    "AVX2": Build("-march=haswell", instructions="avx2"),
    "64-bit Arm": Build("-march=armv8-a", "aarch64-linux-gnu-g++", ("qemu-aarch64",), ARM),
}


@pytest.fixture(scope="module", params=BUILDS)
def program(request, tmp_path_factory) -> list[str]:
    """The command that runs the kernel's driver in one build."""
    build = BUILDS[request.param]
    packages.need([build.compiler, *build.emulator], *build.packages)
    if build.instructions and build.instructions not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {build.instructions}")
    made = str(tmp_path_factory.mktemp("build") / "program")
    command = [build.compiler, *kernels.FLAGS, build.flag, "-static", str(KERNEL), str(DRIVER)]
    subprocess.run([*command, "-o", made], check=True)
    return [*build.emulator, made]


@pytest.mark.slow
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_build_equals_autograd(program, lenet_in_01, dtype, tolerance):
    task = lenet_in_01
    chosen = np.random.default_rng(1).integers(len(task.train[0]), size=(RUNS, BATCH))
    images, labels = (part[chosen].numpy() for part in task.train)
    weights = np.stack([NETWORK.initial_weights(seed).numpy() for seed in range(RUNS)])
    weights = weights.astype(dtype)

    scale = np.array([task.options["scale"], task.options["shift"]], dtype)
    case = [np.array([RUNS, BATCH]), scale, weights, images, labels]
    done = subprocess.run(
        [*program, np.dtype(dtype).name],
        input=b"".join(part.tobytes() for part in case),
        capture_output=True,
        check=True,
    )
    parts = np.split(np.frombuffer(done.stdout, np.uint8), _ends(dtype))
    kinds = (dtype, dtype, np.float64, np.int64)
    gradients, losses, test_losses, classes = map(np.ndarray.view, parts, kinds)

    gradients = torch.from_numpy(gradients.astype(float)).view(RUNS, -1)
    for run in range(RUNS):
        exact = torch.from_numpy(weights[run].astype(float)).requires_grad_()
        loss = task.loss(exact, *(torch.from_numpy(part[run]) for part in (images, labels)))
        (wanted,) = torch.autograd.grad(loss, exact)
        assert losses[run] == pytest.approx(loss.item(), rel=tolerance)
        error = (gradients[run] - wanted).norm() / wanted.norm()
        assert error <= tolerance
        pixels = torch.from_numpy(images[0] * task.options["scale"])[:, None]
        outputs = NETWORK(exact.detach(), pixels)
        of_run = slice(run * BATCH, (run + 1) * BATCH)
        assert (classes[of_run] == outputs.argmax(dim=1).numpy()).all()
        each = torch.nn.functional.cross_entropy(
            outputs, torch.from_numpy(labels[0]), reduction="none"
        )
        assert test_losses[of_run] == pytest.approx(each.numpy(), rel=2 * tolerance)


def _ends(dtype) -> list[int]:
    """Where the first three of the program's four outputs end, in bytes."""
    number = np.dtype(dtype).itemsize
    sizes = [RUNS * NETWORK.parameters * number, RUNS * number, RUNS * BATCH * 8]
    return np.cumsum(sizes).tolist()


@pytest.fixture
def lenet_in_01(data_folder):
    return LeNet5(dataset="mnist").load(data_folder, torch.device("cpu"), torch.float64)
