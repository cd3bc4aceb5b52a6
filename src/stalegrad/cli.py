"""The command `stalegrad`: the steps of the workflow by hand, with no Snakemake needed.

What is heavy to import (torch, pandas) is imported by the commands that need it, so that help and
refusals come at once.
"""

import argparse
import csv
import dataclasses
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import stalegrad
from stalegrad.errors import ConfigError, ResultError, StalegradError

if TYPE_CHECKING:
    import pandas as pd

    from stalegrad.bundles import Place, Progress
    from stalegrad.cells import Bundle, Cell

# The parts of a cell that are chosen by name, where the choices are, and what is taken unsaid.
PARTS = {"problem": "problems", "rule": "rules", "cluster": "clusters"}
USUAL = {"problem": "lenet5", "rule": "sgd", "cluster": "constant_delay"}

LINE_SECONDS = 10.0  # between lines of progress where there is no terminal for a bar


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for what the user can put right, 130 for ^C.

    argv: the arguments after the name of the program; by default those it was called with.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        options, unknown = _parser(arguments).parse_known_args(arguments)
        if unknown:
            raise ConfigError(
                f"'{unknown[0]}' is not known here; `stalegrad {arguments[0]} --help` says what is."
            )
        options.act(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (StalegradError, OSError) as error:
        print(f"stalegrad: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "stalegrad: interrupted; whole epochs are kept, the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Refuses with one sentence in place of a page of usage."""

    def __init__(self, **keywords):
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **keywords
        )

    def error(self, message: str):
        raise ConfigError(f"{message}; `{self.prog} --help` shows what there is.")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for `arguments`; it depends on them, because a rule brings flags of its own."""
    parser = _Parser(
        prog="stalegrad",
        description=(
            "Stale gradients in asynchronous SGD: train single runs, or all of a study's, and\n"
            "keep what they give. The pipeline, figures and report included, is `snakemake`."
        ),
        epilog=_examples(
            "stalegrad data mnist",
            "stalegrad run --dataset mnist --lr 0.01 --delay 4 --batch-size 64 --epochs 2",
            "stalegrad cells --study jain2018 --grid fig2",
        ),
    )
    parser.add_argument("--version", action="version", version=stalegrad.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_data(commands)
    _add_cells(commands)
    _add_run(commands, arguments[1:] if arguments[:1] == ["run"] else None)
    _add_bundles(commands)
    _add_run_bundle(commands)
    _add_archive(commands)
    _add_gather(commands)
    _add_figure(commands)
    _add_verdicts(commands)
    return parser


def _examples(*lines: str) -> str:
    return "examples:\n" + "\n".join(f"  {line}" for line in lines)


def _count(text: str) -> int:
    with suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")


def _counts(text: str) -> set[int]:
    return {_count(part) for part in text.split(",")}


def _add_study_flags(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--study", required=required, metavar="NAME", help="such as jain2018")
    parser.add_argument(
        "--preset", default="quick", metavar="NAME", help="smoke, quick (default) or paper"
    )
    _add_config_flag(parser)


def _add_config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-folder", type=Path, default=Path("config"), metavar="DIR", help="default: config"
    )


def _add_grid_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grid", action="append", metavar="NAME", help="this grid only; may be given again"
    )


def _add_archive_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--archive-folder",
        type=Path,
        default=Path("measured"),
        metavar="DIR",
        help="default: measured",
    )


def _add_data_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-folder",
        type=Path,
        default=Path("resources/data"),
        metavar="DIR",
        help="default: resources/data",
    )


def _add_place_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where", "None of these decides what is trained.")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument(
        "--backend",
        choices=("auto", "cpu", "torch", "batched", "batched_tf32"),
        default="auto",
        help="cpu: fused kernels; torch: any problem, any device; batched: networks on a GPU",
    )
    group.add_argument("--threads", type=_count, metavar="N", help="default: all cores; 1 on a GPU")
    _add_data_flag(group)


def _place(options: argparse.Namespace) -> "Place":
    from stalegrad.backends import resolve_device
    from stalegrad.bundles import Place

    with _named_by_flag({"device": "--device"}):
        device = resolve_device(options.device)
    threads = options.threads or (_cores() if device.type == "cpu" else 1)
    return Place(options.data_folder, device.type, options.backend, threads)


