"""What the larger CNN's kernel has beside LeNet-5's: dropout, and minibatches that runs share.

All that both kernels must do is in test_kernel.py.
"""

import math
import subprocess
import sys

import pytest
import torch
from networks import (
    assert_equals_autograd,
    batch_of,
    layers,
    need_compiled,
    network_of,
    noise_of,
    random_weights,
)

from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.training.backends import cpu, make_backend
from stalegrad.training.backends.vmap import VmapBackend


@pytest.fixture(scope="module", autouse=True)
def _needs_compiler():
    need_compiled("large_cnn")


@pytest.fixture(scope="module")
def task(small_task):
    return small_task(LargeCNN, normalize=True)


def test_it_is_what_auto_takes_on_a_cpu(task):
    assert isinstance(make_backend("auto", task), cpu.CpuBackend)


def test_all_dropped(task, dtype):
    """Nothing but the last biases reaches the loss; they alone have a gradient."""
    images, labels = batch_of(task, 5)
    noise = torch.zeros((1, 5, task.noise), dtype=torch.uint8)
    weights = random_weights(task, 1, dtype)
    gradients = assert_equals_autograd(task, weights, images, labels, noise)
    assert (gradients[:, :-10] == 0).all() and (gradients[:, -10:] != 0).all()


def test_bytes_around_the_cuts(task, dtype):
    """64 of 256 are dropped behind the pooling, 128 in the hidden layer, exactly."""
    images, labels = batch_of(task, 4)
    noise = torch.tensor([63, 64, 127, 128], dtype=torch.uint8)
    noise = noise.view(1, 4, 1).expand(1, 4, task.noise)
    assert_equals_autograd(task, random_weights(task, 1, dtype), images, labels, noise)


def test_without_noise_nothing_is_dropped_or_scaled(task, dtype):
    weights, (images, labels) = random_weights(task, 1, dtype), batch_of(task, 33)
    gradients, losses = cpu.CpuBackend(task).gradients(weights, images, labels)
    exact = weights[0].double().requires_grad_()
    loss = task.loss(exact, images[0], labels[0])
    (wanted,) = torch.autograd.grad(loss, exact)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert losses.item() == pytest.approx(loss.item(), rel=tolerance)
    assert (gradients[0] - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("size", [7, 33])
def test_runs_that_share_a_minibatch(task, dtype, size):
    """Three runs at one minibatch with one set of bytes get what each alone would, to the bit."""
    weights = torch.cat([random_weights(task, seed, dtype) for seed in range(3)])
    images, labels = batch_of(task, size)
    noise, backend = noise_of(task, labels), cpu.CpuBackend(task)
    together, losses = backend.gradients(weights, images, labels, noise)
    for run in range(3):
        alone = backend.gradients(weights[run : run + 1], images, labels, noise)
        assert torch.equal(together[run : run + 1], alone[0])
        assert torch.equal(losses[run : run + 1], alone[1])
    assert losses.unique().numel() == 3


def test_nothing_is_left_of_the_call_before(task):
    """Scratch space outlives a call: a smaller minibatch after a larger one, NaN in between."""
    backend, weights = cpu.CpuBackend(task), random_weights(task, 1, torch.float32)
    small, large = ((*batch_of(task, size),) for size in (3, 40))
    wanted = backend.gradients(weights, *small, noise_of(task, small[1]))
    for broken in (weights, weights * math.nan):
        backend.gradients(broken, *large, noise_of(task, large[1]))
        backend.metrics(broken)
        again = backend.gradients(weights, *small, noise_of(task, small[1]))
        assert all(torch.equal(a, b) for a, b in zip(wanted, again, strict=True))


@pytest.mark.parametrize("layer", ["conv1.w", "conv2.b", "fc1.w"])
def test_nan_goes_the_way_it_goes_in_pytorch(task, dtype, layer):
    """Past the pooling, where it is no maximum to a comparison, and past a dropout that drops."""
    weights = random_weights(task, 2, dtype)
    network = network_of(task)
    weights[0, sum(network.sizes[: layers(network).index(layer)])] = math.nan
    images, labels = batch_of(task, 2)
    for byte in (0, 255):
        noise = torch.full((1, 2, task.noise), byte, dtype=torch.uint8)
        _, losses = cpu.CpuBackend(task).gradients(weights, images, labels, noise)
        _, wanted = VmapBackend(task).gradients(weights, images, labels, noise)
        assert wanted.isnan().all() and losses.isnan().all()


@pytest.mark.parametrize("place", [(26, 26), (26, 25), (25, 26)])
def test_nan_wins_its_pooling_window(small_task, dtype, place):
    """A unit overflows, near the corner, where the only window that sees it does not see it first:
    zero times infinity is NaN at one or two of its places, and all else is finite."""
    task = small_task(LargeCNN, normalize=False)
    weights = random_weights(task, 3, dtype)
    conv1, bias, conv2 = weights[0].split(network_of(task).sizes)[:3]
    conv1[:9], bias[0] = 0, torch.finfo(dtype).max
    conv1[4] = torch.finfo(dtype).max  # of the middle pixel
    conv2.view(64, 32, 9)[:, 0] = 0
    images, labels = torch.zeros((1, 1, 28, 28), dtype=torch.uint8), torch.zeros((1, 1), dtype=int)
    noise = torch.full((1, 1, task.noise), 255, dtype=torch.uint8)
    assert cpu.CpuBackend(task).gradients(weights, images, labels, noise)[1].isfinite().all()
    images[0, 0, *place] = 255
    assert cpu.CpuBackend(task).gradients(weights, images, labels, noise)[1].isnan().all()


OUT_OF_MEMORY = """
import resource, sys, torch
from stalegrad.training.kernels.calls import Kernel
kernel = Kernel("large_cnn")
weights, images = torch.zeros((1, 1_199_882)), torch.zeros((1, 28, 28), dtype=torch.uint8)
one = torch.zeros((1, 1), dtype=torch.int64)
samples = {"inputs": images, "targets": one[0], "dimension": 1_199_882, "width": 1_199_882,
           "options": torch.tensor([1.0, 0.0], dtype=torch.float64)}
out = torch.empty_like(weights)
torch.empty_like = lambda like: out  # nothing but the kernel needs memory
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 20), resource.RLIM_INFINITY))
try:
    kernel.gradients(weights, one, torch.tensor([0, 1]), samples)
except MemoryError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(kernel.gradients(weights, one, torch.tensor([0, 1]), samples)[1].item())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_no_memory_is_said_and_passes():
    """And a later call, when there is memory again, works."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY], capture_output=True, text=True, check=True
    )
    said, loss = done.stdout.splitlines()
    assert said == "The kernel large_cnn could not allocate its scratch space."
    assert float(loss) == pytest.approx(math.log(10))
