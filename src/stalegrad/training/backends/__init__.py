"""Gradients of a bundle: interchangeable ways to compute the same numbers."""

import fnmatch
import os
import sys
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from stalegrad.io.errors import ConfigError
from stalegrad.problems import Task
from stalegrad.training.kernels.calls import Stretch


class Backend(ABC):
    """How the gradients of R runs are computed; a backend is a subclass.

    runs_at_once: how many runs replay should step together; None for all of a bundle.
    fetches: it fetches the samples of a minibatch itself, and replay calls `gradients_of`.
    static: its shapes and kernels are the same at every step, so that the step can be captured (see
        `training.cuda_graph`).
    noise: random bytes that a sample of the task takes in training.
    """

    name: str
    runs_at_once: int | None
    fetches: bool
    static: bool
    noise: int

    @abstractmethod
    def gradients(
        self, weights: Tensor, inputs: Tensor, targets: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """weights [R, P], inputs [R, B, ...], targets [R, B] -> gradients [R, P], losses [R].

        noise: the minibatch's random bytes [R, B, N], if the task takes any. The first axis of all
        but the weights is G where G groups of R / G neighbouring runs have the same minibatch, and
        so 1 if all have; replay passes it so where it can.
        """

    def gradients_of(
        self, weights: Tensor, samples: Tensor, bounds: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same at samples [G, B] of the training set, those of group g for the runs from
        bounds[g] to bounds[g + 1]; only where `fetches`."""
        raise NotImplementedError

    @abstractmethod
    def steps_alone(self, batch_size: int) -> bool:
        """Whether it has a kernel that takes a run through many arrivals alone, with `replay`, and
        that is the fastest way for minibatches of this size (see `training.kernel_replay`)."""

    def replay(self, stretch: Stretch, dtype: torch.dtype) -> None:
        """Change what `stretch` points at, of this precision; only where `steps_alone`."""
        raise NotImplementedError

    @abstractmethod
    def metrics(self, weights: Tensor) -> dict[str, Tensor]:
        """weights [R, P] -> metrics over the test set, each [R] in float64."""


# The backend that `auto` takes on a GPU, by the card's name as PyTorch tells it: the first pattern
# that matches (as of file names) decides. `benchmarks/gpu` measures a card and prints its row, to
# be put before the last, which is not measured. Only backends that keep float32 belong here.
ON_CARD = (("*", "batched"),)


def on_card(name: str) -> str:
    """The backend that `auto` takes on the card of this name."""
    return next(backend for pattern, backend in ON_CARD if fnmatch.fnmatchcase(name, pattern))


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError for a device that is not there.

    CUDA itself is not started, so that `training.cards` may still choose the card.
    """
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asks the driver's library
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "config: 'device' is 'cuda', but PyTorch finds no CUDA device here; use 'auto' or "
            "'cpu'."
        )
    return torch.device(device)


def make_backend(name: str, task: Task) -> Backend:
    """The backend called `name` for `task`; `auto` takes the fastest that can do it.

    On a GPU that is what ON_CARD says of the card, if the problem has a form for many runs at once,
    and else `torch`.

    Raises ConfigError if a backend asked for by name cannot do the task.
    """
    from stalegrad.training.backends import batched, cpu
    from stalegrad.training.backends.cpu_synthetic import SyntheticBackend
    from stalegrad.training.backends.vmap import VmapBackend

    device = task.train[0].device
    if name == "auto" and device.type == "cuda":
        name = on_card(torch.cuda.get_device_name(device))
        if batched.reason_against(task) is not None:
            name = "torch"
    if name == "torch":
        return VmapBackend(task)
    if name.startswith("batched"):
        if (reason := batched.reason_against(task)) is not None:
            raise ConfigError(f"config: 'backend' is '{name}', but {reason}; use 'auto'.")
        return batched.BatchedBackend(task, tf32=name == "batched_tf32")
    reason = cpu.reason_against(task)
    if reason is None:
        if task.name in cpu.NETWORKS:
            return cpu.CpuBackend(task)
        return SyntheticBackend(task, cpu.KERNELS[task.name])
    if name == "cpu":
        raise ConfigError(f"config: 'backend' is 'cpu', but {reason}; use 'auto' or 'torch'.")
    if device.type == "cpu" and task.name in cpu.KERNELS:
        print(f"note: the fused CPU kernel is not used, because {reason}.", file=sys.stderr)
    return VmapBackend(task)
