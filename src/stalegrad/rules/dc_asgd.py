"""SGD with delay compensation: DC-ASGD (Zheng et al. 2017; Algorithm 1 of Lamour et al. 2023)."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from stalegrad.rules import KernelForm, Numbers, RuleState
from stalegrad.rules.sgd import SGD
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class DelayCompensation(SGD):
    """The server turns g into  g + lambda g * g * (w - w_bak)  before the step of SGD.

    w_bak are the weights the worker had read, w those of the server when its gradient arrives, and
    g * g, element by element, stands for the diagonal of the Hessian.

    compensation: lambda, or lambda_0 where adaptive.
    adaptive: lambda_0 / sqrt(mean_square + epsilon) in the place of lambda, with mean_square <-
        decay mean_square + (1 - decay) g * g at every arrival (DC-ASGD-a, Zheng et al. 2017).
    as_published: the backup of the experiments of Lamour et al. 2023, which was a reference to the
        live weights and no copy: w_bak is w, and the correction nothing.
    """

    compensation: Annotated[float, Field(ge=0)]
    adaptive: bool = False
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-7
    as_published: bool = False

    kernel_steps: ClassVar[str] = "bd623d4610a03fb4"

    def kernel_form(self, state: RuleState) -> KernelForm:
        return {
            **super().kernel_form(state),
            "compensates": True,
            "compensation": self.compensation,
            "adaptive": self.adaptive,
            "decay": self.decay,
            "epsilon": self.epsilon,
            "aliased": self.as_published,
            "mean_square": state["mean_square"],
        }

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return SGD.init(weights) | {"mean_square": weights.new_zeros(weights.shape)}

    @staticmethod
    def correct(
        gradient: "Tensor",
        read_weights: "Tensor",
        weights: "Tensor",
        state: RuleState,
        numbers: Numbers,
    ) -> tuple["Tensor", RuleState]:
        square = gradient * gradient
        strength = numbers["compensation"]
        if numbers["adaptive"]:
            decay = numbers["decay"]
            mean_square = (state["mean_square"] * decay).addcmul_(square, 1 - decay)
            state = {**state, "mean_square": mean_square}
            strength = strength / (mean_square + numbers["epsilon"]).sqrt()
        backup = weights if numbers["as_published"] else read_weights
        return gradient.addcmul(square * strength, weights - backup), state

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        new_weights, new_state = SGD.update(gradient, weights, state, numbers)
        return new_weights, {**state, **new_state}
