"""The kernels built for other processors than this one, and run: under emulation if need be.

Lanes, registers and all blocking follow from the processor that is compiled for: a build for one is
another program. Each is held to autograd in float64, as the native one is.
"""

import functools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import packages
import pytest
import torch
from helpers import assert_close
from networks import batch_of, network_of, noise_of, random_weights

from stalegrad.clusters.heterogeneous import Heterogeneous
from stalegrad.data_order import IndependentOrder
from stalegrad.problems.chain import Chain
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.problems.linear_regression import LinearRegression
from stalegrad.rules.sgd import SGD
from stalegrad.training import kernels, replay
from stalegrad.training.backends import cpu
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.replay import Run

KERNELS = Path(kernels.__file__).parent
DRIVERS = Path(__file__).parent
RUNS, BATCH = 2, 35  # not a whole number of tiles of sixteen or thirty-two


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
    "AVX2": Build("-march=x86-64-v3", instructions="avx2"),
    "SSE2": Build("-march=x86-64-v2", instructions="sse4_2"),
    "64-bit Arm": Build("-march=armv8-a", "aarch64-linux-gnu-g++", ("qemu-aarch64",), ARM),
}


@pytest.fixture(scope="module", params=BUILDS)
def compiler(request, tmp_path_factory):
    """(kernel, driver) -> the command that runs the kernel's driver in one build."""
    build = BUILDS[request.param]
    packages.need([build.compiler, *build.emulator], *build.packages)
    if build.instructions and build.instructions not in Path("/proc/cpuinfo").read_text().split():
        pytest.skip(f"this processor has no {build.instructions}")

    @functools.cache
    def program(kernel: str, driver: str) -> list[str]:
        made = str(tmp_path_factory.mktemp("build") / "program")
        sources = [str(KERNELS / f"{kernel}.cpp"), str(DRIVERS / driver)]
        flags = [*kernels.FLAGS, build.flag]
        flags += [f"-DKERNEL={kernel}", f"-I{KERNELS}", "-static"]
        subprocess.run([build.compiler, *flags, *sources, "-o", made], check=True)
        return [*build.emulator, made]

    return program


def outcome(program: list[str], dtype, case: Sequence[np.ndarray]) -> bytes:
    """What the program makes of a case."""
    done = subprocess.run(
        [*program, np.dtype(dtype).name],
        input=b"".join(part.tobytes() for part in case),
        capture_output=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("problem", [LeNet5, LargeCNN])
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_build_of_a_network_equals_autograd(compiler, small_task, problem, dtype, tolerance):
    task = small_task(problem, normalize=True)
    images, labels = batch_of(task, BATCH, RUNS, seed=1)
    noise = noise_of(task, labels)
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    weights = torch.cat([random_weights(task, seed, kind) for seed in range(RUNS)])

    sizes = np.array([RUNS, BATCH, task.parameters, task.noise])
    batch = [part.numpy() for part in (images, labels, noise) if part is not None]
    case = [sizes, np.array(list(task.options.values())), weights.numpy(), *batch]
    found = outcome(compiler(task.name, "network_driver.cpp"), dtype, case)
    parts = np.split(np.frombuffer(found, np.uint8), _ends(task, dtype))
    kinds = (dtype, dtype, np.float64, np.int64)
    gradients, losses, test_losses, classes = map(np.ndarray.view, parts, kinds)

    gradients = torch.from_numpy(gradients.astype(float)).view(RUNS, -1)
    for run in range(RUNS):
        exact = weights[run].double().requires_grad_()
        minibatch = (None if part is None else part[run] for part in (images, labels, noise))
        loss = task.loss(exact, *minibatch)
        (wanted,) = torch.autograd.grad(loss, exact)
        assert losses[run] == pytest.approx(loss.item(), rel=tolerance)
        error = (gradients[run] - wanted).norm() / wanted.norm()
        assert error <= tolerance
        pixels = images[0].double() * task.options["scale"] + task.options["shift"]
        outputs = network_of(task)(exact.detach(), pixels[:, None])
        of_run = slice(run * BATCH, (run + 1) * BATCH)
        assert (classes[of_run] == outputs.argmax(dim=1).numpy()).all()
        each = torch.nn.functional.cross_entropy(outputs, labels[0], reduction="none")
        assert test_losses[of_run] == pytest.approx(each.numpy(), rel=2 * tolerance)


def _ends(task, dtype) -> list[int]:
    """Where the first three of the program's four outputs end, in bytes."""
    number = np.dtype(dtype).itemsize
    sizes = [RUNS * task.parameters * number, RUNS * number, RUNS * BATCH * 8]
    return np.cumsum(sizes).tolist()


PROBLEMS = {
    "chain": Chain(dimension=37, noise=0.5, noise_samples=30),
    "chain, bounded": Chain(dimension=37, noise=0.5, noise_samples=30, penalty="geman_mcclure"),
    "linear model": LinearRegression(dimension=10, train_samples=30),
}
STEPS = 25


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_build_replays_as_the_reference_does(compiler, problem, dtype, tolerance):
    task = PROBLEMS[problem].load(Path(), torch.device("cpu"), torch.float64)
    reference, kernel = VmapBackend(task), cpu.KERNELS[task.name]
    order = IndependentOrder(30, STEPS * 3, 3, seed=1)
    schedule = Heterogeneous(workers=4, slowest=5.0).simulate(order.workload(1), None)
    runs = [Run.plan(SGD(lr=lr), schedule, order, 1) for lr in (0.03, 0.1)]
    plan, rows = runs[0].snapshots, order.indices(schedule.stream, schedule.batch)
    start = np.random.default_rng(1).standard_normal((len(runs), task.parameters)).astype(dtype)

    inputs, targets = task.train
    width = -(-task.parameters // 16) * 16
    inputs = np.pad(inputs.numpy(), [(0, 0), (0, width - task.parameters)]).astype(dtype)
    targets = targets.numpy().astype(dtype) if kernel == "linear_model" else targets.numpy()
    options = np.array([*task.options.values(), 0.0])
    sizes = [3, task.parameters, width, 30, targets.itemsize, len(options), len(runs), STEPS]
    case = [np.array([*sizes, plan.slots]), options, inputs, targets, rows, plan.read, plan.write]
    case += [np.array([run.rule.lr for run in runs], dtype), start]
    found = outcome(compiler(kernel, "replay_driver.cpp"), dtype, case)

    number, size = np.dtype(dtype).itemsize, len(runs) * task.parameters
    ends = np.cumsum([size * number, len(runs) * number, size * number])
    parts = np.split(np.frombuffer(found, np.uint8), ends)
    kinds = (dtype, dtype, dtype, np.float64)
    gradients, losses, weights, sums = (p.view(k) for p, k in zip(parts, kinds, strict=True))
    exact = torch.from_numpy(start.astype(float))
    minibatch = (part[torch.from_numpy(rows[:1])] for part in task.train)
    wanted, wanted_losses = reference.gradients(exact, *minibatch)
    assert_close(torch.from_numpy(gradients.astype(float)).view(wanted.shape), wanted, tolerance)
    assert losses == pytest.approx(wanted_losses.numpy(), rel=10 * tolerance)
    state = replace(replay.start(task, runs, torch.float64), weights=exact.clone())
    state, means = replay.advance_in_steps(task, runs, state, reference)
    assert_close(
        torch.from_numpy(weights.astype(float)).view(state.weights.shape), state.weights, tolerance
    )
    assert sums / STEPS == pytest.approx(means.numpy(), rel=10 * tolerance)
