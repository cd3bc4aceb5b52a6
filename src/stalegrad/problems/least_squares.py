"""The least-squares problem of Mishchenko et al. 2022, with its constants known exactly."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from stalegrad.data_order import SYNTHETIC, generator
from stalegrad.problems import Task
from stalegrad.problems._synthetic import (
    SyntheticProblem,
    linear_gradients,
    linear_loss,
    synthetic_task,
)
from stalegrad.specs import spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@spec
class LeastSquares(SyntheticProblem):
    """F(x) = |A x - b|^2 / (2 n) from x = 0, with stochastic gradients on rows of A.

    A [rows, dimension] is uniform in [0, 1] / sqrt(dimension), x* standard normal and
    b = A x* + `noise` e with e standard normal; all are drawn in float64 from `data_seed`, which no
    run's seed changes.

    epoch_samples: how many rows drawn count as an epoch where minibatches are independent.
    """

    rows: Annotated[int, Field(ge=1)] = 10_000
    dimension: Annotated[int, Field(ge=1)] = 400
    noise: Annotated[float, Field(ge=0)] = 1e-5
    data_seed: Annotated[int, Field(ge=0)] = 1
    epoch_samples: Annotated[int, Field(ge=1)] = 10_000

    def samples(self) -> int:
        return self.rows

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """A [rows, dimension] and b [rows]."""
        return _data(self.rows, self.dimension, self.noise, self.data_seed)

    def solution(self) -> np.ndarray:
        """The minimiser of F [dimension]."""
        return _solution(self)

    def constants(self) -> dict[str, float]:
        """L and mu, the extreme eigenvalues of A'A / n; F*; F(0) - F*; sigma, the root of the
        variance of one row's gradient, at 0 and at the minimiser."""
        inputs, targets = self.data()
        solution, rows = self.solution(), len(targets)
        curvature = np.linalg.svd(inputs, compute_uv=False) ** 2 / rows
        least = ((inputs @ solution - targets) ** 2).mean() / 2

        def deviation(weights: np.ndarray) -> float:
            residual = inputs @ weights - targets
            mean = inputs.T @ residual / rows
            each = (residual**2 * (inputs**2).sum(axis=1)).mean()
            return float(np.sqrt(max(each - mean @ mean, 0.0)))

        return {
            "smoothness": float(curvature[0]),
            "strong_convexity": float(curvature[-1]),
            "least_loss": float(least),
            "excess_at_start": float((targets**2).mean() / 2 - least),
            "noise_at_start": deviation(np.zeros_like(solution)),
            "noise_at_solution": deviation(solution),
        }

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        import torch

        inputs, targets = (torch.from_numpy(part).to(device) for part in self.data())
        solution = torch.from_numpy(self.solution()).to(device)
        curvature = inputs.T @ inputs / len(targets)

        def metrics(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> dict[str, "Tensor"]:
            """F - F* through the distance to the minimiser, which loses no digits near it."""
            away = weights.double() - solution
            slope = curvature @ away
            return {"excess_loss": away @ slope / 2, "gradient_square": slope @ slope}

        train = inputs.to(dtype), targets.to(dtype)
        return synthetic_task(
            "least_squares", self.dimension, linear_loss, linear_gradients, metrics, train
        )


@lru_cache(maxsize=2)
def _data(rows: int, dimension: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(seed, SYNTHETIC)
    inputs = rng.random((rows, dimension)) / np.sqrt(dimension)
    coefficients = rng.standard_normal(dimension)
    return inputs, inputs @ coefficients + noise * rng.standard_normal(rows)


@lru_cache(maxsize=2)
def _solution(problem: LeastSquares) -> np.ndarray:
    return np.linalg.lstsq(*problem.data(), rcond=None)[0]
