"""Where the time of LeNet-5's kernel goes: microseconds an image by layer, and shares of the limit.

Each layer runs alone on the data of one tile (`layers.cpp`), in turn with the limit (`peak.py`);
least of some repeats, processor time. For the build that STALEGRAD_ARCHITECTURE names.

    python benchmarks/layers.py [--markdown]
"""

import argparse
import ctypes
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import peak
import torch

from stalegrad.problems.lenet5 import NETWORK
from stalegrad.training import kernels

TIMES, REPEATS = 400, 9
LAYERS = (
    "pixels laid out as tiles",
    "convolution 1, forward, with pooling",
    "convolution 2, forward, with pooling",
    "connected layers, forward",
    "loss",
    "connected layers, weight gradients",
    "connected layers, input gradients",
    "gradient in front of pooling 2",
    "convolution 2, weight gradient",
    "convolution 2, input gradient",
    "convolution 1, weight gradient",
)


def multiply_adds() -> list[int]:
    """Of each of LAYERS, for one image."""
    forward = [
        math.prod(weights[0]) * math.prod(output[1:])
        for layer, shape, output in NETWORK.walk()
        if (weights := layer.weights(shape))
    ]
    first, second, *rest = forward
    connected = sum(rest)
    return [0, first, second, connected, 0, connected, connected, 0, second, second, first]


def library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "layers.so"
        source = Path(__file__).with_name("layers.cpp")
        command = kernels.compile_command(kernels.architecture())
        headers = f"-I{Path(kernels.__file__).parent}"
        subprocess.run([*command, headers, str(source), "-o", str(made)], check=True)
        return ctypes.CDLL(str(made))


def measure() -> list[tuple[float, float]]:
    """Seconds an image of each layer, and what share of the limit it reaches."""
    run = library()
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, size=(64, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, size=64)
    weights = NETWORK.initial_weights(1).float().numpy()
    arrays = [ctypes.c_void_p(array.ctypes.data) for array in (weights, pixels, labels)]
    least, most = [math.inf] * len(LAYERS), 0.0
    limit = peak.multiply_adds(torch.float32)
    for _ in range(REPEATS):
        most = max(most, peak.operations(torch.float32) / peak.seconds(limit))
        for layer in range(len(LAYERS)):
            took = peak.seconds(lambda: run.run(layer, ctypes.c_int64(TIMES), *arrays))  # noqa: B023
            least[layer] = min(least[layer], took / TIMES / run.tile())
    return [
        (seconds, 2 * count / seconds / most)
        for seconds, count in zip(least, multiply_adds(), strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    found = measure()
    total = sum(seconds for seconds, _ in found)
    rows = [
        [name, f"{1e6 * seconds:.2f}", f"{seconds / total:.0%}", f"{share:.2f}" if share else ""]
        for name, (seconds, share) in zip(LAYERS, found, strict=True)
    ]
    rows.append(["all", f"{1e6 * total:.2f}", "", ""])
    heading = [f"LeNet-5, {kernels.instruction_set('lenet5')} kernel", "µs an image", "of the time"]
    rows.insert(0, [*heading, "of the limit"])
    if options.markdown:
        rows.insert(1, ["---", "---:", "---:", "---:"])
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
        return
    for row in rows:
        print(f"{row[0]:42}" + "".join(f"{cell:>14}" for cell in row[1:]))


if __name__ == "__main__":
    main()
