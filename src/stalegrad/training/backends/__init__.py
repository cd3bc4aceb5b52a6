"""Gradients of a bundle: interchangeable ways to compute the same numbers."""

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
        but the weights is 1 if all R runs have the same minibatch; replay passes it so where it
        can.
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


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises ConfigError for a device that is not there."""
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

    On a GPU that is `batched` if the problem has a form for many runs at once, although no GPU has
    been timed. Its step can be captured, while the reference launches some hundred kernels in every
    step; its matrix products are large, while the reference has grouped convolutions of few
    channels. The same tests hold both to autograd, but do not reach the capture itself: if that
    fails on some GPU, use `torch`.

    Raises ConfigError if a backend asked for by name cannot do the task.
    """
    from stalegrad.training.backends import batched, cpu
    from stalegrad.training.backends.cpu_synthetic import SyntheticBackend
    from stalegrad.training.backends.vmap import VmapBackend

    if name == "torch":
        return VmapBackend(task)
    on_gpu = task.train[0].device.type == "cuda"
    if name.startswith("batched") or (name == "auto" and on_gpu):
        reason = batched.reason_against(task)
        if reason is None:
            return batched.BatchedBackend(task, tf32=name == "batched_tf32")
        if name != "auto":
            raise ConfigError(f"config: 'backend' is '{name}', but {reason}; use 'auto'.")
        return VmapBackend(task)
    reason = cpu.reason_against(task)
    if reason is None:
        if task.name in cpu.NETWORKS:
            return cpu.CpuBackend(task)
        return SyntheticBackend(task, cpu.KERNELS[task.name])
    if name == "cpu":
        raise ConfigError(f"config: 'backend' is 'cpu', but {reason}; use 'auto' or 'torch'.")
    if task.train[0].device.type == "cpu" and task.name in cpu.KERNELS:
        print(f"note: the fused CPU kernel is not used, because {reason}.", file=sys.stderr)
    return VmapBackend(task)
