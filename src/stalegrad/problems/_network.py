"""Feed-forward networks as a list of layers: what they compute, and what they are made of.

Everything about a network is read from its list: the order and shapes of the flat weights, the
weights at the start, the function itself, and what a drawing of it shows.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from stalegrad.data_order import WEIGHTS, generator
from stalegrad.problems._initialisation import torch_seeded

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A layer; shapes are of one sample, without the batch.

    Here the identity, without weights or randomness.
    """

    def output(self, shape: Shape) -> Shape:
        """Shape of what it makes of an input of `shape`."""
        return shape

    def weights(self, shape: Shape) -> tuple[Shape, ...]:
        """Shapes of its weights and its biases, in the order of PyTorch's parameters()."""
        return ()

    def drawn(self, shape: Shape) -> tuple["Tensor", ...]:
        """Its weights and biases (float32) as PyTorch's own layer draws them, on the CPU."""
        return ()

    def noise(self, shape: Shape) -> int:
        """Random bytes it takes for a sample in training."""
        return 0

    def apply(self, x: "Tensor", weights: list["Tensor"], noise: "Tensor | None") -> "Tensor":
        """Of a batch x [B, ...]. noise [B, ...]: its bytes, or None in evaluation."""
        return x

    def together(self, x: "Tensor", weights: list["Tensor"]) -> "Tensor":
        """The same for R runs at once, each with its own weights [R, ...], without noise.

        x: [R, channels, B, height, width], or [R, units, B], so that what a run's weights multiply
        is one matrix; its first axis is G where G groups of neighbouring runs, each of R / G,
        have the same.
        """
        return self.apply(x, weights, None)


@dataclass(frozen=True)
class Convolution(Layer):
    """Square kernels of side `kernel`, stride 1, zeros around, into so many channels."""

    channels: int
    kernel: int
    padding: int = 0

    def output(self, shape: Shape) -> Shape:
        grown = 2 * self.padding - self.kernel + 1
        return (self.channels, *(side + grown for side in shape[1:]))

    def weights(self, shape: Shape) -> tuple[Shape, ...]:
        return (self.channels, shape[0], self.kernel, self.kernel), (self.channels,)

    def drawn(self, shape: Shape) -> tuple["Tensor", ...]:
        from torch import float32
        from torch.nn import Conv2d

        layer = Conv2d(shape[0], self.channels, self.kernel, device="cpu", dtype=float32)
        return tuple(layer.parameters())

    def apply(self, x: "Tensor", weights: list["Tensor"], noise: "Tensor | None") -> "Tensor":
        from torch.nn.functional import conv2d

        kernels, biases = weights
        return conv2d(x, kernels, biases, padding=self.padding)

    def together(self, x: "Tensor", weights: list["Tensor"]) -> "Tensor":
        from torch.nn.functional import pad

        kernels, biases = weights
        k, around = self.kernel, (self.padding,) * 4
        patches = pad(x, around).unfold(3, k, 1).unfold(4, k, 1)  # [R, C, B, H, W, k, k]
        columns = patches.permute(0, 1, 5, 6, 2, 3, 4).flatten(1, 3).flatten(2)
        return _product(kernels, biases, columns).unflatten(2, patches.shape[2:5])


