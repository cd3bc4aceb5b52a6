"""`stalegrad figure` and `verdicts`: what the workflow has gathered, shown again."""

import argparse
import os
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from stalegrad.cli.flags import Commands, add_config_flag, examples, path, study_homes
from stalegrad.io.errors import ConfigError
from stalegrad.io.wording import claim_title


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


# What lies beside the verdicts, and what it is called.
PRODUCTS = {"Report": "report.pdf", "Page": "index.html", "Figures": "figures"}


def add_verdicts(commands: Commands) -> None:
    parser = commands.add_parser(
        "verdicts",
        help="did it hold? one line a paper, every claim with -v",
        description="Count the verdicts of a preset, a line a paper, and say where the report is;"
        " in colours where the terminal has them.",
        epilog=examples("stalegrad verdicts", "stalegrad verdicts -v results/quick/verdicts.csv"),
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=path,
        default=Path("results/paper/verdicts.csv"),
        metavar="CSV",
        help="default: results/paper/verdicts.csv",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list every claim")
    parser.set_defaults(act=_show_verdicts)


def _show_verdicts(options: argparse.Namespace) -> None:
    from stalegrad.analysis.results import read_csv

    verdicts = read_csv(options.file, "study", "claim", "verdict")
    studies = {str(study): claims for study, claims in verdicts.groupby("study", sort=False)}
    width = max(map(len, (*studies, "all")))
    for study, claims in {**studies, "all": verdicts}.items():
        print(f"{study:{width}}  {_counts(claims['verdict'].tolist())}")
    for study, claims in studies.items() if options.verbose else ():
        print(f"\n{study}")
        for row in claims.to_dict("records"):
            print(f"  {_claim(row)}")
    if options.verbose:
        print("\n~ fragile: half or double the threshold, or one seed less, gives another verdict")
    print()
    if not options.verbose:
        print(f"Claims:   stalegrad verdicts -v {options.file}")
    for name, product in PRODUCTS.items():
        if (there := options.file.parent / product).exists():
            print(f"{name + ':':9} {there}{'/' if there.is_dir() else ''}")


def _counts(verdicts: list[str]) -> str:
    """How many there are of each verdict, in columns."""
    counted = (f"{verdicts.count(verdict):4} {verdict}" for verdict in COLOURS)
    return " ".join(map(_coloured, counted, COLOURS))


def _claim(row: Mapping[Hashable, Any]) -> str:
    """One claim on a line: its verdict, '~' where that is fragile, and its name in words."""
    from stalegrad.analysis.claims import fragile

    width = max(map(len, COLOURS))
    verdict = _coloured(f"{row['verdict']:{width}}", row["verdict"])
    mark = "~" if fragile(row.get("robustness")) else " "
    return f"{verdict} {mark} {claim_title(row['claim'])}"


def _coloured(text: str, verdict: str) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return f"\033[{COLOURS[verdict]}m{text}\033[0m"
