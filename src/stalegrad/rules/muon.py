"""Muon (Jordan et al. 2024): momentum made orthogonal, layer by layer, as `torch.optim.Muon`."""

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stalegrad.rules import Numbers, Rule, RuleState, Shapes, join_layers, split_layers
from stalegrad.rules.adam import Adam
from stalegrad.specs import spec

if TYPE_CHECKING:
    from torch import Tensor

# Of Newton and Schulz's iteration, as published: three coefficients, steps, and the least norm that
# a matrix is divided by.
_A, _B, _C, _STEPS, _LEAST = 3.4445, -4.7750, 2.0315, 5, 1e-7


@spec
class Muon(Rule):
    """Hidden layers take a step of momentum that is brought near an orthogonal matrix:

        v <- momentum v + (1 - momentum) g;  o = v, or with `nesterov` (1 - momentum) g + momentum v
        w <- w - lr weight_decay w - lr sqrt(max(1, rows / columns)) NewtonSchulz(o)

    Hidden are all weights of two or more dimensions but the last, which maps to the outputs. A
    convolution's kernels [out, in, h, w] are a matrix [out, in h w]. The iteration has 5 steps with
    the published coefficients, in the precision of the weights (its author and PyTorch take
    bfloat16). It leaves most singular values between about 0.7 and 1.2, not at 1.

    The last layer, biases and all other vectors take steps of AdamW with the learning rate
    `adam_lr`, as the author says. So a problem whose weights are one vector is trained by AdamW.

    momentum, nesterov, weight_decay: as above. adam_lr: with the warm-up that lr has. beta1, beta2,
    epsilon: of AdamW, see `adam`; the defaults are the author's.
    """

    adam_lr: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-10

    def numbers(self) -> dict[str, float | bool]:
        # Rounded once, from float64, as in `Adam`. A warm-up scales `lr`, and by it `adam_lr`.
        made = {"rest": 1 - self.momentum, "rest1": 1 - self.beta1, "rest2": 1 - self.beta2}
        return super().numbers() | made | {"adam_share": self.adam_lr / self.lr}

    @staticmethod
    def init(weights: "Tensor", shapes: Shapes) -> RuleState:  # type: ignore[override]
        hidden, others = _parts(weights, shapes)
        return {"velocity": hidden.new_zeros(hidden.shape), **Adam.init(others)}

    @staticmethod
    def update(  # type: ignore[override]
        gradient: "Tensor",
        weights: "Tensor",
        state: RuleState,
        numbers: Numbers,
        shapes: Shapes,
    ) -> tuple["Tensor", RuleState]:
        lr, adam_lr = numbers["lr"], numbers["lr"] * numbers["adam_share"]
        (hidden, others), (steps, rest) = _parts(weights, shapes), _parts(gradient, shapes)

        fresh = steps * numbers["rest"]
        velocity = fresh.addcmul(state["velocity"], numbers["momentum"])
        if numbers["nesterov"]:
            steps = fresh.addcmul(velocity, numbers["momentum"])
        else:
            steps = velocity
        matrices = [shape for shape, is_hidden in _kinds(shapes) if is_hidden]
        layers = [_orthogonal(layer) for layer in split_layers(steps, tuple(matrices))]
        hidden = hidden - hidden * (lr * numbers["weight_decay"])
        hidden = hidden.addcmul(_joined(layers, steps), lr, value=-1)

        others = others - others * (adam_lr * numbers["weight_decay"])
        others, adam = Adam.update(rest, others, state, {**numbers, "lr": adam_lr})
        return _together(hidden, others, shapes), {"velocity": velocity, **adam}


def _kinds(shapes: Shapes) -> list[tuple[tuple[int, ...], bool]]:
    """Each layer's shape, and whether it is hidden."""
    matrices = [i for i, shape in enumerate(shapes) if len(shape) > 1]
    return [(shape, i in matrices[:-1]) for i, shape in enumerate(shapes)]


def _parts(flat: "Tensor", shapes: Shapes) -> tuple["Tensor", "Tensor"]:
    """Flat hidden layers [R, H], and all others [R, P - H]."""
    layers = list(zip(split_layers(flat, shapes), _kinds(shapes), strict=True))
    chosen = ([layer for layer, (_, is_hidden) in layers if is_hidden == kind] for kind in (1, 0))
    hidden, others = (_joined(each, flat) for each in chosen)
    return hidden, others


def _together(hidden: "Tensor", others: "Tensor", shapes: Shapes) -> "Tensor":
    """Flat weights [R, P]; the inverse of `_parts`."""
    kinds = _kinds(shapes)
    apart = {
        kind: iter(split_layers(flat, tuple(shape for shape, each in kinds if each == kind)))
        for kind, flat in ((True, hidden), (False, others))
    }
    return join_layers([next(apart[is_hidden]) for _, is_hidden in kinds])


def _joined(layers: list["Tensor"], like: "Tensor") -> "Tensor":
    """`join_layers`, of no layers too."""
    return join_layers(layers) if layers else like[:, :0]


def _orthogonal(layer: "Tensor") -> "Tensor":
    """Of a layer [R, *shape], as matrices [R, rows, columns]: their orthogonal step, scaled."""
    matrix = layer.flatten(2)
    rows, columns = matrix.shape[1:]
    x = matrix.mT if rows > columns else matrix
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST)
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if rows > columns else x) * math.sqrt(max(1, rows / columns))
