"""Nesterov momentum that is updated every N gradients (Liu et al. 2024, Algorithm 3)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationInfo, field_validator

from stalegrad.rules import Numbers, Rule, RuleState
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class DelayedNesterov(Rule):
    """Of 'Asynchronous Local-SGD Training for Language Modeling', with N = period, c = activation:

        s <- s + g;  w <- w - lr (g / N + c momentum v),  but at every N-th gradient
        s <- s + g;  v <- momentum v + s / N;  s <- 0;
        w <- w - lr (g / N + (1 - c N + c) momentum v)

    N gradients together make the step of Nesterov's momentum (see `sgd`) from their mean: N = 1 is
    `sgd` with `nesterov`. c spreads the momentum over them; at c = 0 all of it is in the N-th step.
    The formulas are those of two public implementations, of HALoS and (at c = 0) of torchft.

    period: gradients between two updates of the momentum. momentum: its decay. activation: share of
        the momentum in each of the other steps, up to 1 / period.
    """

    period: Annotated[int, Field(ge=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    activation: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("activation")
    @classmethod
    def _must_be_a_share(cls, value: float, info: ValidationInfo) -> float:
        period = info.data.get("period")
        if period is not None and value * period > 1:
            raise ValueError(f"it can be at most 1 / period, {1 / period:g}")
        return value

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return {
            "velocity": weights.new_zeros(weights.shape),
            "sum": weights.new_zeros(weights.shape),
            "summed": weights.new_zeros((weights.shape[0], 1)),
        }

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        period, activation = numbers["period"], numbers["activation"]
        total, summed = state["sum"] + gradient, state["summed"] + 1
        due = summed >= period
        velocity = (total / period).addcmul(state["velocity"], numbers["momentum"])
        velocity = velocity.where(due, state["velocity"])
        share = (1 - activation * period + activation).where(due, activation)
        step = (gradient / period).addcmul(velocity, share * numbers["momentum"])
        new_state = {
            "velocity": velocity,
            "sum": total.masked_fill(due, 0),
            "summed": summed.masked_fill(due, 0),
        }
        return weights.addcmul(step, numbers["lr"], value=-1), new_state
