"""Stochastic gradient descent with momentum and weight decay, as `torch.optim.SGD`."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from stalegrad.rules import KernelForm, Numbers, Rule, RuleState
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class SGD(Rule):
    """v <- momentum v + g;  w <- w - lr v  (heavy-ball)  or  w - lr (g + momentum v)  (Nesterov).

    Sutskever et al. 2013 as PyTorch writes it: the learning rate multiplies the velocity, and
    Nesterov's look-ahead is folded into the step.

    weight_decay: this much of the weights is added to g first, which is the gradient of L2,
        weight_decay |w|^2 / 2. They are the server's at the update, not those that g was computed
        at, as with PyTorch's optimizer on a server.
    """

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 0.0

    def numbers(self) -> dict[str, float | bool]:
        return super().numbers() | {"plain": self.momentum == 0, "decays": self.weight_decay > 0}

    kernel_steps: ClassVar[str] = "18deb92d02240bb2"

    def kernel_form(self, state: RuleState) -> KernelForm:
        velocity = None if self.momentum == 0 else state["velocity"]
        return {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "weight_decay": self.weight_decay,
            "velocity": velocity,
        }

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return {"velocity": weights.new_zeros(weights.shape)}

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        if numbers["decays"]:
            gradient = gradient.addcmul(weights, numbers["weight_decay"])
        if numbers["plain"]:
            return weights.addcmul(gradient, numbers["lr"], value=-1), state
        momentum = numbers["momentum"]
        velocity = gradient.addcmul(state["velocity"], momentum)
        step = gradient.addcmul(velocity, momentum) if numbers["nesterov"] else velocity
        return weights.addcmul(step, numbers["lr"], value=-1), {"velocity": velocity}