def _cores() -> int:
    """Those this process may use, where the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- data -----------------------------------------------------------------------------------------


def _add_data(commands) -> None:
    parser = commands.add_parser(
        "data",
        help="fetch and verify the data sets",
        description="Fetch data sets from the first source that serves them; verify by SHA-256.",
        epilog=_examples(
            "stalegrad data",
            "stalegrad data mnist --data-folder resources/data",
            "stalegrad data --local-data ~/idx-files     # a machine that reaches no network",
        ),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mnist, fashion_mnist or both")
    parser.add_argument(
        "--local-data", type=Path, metavar="DIR", help="a folder with the IDX files, plain or .gz"
    )
    _add_data_flag(parser)
    parser.set_defaults(act=_fetch_data)


def _fetch_data(options: argparse.Namespace) -> None:
    from stalegrad.data import SHA256, fetch_dataset

    for name in options.names or SHA256:
        place = fetch_dataset(name, options.data_folder, options.local_data)
        print(f"{name}: verified, in {place}")


# --- cells ----------------------------------------------------------------------------------------


def _add_cells(commands) -> None:
    parser = commands.add_parser(
        "cells",
        help="list the cells of a study",
        description="List the runs of a study: grid, hash, and all that decides the result.",
        epilog=_examples(
            "stalegrad cells --study jain2018 --preset quick",
            "stalegrad cells --study jain2018 --preset paper --grid fig2 --csv > cells.csv",
            "stalegrad run --study jain2018 --hash 497a     # one of them, by its first digits",
        ),
    )
    _add_study_flags(parser)
    _add_grid_flag(parser)
    parser.add_argument("--csv", action="store_true", help="every column, separated by commas")
    parser.set_defaults(act=_list_cells)


def _list_cells(options: argparse.Namespace) -> None:
    rows = [
        {"grid": grid, "hash": cell.hash, **cell.columns()}
        for grid, cells in _grids(options).items()
        for cell in cells
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if options.csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    table = {column: [_text(row.get(column)) for row in rows] for column in columns}
    common = {k: v[0] for k, v in table.items() if len(set(v)) == 1 and k not in ("grid", "hash")}
    print(f"{len(rows)} runs, all with {' '.join(f'{k}={v}' for k, v in common.items())}\n")
    shown = {column: values for column, values in table.items() if column not in common}
    for line in zip(*(_padded(name, values) for name, values in shown.items()), strict=True):
        print("  ".join(line).rstrip())


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _padded(name: str, values: list[str]) -> list[str]:
    width = max(map(len, [name, *values]))
    return [text.ljust(width) for text in [name, *values]]


def _grids(options: argparse.Namespace, preset: str | None = None) -> dict[str, list["Cell"]]:
    """The runs of each grid of the study (of those that `--grid` names, where there is one)."""
    from stalegrad.cells import study_cells
    from stalegrad.config import load_preset, load_study

    preset, folder = preset or options.preset, options.config_folder
    where = str(folder / "studies" / f"{options.study}.yaml")
    study = load_study(options.study, folder)
    grids = study_cells(study, preset, load_preset(preset, folder), where)
    wanted = getattr(options, "grid", None) or list(grids)
    for name in wanted:
        if name not in grids:
            raise ConfigError(f"{where}: there is no grid {name!r}; there are {', '.join(grids)}.")
    return {name: grids[name] for name in dict.fromkeys(wanted)}


def _distinct(grids: Mapping[str, list["Cell"]]) -> dict[str, "Cell"]:
    """Hash -> run, once where several grids have it."""
    return {cell.hash: cell for cells in grids.values() for cell in cells}


# --- run ------------------------------------------------------------------------------------------


def _add_run(commands, arguments: Sequence[str] | None) -> None:
    """arguments: those after `run`, or None where another command was called."""
    choice = _Parser(prog="stalegrad run", add_help=False)
    listed = choice.add_argument_group("a cell of a study", "Other flags then change it.")
    listed.add_argument("--hash", help="as `stalegrad cells` lists it, or the start of it")
    _add_study_flags(listed, required=False)
    chosen = None
    if arguments is not None:
        chosen = _add_choices(choice, arguments)
    parser = commands.add_parser(
        "run",
        parents=[choice],
        help="train one run, given by flags or by its hash",
        description=(
            "Train one run, show its accuracy after each epoch, and write its history as CSV.\n"
            "Each problem, update rule and cluster has flags of its own:\n"
            "`stalegrad run --rule adam --help` shows those of Adam."
        ),
        epilog=_examples(
            "stalegrad run --dataset mnist --lr 0.01 --momentum 0.9 --delay 4 \\",
            "    --batch-size 64 --epochs 2",
            "stalegrad run --dataset mnist --rule adam --lr 0.0001 --delay 32 \\",
            "    --batch-size 64 --epochs 5 --seed 2 --output adam.csv",
            "stalegrad run --study jain2018 --preset quick --hash 497a --epochs 1",
            "stalegrad run --dataset mnist --lr 0.01 --batch-size 64 --epochs 2 \\",
            "    --cluster hub_and_spoke --workers 8 --set cluster.compute_time.name=expon",
        ),
    )
    if chosen is not None:
        _add_cell_flags(parser, chosen)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: results/cells/<hash>.csv"
    )
    _add_place_flags(parser)
    parser.set_defaults(act=_run, chosen=chosen)


def _add_choices(choice: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Add the flags that choose problem, rule and cluster; the cell as chosen so far.

    Plain values, as `Cell.as_dict` gives them: those of the listed cell where `--hash` names one.
    """
    from stalegrad import specs

    group = choice.add_argument_group("a cell by its parts")
    for part, kind in PARTS.items():
        there = specs.names(kind)
        usual = f"{', '.join(there)}; default: {USUAL[part]}"
        group.add_argument(f"--{part}", choices=there, metavar="NAME", help=usual)
    options, _ = choice.parse_known_args(arguments)
    values = {part: {"name": name} for part, name in USUAL.items()}
    if options.hash is not None:
        values = _listed_cell(options).as_dict()
    elif options.study is not None:
        raise ConfigError("'--study' is given without '--hash', which says which of its cells.")
    for part in PARTS:
        name = getattr(options, part)
        if name is not None and name != values[part]["name"]:
            values[part] = {"name": name}
    return values


