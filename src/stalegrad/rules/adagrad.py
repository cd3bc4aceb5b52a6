"""Adagrad (Duchi et al. 2011; of Downpour SGD by Dean et al. 2012), as `torch.optim.Adagrad`."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stalegrad.rules import Numbers, Rule, RuleState
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class Adagrad(Rule):
    """s <- s + g g;  w <- w - lr g / (sqrt(s) + epsilon), element by element.

    epsilon: added to the root of the sum of squares.
    """

    epsilon: Annotated[float, Field(gt=0)] = 1e-10

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return {"sum_square": weights.new_zeros(weights.shape)}

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        square = state["sum_square"].addcmul(gradient, gradient)
        scale = square.sqrt().add_(numbers["epsilon"])
        return weights.addcdiv(gradient * numbers["lr"], scale, value=-1), {"sum_square": square}
