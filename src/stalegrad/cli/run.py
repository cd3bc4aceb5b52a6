"""`stalegrad run`: one run, trained while one looks on."""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stalegrad.cli.cell_flags import add_cell_flags, add_choices, cell_of
from stalegrad.cli.cells import as_text
from stalegrad.cli.flags import (
    Commands,
    Parser,
    add_place_flags,
    add_study_flags,
    examples,
    named_by_flag,
    path,
    place_of,
)
from stalegrad.io.wording import rate

if TYPE_CHECKING:
    import pandas as pd

    from stalegrad.planning.bundle import Bundle
    from stalegrad.planning.cell import Cell
    from stalegrad.training.bundles import Progress


def add_run(commands: Commands, arguments: Sequence[str] | None) -> None:
    """arguments: those after `run`, or None where another command was called."""
    choice = Parser(prog="stalegrad run", add_help=False)
    listed = choice.add_argument_group("a cell of a study", "Other flags then change it.")
    listed.add_argument("--hash", help="as `stalegrad cells` lists it, or the start of it")
    add_study_flags(listed, required=False)
    listed.add_argument(
        "--trace", type=path, metavar="FILE", help="replay what `stalegrad record` has recorded"
    )
    chosen = None
    if arguments is not None:
        chosen = add_choices(choice, arguments)
    parser = commands.add_parser(
        "run",
        parents=[choice],
        help="train one run, given by flags or by its hash",
        description=(
            "Train one run, show its accuracy after each epoch, and write its history as CSV.\n"
            "Each problem, update rule and cluster has flags of its own:\n"
            "`stalegrad run --rule adam --help` shows those of Adam."
        ),
        epilog=examples(
            "stalegrad run --dataset mnist --lr 0.01 --momentum 0.9 --delay 4 \\",
            "    --batch-size 64 --epochs 2",
            "stalegrad run --dataset mnist --rule adam --lr 0.0001 --delay 32 \\",
            "    --batch-size 64 --epochs 5 --seed 2 --output adam.csv",
            "stalegrad run --study STUDY --preset quick --hash 497a --epochs 1",
            "stalegrad run --trace results/traces/TRACE.csv",
            "stalegrad run --dataset mnist --lr 0.01 --batch-size 64 --epochs 2 \\",
            "    --cluster hub_and_spoke --workers 8 --set cluster.compute_time.name=expon",
        ),
    )
    if chosen is not None:
        add_cell_flags(parser, chosen)
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="default: results/cells/<hash>.csv"
    )
    add_place_flags(parser)
    parser.set_defaults(act=_run, chosen=chosen)


def _run(options: argparse.Namespace) -> None:
    from stalegrad.analysis.results import read_csv
    from stalegrad.planning.bundle import Bundle
    from stalegrad.planning.freshness import can_take

    cell = cell_of(options)
    bundle = Bundle((cell,))
    output = options.output or Path("results") / "cells" / f"{cell.hash}.csv"
    columns = " ".join(f"{k}={as_text(v)}" for k, v in cell.columns().items() if v is not None)
    print(f"run {cell.hash}: {columns}", flush=True)
    replayed = None
    with _EpochLines(cell.epochs) as lines:
        if can_take(output, bundle):
            lines.show(read_csv(output, "run"))
        else:
            with named_by_flag({"backend": "--backend"}):
                replayed = _train(bundle, output, options, lines)
    print(_summary(output))
    if replayed is not None:
        print(replayed)


def _train(
    bundle: "Bundle", output: Path, options: argparse.Namespace, lines: "_EpochLines"
) -> str | None:
    """Train, and return how the weights at the end compare with those of the trace, if any."""
    from stalegrad.training.bundles import train_bundle

    place = place_of(options)
    if options.trace is None:
        train_bundle(bundle, output, place, lines.progress)
        return None
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.npz"
        train_bundle(bundle, output, place, lines.progress, weights=weights)
        # Another process may have finished the output meanwhile.
        return _compared(bundle.cells[0], options.trace, weights) if weights.exists() else None


def _compared(cell: "Cell", trace: Path, weights: Path) -> str:
    import numpy as np

    from stalegrad.io.traces import read_trace

    recorded = read_trace(trace)
    values = {k: v for k, v in cell.as_dict().items() if k != "cluster"}
    with np.load(weights, allow_pickle=False) as content:
        last = np.ascontiguousarray(content["weights"][-1])
    if (digest := recorded.event("weights")) is None:
        return f"{trace} does not say with which weights its recording ended"
    if json.loads(recorded.about.get("cell", "null")) != values:
        return f"the cell is not the one that {trace} is a recording of; weights are not compared"
    if hashlib.sha256(last.tobytes()).hexdigest() == digest:
        return "its weights at the end are those recorded, to the bit"
    how = recorded.about.get("gradients", "an unknown backend")
    return (
        f"its weights at the end are not those recorded to the bit: the recording is in "
        f"{recorded.about.get('precision', 'an unknown precision')} with {how}"
    )


class _EpochLines:
    """One line an epoch as it comes, above a bar where there is a terminal."""

    def __init__(self, epochs: int):
        from tqdm import tqdm

        self._bar = tqdm(total=epochs, unit="epoch", disable=None, leave=False)
        self._epochs = epochs

    def __enter__(self) -> Self:
        self._shown = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def progress(self, progress: "Progress") -> None:
        """Print the epochs of one run that have not been."""
        self.show(progress.newest(progress.computed - self._shown))

    def show(self, new: "pd.DataFrame") -> None:
        """Print epochs."""
        for (_, row), (_, metrics) in zip(new.iterrows(), _metrics(new).iterrows(), strict=True):
            text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            ends = "  diverged" if row["diverged"] else ""
            with self._bar.external_write_mode():
                print(f"epoch {row['epoch']:3} of {self._epochs}  {text}{ends}", flush=True)
        self._bar.update(len(new))
        self._shown += len(new)


def _metrics(history: "pd.DataFrame") -> "pd.DataFrame":
    """The training loss and what the problem records each epoch."""
    return history.loc[:, "train_loss":"diverged"].iloc[:, :-1]


def _summary(output: Path) -> str:
    from stalegrad.analysis.results import read_csv
    from stalegrad.io.files import provenance_path

    last = read_csv(output).iloc[-1]
    about = json.loads(provenance_path(output).read_text(encoding="utf-8"))
    outcome = f"{'diverged in' if last['diverged'] else 'finished after'} epoch {last['epoch']}"
    if "test_accuracy" in last:
        outcome += f" with test accuracy {last['test_accuracy']:.4f}"
    return (
        f"{outcome}: {last['updates']:,} updates of mean staleness "
        f"{last['mean_staleness']:.4g}; {about['samples']:,} samples in "
        f"{about['wall_seconds']:.1f} s ({rate(about['samples'], about['wall_seconds'])}, "
        f"backend {about['backend']}); written to {output}"
    )