def _listed_cell(options: argparse.Namespace) -> "Cell":
    if options.study is None:
        raise ConfigError("'--hash' names a cell of a study; say which with '--study'.")
    found = [c for h, c in _distinct(_grids(options)).items() if h.startswith(options.hash)]
    if len(found) != 1:
        raise ConfigError(
            f"'--hash' is {options.hash!r}, with which {len(found) or 'no'} runs of "
            f"{options.study} at {options.preset} begin; `stalegrad cells --study {options.study} "
            f"--preset {options.preset}` lists them."
        )
    return found[0]


def _add_cell_flags(parser: argparse.ArgumentParser, chosen: Mapping[str, Any]) -> None:
    """A flag for every field of a cell and of its parts, under the field's name."""
    from stalegrad import specs
    from stalegrad.cells import Cell

    _add_fields(parser.add_argument_group("numbers of the cell"), Cell, "", skip=PARTS)
    for part, kind in PARTS.items():
        name = chosen[part]["name"]
        group = parser.add_argument_group(f"{part} {name}")
        _add_fields(group, specs.spec_class(kind, name), f"{part}.")
    parser.add_argument_group("anything").add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key by its full name, such as rule.momentum=0.9; values may be JSON",
    )


def _add_fields(group, cls: type, prefix: str, skip: Iterable[str] = ()) -> None:
    texts = _field_texts(cls)
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        text = texts.get(field.name, "")
        if field.default is not dataclasses.MISSING:
            text = f"{text} (default: {json.dumps(field.default, default=str)})".strip()
        keywords: dict[str, Any] = {"type": _value, "metavar": "VALUE"}
        if field.type is bool:
            keywords = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            _flag(field.name),
            dest=prefix + field.name,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **keywords,
        )


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _field_texts(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of its fields, as `name, name: text`."""
    names = "|".join(re.escape(field.name) for field in dataclasses.fields(cls))
    texts: dict[str, str] = {}
    for each in cls.__mro__:
        parts = re.split(
            rf"\b((?:{names})(?:, (?:{names}))*): ", inspect.cleandoc(each.__doc__ or "")
        )
        for mentioned, text in zip(parts[1::2], parts[2::2], strict=True):
            text = " ".join(text.partition("\n\n")[0].split()).rstrip(".;")
            texts = {name: text for name in mentioned.split(", ")} | texts
    return texts


def _value(text: str) -> Any:
    """A typed value: JSON where it is JSON (1e-3, true, null, {...}), a number, else text."""
    for read in (json.loads, float):
        with suppress(ValueError):
            return read(text)
    return text


def _cell(options: argparse.Namespace) -> "Cell":
    """The cell that the flags of `run` describe. Raises ConfigError naming the flags."""
    from stalegrad.cells import Cell, parse_cell, with_keys

    given = vars(options)
    fields = {f.name for f in dataclasses.fields(Cell)} - PARTS.keys()
    keys = {k: v for k, v in given.items() if k in fields or "." in k}
    for setting in options.set:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"'--set' is {setting!r}; it must be KEY=VALUE.")
        keys[key] = _value(text)
    where = "command line"
    with _named_by_flag(_flags_of(options.chosen)):
        return parse_cell(with_keys(options.chosen, keys, where), where)


def _flags_of(chosen: Mapping[str, Any]) -> dict[str, str]:
    """Key as an error names it -> flag."""
    from stalegrad import specs
    from stalegrad.cells import Cell

    flags = {f.name: _flag(f.name) for f in dataclasses.fields(Cell)}
    for part, kind in PARTS.items():
        cls = specs.spec_class(kind, chosen[part]["name"])
        flags |= {f"{part}.{f.name}": _flag(f.name) for f in dataclasses.fields(cls)}
    return flags


@contextmanager
def _named_by_flag(flags: Mapping[str, str]) -> Iterator[None]:
    """Errors inside that name a configuration key name the flag in its place."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for key, flag in flags.items():
            message = message.replace(f"'{key}'", f"'{flag}'")
        raise ConfigError(message) from None


def _run(options: argparse.Namespace) -> None:
    from stalegrad.bundles import train_bundle
    from stalegrad.cells import Bundle
    from stalegrad.files import is_trained

    cell = _cell(options)
    output = options.output or Path("results") / "cells" / f"{cell.hash}.csv"
    columns = " ".join(f"{k}={_text(v)}" for k, v in cell.columns().items() if v is not None)
    print(f"run {cell.hash}: {columns}", flush=True)
    with _EpochLines(cell.epochs) as lines:
        if is_trained(output):
            lines.show(_history_of(cell, output))
        else:
            place = _place(options)
            with _named_by_flag({"backend": "--backend"}):
                train_bundle(Bundle((cell,)), output, place, lambda p: lines.show(p.history))
    print(_summary(output))


def _history_of(cell: "Cell", output: Path) -> "pd.DataFrame":
    from stalegrad.results import read_csv

    history = read_csv(output)
    if set(history["run"]) != {cell.hash}:
        raise ResultError(f"{output} holds another run; name another file with '--output'.")
    return history


class _EpochLines:
    """One line an epoch as it comes, above a bar where there is a terminal."""

    def __init__(self, epochs: int):
        from tqdm import tqdm

        self._bar = tqdm(total=epochs, unit="epoch", disable=None, leave=False)
        self._epochs = epochs

    def __enter__(self):
        self._shown = 0
        return self

    def __exit__(self, *_):
        self._bar.close()

    def show(self, history: "pd.DataFrame") -> None:
        """Print the epochs of one run that have not been."""
        new = history.iloc[self._shown :]
        for (_, row), (_, metrics) in zip(new.iterrows(), _metrics(new).iterrows(), strict=True):
            text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            ends = "  diverged" if row["diverged"] else ""
            with self._bar.external_write_mode():
                print(f"epoch {row['epoch']:3} of {self._epochs}  {text}{ends}", flush=True)
        self._bar.update(len(new))
        self._shown = len(history)


def _metrics(history: "pd.DataFrame") -> "pd.DataFrame":
    """The training loss and what the problem records each epoch."""
    return history.loc[:, "train_loss":"diverged"].iloc[:, :-1]


def _summary(output: Path) -> str:
    from stalegrad.files import provenance_path
    from stalegrad.results import read_csv

    last = read_csv(output).iloc[-1]
    about = json.loads(provenance_path(output).read_text(encoding="utf-8"))
    outcome = f"{'diverged in' if last['diverged'] else 'finished after'} epoch {last['epoch']}"
    if "test_accuracy" in last:
        outcome += f" with test accuracy {last['test_accuracy']:.4f}"
    return (
        f"{outcome}: {last['updates']:,} updates of mean staleness "
        f"{last['mean_staleness']:.4g}; {about['samples']:,} samples in "
        f"{about['wall_seconds']:.1f} s ({_rate(about['samples'], about['wall_seconds'])}, "
        f"backend {about['backend']}); written to {output}"
    )


def _rate(samples: float, seconds: float) -> str:
    return f"{samples / max(seconds, 1e-3):,.0f} samples/s"


# --- bundles --------------------------------------------------------------------------------------


def _add_bundles(commands) -> None:
    parser = commands.add_parser(
        "bundles",
        help="write a study's runs to bundle files, to be trained anywhere",
        description=(
            "Write the runs of a study that are yet to be trained, one JSON file a bundle of them."
        ),
        epilog=_examples(
            "stalegrad bundles --study jain2018 --preset paper --grid fig2 --seeds 1 --output work",
            "stalegrad run-bundle work/*.json --output done     # here, or where there is a GPU",
            "stalegrad archive --study jain2018 done/*.csv",
        ),
    )
    _add_study_flags(parser)
    _add_grid_flag(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=_counts, metavar="1,2", help="only these seeds")
    parser.add_argument(
        "--bundle-size", type=_count, metavar="N", help="runs in a bundle; default: the preset's"
    )
    parser.add_argument(
        "--all", action="store_true", help="also the runs that the archive holds already"
    )
    parser.add_argument(
        "--samples-per-second",
        type=_count,
        default=30_000,
        metavar="N",
        help="for the estimate of the time: what `benchmarks/replay.py` gives (default: 30000, "
        "one core with the fused kernel)",
    )
    _add_archive_flag(parser)
    parser.set_defaults(act=_write_bundles)


def _write_bundles(options: argparse.Namespace) -> None:
    from stalegrad.cells import bundles
    from stalegrad.config import load_preset
    from stalegrad.files import write_atomically
    from stalegrad.measured import archived_runs

    runs = _distinct(_grids(options))
    if options.seeds:
        runs = {h: cell for h, cell in runs.items() if cell.seed in options.seeds}
    known = set() if options.all else archived_runs(options.study, options.archive_folder)
    cells = [cell for h, cell in runs.items() if h not in known]
    preset = load_preset(options.preset, options.config_folder)
    if options.bundle_size:
        preset = preset.model_copy(update={"bundle_size": options.bundle_size})
    made = bundles(cells, preset)
    for bundle in made:
        write_atomically(options.output / f"{bundle.hash}.json", bundle.to_json() + "\n")
    samples = sum(_samples(cell) * cell.epochs for cell in cells)
    print(
        f"{len(cells):,} runs in {len(made):,} bundles, written to {options.output}; "
        f"{len(runs) - len(cells):,} more are in {options.archive_folder} already.\n"
        f"{samples:,} samples: {_duration(samples / options.samples_per_second)} at "
        f"{options.samples_per_second:,} samples/s."
    )


def _samples(cell: "Cell") -> int:
    """Samples that one epoch goes over; those past the last full minibatch are left out."""
    return cell.problem.samples() // cell.batch_size * cell.batch_size


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02} min" if seconds >= 60 else f"{seconds:.0f} s"


