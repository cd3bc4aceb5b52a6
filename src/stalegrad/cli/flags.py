"""Flags that several commands have, and what they stand for."""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from stalegrad.io.errors import ConfigError
from stalegrad.io.paths import read_path

if TYPE_CHECKING:
    from stalegrad.planning.cell import Cell
    from stalegrad.planning.config import Settings
    from stalegrad.training.bundles import Place


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
Flags: TypeAlias = argparse._ActionsContainer  # a parser, or a group of its flags


class Parser(argparse.ArgumentParser):
    """Refuses with one sentence in place of a page of usage."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **keywords
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` shows what there is.")


def examples(*lines: str) -> str:
    return "examples:\n" + "\n".join(f"  {line}" for line in lines)


def count(text: str) -> int:
    with suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= 1")


def seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1e9:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds > 0")


def path(text: str) -> Path:
    try:
        return read_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def counts(text: str) -> set[int]:
    return {count(part) for part in text.split(",")}


def add_study_flags(parser: Flags, required: bool = True) -> None:
    parser.add_argument("--study", required=required, metavar="NAME", help="the name of its folder")
    parser.add_argument(
        "--preset", default="quick", metavar="NAME", help="smoke, quick (default) or paper"
    )
    add_config_flag(parser)


def add_config_flag(parser: Flags) -> None:
    parser.add_argument(
        "--config-folder", type=path, default=Path("config"), metavar="DIR", help="default: config"
    )


def add_grid_flag(parser: Flags) -> None:
    parser.add_argument(
        "--grid", action="append", metavar="NAME", help="this grid only; may be given again"
    )


def grids_of(options: argparse.Namespace, preset: str | None = None) -> dict[str, list["Cell"]]:
    """The runs of each grid of the study (of those that `--grid` names, where there is one)."""
    from stalegrad.planning.config import load_preset, load_study
    from stalegrad.planning.expand import study_cells
    from stalegrad.planning.studies import CONTENT

    preset, home = preset or options.preset, study_home(options, options.study)
    where = str(home / CONTENT)
    settings = load_preset(preset, options.config_folder)
    grids = study_cells(load_study(home), preset, settings, where)
    wanted = getattr(options, "grid", None) or list(grids)
    for name in wanted:
        if name not in grids:
            raise ConfigError(f"{where}: there is no grid {name!r}; there are {', '.join(grids)}.")
    return {name: grids[name] for name in dict.fromkeys(wanted)}


def study_homes(options: argparse.Namespace, *studies: str) -> dict[str, Path]:
    """Name -> folder of the studies of that name, or of all, where the configuration looks for
    them."""
    from stalegrad.planning import config

    settings = settings_of(options, studies=list(studies) or None)
    return config.study_homes(settings, options.config_folder)


def settings_of(options: argparse.Namespace, **changes: object) -> "Settings":
    """The settings of `config.yaml` with changes; the defaults where it is not there."""
    from stalegrad.planning import config

    file = options.config_folder / "config.yaml"
    values = config.read_yaml(file) if file.exists() else {}
    return config.load_settings(values | changes, str(file))


def study_home(options: argparse.Namespace, study: str) -> Path:
    """The folder of a study."""
    return study_homes(options, study)[study]


def archive_folder(options: argparse.Namespace) -> Path:
    """The archive of the study: the one that the flag names, else its own."""
    from stalegrad.planning.studies import archive_of

    return options.archive_folder or archive_of(study_home(options, options.study))


def distinct(grids: Mapping[str, list["Cell"]]) -> dict[str, "Cell"]:
    """Hash -> run, once where several grids have it."""
    return {cell.hash: cell for cells in grids.values() for cell in cells}


def add_archive_flag(parser: Flags) -> None:
    parser.add_argument(
        "--archive-folder",
        type=path,
        metavar="DIR",
        help="of the study's archived runs; default: the folder `measured` of the study",
    )


def add_data_flag(parser: Flags) -> None:
    parser.add_argument(
        "--data-folder",
        type=path,
        default=Path("resources/data"),
        metavar="DIR",
        help="default: resources/data",
    )


def add_place_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where", "None of these decides what is trained.")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument(
        "--backend",
        choices=("auto", "cpu", "torch", "batched", "batched_tf32"),
        default="auto",
        help="cpu: fused kernels; torch: any problem, any device; batched: networks on a GPU",
    )
    group.add_argument("--threads", type=count, metavar="N", help="default: all cores; 1 on a GPU")
    add_data_flag(group)


def place_of(options: argparse.Namespace) -> "Place":
    from stalegrad.training.backends import resolve_device
    from stalegrad.training.bundles import Place
    from stalegrad.training.machine import cores

    with named_by_flag({"device": "--device"}):
        device = resolve_device(options.device)
    threads = options.threads or (cores() if device.type == "cpu" else 1)
    return Place(options.data_folder, device.type, options.backend, threads)


@contextmanager
def named_by_flag(flags: Mapping[str, str]) -> Iterator[None]:
    """Errors inside that name a configuration key name the flag in its place."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for key, flag in flags.items():
            message = message.replace(f"'{key}'", f"'{flag}'")
        raise ConfigError(message) from None
