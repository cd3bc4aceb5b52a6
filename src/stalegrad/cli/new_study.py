"""`stalegrad new-study`: a folder with a small study that runs, to be changed into one's own."""

import argparse
import json
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from stalegrad.cli.flags import Commands, add_config_flag, examples, settings_of
from stalegrad.io.errors import ConfigError
from stalegrad.io.files import write_atomically

# One file for each of the study's, ending in .in, in which @NAME@ and @HOME@ are filled in.
TEMPLATE = Path(__file__).parent / "study_template"
# What lies beside the results of studies, in `results/<preset>`.
TAKEN = ("figures", "logs", "notebooks", "report", "tables")


def add_new_study(commands: Commands) -> None:
    parser = commands.add_parser(
        "new-study",
        help="write a small study that runs, to start your own from",
        description=(
            "Write the folder of a small study that runs: a grid, a figure, a table, a claim with\n"
            "its test, a section of the report and a notebook, each to be changed into your own."
        ),
        epilog=examples(
            "stalegrad new-study mine",
            "stalegrad new-study mine --folder ../my-studies    # in a repository of your own",
        ),
    )
    parser.add_argument("name", metavar="NAME", help="letters, digits and _, as a name in Python")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("studies"),
        metavar="DIR",
        help="that holds studies; made where it is not there; default: studies",
    )
    add_config_flag(parser)
    parser.set_defaults(act=_write)


def _write(options: argparse.Namespace) -> None:
    named = settings_of(options).studies_folders
    folders = [options.config_folder.parent / name for name in named]
    home = options.folder / options.name
    check_name(options.name, folders)
    write_study(home, _seen_from_project(home, options))
    found = options.folder.resolve() in [folder.resolve() for folder in folders]
    there = _seen_from_project(options.folder, options)
    print(next_steps(home, None if found else [*named, there]))


def check_name(name: str, folders: Iterable[Path]) -> None:
    """Raises ConfigError where a study cannot be called `name`: it is no identifier, or taken by
    the results or by a study in `folders`."""
    from stalegrad.planning.studies import find_studies

    if not (name.isidentifier() and name.isascii()):
        raise ConfigError(
            f"'{name}' cannot name a study; use the letters a to z, digits and _, and do not begin "
            f"with a digit, such as my_study."
        )
    if name in TAKEN:
        raise ConfigError(
            f"'{name}' cannot name a study, because results/<preset>/{name} holds what is made of "
            f"all studies; choose another name."
        )
    there = find_studies(folder for folder in folders if folder.is_dir())
    if name in there:
        raise ConfigError(f"There is a study '{name}' in {there[name]}; choose another name.")


def write_study(home: Path, named: str) -> None:
    """Write the files of a new study into the folder `home`, which is made.

    named: the folder as its notebook names it. The study is found only once all of it is written:
    study.yaml comes last. Raises ConfigError where `home` is there, or cannot be a folder.
    """
    try:
        home.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"{home} cannot be made: there is a file or folder of that name, or a file where its "
            f"folder should be; choose another name or '--folder', or remove it."
        ) from None
    for template in sorted(TEMPLATE.glob("*.in"), key=lambda file: file.stem == "study.yaml"):
        text = template.read_text(encoding="utf-8")
        text = text.replace("@NAME@", home.name).replace("@HOME@", json.dumps(named))
        # pytest takes one module of a name, and every study has such a test.
        name = template.stem.replace("test_claims", f"test_claims_{home.name}")
        write_atomically(home / name, text)


def next_steps(home: Path, folders: list[str] | None) -> str:
    """What to do with a new study.

    folders: what `studies_folders` must be for the workflow to find it; None where it does.
    """
    import yaml

    settings = ["preset=smoke", f"studies=[{home.name}]"]
    lines = [
        f"{home} holds a small study that runs. Run it, test its claim, then change its files:"
    ]
    if folders is not None:
        listed = yaml.safe_dump(folders, default_flow_style=True, width=10_000).strip()
        settings.append(f"studies_folders={listed}")
    lines += [
        f"    snakemake --cores all --config {shlex.join(settings)}",
        f"    pytest {shlex.quote(str(home))}",
    ]
    if folders is not None:
        lines.append(f"With `studies_folders: {listed}` in config/config.yaml it is always found.")
    return "\n".join([*lines, "docs/adding-a-study.md says what each file is for."])


def _seen_from_project(path: Path, options: argparse.Namespace) -> str:
    """A path relative to the folder that holds the configuration, as settings name it; absolute
    where there is no configuration, or where it was given so."""
    if path.is_absolute() or not (options.config_folder / "config.yaml").exists():
        return str(path.resolve())
    return os.path.relpath(path, options.config_folder.parent)
