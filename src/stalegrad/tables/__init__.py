"""Tables: one module a paper, one function a table, from a study's results to a Table.

Tables come before figures: a figure may draw a table's numbers, never the other way round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table with tidy column names, as its CSV has them.

    headings: column -> heading in LaTeX; only these columns, in this order, go into the report
        (none: all, named as they are). formats: column -> format such as '{:.3f}'.
    """

    frame: pd.DataFrame
    headings: Mapping[str, str] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)

    def csv(self) -> str:
        return self.frame.to_csv(index=False, float_format="%.9g", lineterminator="\n")

    def latex(self) -> str:
        """A booktabs tabular; numbers right, words left, what is not there a dash."""
        headings = self.headings or {c: _escape(str(c)) for c in self.frame.columns}
        shown = self.frame[list(headings)]
        align = "".join("r" if _numeric(shown[c]) else "l" for c in shown)
        lines = [rf"\begin{{tabular}}{{{align}}}", r"\toprule"]
        lines += [" & ".join(headings.values()) + r" \\", r"\midrule"]
        for row in shown.itertuples(index=False):
            cells = (self._cell(c, v) for c, v in zip(shown.columns, row, strict=True))
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def _cell(self, column: str, value: object) -> str:
        if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
            return "--"
        if column in self.formats:
            return self.formats[column].format(value)
        return _escape(f"{value:.4g}" if isinstance(value, float) else str(value))


def _numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _escape(text: str) -> str:
    for plain, latex in (("\\", r"\textbackslash{}"), ("_", r"\_"), ("%", r"\%"), ("&", r"\&")):
        text = text.replace(plain, latex)
    return text.replace("#", r"\#").replace("^", r"\^{}").replace("~", r"\~{}")
