"""How long a worker computes: named distributions, with scipy.stats' names and parameters.

`expon` (shifted by `loc`), `uniform`, `gamma` and `pareto` are scipy's. Two are not: `normal` is
scipy's `norm` cut at 0, that is, conditioned on being positive, and `constant` takes `value`
always. Each gives its true mean, which is what the closed forms of `staleness.renewal` need.

Samples come one after the other from the generator, each from the same number of its draws or by
numpy's own sampler, so that drawing m and then k is drawing m + k.
"""

import math
import typing
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field
from scipy.special import ndtr, ndtri

from stalegrad.specs import choice, spec


def _start(value: float) -> float:
    if value < 0:
        raise ValueError("a compute time cannot be negative; it must be 0 or more")
    return value


def _has_mean(shape: float) -> float:
    if shape <= 1:
        raise ValueError(
            "a Pareto distribution of shape 1 or less has no mean, and without it there is no "
            "update rate; it must be greater than 1"
        )
    return shape


Start = Annotated[float, AfterValidator(_start)]
Positive = Annotated[float, Field(gt=0)]


@spec
class Exponential:
    """Shifted exponential: loc + scale E with E standard exponential.

    The alpha of Al-Lawati and Draper 2020 is `loc`, its lambda is 1 / `scale`.
    """

    name: Literal["expon"] = "expon"
    loc: Start = 0.0
    scale: Positive = 1.0

    @property
    def mean(self) -> float:
        return self.loc + self.scale

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        return self.loc + self.scale * generator.standard_exponential(size)


@spec
class Normal:
    """Normal with mean `loc` and deviation `scale` before it is cut at 0.

    Jain et al. 2018 (section 2, figure 1) has loc = 1, scale = 0.2.
    """

    name: Literal["normal"] = "normal"
    loc: Start = 1.0
    scale: Positive = 0.2

    @property
    def mean(self) -> float:
        """Mean of what is left above 0: loc + scale pdf(loc / scale) / cdf(loc / scale)."""
        cut = self.loc / self.scale
        density = math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi)
        return float(self.loc + self.scale * density / ndtr(cut))

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """By inversion: one uniform number a sample, none thrown away."""
        # 1 - random() lies in (0, 1]; at 1 the sample is 0, but for rounding.
        upper_tail = ndtr(self.loc / self.scale) * (1.0 - generator.random(size))
        return np.maximum(self.loc - self.scale * ndtri(upper_tail), 0.0)


@spec
class Uniform:
    """Uniform on [loc, loc + scale)."""

    name: Literal["uniform"] = "uniform"
    loc: Start = 0.0
    scale: Positive = 1.0

    @property
    def mean(self) -> float:
        return self.loc + self.scale / 2

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        return self.loc + self.scale * generator.random(size)


@spec
class Gamma:
    """Gamma of shape `a`: loc + scale G(a)."""

    name: Literal["gamma"] = "gamma"
    a: Positive
    loc: Start = 0.0
    scale: Positive = 1.0

    @property
    def mean(self) -> float:
        return self.loc + self.scale * self.a

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        return self.loc + self.scale * generator.standard_gamma(self.a, size)


@spec
class Pareto:
    """Pareto of shape `b`, from loc + scale upwards: P(X > x) = ((x - loc) / scale)^-b.

    Without variance for b <= 2; refused for b <= 1, where it has no mean.
    """

    name: Literal["pareto"] = "pareto"
    b: Annotated[float, AfterValidator(_has_mean)]
    loc: Start = 0.0
    scale: Positive = 1.0

    @property
    def mean(self) -> float:
        return self.loc + self.scale * self.b / (self.b - 1)

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        return self.loc + self.scale * np.exp(generator.standard_exponential(size) / self.b)


@spec
class Constant:
    """Always `value`: the lattice case, in which workers stay in step for ever."""

    name: Literal["constant"] = "constant"
    value: Positive = 1.0

    @property
    def mean(self) -> float:
        return self.value

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        return np.full(size, self.value)


@dataclass(frozen=True)
class InARow:
    """The sum of `count` independent times, of a worker with as many gradients in a row."""

    each: "Distribution"
    count: int

    @property
    def mean(self) -> float:
        return self.count * self.each.mean

    def sample(self, generator: np.random.Generator, size: int) -> np.ndarray:
        return self.each.sample(generator, size * self.count).reshape(size, self.count).sum(axis=1)


def in_a_row(each: "Distribution", count: int) -> "Sampled":
    """The time of `count` gradients in a row, each of which takes a time of its own."""
    return each if count == 1 else InARow(each, count)


Distribution = Exponential | Normal | Uniform | Gamma | Pareto | Constant

# What a simulation of a cluster draws its times from.
Sampled = Distribution | InARow

DISTRIBUTIONS: dict[str, type] = {cls.name: cls for cls in typing.get_args(Distribution)}


# The type of a field that holds a distribution: takes the mapping of a configuration as well.
ComputeTime = Annotated[Distribution, choice("a distribution", *DISTRIBUTIONS.values())]
