"""The command `stalegrad`: the steps of the workflow by hand, with no Snakemake needed.

A module a command, or a few that belong together: its flags, and what it does. What is heavy to
import (torch, pandas) is imported where a command needs it, so that help and refusals come at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import stalegrad
from stalegrad.cli.archive import add_archive, add_gather
from stalegrad.cli.bundles import add_bundles, add_run_bundle
from stalegrad.cli.cells import add_cells
from stalegrad.cli.data import add_data
from stalegrad.cli.flags import Parser, examples
from stalegrad.cli.new_study import add_new_study
from stalegrad.cli.record import add_record
from stalegrad.cli.results import add_figure, add_verdicts
from stalegrad.cli.run import add_run
from stalegrad.cli.trace import add_trace
from stalegrad.io.errors import ConfigError, StalegradError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0; 1 where the reader of its output has gone; 2 for
    what the user can put right; 130 for ^C.

    argv: the arguments after the name of the program; by default those it was called with.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        options, unknown = parser_for(arguments).parse_known_args(arguments)
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


def parser_for(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for `arguments`; it depends on them, because a rule brings flags of its own."""
    parser = Parser(
        prog="stalegrad",
        description=(
            "Stale gradients in asynchronous SGD: train single runs, or all of a study's, and\n"
            "keep what they give. The pipeline, figures and report included, is `snakemake`."
        ),
        epilog=examples(
            "stalegrad data mnist",
            "stalegrad run --dataset mnist --lr 0.01 --delay 4 --batch-size 64 --epochs 2",
            "stalegrad cells --study STUDY --grid fig2",
        ),
    )
    parser.add_argument("--version", action="version", version=stalegrad.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data(commands)
    add_cells(commands)
    add_run(commands, arguments[1:] if arguments[:1] == ["run"] else None)
    add_record(commands, arguments[1:] if arguments[:1] == ["record"] else None)
    add_trace(commands)
    add_bundles(commands)
    add_run_bundle(commands)
    add_archive(commands)
    add_gather(commands)
    add_figure(commands)
    add_verdicts(commands)
    add_new_study(commands)
    return parser
