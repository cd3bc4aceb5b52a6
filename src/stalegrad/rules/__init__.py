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

State = dict[str, "Tensor"]
# Numbers become columns [runs, 1] of the weights' precision; switches stay plain booleans.
Numbers = Mapping[str, "Tensor | bool"]


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
        """What `correct` and `update` use, by name.

        Fields of any other type than these are for `step_factors` and the replay loop.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, float | bool)}

    def step_factors(self, schedule: Schedule) -> np.ndarray | None:
        """What to multiply `lr` by at each arrival [A], or None for 1 throughout.

        Update u of the first `warmup_epochs` epochs uses (u + 1) / (updates in them).
        """
        if not self.warmup_epochs:
            return None
        per_epoch = schedule.epoch_ends[-1] / len(schedule.epoch_ends)
        warmup = self.warmup_epochs * per_epoch / schedule.arrivals_per_update
        return np.minimum(1.0, (schedule.version + 1) / warmup)

    @staticmethod
    def init(weights: "Tensor") -> State:
        """The state before the first update; tensors whose first axis is the run."""
        return {}

    @staticmethod
    def correct(
        gradient: "Tensor",
        read_weights: "Tensor",
        weights: "Tensor",
        state: State,
        numbers: Numbers,
    ) -> tuple["Tensor", State]:
        """What the server makes of a gradient that arrives; delay compensation goes here.

        read_weights: those the gradient was computed at; weights: the server's now.
        """
        return gradient, state

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: State, numbers: Numbers
    ) -> tuple["Tensor", State]:
        """New weights and state from the (mean) gradient of one update; changes no argument."""
        raise NotImplementedError
