"""The table of `overview.py`: a row as soon as it is measured, and whether any can be true."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import peak


@dataclass(frozen=True)
class Row:
    """`rate` of the work, `other` of what it is compared with, and `most` by its limit: samples,
    updates, arrivals or cells a second."""

    work: str
    rate: float
    against: str
    other: float
    limit: str = ""
    most: float | None = None

    @property
    def share(self) -> float | None:
        return None if self.most is None else self.rate / self.most

    def cells(self) -> list[str]:
        share = "" if self.share is None else f"{self.share:.2f}"
        rates = rounded(self.rate), rounded(self.other)
        times = f"{self.rate / self.other:.3g}"
        return [self.work, rates[0], self.against, rates[1], times, self.limit, share]


HEADINGS = ("work", "a second", "compared with", "a second", "times as fast", "limit", "share")
WIDTHS = (46, 10, 22, 10, 13, 31, 5)  # known beforehand, since rows are shown as they come
NUMBERS = (1, 3, 4, 6)  # columns that are aligned on the right


def rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2g}"


def show(rows: Iterable[Row], markdown: bool) -> list[Row]:
    """Each row as it comes; and all of them."""
    show_line(HEADINGS, markdown)
    if markdown:
        show_line(["---:" if i in NUMBERS else "---" for i in range(len(HEADINGS))], markdown)
    shown = []
    for row in rows:
        show_line(row.cells(), markdown)
        shown.append(row)
    return shown


def show_line(cells: Sequence[str], markdown: bool) -> None:
    if markdown:
        print(f"| {' | '.join(cells)} |", flush=True)
        return
    padded = (
        text.rjust(width) if i in NUMBERS else text.ljust(width)
        for i, (text, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    print("  ".join(padded).rstrip(), flush=True)


def beyond_the_limit(rows: Iterable[Row]) -> list[str]:
    """A sentence for each row that does more than the core can: then the limit is wrong.

    The cores of a machine may do a little more than so many times one, which is no such fault.
    """
    return [
        f"The limit is wrong: {row.work} would reach {row.share:.2f} of it, which is more than 1. "
        f"See benchmarks/peak.cpp, and what operations the work is said to need."
        for row in rows
        if row.limit == peak.NAME and row.share > 1
    ]
