"""`stalegrad bundles` and `run-bundle`: a study's runs as files, to be trained anywhere."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stalegrad.cli.flags import (
    Commands,
    add_archive_flag,
    add_grid_flag,
    add_place_flags,
    add_study_flags,
    archive_folder,
    count,
    counts,
    distinct,
    examples,
    grids_of,
    named_by_flag,
    path,
    place_of,
)
from stalegrad.io.errors import ConfigError
from stalegrad.io.wording import duration, rate

if TYPE_CHECKING:
    from stalegrad.planning.bundle import Bundle
    from stalegrad.training.bundles import Progress

LINE_SECONDS = 10.0  # between lines of progress where there is no terminal for a bar


def add_bundles(commands: Commands) -> None:
    parser = commands.add_parser(
        "bundles",
        help="write a study's runs to bundle files, to be trained anywhere",
        description=(
            "Write the runs of a study that are yet to be trained, one JSON file a bundle of them."
        ),
        epilog=examples(
            "stalegrad bundles --study STUDY --preset paper --grid fig2 --seeds 1 --output work",
            "stalegrad run-bundle work/*.json --output done     # here, or where there is a GPU",
            "stalegrad archive --study STUDY done/*.csv",
        ),
    )
    add_study_flags(parser)
    add_grid_flag(parser)
    parser.add_argument("--output", type=path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=counts, metavar="1,2", help="only these seeds")
    parser.add_argument(
        "--bundle-size", type=count, metavar="N", help="runs in a bundle; default: the preset's"
    )
    parser.add_argument(
        "--all", action="store_true", help="also the runs that the archive holds already"
    )
    add_archive_flag(parser)
    parser.set_defaults(act=_write_bundles)


def _write_bundles(options: argparse.Namespace) -> None:
    from stalegrad.analysis.archive import archived_runs
    from stalegrad.io.files import write_atomically
    from stalegrad.planning.bundle import bundles
    from stalegrad.planning.config import load_preset

    runs = distinct(grids_of(options))
    if options.seeds:
        runs = {h: cell for h, cell in runs.items() if cell.seed in options.seeds}
        if lacking := options.seeds - {cell.seed for cell in runs.values()}:
            raise ConfigError(
                f"'--seeds' names {', '.join(map(str, sorted(lacking)))}, which no run of "
                f"{options.study} at {options.preset} has; `stalegrad cells` lists those there are."
            )
    archive = archive_folder(options)
    known = set() if options.all else archived_runs(archive)
    cells = [cell for h, cell in runs.items() if h not in known]
    preset = load_preset(options.preset, options.config_folder)
    if options.bundle_size:
        preset = preset.model_copy(update={"bundle_size": options.bundle_size})
    made = bundles(cells, preset)
    for bundle in made:
        write_atomically(options.output / f"{bundle.hash}.json", bundle.to_json() + "\n")
    samples = sum(cell.samples() for cell in cells)
    print(
        f"{len(cells):,} runs in {len(made):,} bundles, written to {options.output}; "
        f"{len(runs) - len(cells):,} more are in {archive} already.\n"
        f"{samples:,} samples{_lasting(made)}."
    )


def _lasting(bundles: list["Bundle"]) -> str:
    """How long one core of this machine trains them, and by what that is known."""
    from stalegrad.planning.config import Settings
    from stalegrad.training import speed

    speeds = speed.measured(Settings(), bundles) if bundles else None
    if speeds is None or speeds.cuda:
        return ""
    seconds = sum(map(speeds.seconds, bundles))
    name = speed.problem_of(max(bundles, key=speeds.seconds))
    return f": about {duration(seconds)} on one core (measured: {speed.described(name, speeds)})"


def add_run_bundle(commands: Commands) -> None:
    parser = commands.add_parser(
        "run-bundle",
        help="train bundle files to CSV",
        description=(
            "Train bundles, one after the other, each to DIR/<hash>.csv with its provenance\n"
            "beside it. Bundles that are there already are left alone, unless the code has\n"
            "changed. One that was cut short goes on from its last whole epoch: after a kill,\n"
            "give the same command again."
        ),
        epilog=examples(
            "stalegrad run-bundle work/*.json --output done",
            "stalegrad run-bundle work/*.json --output done --device cuda",
        ),
    )
    parser.add_argument("files", nargs="+", type=path, metavar="FILE")
    parser.add_argument("--output", type=path, required=True, metavar="DIR")
    add_place_flags(parser)
    parser.set_defaults(act=_run_bundles)


def _run_bundles(options: argparse.Namespace) -> None:
    from stalegrad.planning.freshness import can_take

    read = [_read_bundle(file) for file in options.files]
    bundles = {options.output / f"{bundle.hash}.csv": bundle for bundle in read}
    left = {output: b for output, b in bundles.items() if not can_take(output, b)}
    print(f"{len(bundles)} bundles, {len(bundles) - len(left)} of them trained already", flush=True)
    if not left:
        return

    from stalegrad.training.bundles import train_bundle

    place = place_of(options)
    with _BundleProgress(list(left.values())) as progress:
        for output, bundle in left.items():
            with named_by_flag({"backend": "--backend"}):
                train_bundle(bundle, output, place, progress.report)
            progress.next(output)


def _read_bundle(file: Path) -> "Bundle":
    from stalegrad.planning.bundle import Bundle

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file}: not readable ({error}); `stalegrad bundles` writes bundle files."
        ) from None
    return Bundle.from_json(text, str(file))


class _BundleProgress:
    """Epochs done of all, speed and time left: a bar on a terminal, else a line now and then."""

    def __init__(self, bundles: list["Bundle"]):
        from tqdm import tqdm

        self._bundles = bundles
        self._epochs = [sum(cell.epochs for cell in bundle.cells) for bundle in bundles]
        self._total = sum(self._epochs)
        self._number = 0  # of the bundle that is trained
        self._earlier = (0, 0.0)  # epochs that were computed, and seconds, of bundles before it
        self._computed = (0, 0.0)  # the same with this one
        self._last_line = 0.0
        self._bar = tqdm(
            total=self._total,
            disable=None,
            leave=False,
            bar_format="{percentage:3.0f}%|{bar}| {desc}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def report(self, progress: "Progress") -> None:
        rows, seconds = progress.computed, progress.seconds
        self._computed = (self._earlier[0] + rows, self._earlier[1] + seconds)
        # Epochs that a diverged run is spared count as done, but took no time.
        done = sum(self._epochs[: self._number]) + progress.done
        left = (self._total - done) * self._computed[1] / self._computed[0]
        cells = self._bundles[self._number].cells
        samples = rows * sum(cell.samples() for cell in cells) / self._epochs[self._number]
        text = (
            f"bundle {self._number + 1} of {len(self._bundles)}: {done:,} of {self._total:,} "
            f"epochs, {rate(samples, seconds)}, {duration(left)} left"
        )
        if not self._bar.disable:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
        elif time.monotonic() - self._last_line > LINE_SECONDS:
            print(text, flush=True)
            self._last_line = time.monotonic()

    def next(self, output: Path) -> None:
        """The bundle is done and written to `output`."""
        self._earlier = self._computed
        self._number += 1
        with self._bar.external_write_mode():
            print(f"bundle {self._number} of {len(self._bundles)}: {output}", flush=True)
