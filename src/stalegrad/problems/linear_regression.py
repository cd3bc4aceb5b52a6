"""Linear regression on synthetic data (Al-Lawati and Draper 2020, section 4)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

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
class LinearRegression(SyntheticProblem):
    """Half the mean squared error of a linear model, (x.w - y)^2 / 2.

    Inputs x and the true coefficients w* are standard normal, y = x.w* + noise e with e standard
    normal; all are drawn in float64 from `data_seed`, which no run's seed changes. Training starts
    at w = 0.

    dimension: length of x; train_samples: at least as many, so that there is one solution;
        test_samples: further ones from the same w*.
    epoch_samples: how many samples drawn count as an epoch where minibatches are independent.
    """

    dimension: Annotated[int, Field(ge=1)] = 10
    train_samples: Annotated[int, Field(ge=1)] = 1000
    test_samples: Annotated[int, Field(ge=1)] = 1000
    epoch_samples: Annotated[int, Field(ge=1)] = 1000
    noise: Annotated[float, Field(ge=0)] = 0.1
    data_seed: Annotated[int, Field(ge=0)] = 1

    @field_validator("train_samples")
    @classmethod
    def _at_least_dimension(cls, value: int, info: ValidationInfo) -> int:
        dimension = info.data.get("dimension")
        if dimension is not None and value < dimension:
            raise ValueError(
                f"the least squares solution is not unique with fewer samples than dimensions, "
                f"{dimension}"
            )
        return value

    def samples(self) -> int:
        return self.train_samples

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [train + test samples, dimension] and targets, those for training first."""
        rng = generator(self.data_seed, SYNTHETIC)
        samples = self.train_samples + self.test_samples
        coefficients = rng.standard_normal(self.dimension)
        inputs = rng.standard_normal((samples, self.dimension))
        return inputs, inputs @ coefficients + self.noise * rng.standard_normal(samples)

    def solution(self) -> np.ndarray:
        """The minimiser of the training loss [dimension]."""
        inputs, targets = (part[: self.train_samples] for part in self.data())
        return np.linalg.lstsq(inputs, targets, rcond=None)[0]

    def load(self, data_folder: Path, device: "torch.device", dtype: "torch.dtype") -> Task:
        import torch

        def tensors(chosen: slice) -> tuple["Tensor", "Tensor"]:
            inputs, targets = (torch.from_numpy(part[chosen].copy()) for part in self.data())
            return inputs.to(device, dtype), targets.to(device, dtype)

        solution = torch.from_numpy(self.solution()).to(device)

        def metrics(weights: "Tensor", inputs: "Tensor", targets: "Tensor") -> dict[str, "Tensor"]:
            """test_loss, and error: |w - w_opt|^2 / |w_opt|^2, w_opt minimising the training loss.

            The error is 1 at the start.
            """
            exact = weights.double()
            test_loss = linear_loss(exact, inputs.double(), targets.double())
            error = (exact - solution).square().sum() / solution.square().sum()
            return {"test_loss": test_loss, "error": error}

        train, test = slice(None, self.train_samples), slice(self.train_samples, None)
        return synthetic_task(
            "linear_regression",
            self.dimension,
            linear_loss,
            linear_gradients,
            metrics,
            tensors(train),
            tensors(test),
        )
