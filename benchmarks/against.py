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
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import builds

os.environ.update(builds.ONE_THREAD)

SECONDS = 0.3  # of one measurement, about
RATES, UPDATES = 40, 500  # of the works without a network: step sizes, and updates of a run


def works(data_folder: Path) -> dict[str, Callable[[], float]]:
    """What is timed: does it once and returns its rate a second."""
    import large_cnn
    import least_squares
    import replay
    import torch

    from stalegrad.backends import make_backend
    from stalegrad.problems.lenet5 import LeNet5

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    lenet, larger = LeNet5(dataset="mnist").load(data_folder, cpu, torch.float32), None
    backend, larger = make_backend("cpu", lenet), large_cnn.load(data_folder)
    larger_backend = make_backend("cpu", larger)
    contenders = {
        "LeNet-5, training steps": replay.bundle(lenet, backend, 16, 64, 1),
        "LeNet-5, gradients alone": replay.gradients(lenet, backend, 64),
        "LeNet-5, evaluation": replay.evaluation(lenet, backend),
        "larger CNN, training steps": replay.bundle(larger, larger_backend, 1, 32, 1),
        "larger CNN, gradients alone": replay.gradients(larger, larger_backend, 32),
    }

    def of(contender: replay.Contender) -> Callable[[], float]:
        steps = replay.steps_for(contender, SECONDS)
        return lambda: contender.rate(steps)

    def without_network(work: least_squares.Work) -> Callable[[], float]:
        task = work.problem.load(Path(), cpu, torch.float32)
        runs = least_squares.plan_runs(work, len(task.train[1]), RATES, UPDATES)

        def rate() -> float:
            bundle = {"": lambda: least_squares.in_bundle("cpu", task, runs, torch.float32)}
            return len(runs) * UPDATES / least_squares.fastest(bundle, 1)[0][""]

        rate()  # compiles, and is not counted
        return rate

    timed = {name: of(contender) for name, contender in contenders.items()}
    return timed | {name: without_network(w) for name, w in least_squares.WORKS.items()}


def serve(data_folder: Path) -> None:
    """Print the names of the works; then, for each name read, its rate."""
    timed = works(data_folder)
    print(*timed, sep="\t", flush=True)
    for line in sys.stdin:
        print(timed[line.rstrip("\n")](), flush=True)


class Checkout:
    """A process that times the kernels of the checkout `folder`."""

    def __init__(self, folder: Path, data_folder: Path):
        command = [sys.executable, __file__, "--serve", "--data-folder", str(data_folder)]
        environment = os.environ | {"PYTHONPATH": str(folder / "src")}
        self.process = subprocess.Popen(
            command,
            env=environment,
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True},
        )
        self.works = self._answer().split("\t")

    def rate(self, work: str) -> float:
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


def compare(both: Sequence[Checkout], repeats: int) -> Iterable[list[str]]:
    for work in both[0].works:
        rates = turns(both, work, repeats)
        ratios = [here / there for here, there in rates]
        here, there = (statistics.median(column) for column in zip(*rates, strict=True))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        ratio = f"{statistics.median(ratios):.2f}"
        yield [work, f"{here:,.0f}", f"{there:,.0f}", ratio, spread]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="the other checkout")
    parser.add_argument("--serve", action="store_true", help="be one of the two processes")
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve(options.data_folder)
        return
    if not (options.folder / "src" / "stalegrad").is_dir():
        parser.error(f"{options.folder} is no checkout: it has no src/stalegrad")
    folders, headings = [builds.HERE.parent, options.folder], ["work", "here", "there"]
    with ExitStack() as stack:
        both = [stack.enter_context(Checkout(f, options.data_folder)) for f in folders]
        show_row([*headings, "times as fast", "lowest to highest"], options.markdown)
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
