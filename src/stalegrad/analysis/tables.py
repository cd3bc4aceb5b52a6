"""Tables: one function a table, in a study's module `tables`, from its results to a Table.

Tables come before figures: a figure may draw a table's numbers, never the other way round.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pandas as pd

from stalegrad.io.files import csv_text


@dataclass(frozen=True)
class Table:
    """A table with tidy column names, as its CSV has them.

    headings: column -> heading in LaTeX; only these columns, in this order, go into the report
        (none: all, named as they are). formats: column -> format such as '{:.3f}'. layout: what the
        report prints in place of `frame`, where the paper's own layout is not one row an entry.
    published: columns of the paper's own numbers, which the report sets in their colour.
    pairs: columns of entries 'published | ours', which it sets as two columns under one heading.
    """

    frame: pd.DataFrame
    headings: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    layout: pd.DataFrame | None = None
    published: Collection[str] = ()
    pairs: Collection[str] = ()

    def csv(self) -> str:
        return csv_text(self.frame)

    def latex(self) -> str:
        """A booktabs tabular; numbers right, words left, what is not there a dash."""
        printed = self.frame if self.layout is None else self.layout
        headings = self.headings or {c: _escape(str(c)) for c in printed.columns}
        shown = printed[list(headings)]
        align = "".join(self._align(shown[c]) for c in shown)
        lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines += [" & ".join(map(self._heading, headings, headings.values())) + r" \\", r"\midrule"]
        for row in shown.itertuples(index=False):
            cells = chain.from_iterable(map(self._cells, shown.columns, row))
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def _align(self, column: pd.Series) -> str:
        if column.name in self.pairs:
            return r"r@{\hspace{2.5pt}}l"
        return "r" if _numeric(column) else "l"

    def _heading(self, column: str, heading: str) -> str:
        return rf"\multicolumn{{2}}{{l}}{{{heading}}}" if column in self.pairs else heading

    def _cells(self, column: str, value: object) -> list[str]:
        """The LaTeX cells of one entry, as many as its column takes."""
        if column in self.pairs:
            published, _, ours = str(value).partition(" | ")
            return [_in_colour(_escape(published)), _escape(ours)]
        cell = self._cell(column, value)
        return [_in_colour(cell) if column in self.published else cell]

    def _cell(self, column: str, value: object) -> str:
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return "--"
        if column in self.formats:
            return _number(self.formats[column].format(value))
        return _number(f"{value:.4g}") if isinstance(value, float) else _escape(str(value))


def not_measured(reason: str) -> Table:
    """The stand-in for a table whose results are missing: a row that says so."""
    return Table(pd.DataFrame({"not measured yet": [reason]}))


def _in_colour(cell: str) -> str:
    """A published number in its colour, which paper/stalegrad.sty defines."""
    return cell if cell in ("--", "–") else rf"\textcolor{{published}}{{{cell}}}"


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


_NUMBER = re.compile(r"([+-]?(?:inf|[\d.]+))(?:e([+-]\d+))?")


def _number(text: str) -> str:
    """A formatted number with a minus for a hyphen, and its power of ten written out."""
    if not (match := _NUMBER.fullmatch(text)):
        return text
    number, exponent = match[1].replace("inf", r"\infty"), match[2]
    if exponent:
        power = f"10^{{{int(exponent)}}}"
        number = power if number == "1" else rf"{number} \cdot {power}"
    return f"${number}$" if exponent or number[0] in "+-\\" else number


_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}", **{c: f"\\{c}" for c in "_%&#${}"}}
)


def _escape(text: str) -> str:
    return text.translate(_LATEX)
