"""`stalegrad cells`: the runs of a study."""

import argparse
import csv
import sys
from typing import Any

from stalegrad.cli.flags import Commands, add_grid_flag, add_study_flags, examples, grids_of


def add_cells(commands: Commands) -> None:
    parser = commands.add_parser(
        "cells",
        help="list the cells of a study",
        description="List the runs of a study: grid, hash, and all that decides the result.",
        epilog=examples(
            "stalegrad cells --study STUDY --preset quick",
            "stalegrad cells --study STUDY --preset paper --grid fig2 --csv > cells.csv",
            "stalegrad run --study STUDY --hash 497a     # one of them, by its first digits",
        ),
    )
    add_study_flags(parser)
    add_grid_flag(parser)
    parser.add_argument("--csv", action="store_true", help="every column, separated by commas")
    parser.set_defaults(act=_list_cells)


def _list_cells(options: argparse.Namespace) -> None:
    rows = [
        {"grid": grid, "hash": cell.hash, **cell.columns()}
        for grid, cells in grids_of(options).items()
        for cell in cells
    ]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if options.csv:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    table = {column: [as_text(row.get(column)) for row in rows] for column in columns}
    common = {k: v[0] for k, v in table.items() if len(set(v)) == 1 and k not in ("grid", "hash")}
    print(f"{len(rows)} runs, all with {' '.join(f'{k}={v}' for k, v in common.items())}\n")
    shown = {column: values for column, values in table.items() if column not in common}
    for line in zip(*(_padded(name, values) for name, values in shown.items()), strict=True):
        print("  ".join(line).rstrip())


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _padded(name: str, values: list[str]) -> list[str]:
    width = max(map(len, [name, *values]))
    return [text.ljust(width) for text in [name, *values]]
