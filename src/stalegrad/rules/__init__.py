"""Update rules: one module a rule, each a frozen set of numbers with a pure `init` and `update`.

A rule sees flat weights stacked `[runs, parameters]` and its own numbers as columns `[runs, 1]`, so
that one call serves a whole bundle in which every run has its own. It is written with tensor
methods alone and imports no torch, so that configuration is read without it.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stalegrad.schedule import Schedule
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor

RuleState = dict[str, "Tensor"]
# Numbers become columns [runs, 1] of the weights' precision; switches stay plain booleans.
Numbers = Mapping[str, "Tensor | bool"]
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
        that change none of STEPS: see `has_kernel_form`.
        """
        raise NotImplementedError

    @classmethod
    def has_kernel_form(cls) -> bool:
        """Whether `kernel_form` says what this class computes."""
        declares = next(each for each in cls.__mro__ if "kernel_form" in vars(each))
        return declares is not Rule and cls.steps_like(declares)

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
