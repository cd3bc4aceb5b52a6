"""`stalegrad figure` and `verdicts`: what the workflow has gathered, shown again."""

import argparse
import os
import sys
from pathlib import Path

from stalegrad.cli.flags import Commands, add_config_flag, examples, path, study_homes
from stalegrad.io.errors import ConfigError


def add_figure(commands: Commands) -> None:
    parser = commands.add_parser(
        "figure",
        help="draw one figure again from results",
        description="Draw one figure from the results that the workflow has gathered.",
        epilog=examples("stalegrad figure STUDY_fig2 --results results/quick --output fig2.pdf"),
    )
    parser.add_argument("name", metavar="NAME", help="<study>_<figure>, as its file is called")
    parser.add_argument("--results", type=path, required=True, metavar="DIR")
    parser.add_argument("--output", type=path, required=True, metavar="FILE", help=".pdf or .png")
    add_config_flag(parser)
    parser.set_defaults(act=_draw)


def _draw(options: argparse.Namespace) -> None:
    from stalegrad.planning.config import load_study

    figures = {
        f"{study}_{name}": (home, name, product.make)
        for study, home in study_homes(options).items()
        for name, product in load_study(home).figures.items()
    }
    if options.name not in figures:
        raise ConfigError(f"There is no figure {options.name!r}; there are {', '.join(figures)}.")
    if options.output.suffix not in (".pdf", ".png"):
        raise ConfigError(f"'--output' is {options.output}; it must end in .pdf or .png.")

    from stalegrad.analysis.products import maker
    from stalegrad.analysis.results import StudyResults
    from stalegrad.analysis.style import save, style

    home, name, make = figures[options.name]
    results = StudyResults(home, options.results.name, options.results / home.name)
    with style():
        save(maker("figures", home, name, make)(results), options.output)
    print(options.output)


COLOURS = {"reproduced": 32, "partly": 33, "not reproduced": 31, "cannot tell": 90}


def add_verdicts(commands: Commands) -> None:
    parser = commands.add_parser(
        "verdicts",
        help="did it hold? every claim on a line",
        description="Show the verdicts of a preset, in colours where the terminal has them.",
        epilog=examples("stalegrad verdicts", "stalegrad verdicts results/paper/verdicts.csv"),
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=path,
        default=Path("results/quick/verdicts.csv"),
        metavar="CSV",
        help="default: results/quick/verdicts.csv",
    )
    parser.set_defaults(act=_show_verdicts)


def _show_verdicts(options: argparse.Namespace) -> None:
    from stalegrad.analysis.results import read_csv

    verdicts = read_csv(options.file, "study", "claim", "verdict")
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = max(map(len, COLOURS))
    for study, claims in verdicts.groupby("study", sort=False):
        print(study)
        for claim, verdict in zip(claims["claim"], claims["verdict"], strict=True):
            shown = f"{verdict:{width}}"
            if coloured:
                shown = f"\033[{COLOURS[verdict]}m{shown}\033[0m"
            print(f"  {shown}  {claim.replace('_', ' ')}")
    counts = verdicts["verdict"].value_counts()
    print(", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in COLOURS))
