"""Problems: what is minimised. One module a problem.

A module defines a `spec` whose fields are configuration keys; it is read without torch. Its `load`
gives a `Task`: the data on a device and the functions of flat weights that replay needs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stalegrad.io.errors import ConfigError
from stalegrad.specs import name_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Task:
    """A problem ready to be trained.

    name: the problem's, by which a backend knows what it can do.
    parameters: length P of the flat weights.
    initial_weights: seed -> float64 [P], the same on every device.
    loss: (weights [P], inputs [B, ...], targets [B]) -> mean loss; made of torch functions that
        `torch.func` can differentiate and map over runs.
    metrics: (weights [P], inputs [N, ...], targets [N]) -> what is recorded of the test set each
        epoch, as means over its samples in float64.
    train, test: (inputs, targets) on the device; images as uint8.
    options: what a fused kernel must know beside the data (pixel scale and shift), in
        the order in which it takes them.
    metrics_of: (weights [..., P], losses [..., N], predicted classes [..., N], labels [N]) ->
        `metrics`, for a backend that computes losses and classes itself; None where targets are not
        labels.
    gradients: (weights [..., R, P], inputs [..., B, ...], targets [..., B]) -> gradients
        [..., R, P] and losses [..., R] of `loss`, where it has a closed form that is cheaper than
        differentiation: R runs that share one minibatch, for each of the leading axes.
    noise: random bytes N that a sample takes in training (dropout). `loss` then takes them, uint8
        [B, N], as a fourth argument; without them it is that of evaluation.
    test_chunk: test samples that are evaluated at once, which bounds the memory of activations.
    activations: numbers that a sample becomes on its way to the loss.
    shapes: of the layers' weights, in the order in which they lie in the flat weights; by default
        the weights are one vector.
    together: the same for many runs at once, in products of large matrices; None where there is no
        such form.
    """

    name: str
    parameters: int
    initial_weights: Callable[[int], "Tensor"]
    loss: Callable[..., "Tensor"]
    metrics: Callable[["Tensor", "Tensor", "Tensor"], dict[str, "Tensor"]]
    train: tuple["Tensor", "Tensor"]
    test: tuple["Tensor", "Tensor"]
    options: Mapping[str, float]
    metrics_of: Callable[..., dict[str, "Tensor"]] | None = None
    gradients: Callable[["Tensor", "Tensor", "Tensor"], tuple["Tensor", "Tensor"]] | None = None
    noise: int = 0
    test_chunk: int = 2_000
    activations: int = 0
    together: "Together | None" = None
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def layers(self) -> tuple[tuple[int, ...], ...]:
        """`shapes`, where there are any, else the one of the flat weights."""
        return self.shapes or ((self.parameters,),)


@dataclass(frozen=True)
class Together:
    """What a GPU computes of R runs at weights [R, P]: in few large steps, not R small ones.

    losses: (weights [R, P], inputs [R, B, ...], targets [R, B]) -> mean losses [R], without noise;
        the first axis of inputs and targets is G where G groups of R / G neighbouring runs have
        the same minibatch.
    metrics: (weights [R, P], inputs [N, ...], targets [N]) -> as `Task.metrics`, each [R].
    """

    losses: Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]
    metrics: Callable[["Tensor", "Tensor", "Tensor"], dict[str, "Tensor"]]


class Problem(Protocol):
    """What a module of this package defines: a `spec` with these methods."""

    def datasets(self) -> tuple[str, ...]:
        """Names of the data sets it reads, as `io.datasets` knows them."""

    def samples(self) -> int:
        """Rows of the training set, known without loading them."""

    def draws(self) -> int:
        """How many samples drawn count as an epoch where minibatches are independent."""

    def parameters(self) -> int:
        """Length of the flat weights."""

    # Where targets are labels, `classes(self) -> int`, how many there are. Where samples go through
    # a network, `activations(self) -> int` as in the task, and `test_samples` and `test_chunk`: a
    # job then asks for the memory of its activations.

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        """The task on `device`. Raises DataError where the data are not there."""


def load_task(
    problem: Problem, data_folder: Path, device: "torch.device", dtype: "torch.dtype"
) -> Task:
    """`problem.load`, held to what the problem says of itself without loading.

    Raises ConfigError where parameters, samples, classes or activations are others: memory,
    minibatches and partitions were reckoned with what it says.
    """
    # By its name a backend knows what it can do: a kernel of the class that a subclass is made of
    # may not be the subclass's.
    task = replace(problem.load(data_folder, device, dtype), name=name_of(problem))
    targets = task.train[1]
    wrong = []
    if (laid_out := sum(map(math.prod, task.layers))) != task.parameters:
        wrong.append(f"the shapes of its task hold {laid_out} weights, not {task.parameters}")
    if task.parameters != problem.parameters():
        wrong.append(f"parameters() is {problem.parameters()}, its task has {task.parameters}")
    if len(targets) != problem.samples():
        wrong.append(f"samples() is {problem.samples()}, its task has {len(targets)}")
    if hasattr(problem, "classes"):
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= problem.classes():
            wrong.append(f"classes() is {problem.classes()}, its task has labels {low} to {high}")
    if hasattr(problem, "activations") and task.activations != problem.activations():
        wrong.append(f"activations() is {problem.activations()}, its task has {task.activations}")
    if wrong:
        raise ConfigError(
            f"problem '{name_of(problem)}': {'; '.join(wrong)}. Correct the problem "
            f"({type(problem).__module__}), so that both agree."
        )
    return task


# Weights that a CPU steps at once: one run of anything larger, so that its numbers stay in cache.
_STEPPED_AT_ONCE = 1 << 16


def runs_in_step(parameters: int) -> int:
    """How many runs a CPU should step together.

    Of a large problem one: nothing is gained over running them side by side on threads. Of a small
    one many: a step takes the same time for one run as for hundreds.
    """
    return max(1, _STEPPED_AT_ONCE // parameters)