# --- run-bundle -----------------------------------------------------------------------------------


def _add_run_bundle(commands) -> None:
    parser = commands.add_parser(
        "run-bundle",
        help="train bundle files to CSV",
        description=(
            "Train bundles, one after the other, each to DIR/<hash>.csv with its provenance\n"
            "beside it. Bundles that are there already are left alone, and one that was cut short\n"
            "goes on from its last whole epoch: after a kill, give the same command again."
        ),
        epilog=_examples(
            "stalegrad run-bundle work/*.json --output done",
            "stalegrad run-bundle work/*.json --output done --device cuda",
        ),
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    _add_place_flags(parser)
    parser.set_defaults(act=_run_bundles)


def _run_bundles(options: argparse.Namespace) -> None:
    from stalegrad.files import is_trained

    read = [_read_bundle(file) for file in options.files]
    bundles = {options.output / f"{bundle.hash}.csv": bundle for bundle in read}
    left = {output: b for output, b in bundles.items() if not is_trained(output)}
    print(f"{len(bundles)} bundles, {len(bundles) - len(left)} of them trained already", flush=True)
    if not left:
        return

    from stalegrad.bundles import train_bundle

    place = _place(options)
    with _BundleProgress(list(left.values())) as progress:
        for output, bundle in left.items():
            with _named_by_flag({"backend": "--backend"}):
                train_bundle(bundle, output, place, progress.report)
            progress.next(output)


def _read_bundle(file: Path) -> "Bundle":
    from stalegrad.cells import Bundle

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

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def report(self, progress: "Progress") -> None:
        rows, seconds = progress.computed, progress.seconds
        self._computed = (self._earlier[0] + rows, self._earlier[1] + seconds)
        # Epochs that a diverged run is spared count as done, but took no time.
        done = sum(self._epochs[: self._number]) + progress.done
        left = (self._total - done) * self._computed[1] / self._computed[0]
        samples = rows * _samples(self._bundles[self._number].cells[0])
        text = (
            f"bundle {self._number + 1} of {len(self._bundles)}: {done:,} of {self._total:,} "
            f"epochs, {_rate(samples, seconds)}, {_duration(left)} left"
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


# --- archive --------------------------------------------------------------------------------------


def _add_archive(commands) -> None:
    parser = commands.add_parser(
        "archive",
        help="keep trained bundles, so that the paper preset need not train them again",
        description="Add the runs of trained bundles to the archive, with where they come from.",
        epilog=_examples(
            "stalegrad archive --study jain2018 done/*.csv",
            "stalegrad archive --study lamour2023 --results results/paper",
        ),
    )
    parser.add_argument("--study", required=True, metavar="NAME", help="such as jain2018")
    parser.add_argument("files", nargs="*", type=Path, metavar="CSV")
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="of the paper preset: keep the trajectories and loss landscapes that are there",
    )
    _add_config_flag(parser)
    _add_archive_flag(parser)
    parser.set_defaults(act=_archive)


def _archive(options: argparse.Namespace) -> None:
    from stalegrad.files import provenance_path
    from stalegrad.measured import add_to_archive, archived_runs
    from stalegrad.results import read_csv

    if options.results:
        _archive_products(options)
    if not options.files:
        if not options.results:
            raise ConfigError("nothing to archive: name the CSV files of bundles, or --results.")
        return
    known = _distinct(_grids(options, preset="paper"))
    for file in options.files:
        foreign = set(read_csv(file)["run"]) - known.keys()
        if foreign:
            raise ResultError(
                f"{file}: the run {min(foreign)} is none of {options.study} at the preset 'paper', "
                f"which alone uses the archive; `stalegrad cells` lists those that are."
            )
        if not provenance_path(file).exists():
            raise ResultError(
                f"{file}: {provenance_path(file).name} is not beside it; bring both files, as "
                f"`stalegrad run-bundle` writes them."
            )
    added = add_to_archive(options.study, options.files, options.archive_folder)
    held = len(archived_runs(options.study, options.archive_folder))
    print(f"{added:,} runs added to {options.archive_folder / options.study}, {held:,} now there")


def _archive_products(options: argparse.Namespace) -> None:
    from stalegrad.files import archived_folder
    from stalegrad.measured import keep
    from stalegrad.plan import Plan

    settings = {"preset": "paper", "studies": [options.study]}
    plan = Plan.load(settings, options.config_folder)
    for (kind, content), files in plan.products_kept(options.study).items():
        paths = {name: options.results / options.study / file for name, file in files.items()}
        first = next(iter(paths.values()))
        if not first.exists():
            print(f"{first} is not there, and is left out")
            continue
        folder = archived_folder(options.study, kind, content, options.archive_folder)
        print(f"{first}: {'kept in' if keep(folder, paths) else 'was already in'} {folder}")


# --- gather ---------------------------------------------------------------------------------------


def _add_gather(commands) -> None:
    parser = commands.add_parser(
        "gather",
        help="tables of what the archive holds of a study",
        description="Write runs.csv and history.csv of the archived runs of a study.",
        epilog=_examples(
            "stalegrad gather --study jain2018 --grid fig2 --output results/measured/jain2018",
            "stalegrad figure jain2018_fig2 --results results/measured --output fig2.png",
        ),
    )
    parser.add_argument("--study", required=True, metavar="NAME", help="such as jain2018")
    _add_grid_flag(parser)
    _add_config_flag(parser)
    _add_archive_flag(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.set_defaults(act=_gather)


def _gather(options: argparse.Namespace) -> None:
    from stalegrad.measured import gather

    grids = _grids(options, "paper")
    count = gather(options.study, grids, options.output, options.archive_folder)
    print(f"{count:,} archived runs of {options.study} gathered in {options.output}")


# --- verdicts -------------------------------------------------------------------------------------

_COLOURS = {"reproduced": 32, "partly": 33, "not reproduced": 31, "cannot tell": 90}


def _add_verdicts(commands) -> None:
    parser = commands.add_parser(
        "verdicts",
        help="did it hold? every claim on a line",
        description="Show the verdicts of a preset, in colours where the terminal has them.",
        epilog=_examples("stalegrad verdicts", "stalegrad verdicts results/paper/verdicts.csv"),
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("results/quick/verdicts.csv"),
        metavar="CSV",
        help="default: results/quick/verdicts.csv",
    )
    parser.set_defaults(act=_show_verdicts)


def _show_verdicts(options: argparse.Namespace) -> None:
    from stalegrad.results import read_csv

    verdicts = read_csv(options.file)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = max(map(len, _COLOURS))
    for study, claims in verdicts.groupby("study", sort=False):
        print(study)
        for claim, verdict in zip(claims["claim"], claims["verdict"], strict=True):
            shown = f"{verdict:{width}}"
            if coloured:
                shown = f"\033[{_COLOURS[verdict]}m{shown}\033[0m"
            print(f"  {shown}  {claim.replace('_', ' ')}")
    counts = verdicts["verdict"].value_counts()
    print(", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in _COLOURS))


# --- figure ---------------------------------------------------------------------------------------


def _add_figure(commands) -> None:
    parser = commands.add_parser(
        "figure",
        help="draw one figure again from results",
        description="Draw one figure from the results that the workflow has gathered.",
        epilog=_examples(
            "stalegrad figure jain2018_fig2 --results results/quick --output fig2.pdf"
        ),
    )
    parser.add_argument("name", metavar="NAME", help="<study>_<figure>, as its file is called")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help=".pdf or .png")
    _add_config_flag(parser)
    parser.set_defaults(act=_draw)


def _draw(options: argparse.Namespace) -> None:
    from stalegrad.config import Settings, load_study, study_names

    folder = options.config_folder
    figures = {
        f"{study}_{name}": (study, name, product.make)
        for study in study_names(Settings(), folder)
        for name, product in load_study(study, folder).figures.items()
    }
    if options.name not in figures:
        raise ConfigError(f"There is no figure {options.name!r}; there are {', '.join(figures)}.")
    if options.output.suffix not in (".pdf", ".png"):
        raise ConfigError(f"'--output' is {options.output}; it must end in .pdf or .png.")

    from stalegrad.figures.style import save, style
    from stalegrad.products import maker
    from stalegrad.results import StudyResults

    study, name, make = figures[options.name]
    results = StudyResults(study, options.results.name, options.results / study)
    with style():
        save(maker("figures", study, name, make)(results), options.output)
    print(options.output)
