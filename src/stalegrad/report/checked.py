"""A spot check of the archive in words: what `check.csv` and `check.json` beside it say."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stalegrad.analysis.results import read_csv
from stalegrad.io.errors import ResultError
from stalegrad.io.wording import counted, duration

CONFIDENCE = 0.95
NOT_MADE = "No archived run was trained again for this report: make reproduce does so."
_LONGEST = 12  # rows of a history in a message


@dataclass(frozen=True)
class Disagreement:
    """What is not as archived: its name in words, why, and both histories as CSV."""

    name: str
    reason: str
    archived: str
    fresh: str


@dataclass(frozen=True)
class Said:
    """line: the result in a sentence or two; details: sentences on how it was come by."""

    line: str
    details: list[str]
    disagreements: list[Disagreement]


def noticed_share(runs: int) -> float:
    """The share of wrong runs of which none among `runs` drawn has a chance of 1 - CONFIDENCE."""
    return float(1 - (1 - CONFIDENCE) ** (1 / runs)) if runs else 1.0


def check_files(results_folder: Path) -> tuple[Path, Path]:
    """The rows of the check (CSV), and what was drawn from what (JSON)."""
    return results_folder / "check.csv", results_folder / "check.json"


def read_check(results_folder: Path) -> Said:
    """Raises ResultError where no check has been made, or its files cannot be read."""
    csv, extent_file = check_files(results_folder)
    rows = read_csv(csv, "study", "kind", "name", "run", "agrees", "to_the_byte", "in_full")
    try:
        extent = json.loads(extent_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ResultError(
            f"{extent_file} is not there or cannot be read; delete {csv}, and give the command "
            f"again, which makes both."
        ) from None
    wrong = [
        Disagreement(_name(row), row["reason"], row["archived"], row["fresh"])
        for row in rows[~rows["agrees"]].to_dict("records")
    ]
    return Said(_line(rows), _details(rows, extent), wrong)


def message(said: Said) -> str:
    """For the error that ends a run: each disagreement with both histories."""
    parts = [said.line]
    for each in said.disagreements:
        parts.append(f"{each.name}: {each.reason}")
        for title, text in (("in the archive", each.archived), ("trained here", each.fresh)):
            parts.append(f"  {title}:\n{_table(text)}")
    return "\n".join(parts)


def _line(rows: pd.DataFrame) -> str:
    runs, landscapes = (rows[rows["kind"] != "landscape"], rows[rows["kind"] == "landscape"])
    agree, full = int(runs["agrees"].sum()), int(runs["in_full"].sum())
    if runs.empty:
        return "No archived run could be trained again in the time given."
    verb = "agrees" if agree == 1 else "agree"
    said = f"{agree} of {counted(len(runs), 'run')} drawn at random {verb} with the archive"
    if rows["agrees"].all() and full:
        said += (
            f"; a share of wrong runs above {100 * noticed_share(full):.2g} % would have been "
            f"noticed with {100 * CONFIDENCE:.0f} % confidence"
        )
    wrong = [_name(row) for row in rows[~rows["agrees"]].to_dict("records")]
    if wrong:
        said += f"; not as archived: {', '.join(wrong)}"
    if len(landscapes) and landscapes["agrees"].all():
        verb = "does" if len(landscapes) == 1 else "do"
        said += f". So {verb} {counted(len(landscapes), 'landscape')} at points drawn at random"
    return f"{said}."


def _details(rows: pd.DataFrame, extent: dict[str, Any]) -> list[str]:
    runs = rows[rows["kind"] != "landscape"]
    same, rest = int(runs["to_the_byte"].sum()), len(runs[~runs["in_full"]])
    by_rule = int((runs["agrees"] & runs["in_full"] & ~runs["to_the_byte"]).sum())
    sentences = [
        f"Drawn with the seed {extent['seed']} from {extent['strata']} of {extent['of_strata']} "
        f"grids, trajectories and landscapes, which took turns; trained in "
        f"{duration(extent['seconds'])} on {counted(extent['cores'], 'core')}.",
        f"Equal in every digit: {same}; within what roundings and the spread of seeds explain: "
        f"{by_rule}; of which only the schedule could be compared, and which the share does not "
        f"count: {rest}.",
        "The share is a mean over the grids, each counting as often as it was drawn from.",
    ]
    if extent["beyond"]:
        sentences.append(
            f"{extent['beyond']:,} of {extent['archived']:,} archived runs take longer than "
            f"{extent['minutes']:g} min each, and could not be drawn."
        )
    if extent["not_begun"]:
        sentences.append(
            f"{extent['not_begun']} more were drawn and not begun, for the machine was slower than "
            f"when it was measured."
        )
    sentences.append("Simulations and traces are not archived, and were made anew for this report.")
    return sentences


def _name(row: dict[str, Any]) -> str:
    what = "the landscape" if row["kind"] == "landscape" else "the run"
    return f"{what} {row['run']} of {row['study']}, {row['kind']} {row['name']}"


def _table(text: str) -> str:
    """A history as lines of a table; of a long one its beginning. Other text as it is."""
    if "\n" not in text:
        return f"    {text}"
    history = pd.read_csv(io.StringIO(text)).drop(columns="run")
    shown = history.head(_LONGEST).to_string(index=False, float_format="{:.9g}".format)
    lines = [f"    {line}" for line in shown.splitlines()]
    more = len(history) - _LONGEST
    return "\n".join([*lines, *([f"    and {more} more rows, in check.csv"] if more > 0 else [])])
