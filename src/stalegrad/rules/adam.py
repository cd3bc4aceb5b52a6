"""Adam (Kingma & Ba 2014, Algorithm 1), as `torch.optim.Adam`."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from stalegrad.rules import KernelForm, Numbers, Rule, RuleState
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class Adam(Rule):
    """Per-parameter steps from running means of the gradient and of its square.

    beta1, beta2: decay of the two means; epsilon: added to the root of the second.
    """

    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8

    def numbers(self) -> dict[str, float | bool]:
        # 1 - beta is rounded once, from float64: in float32 the subtraction would lose four digits.
        rest = {"rest1": 1 - self.beta1, "rest2": 1 - self.beta2}
        return super().numbers() | rest

    kernel_steps: ClassVar[str] = "69a3064e45836ebe"

    def kernel_form(self, state: RuleState) -> KernelForm:
        numbers = self.numbers()
        return {name: numbers[name] for name in ("beta1", "beta2", "rest1", "rest2", "epsilon")} | {
            "adam": True,
            "velocity": state["mean"],
            "mean_square": state["square"],
            "decay1": state["decay1"],
            "decay2": state["decay2"],
        }

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return {
            "mean": weights.new_zeros(weights.shape),
            "square": weights.new_zeros(weights.shape),
            # beta^t, kept per run because runs may have made different numbers of updates.
            "decay1": weights.new_ones((weights.shape[0], 1)).double(),
            "decay2": weights.new_ones((weights.shape[0], 1)).double(),
        }

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        rest1, rest2 = numbers["rest1"], numbers["rest2"]
        mean = (state["mean"] * numbers["beta1"]).addcmul_(gradient, rest1)
        square = (state["square"] * numbers["beta2"]).addcmul_(gradient * gradient, rest2)
        decay1 = state["decay1"] - state["decay1"] * rest1
        decay2 = state["decay2"] - state["decay2"] * rest2
        # The step is rounded once from float64, like the bias corrections of torch.optim.Adam.
        step = (numbers["lr"] / (1 - decay1)).to(weights)
        root = (1 - decay2).sqrt().to(weights)
        scale = (square.sqrt() / root).add_(numbers["epsilon"])
        new_state = {"mean": mean, "square": square, "decay1": decay1, "decay2": decay2}
        return weights.addcdiv(mean * step, scale, value=-1), new_state
