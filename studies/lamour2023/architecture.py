"""A feed-forward network drawn from its list of layers: blocks for shapes, arrows for layers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stalegrad.analysis import style
from stalegrad.problems._network import (
    Connected,
    Convolution,
    Dropout,
    Layer,
    MaxPooling,
    Network,
    ReLU,
    Shape,
)

# Inches.
GAP = 0.78  # between blocks, for the words
HEIGHT = 1.1  # of the largest map
SLANT = np.array([0.5, 0.35])  # of the direction into the page
LINE = 0.13  # of text
FONT = 6.5


@dataclass(frozen=True)
class Step:
    """A layer that changes the shape, with those behind it that do not."""

    words: tuple[str, ...]
    parameters: int
    output: Shape


def steps(network: Network) -> list[Step]:
    """The network as it is drawn, from left to right."""
    groups: list[list[tuple[Layer, Shape, Shape]]] = []
    for layer, shape, output in network.walk():
        if shape != output or not groups:
            groups.append([])
        groups[-1].append((layer, shape, output))
    return [
        Step(
            tuple(in_words(layer) for layer, _, _ in group),
            sum(math.prod(part) for layer, shape, _ in group for part in layer.weights(shape)),
            group[-1][2],
        )
        for group in groups
    ]


def in_words(layer: Layer) -> str:
    match layer:
        case Convolution(kernel=side, padding=0):
            return f"convolution\n{side} × {side}"
        case Convolution(kernel=side, padding=padding):
            return f"convolution\n{side} × {side}\npadding {padding}"
        case MaxPooling(side=side):
            return f"max pooling\n{side} × {side}"
        case Dropout(share=share):
            return f"dropout {share:g}"
        case Connected():
            return "fully\nconnected"
        case ReLU():
            return "ReLU"
    raise TypeError(f"There are no words for the layer {layer!r}.")


def draw(network: Network) -> Figure:
    """Maps to scale, as deep as the logarithm of their number; vectors as long as that of theirs.

    Above each arrow its layers, below it their weights and biases; below each block its shape.
    """
    found = steps(network)
    shapes = [network.input_shape, *(step.output for step in found)]
    scale = HEIGHT / max(shape[-1] for shape in shapes if len(shape) == 3)
    blocks = [_block(shape, scale) for shape in shapes]
    # Room for the deepest block above the middle, and for a line of text below the tallest.
    top = max(side / 2 + depth * SLANT[1] for _, side, depth in blocks) + 0.1
    bottom = max(side / 2 for _, side, _ in blocks) + 1.6 * LINE
    figure = pyplot.figure(figsize=(style.WIDTH, top + bottom + 2 * LINE))
    ax = figure.add_subplot()
    x = 0.0
    for number, (shape, block) in enumerate(zip(shapes, blocks, strict=True)):
        width, side, depth = block
        if number:
            _arrow(ax, x, found[number - 1])
            x += GAP
        _draw_block(ax, x, block, style.COLOURS[0] if len(shape) == 3 else style.COLOURS[1])
        label = " × ".join(map(str, shape))
        ax.text(x + width / 2, -side / 2 - LINE / 2, label, ha="center", va="top", fontsize=FONT)
        x += width + depth * SLANT[0]
    ax.set_xlim(-0.25, x + 0.1)
    ax.set_ylim(-bottom, top)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.set_title(f"{network.parameters:,} parameters")
    return figure


def _block(shape: Shape, scale: float) -> tuple[float, float, float]:
    """Width, height and depth of a block in inches."""
    if len(shape) == 3:
        channels, height, width = shape
        return scale * width / 2, scale * height, 0.1 * math.log2(channels)
    return 0.08, 0.14 * math.log2(shape[0]), 0.08


def _draw_block(ax: Axes, x: float, block: tuple[float, float, float], colour: str) -> None:
    width, side, depth = block
    front = np.array([[x, -side / 2], [x + width, -side / 2], [x + width, side / 2], [x, side / 2]])
    behind = front + depth * SLANT
    look: dict[str, Any] = {"edgecolor": colour, "linewidth": 0.8}
    for corners, alpha in (
        (front, 0.25),
        ([front[3], front[2], behind[2], behind[3]], 0.12),
        ([front[1], behind[1], behind[2], front[2]], 0.4),
    ):
        ax.fill(*np.transpose(corners), facecolor=(colour, alpha), **look)


def _arrow(ax: Axes, x: float, step: Step) -> None:
    ax.annotate(
        "", (x + GAP - 0.06, 0), (x + 0.06, 0), arrowprops={"arrowstyle": "->", "linewidth": 0.8}
    )
    middle = x + GAP / 2
    ax.text(middle, LINE / 2, "\n".join(step.words), ha="center", va="bottom", fontsize=FONT)
    if step.parameters:
        text = f"{step.parameters:,}"
        ax.text(middle, -LINE / 2, text, ha="center", va="top", fontsize=FONT, color=style.GREY)
