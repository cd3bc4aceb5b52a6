"""An update rule in one file: steps by the sign of the gradient's running mean (signSGD)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stalegrad.rules import Numbers, Rule, RuleState
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class SignSGD(Rule):
    """m <- decay m + (1 - decay) g;  w <- w - lr sign(m)  (Bernstein et al. 2018)."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return {"mean": weights.new_zeros(weights.shape)}

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        mean = state["mean"] * numbers["decay"] + gradient * (1 - numbers["decay"])
        return weights - numbers["lr"] * mean.sign(), {"mean": mean}
