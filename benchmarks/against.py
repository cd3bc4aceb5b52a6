"""The kernels of this checkout and of another one, timed in turn.

Each checkout has a process of its own, which stands still while the other is timed; both run the
same works, once each by turns, so that both meet the same ups and downs of the machine. The rates
and the ratio are medians over the turns; beside it stand the lowest and the highest of one turn.

    benchmarks/run --against ../older [--build native]
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import builds

from stalegrad.training import kernels

HERE = Path(__file__).parent


class Checkout:
    """A process that times the kernels of the checkout `folder`."""

    def __init__(self, folder: Path, data_folder: Path):
        command = [sys.executable, str(HERE / "rates.py"), str(data_folder)]
        environment = os.environ | {"PYTHONPATH": str(folder / "src")}
        self.process = subprocess.Popen(
            command,
            env=environment,
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
        )
        self.works = self._answer().split("\t")

    def rate(self, work: str) -> float:
        with suppress(BrokenPipeError):  # then there is no answer either
            self.process.stdin.write(f"{work}\n")
            self.process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A checkout could not be timed; what it said stands above.")
        return line.rstrip("\n")

    def __enter__(self) -> "Checkout":
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()


def turns(both: Sequence[Checkout], work: str, repeats: int) -> list[tuple[float, float]]:
    """Rates of the two; who goes first changes from turn to turn."""
    found = []
    for turn in range(repeats):
        order = both if turn % 2 == 0 else both[::-1]
        rates = {id(checkout): checkout.rate(work) for checkout in order}
        found.append((rates[id(both[0])], rates[id(both[1])]))
    return found


def compare(both: Sequence[Checkout], repeats: int) -> Iterator[list[str]]:
    for work in both[0].works:
        rates = turns(both, work, repeats)
        ratios = [here / there for here, there in rates]
        here, there = (statistics.median(column) for column in zip(*rates, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        ratio = f"{statistics.median(ratios):.2f}"
        yield [work, f"{here:,.0f}", f"{there:,.0f}", ratio, spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    folders = [HERE.parent, options.folder]
    headings = ["work", "here", "there", "times as fast", "lowest to highest"]
    with ExitStack() as stack:
        both = [stack.enter_context(Checkout(f, options.data_folder)) for f in folders]
        print(f"{builds.processor()}, the kernels here built for "
              f"{kernels.instruction_set('lenet5')}; there: {options.folder}\n")  # fmt: skip
        show_row(headings, options.markdown)
        if options.markdown:
            show_row(["---", *["---:"] * 4], options.markdown)
        for row in compare(both, 5 if options.quick else 21):
            show_row(row, options.markdown)


def show_row(row: Sequence[str], markdown: bool) -> None:
    name, *numbers = row
    padded = f"{name:40}" + "".join(f"{text:>18}" for text in numbers)
    print(f"| {' | '.join(row)} |" if markdown else padded, flush=True)


if __name__ == "__main__":
    main()
