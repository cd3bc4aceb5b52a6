"""`stalegrad archive` and `gather`: trained runs into a study's archive, and tables out of it."""

import argparse
import sys

from stalegrad.cli.flags import (
    Commands,
    add_archive_flag,
    add_config_flag,
    add_grid_flag,
    archive_folder,
    distinct,
    examples,
    grids_of,
    path,
)
from stalegrad.io.errors import ConfigError, ResultError


def add_archive(commands: Commands) -> None:
    parser = commands.add_parser(
        "archive",
        help="keep trained bundles, so that the paper preset need not train them again",
        description="Add the runs of trained bundles to the archive, with where they come from.",
        epilog=examples(
            "stalegrad archive --study STUDY done/*.csv",
            "stalegrad archive --study STUDY --results results/paper",
        ),
    )
    parser.add_argument("--study", required=True, metavar="NAME", help="the name of its folder")
    parser.add_argument("files", nargs="*", type=path, metavar="CSV")
    parser.add_argument(
        "--results",
        type=path,
        metavar="DIR",
        help="of the paper preset: keep the trajectories and loss landscapes that are there",
    )
    add_config_flag(parser)
    add_archive_flag(parser)
    parser.set_defaults(act=_archive)


def _archive(options: argparse.Namespace) -> None:
    from stalegrad.analysis.archive import add_to_archive, archived_runs
    from stalegrad.analysis.results import read_csv
    from stalegrad.io.files import provenance_path
    from stalegrad.planning.freshness import is_of_this_code

    if options.results:
        _archive_products(options)
    if not options.files:
        if not options.results:
            raise ConfigError("nothing to archive: name the CSV files of bundles, or --results.")
        return
    known = distinct(grids_of(options, preset="paper"))
    for file in options.files:
        runs = set(read_csv(file, "run")["run"])
        if foreign := runs - known.keys():
            raise ResultError(
                f"{file}: the run {min(foreign)} is none of {options.study} at the preset 'paper', "
                f"which alone uses the archive; `stalegrad cells` lists those that are."
            )
        if not provenance_path(file).exists():
            raise ResultError(
                f"{file}: {provenance_path(file).name} is not beside it; bring both files, as "
                f"`stalegrad run-bundle` writes them."
            )
        if not is_of_this_code(file, [known[run] for run in runs]):
            print(
                f"note: {file} was made by other code than the present one; its provenance keeps "
                f"the commit.",
                file=sys.stderr,
            )
    folder = archive_folder(options)
    added = add_to_archive(folder, options.files)
    print(f"{added:,} runs added to {folder}, {len(archived_runs(folder)):,} now there")


def _archive_products(options: argparse.Namespace) -> None:
    from stalegrad.analysis.archive import keep
    from stalegrad.io.files import archived_folder
    from stalegrad.planning.plan import Plan

    settings = {"preset": "paper", "studies": [options.study]}
    plan = Plan.load(settings, options.config_folder)
    for (kind, content), files in plan.products_kept(options.study).items():
        paths = {name: options.results / options.study / file for name, file in files.items()}
        first = next(iter(paths.values()))
        if not first.exists():
            print(f"{first} is not there, and is left out")
            continue
        folder = archived_folder(archive_folder(options), kind, content)
        print(f"{first}: {'kept in' if keep(folder, paths) else 'was already in'} {folder}")


def add_gather(commands: Commands) -> None:
    parser = commands.add_parser(
        "gather",
        help="tables of what the archive holds of a study",
        description="Write runs.csv and history.csv of the archived runs of a study.",
        epilog=examples(
            "stalegrad gather --study STUDY --grid fig2 --output results/measured/STUDY",
            "stalegrad figure STUDY_fig2 --results results/measured --output fig2.png",
        ),
    )
    parser.add_argument("--study", required=True, metavar="NAME", help="the name of its folder")
    add_grid_flag(parser)
    add_config_flag(parser)
    add_archive_flag(parser)
    parser.add_argument("--output", type=path, required=True, help="folder to write to")
    parser.set_defaults(act=_gather)


def _gather(options: argparse.Namespace) -> None:
    from stalegrad.analysis.archive import gather

    grids = grids_of(options, "paper")
    count = gather(archive_folder(options), grids, options.output)
    print(f"{count:,} archived runs of {options.study} gathered in {options.output}")