@dataclass(frozen=True)
class MaxPooling(Layer):
    """The largest of each square of side `side`."""

    side: int

    def output(self, shape: Shape) -> Shape:
        return (shape[0], *(side // self.side for side in shape[1:]))

    def apply(self, x: "Tensor", weights: list["Tensor"], noise: "Tensor | None") -> "Tensor":
        from torch.nn.functional import max_pool2d

        return max_pool2d(x, self.side)

    def together(self, x: "Tensor", weights: list["Tensor"]) -> "Tensor":
        return self.apply(x.flatten(0, 1), weights, None).unflatten(0, x.shape[:2])


@dataclass(frozen=True)
class ReLU(Layer):
    def apply(self, x: "Tensor", weights: list["Tensor"], noise: "Tensor | None") -> "Tensor":
        return x.relu()


@dataclass(frozen=True)
class Dropout(Layer):
    """In training each number is 0 with chance `share` and otherwise divided by 1 - share
    (Srivastava et al. 2014). A byte decides, so that `share` is a multiple of 1/256."""

    share: float

    def noise(self, shape: Shape) -> int:
        return math.prod(shape)

    def apply(self, x: "Tensor", weights: list["Tensor"], noise: "Tensor | None") -> "Tensor":
        if noise is None:
            return x
        kept = (noise >= round(256 * self.share)).view(x.shape)
        return x * (kept.to(x.dtype) / (1 - self.share))


@dataclass(frozen=True)
class Connected(Layer):
    """Fully connected, of all numbers of the input in a row."""

    units: int

    def output(self, shape: Shape) -> Shape:
        return (self.units,)

    def weights(self, shape: Shape) -> tuple[Shape, ...]:
        return (self.units, math.prod(shape)), (self.units,)

    def drawn(self, shape: Shape) -> tuple["Tensor", ...]:
        from torch import float32
        from torch.nn import Linear

        layer = Linear(math.prod(shape), self.units, device="cpu", dtype=float32)
        return tuple(layer.parameters())

    def apply(self, x: "Tensor", weights: list["Tensor"], noise: "Tensor | None") -> "Tensor":
        from torch.nn.functional import linear

        return linear(x.flatten(1), *weights)

    def together(self, x: "Tensor", weights: list["Tensor"]) -> "Tensor":
        factors, biases = weights
        return _product(factors, biases, x.movedim(2, -1).flatten(1, -2))


def _product(weights: "Tensor", biases: "Tensor", columns: "Tensor") -> "Tensor":
    """weights [R, O, ...] times columns [G, K, N] plus biases [R, O]: [R, O, N].

    Columns that R / G runs share make their products one of a larger matrix.
    """
    import torch

    groups, depth = columns.shape[:2]
    factors = weights.reshape(groups, -1, depth)
    return torch.baddbmm(biases.reshape(groups, -1, 1), factors, columns).view(*biases.shape, -1)


@dataclass(frozen=True)
class Network:
    """Layers one after another, on inputs of `input_shape`, as a function of flat weights [P]."""

    input_shape: Shape
    layers: tuple[Layer, ...]

    def walk(self) -> Iterator[tuple[Layer, Shape, Shape]]:
        """Each layer with the shape that goes into it and the shape that comes out."""
        shape = self.input_shape
        for layer in self.layers:
            yield layer, shape, layer.output(shape)
            shape = layer.output(shape)

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """Of weights and biases, in the order in which they lie in the flat weights."""
        return tuple(s for layer, shape, _ in self.walk() for s in layer.weights(shape))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(math.prod, self.shapes))

    @property
    def parameters(self) -> int:
        return sum(self.sizes)

    @cached_property
    def activations(self) -> int:
        """Numbers that a sample goes through, from the input to the output."""
        return math.prod(self.input_shape) + sum(math.prod(out) for *_, out in self.walk())

    @cached_property
    def noise(self) -> int:
        """Random bytes that a sample takes in training."""
        return sum(layer.noise(shape) for layer, shape, _ in self.walk())

    def initial_weights(self, seed: int) -> "Tensor":
        """PyTorch's default: uniform in +-1/sqrt(fan-in of the layer), biases too; float64 [P]."""
        import torch

        rng = generator(seed, WEIGHTS)
        fan_in = [math.prod(shape[1:]) for shape in self.shapes[::2] for _ in range(2)]
        parts = [
            rng.uniform(-1, 1, size) / math.sqrt(fan)
            for size, fan in zip(self.sizes, fan_in, strict=True)
        ]
        return torch.cat([torch.from_numpy(part) for part in parts])

    def torch_weights(self, torch_seed: int) -> "Tensor":
        """Those of PyTorch's layers, made in this order after `torch.manual_seed(torch_seed)`;
        float64 [P] that holds the float32 numbers drawn. The caller's generator is left alone."""
        import torch

        with torch_seeded(torch_seed), torch.no_grad():
            parts = [part for layer, shape, _ in self.walk() for part in layer.drawn(shape)]
            return torch.cat([part.flatten() for part in parts]).double()

    def __call__(self, weights: "Tensor", x: "Tensor", noise: "Tensor | None" = None) -> "Tensor":
        """Outputs [B, ...] for inputs [B, *input_shape].

        noise: uint8 [B, self.noise] in training, None in evaluation.
        """
        parts = iter(
            part.view(shape)
            for part, shape in zip(weights.split(self.sizes), self.shapes, strict=True)
        )
        drawn = 0
        for layer, shape, _ in self.walk():
            taken = layer.noise(shape)
            bytes_ = noise[:, drawn : drawn + taken] if taken and noise is not None else None
            x = layer.apply(x, [next(parts) for _ in layer.weights(shape)], bytes_)
            drawn += taken
        return x

    def together(self, weights: "Tensor", x: "Tensor") -> "Tensor":
        """Outputs [R, B, ...] of R runs at weights [R, P], without noise.

        x: [G, B, *input_shape], of G groups of R / G neighbouring runs that have the same.
        """
        parts = iter(
            part.unflatten(1, shape)
            for part, shape in zip(weights.split(self.sizes, dim=1), self.shapes, strict=True)
        )
        x = x.transpose(1, 2)
        for layer, shape, _ in self.walk():
            x = layer.together(x, [next(parts) for _ in layer.weights(shape)])
        return x.movedim(2, 1)
