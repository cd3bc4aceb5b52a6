"""Update rules: one module a rule, each a frozen set of numbers with a pure `init` and `update`.

A rule sees flat weights stacked `[runs, parameters]` and its own numbers as columns `[runs, 1]`, so
that one call serves a whole bundle in which every run has its own. It is written with tensor
methods alone and imports no torch, so that configuration is read without it.

A rule that treats a layer as a matrix asks for the shapes of the layers: see `steps_on`.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from stalegrad.schedule import Schedule
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor

RuleState = dict[str, "Tensor"]
# Shapes of the layers' weights, in the order in which they lie in the flat weights.
Shapes = tuple[tuple[int, ...], ...]
# Numbers become columns [runs, 1] of the weights' precision; switches stay plain booleans. A rule
# knows which of its fields are which.
Numbers = Mapping[str, Any]
# The rule as a kernel takes it: fields of `training.kernels.calls.Stretch`.
KernelForm = Mapping[str, "float | Tensor | None"]
# What a step is made of beside the learning rate of each arrival, which is data to a kernel.
STEPS = ("numbers", "init", "correct", "update")


@spec
class Rule:
    """What every update rule has.

    lr: learning rate.
    warmup_epochs: epochs over which the learning rate grows linearly to `lr` (Goyal et al. 2017).
    clip_norm: gradients longer than this are scaled down to it; null leaves them.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # for type checkers

    # Beside a `kernel_form`: `steps_digest` of the steps that the kernel computes.
    kernel_steps: ClassVar[str] = ""

    lr: Annotated[float, Field(gt=0)]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None

    def numbers(self) -> dict[str, float | bool]:
        """What `correct` and `update` use, by name: the fields that are numbers or switches.

        Others (text, null, lists) are for `step_factors` and the replay loop.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v for k, v in fields.items() if isinstance(v, float | int)}

    def step_factors(self, schedule: Schedule) -> np.ndarray | None:
        """What to multiply `lr` by at each arrival [A], or None for 1 throughout.

        Update u of the first `warmup_epochs` epochs uses (u + 1) / (updates in them).
        """
        if not self.warmup_epochs:
            return None
        per_epoch = schedule.epoch_ends[-1] / len(schedule.epoch_ends)
        warmup = self.warmup_epochs * per_epoch / schedule.arrivals_per_update
        return np.minimum(1.0, (schedule.version + 1) / warmup)

    def kernel_form(self, state: RuleState) -> KernelForm:
        """This rule as the kernels know it, with the tensors of its state that they change.

        Only a rule whose steps kernels/replay.h has (SGD, DC-ASGD, Adam) defines it; all others are
        stepped by `training.replay`. It holds for the class that defines it and for subclasses
        that change none of STEPS, as long as these are what `kernel_steps` says: see
        `has_kernel_form`.
        """
        raise NotImplementedError

    @classmethod
    def has_kernel_form(cls) -> bool:
        """Whether `kernel_form` says what this class computes.

        It does not where a step has been edited since the kernel was written, which a note says.
        """
        declares = next(each for each in cls.__mro__ if "kernel_form" in vars(each))
        if declares is Rule or not cls.steps_like(declares):
            return False
        return _steps_are(declares, vars(declares).get("kernel_steps", ""))

    @classmethod
    def steps_like(cls, base: type) -> bool:
        """Whether this is `base`, or a subclass that changes none of STEPS."""
        if not issubclass(cls, base):
            return False
        newer = cls.__mro__[: cls.__mro__.index(base)]
        return not any(step in vars(each) for each in newer for step in STEPS)

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        """The state before the first update; tensors whose first axis is the run."""
        return {}

    @staticmethod
    def correct(
        gradient: "Tensor",
        read_weights: "Tensor",
        weights: "Tensor",
        state: RuleState,
        numbers: Numbers,
    ) -> tuple["Tensor", RuleState]:
        """What the server makes of a gradient that arrives; delay compensation goes here.

        read_weights: those the gradient was computed at; weights: the server's now.
        """
        return gradient, state

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        """New weights and state from the (mean) gradient of one update; changes no argument."""
        raise NotImplementedError


def steps_digest(rule: type[Rule]) -> str:
    """Changes with what the STEPS of a rule compute: their code less comments and docstrings.

    Raises OSError where the source cannot be read.
    """
    code = []
    for step in STEPS:
        tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(rule, step))))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
                del node.body[0]
        code.append(ast.unparse(tree))
    return hashlib.sha256("".join(code).encode()).hexdigest()[:16]


@functools.cache
def _steps_are(rule: type[Rule], digest: str) -> bool:
    """Whether a rule computes the steps of this digest. Says so where it does not, once."""
    try:
        found = steps_digest(rule)
    except OSError:
        return False
    if found != digest:
        print(
            f"note: the steps of the rule {rule.__name__} are not those that its kernel computes. "
            f"PyTorch takes them, which is slower. Once the kernel computes them, set "
            f"'kernel_steps' in {inspect.getsourcefile(rule)} to '{found}'.",
            file=sys.stderr,
        )
    return found == digest


@dataclasses.dataclass(frozen=True)
class Steps:
    """`init`, `correct` and `update` of a rule, as replay calls them."""

    init: Callable[["Tensor"], RuleState]
    correct: Callable[..., tuple["Tensor", RuleState]]
    update: Callable[..., tuple["Tensor", RuleState]]


def steps_on(rule: type[Rule], shapes: Shapes) -> Steps:
    """The steps of a rule on weights whose layers have these shapes.

    Any of `init`, `correct` and `update` that has a parameter `shapes` is given them by that name.
    """

    def bound(step: Callable[..., Any]) -> Callable[..., Any]:
        wants = "shapes" in inspect.signature(step).parameters
        return functools.partial(step, shapes=shapes) if wants else step

    return Steps(bound(rule.init), bound(rule.correct), bound(rule.update))


def split_layers(flat: "Tensor", shapes: Shapes) -> list["Tensor"]:
    """The layers [runs, *shape] of flat weights [runs, parameters]; views, in their order."""
    parts = flat.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.view(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True)]


def join_layers(layers: Sequence["Tensor"]) -> "Tensor":
    """Flat weights [runs, parameters] of layers [runs, *shape]; the inverse of `split_layers`."""
    import torch

    return torch.cat([layer.reshape(len(layer), -1) for layer in layers], dim=1)
