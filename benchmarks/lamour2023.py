"""Seconds for one ten-worker cell of lamour2023, beside the authors' wall time for the same cell.

Worker 1 slow at 90 ms, split labels, six epochs over 60,000 images: 360,000 gradients of samples,
on one core. The authors ran the ten workers as ten processes on one machine, injected delay
included; here the delay is a column of the schedule.

    python benchmarks/lamour2023.py --repeats 3
"""

import argparse
import tempfile
import time
from pathlib import Path

from stalegrad.analysis.results import read_csv
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import Cell
from stalegrad.planning.plan import Plan
from stalegrad.training.bundles import Place, train_bundle

AUTHORS = Path("studies/lamour2023/published/wall_times.csv")


def slow_cell() -> Cell:
    plan = Plan.load({"preset": "paper", "studies": ["lamour2023"]})
    return next(
        cell
        for cell in plan.grids["lamour2023"]["table2"]
        if (cell.cluster.workers, cell.cluster.delayed, cell.partition) == (10, "one", "labels")
        and cell.cluster.delay_ms == 90
    )


def seconds(data_folder: Path, repeats: int) -> float:
    """Least processor seconds of the cell over some repeats."""
    bundle, spent = Bundle((slow_cell(),)), []
    for _ in range(repeats + 1):  # the first compiles, and is not counted
        with tempfile.TemporaryDirectory() as folder:
            begin = time.process_time()
            train_bundle(bundle, Path(folder, "cell.csv"), Place(data_folder))
            spent.append(time.process_time() - begin)
    return min(spent[1:])


def authors_seconds() -> float:
    return read_csv(AUTHORS).query("workers == 10 and delay_ms == 90")["wall_seconds"].item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ours, theirs = seconds(options.data_folder, options.repeats), authors_seconds()
    print(
        f"one cell: {ours:.1f} s of one core, best of {options.repeats}; the authors: {theirs} s "
        f"on the wall, {theirs / ours:.0f} times as long"
    )


if __name__ == "__main__":
    main()
