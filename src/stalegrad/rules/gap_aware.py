"""SGD with gap-aware gradients (Barkai, Hakimi & Schuster 2020)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stalegrad.rules import Numbers, RuleState
from stalegrad.rules.sgd import SGD
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor


@spec
class GapAware(SGD):
    """The server divides g, element by element, by the gap before the step of SGD:

        g <- g / G,  G = 1 + |w - w_read| / C,  C = lr (sqrt(mean of v v) + epsilon)

    w_read are the weights the worker had read, w those of the server when its gradient arrives.
    C is the usual length of a step of each parameter. v is the velocity of each update so far, or
    where there is no momentum its gradient; the mean gives an update that lies k updates back a
    weight proportional to decay^k, and the weights sum to 1. lr is the learning rate now, with
    warm-up. A parameter that has moved by n such steps since it was read has the gap 1 + n, and a
    fresh gradient is left as it is.

    This is the parameter-wise gap as Hakimi and Schuster compute it in FTPipe (Eliad et al. 2021).
    There, the mean begins one update earlier, with a velocity of 0.

    decay: of the mean of v v. epsilon: added to its root.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=0)] = 1e-8

    def numbers(self) -> dict[str, float | bool]:
        # Rounded once, from float64: in float32 the subtraction would lose digits.
        return super().numbers() | {"rest": 1 - self.decay}

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return SGD.init(weights) | {
            "mean_square": weights.new_zeros(weights.shape),
            # decay^t, what the weights of the mean lack of 1; per run, as in `Adam`.
            "lacking": weights.new_ones((weights.shape[0], 1)).double(),
        }

    @staticmethod
    def correct(
        gradient: "Tensor",
        read_weights: "Tensor",
        weights: "Tensor",
        state: RuleState,
        numbers: Numbers,
    ) -> tuple["Tensor", RuleState]:
        # Before the first update nothing has been summed, and there is no gap to divide.
        summed = (1 - state["lacking"]).clamp(min=1e-12).to(weights)
        root = (state["mean_square"] / summed).sqrt()
        step = (root + numbers["epsilon"]) * numbers["lr"]
        return gradient / ((weights - read_weights).abs() / step + 1), state

    @staticmethod
    def update(
        gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers
    ) -> tuple["Tensor", RuleState]:
        # Weight decay is part of the step that is averaged.
        if numbers["decays"]:
            gradient = gradient.addcmul(weights, numbers["weight_decay"])
        new_weights, stepped = SGD.update(gradient, weights, state, {**numbers, "decays": False})
        stepped_by = gradient if numbers["plain"] else stepped["velocity"]
        square = state["mean_square"] * numbers["decay"]
        square = square.addcmul(stepped_by * stepped_by, numbers["rest"])
        lacking = state["lacking"] - state["lacking"] * numbers["rest"]
        return new_weights, {**state, **stepped, "mean_square": square, "lacking": lacking}
