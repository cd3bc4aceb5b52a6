"""Nesterov's chain, which lower bounds are proved with, and a non-convex one like it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from stalegrad.data_order import SYNTHETIC, generator
from stalegrad.problems import Task
from stalegrad.problems._synthetic import SyntheticProblem, synthetic_task
from stalegrad.specs import spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The largest slope of r^2 / (2 (1 + r^2)), at r = 1 / sqrt(3).
STEEPEST = 9 / (16 * np.sqrt(3))


@spec
class Chain(SyntheticProblem):
    """f(x) = (L - mu)/4 sum_i phi(x_i - x_{i+1}) + mu/2 |x|^2 from x = 0, i = 0..d, with x_0 = 1
    and x_{d+1} = 0; a sample adds the linear term xi.x, so that its gradient has additive noise.

    penalty: phi. `square` r^2 / 2 makes a tridiagonal quadratic, L-smooth, convex, and for mu = 0
        with so little curvature along the chain that it is not strongly convex to any use (Nesterov
        2004, section 2.1; Arjevani, Shamir & Srebro 2020 use it against delayed gradients).
        `geman_mcclure` r^2 / (2 (1 + r^2)) is not convex, L-smooth, and has bounded gradients.
    dimension: d; smoothness: L; strong_convexity: mu, for `square` alone.
    noise: sigma, E|xi - E xi|^2 = sigma^2 exactly over `noise_samples` normal vectors drawn from
        `data_seed`.
    kinds: samples are of so many kinds, in equal numbers, and their label is their kind.
    kind_shift: length of the mean of xi in each kind: + or - the same vector in turn, so that it
        is 0 over all kinds.
    epoch_samples: how many samples drawn count as an epoch where minibatches are independent.
    """

    penalty: Literal["square", "geman_mcclure"] = "square"
    dimension: Annotated[int, Field(ge=1)] = 100
    smoothness: Annotated[float, Field(gt=0)] = 1.0
    strong_convexity: Annotated[float, Field(ge=0)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    noise_samples: Annotated[int, Field(ge=1)] = 4096
    kinds: Annotated[int, Field(ge=1)] = 1
    kind_shift: Annotated[float, Field(ge=0)] = 0.0
    data_seed: Annotated[int, Field(ge=0)] = 1
    epoch_samples: Annotated[int, Field(ge=1)] = 1000

    def __post_init__(self) -> None:
        if self.strong_convexity > (0 if self.penalty != "square" else self.smoothness):
            raise ValueError(
                "strong_convexity must be at most smoothness, and 0 with a penalty that is not "
                "convex"
            )
        if self.noise_samples % self.kinds or (self.kind_shift and self.kinds % 2):
            raise ValueError(
                "kinds must divide noise_samples, and be even where kind_shift is not 0"
            )

    def samples(self) -> int:
        return self.noise_samples

    def classes(self) -> int:
        return self.kinds

    def curvature(self) -> np.ndarray:
        """The Hessian [d, d] of `square`."""
        d = self.dimension
        links = 2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)
        return (self.smoothness - self.strong_convexity) / 4 * links + (
            self.strong_convexity * np.eye(d)
        )

    def solution(self) -> np.ndarray:
        """The minimiser [d] of `square`."""
        pull = np.zeros(self.dimension)
        pull[0] = (self.smoothness - self.strong_convexity) / 4
        return np.linalg.solve(self.curvature(), pull)

    def constants(self) -> dict[str, float]:
        """L, mu and sigma; for `square` the distance to the minimiser and f(0) - f*, for
        `geman_mcclure` G, a bound on the length of its gradient."""
        known = {
            "smoothness": self.smoothness,
            "strong_convexity": self.strong_convexity,
            "noise": self.noise,
        }
        if self.penalty == "geman_mcclure":
            bound = self.smoothness / 2 * STEEPEST * np.sqrt(self.dimension + 1)
            return known | {"gradient_bound": float(bound)}
        solution = self.solution()
        excess = solution @ self.curvature() @ solution / 2
        distance = float(np.linalg.norm(solution))
        return known | {"distance_at_start": distance, "excess_at_start": float(excess)}

    def samples_of_noise(self) -> tuple[np.ndarray, np.ndarray]:
        """xi [noise_samples, d] and the kind [noise_samples] of each."""
        rng = generator(self.data_seed, SYNTHETIC)
        kind = np.arange(self.noise_samples) % self.kinds
        noise = np.zeros((self.noise_samples, self.dimension))
        if self.noise:
            noise = rng.standard_normal(noise.shape)
            for k in range(self.kinds):
                noise[kind == k] -= noise[kind == k].mean(axis=0)
            noise *= self.noise / np.sqrt((noise**2).sum(axis=1).mean())
        shift = np.full(self.dimension, self.kind_shift / np.sqrt(self.dimension))
        return noise + np.where(kind % 2, -1.0, 1.0)[:, None] * shift, kind

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        import torch

        scale, mu = (self.smoothness - self.strong_convexity) / 4, self.strong_convexity
        square = self.penalty == "square"

        def links(x: "Tensor") -> "Tensor":
            """x_i - x_{i+1} [..., d + 1]."""
            first, last = x.new_ones((*x.shape[:-1], 1)), x.new_zeros((*x.shape[:-1], 1))
            padded = torch.cat([first, x, last], dim=-1)
            return padded[..., :-1] - padded[..., 1:]

        def value(x: "Tensor", r: "Tensor") -> "Tensor":
            r2 = r.square()
            phi = r2 / 2 if square else r2 / (2 * (1 + r2))
            values = scale * phi.sum(dim=-1)
            return values + mu / 2 * x.square().sum(dim=-1) if mu else values

        def slope(x: "Tensor", r: "Tensor") -> "Tensor":
            slopes = r if square else r / (1 + r.square()).square()
            pulled = scale * (slopes[..., 1:] - slopes[..., :-1])
            return pulled + mu * x if mu else pulled

        def loss(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> "Tensor":
            return value(weights, links(weights)) + inputs.mean(dim=0) @ weights

        def gradients(
            weights: "Tensor", inputs: "Tensor", targets: "Tensor"
        ) -> tuple["Tensor", "Tensor"]:
            noise, r = inputs.mean(dim=-2).unsqueeze(-2), links(weights)
            return slope(weights, r) + noise, value(weights, r) + (noise * weights).sum(dim=-1)

        if square:
            curvature = torch.from_numpy(self.curvature()).to(device)
            solution = torch.from_numpy(self.solution()).to(device)

        def metrics(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> dict[str, "Tensor"]:
            """f - f* of `square` through the distance to the minimiser, which loses no digits near
            it; else f, whose least value is at least 0."""
            exact = weights.double()
            if not square:
                r = links(exact)
                down = slope(exact, r)
                return {"loss": value(exact, r), "gradient_square": down @ down}
            away = exact - solution
            down = curvature @ away
            return {"excess_loss": away @ down / 2, "gradient_square": down @ down}

        noise, kind = self.samples_of_noise()
        inputs = torch.from_numpy(noise).to(device, dtype)
        train = inputs, torch.from_numpy(kind).to(device)
        options = {"scale": scale, "strong_convexity": mu, "square": float(square)}
        return synthetic_task(
            "chain", self.dimension, loss, gradients, metrics, train, options=options
        )
