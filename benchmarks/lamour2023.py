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

from stalegrad.bundles import Place, train_bundle
from stalegrad.cells import Bundle, Cell
from stalegrad.plan import Plan
from stalegrad.results import read_csv

AUTHORS = Path("published/lamour2023_wall_times.csv")


def slow_cell() -> Cell:
    plan = Plan.load({"preset": "paper", "studies": ["lamour2023"]})
    return next(
        cell
        for cell in plan.grids["lamour2023"]["table2"]
        if (cell.cluster.workers, cell.cluster.delayed, cell.partition) == (10, "one", "labels")
        and cell.cluster.delay_ms == 90
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-folder", type=Path, default=Path("resources/data"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    bundle = Bundle((slow_cell(),))
    walls, processors = [], []
    for _ in range(options.repeats + 1):  # the first compiles, and is not counted
        with tempfile.TemporaryDirectory() as folder:
            wall, processor = time.perf_counter(), time.process_time()
            train_bundle(bundle, Path(folder, "cell.csv"), Place(options.data_folder))
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
    published = read_csv(AUTHORS).query("workers == 10 and delay_ms == 90")["wall_seconds"].item()
    best = min(walls[1:])
    print(
        f"one cell: {best:.1f} s (processor {min(processors[1:]):.1f} s), best of "
        f"{options.repeats}; the authors: {published} s, {published / best:.0f} times as long"
    )


if __name__ == "__main__":
    main()
