"""Where the time of a bundle goes: the parts of an epoch of LeNet-5, and their shares.

The same bundle is trained in three ways: gradients by PyTorch; gradients by the fused kernel and
all else by PyTorch, step by step; and whole epochs inside the kernel, whose parts cannot be seen
from outside. A part is the processor's time spent in some functions and not in those of another.

    python benchmarks/parts.py [--markdown]      # about a minute; needs MNIST
"""

import argparse
import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import tempfile  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from contextlib import ExitStack, contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402
from unittest import mock  # noqa: E402

import torch  # noqa: E402

from stalegrad.planning.bundle import Bundle  # noqa: E402
from stalegrad.planning.cell import parse_cell  # noqa: E402
from stalegrad.rules.sgd import SGD  # noqa: E402
from stalegrad.training import (
    bundles,
    kernel_replay,
    replay,  # noqa: E402
)
from stalegrad.training.backends import cpu, vmap  # noqa: E402
from stalegrad.training.bundles import Place, train_bundle  # noqa: E402
from stalegrad.training.machine import describe_machine  # noqa: E402

RUNS, SAMPLES, BATCH, DELAY = 1, 60_000, 64, 4
# Part -> what is called for it. What lies inside another is counted there and not twice.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "minibatches gathered": [(replay, "take"), (replay, "align")],
    "forward and backward": [(cpu.CpuBackend, "gradients"), (vmap.VmapBackend, "gradients")],
    "old weights kept and read": [(replay, "_read"), (replay, "_write")],
    "update rule": [(SGD, "update")],
    "evaluation": [(cpu.CpuBackend, "metrics"), (vmap.VmapBackend, "metrics")],
    "history": [(bundles, "_recorded"), (bundles, "_history"), (bundles, "csv_text")],
}
INSIDE = "the four above, inside the kernel"


class Clock:
    """Processor time by part; inside a part that is begun within another the latter's stands."""

    def __init__(self):
        self.spent: Counter[str] = Counter()
        self._open: list[str] = []
        self._since = time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        if self._open:
            self.spent[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def timed(self, name: str, function: Callable) -> Callable:
        def call(*arguments, **keywords):
            with self.part(name):
                return function(*arguments, **keywords)

        return call


def shares(data_folder: Path, backend: str, whole: bool) -> dict[str, float]:
    """Microseconds a training sample by part, of a bundle that trains an epoch.

    whole: inside the kernel where that can be; else step by step.
    """
    values = {
        "problem": {"name": "lenet5", "dataset": "mnist"},
        "rule": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
        "cluster": {"name": "constant_delay", "delay": DELAY},
        **{"batch_size": BATCH, "epochs": 1},
    }
    cells = tuple(parse_cell(values | {"seed": seed}, "parts") for seed in range(RUNS))
    clock, patches = Clock(), ExitStack()
    with patches, tempfile.TemporaryDirectory() as folder:
        for name, functions in PARTS.items():
            for owner, attribute in functions:
                if whole and owner is SGD:
                    continue  # a clock around its step would make it another rule
                found = clock.timed(name, getattr(owner, attribute))
                if isinstance(vars(owner)[attribute], staticmethod):
                    found = staticmethod(found)
                patches.enter_context(mock.patch.object(owner, attribute, found))
        kernel = clock.timed(INSIDE, cpu.CpuBackend.replay)
        patches.enter_context(mock.patch.object(cpu.CpuBackend, "replay", kernel))
        if not whole:
            patches.enter_context(mock.patch.object(kernel_replay, "can_advance", lambda *_: False))
        inside = bundles._epochs

        def epochs(*arguments):  # once the data are read
            with clock.part("the loop around"):
                yield from list(inside(*arguments))

        patches.enter_context(mock.patch.object(bundles, "_epochs", epochs))
        train_in_this_thread(patches)
        train_bundle(Bundle(cells), Path(folder) / "out.csv", Place(data_folder, "cpu", backend))
    return {name: seconds / (RUNS * SAMPLES) * 1e6 for name, seconds in clock.spent.items()}


def train_in_this_thread(patches: ExitStack) -> None:
    """Clocks are of one thread: let the pool call what it is given."""

    class Done:
        def __init__(self, value):
            self.result = lambda: value

    pool = mock.MagicMock()
    pool.return_value.__enter__.return_value.submit = lambda f, *a: Done(f(*a))
    patches.enter_context(mock.patch.object(bundles, "ThreadPoolExecutor", pool))


WAYS = {
    "PyTorch": ("torch", False),
    "kernel for gradients": ("cpu", False),
    "whole epochs in the kernel": ("cpu", True),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    options = parser.parse_args(argv)
    about = describe_machine(torch.device("cpu"))
    print(f"{about['device']}; load {os.getloadavg()[0]:.1f} at the start; "
          f"PyTorch {about['torch']}, Python {about['python']}\n")  # fmt: skip
    found = {name: shares(options.data_folder, *way) for name, way in WAYS.items()}
    *steps, evaluation, history = PARTS
    parts = [*steps, INSIDE, "the loop around", evaluation, history]
    rows = [["µs a training sample", *found]]
    for part in parts:
        row = [part]
        for spent in found.values():
            share = spent.get(part, 0) / sum(spent.values())
            row.append(f"{spent[part]:.2f} ({share:.0%})" if part in spent else "")
        rows.append(row)
    rows.append(["all", *(f"{sum(spent.values()):.2f}" for spent in found.values())])
    if options.markdown:
        rows.insert(1, ["---", *["---:"] * len(found)])
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
