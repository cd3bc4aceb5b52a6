"""Every number that the report's text may name, by key.

    preset, runs, epochs of a grid, what its axes hold      from the configuration
    <study>.<table>.<row>.<column>                          from tables/*.csv
    <study>.landscapes.<landscape>.resolution, ...          from the configuration
    <study>.staleness.<simulation>.<index>.<column>         from staleness.csv
    <study>.diverged, ...                                   from runs.csv
    verdict.<study>.<claim>.<column>, verdicts.*            from verdicts.csv
    provenance.*, <study>.provenance.*                      from the bundles' provenance

What has not been made has no key, and the text shows that in its place.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd

from stalegrad.analysis.claims import COLUMNS, VERDICTS
from stalegrad.analysis.results import read_csv
from stalegrad.io.errors import ResultError
from stalegrad.io.files import provenance_path
from stalegrad.io.wording import duration
from stalegrad.planning.cell import Cell
from stalegrad.planning.config import load_preset
from stalegrad.planning.plan import Plan
from stalegrad.report.latex import code, escape

Grids = Mapping[str, Mapping[str, list[Cell]]]

_USED = re.compile(r"\\(?:val|percent)\{([^{}]*)\}")
_LISTED = 8  # values of an axis that are written out; of more, only their range


def collect_values(plan: Plan, published: Grids, results_folder: Path) -> dict[str, str]:
    """Key -> LaTeX of every value there is. Missing files give no keys.

    published: the grids in full (`published_grids`).
    """
    values = _Values()
    values.put("preset", plan.preset.title)
    values.put("studies", len(plan.studies))
    provenances = []
    for study in plan.studies:
        _plan_values(values, plan, study, published[study])
        _recorded_values(values, plan, study)
        _run_values(values, plan, study, results_folder)
        provenances.append(provenance(plan, study, results_folder))
        _provenance_values(values, f"{study}.provenance", provenances[-1])
    for name, (study, table, _) in plan.tables.items():
        frame = read_if_there(results_folder / "tables" / f"{name}.csv")
        values.put_table(f"{study}.{table}", frame)
    _provenance_values(values, "provenance", pd.concat([pd.DataFrame(), *provenances]))
    _verdict_values(values, read_verdicts(results_folder))
    return values.latex


class _Values:
    """Keys with their LaTeX; fractions also as per cent, under `<key>%`."""

    def __init__(self) -> None:
        self.latex: dict[str, str] = {}

    def put(self, key: str, value: Any) -> None:
        text = shown(value)
        if text is None:
            return
        self.latex[key] = text
        if isinstance(value, float | np.floating) and -1 <= value <= 1:
            self.latex[f"{key}%"] = _signed(f"{100 * value:.2f}")

    def put_row(self, prefix: str, row: Mapping[str, Any]) -> None:
        for column, value in row.items():
            self.put(f"{prefix}.{_key(column)}", value)

    def put_table(self, prefix: str, frame: pd.DataFrame) -> None:
        """One key an entry: the row goes by its leading columns, as many as tell the rows apart.

        Of numeric columns also `min`, `max`, `sum` and `largest` (by absolute value) in place of
        the row.
        """
        if frame.empty:
            return
        self.put(f"{prefix}.rows", len(frame))
        names = frame.columns[: _identifying(frame)]
        for row in frame.to_dict("records"):
            self.put_row(".".join([prefix, *(_key(row[name]) for name in names)]), row)
        numbers = frame.select_dtypes("number").dropna(axis=1, how="all")
        for column in numbers:
            values = numbers[column]
            self.put(f"{prefix}.min.{_key(column)}", values.min())
            self.put(f"{prefix}.max.{_key(column)}", values.max())
            self.put(f"{prefix}.sum.{_key(column)}", values.sum())
            self.put(f"{prefix}.largest.{_key(column)}", values.abs().max())


def _identifying(frame: pd.DataFrame) -> int:
    """How many leading columns tell the rows apart; all where none do."""
    for count in range(1, frame.shape[1]):
        if not frame.iloc[:, :count].duplicated().any():
            return count
    return frame.shape[1]


def _key(part: Any) -> str:
    """A value or a column's name as part of a key: letters, digits, '.', '_', '+' and '-'."""
    if isinstance(part, float | np.floating):
        return f"{part:g}"
    return re.sub(r"[^\w.+-]+", "-", str(part), flags=re.ASCII)


@overload
def shown(value: int | str) -> str: ...
@overload
def shown(value: object) -> str | None: ...
def shown(value: Any) -> str | None:
    """A value as the text shows it, in LaTeX; None for what is not there."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return _signed(f"{value:,}")
    if isinstance(value, float | np.floating):
        return _shown_float(float(value))
    return escape(str(value))


def _shown_float(value: float) -> str:
    if not np.isfinite(value):
        return r"$\infty$" if value > 0 else r"$-\infty$"
    if value.is_integer() or abs(value) >= 10_000:
        return _signed(f"{value:,.0f}")
    if abs(value) < 1e-4:
        digits, exponent = f"{value:.3e}".split("e")
        return rf"${float(digits):g}\times10^{{{int(exponent)}}}$".replace(r"$1\times", "$")
    return _signed(f"{value:.4g}")


def _signed(text: str) -> str:
    return text.replace("-", "$-$", 1)


def used_keys(texts: Iterable[str]) -> list[str]:
    """The keys that prose names, sorted."""
    return sorted({key for text in texts for key in _USED.findall(text)})


def values_tex(values: Mapping[str, str], used: Iterable[str]) -> str:
    r"""`\setvalue` for each used key there is; the others stand in a comment."""
    lines = ["% Generated: what the prose names. values.tsv has every key there is."]
    for key in used:
        for name in (key, f"{key}%"):
            if name in values:
                kind = "percent" if name.endswith("%") else "value"
                lines.append(rf"\set{kind}{{{key}}}{{{values[name]}}}")
        if key not in values:
            lines.append(f"% not measured: {key}")
    return "\n".join([*lines, ""])


def read_if_there(path: Path) -> pd.DataFrame:
    """A result CSV, or an empty frame where it has not been made or cannot be read."""
    try:
        return read_csv(path)
    except ResultError:
        return pd.DataFrame()


def read_verdicts(results_folder: Path) -> pd.DataFrame:
    """`verdicts.csv`, or an empty frame with its columns."""
    return read_if_there(results_folder / "verdicts.csv").reindex(columns=list(COLUMNS))


def published_grids(plan: Plan) -> Grids:
    """Study -> grid -> its runs as published, whatever the preset of the plan."""
    if plan.settings.preset == "paper" and not plan.settings.measured_only:
        return plan.grids
    return plan.grids_at("paper", load_preset("paper", plan.folder))


def cells_frame(grid: list[Cell]) -> pd.DataFrame:
    """One row a run, with the cell's columns."""
    return pd.DataFrame([cell.columns() for cell in grid])


def _plan_values(
    values: _Values, plan: Plan, study: str, published: Mapping[str, list[Cell]]
) -> None:
    runs = {cell.hash for grid in plan.grids[study].values() for cell in grid}
    values.put(f"{study}.runs", len(runs))
    seeds = {cell.seed for grid in plan.grids[study].values() for cell in grid}
    if seeds:
        values.put(f"{study}.seeds", len(seeds))
    for prefix, grids in (
        (study, plan.grids[study]),
        (f"{study}.published", published),
    ):
        for name, grid in grids.items():
            _grid_values(values, f"{prefix}.{name}", cells_frame(grid))
    for name, simulated in plan.simulations[study].items():
        values.put(f"{study}.{name}.clusters", len(simulated))
        for size in ("arrivals", "updates", "replicates"):
            known = [getattr(cell, size) for cell in simulated if getattr(cell, size) is not None]
            values.put(f"{study}.{name}.{size}", max(known, default=None))


def _recorded_values(values: _Values, plan: Plan, study: str) -> None:
    """How often the runs of trajectories and landscapes are recorded, and how fine a grid is."""
    for name, bundle in plan.trajectories[study].items():
        values.put(f"{study}.trajectories.{name}.per_epoch", bundle.per_epoch)
    for name, landscape in plan.landscapes[study].items():
        prefix = f"{study}.landscapes.{name}"
        values.put(f"{prefix}.per_epoch", landscape.runs.per_epoch)
        values.put(f"{prefix}.resolution", landscape.resolution)
        values.put(f"{prefix}.margin", landscape.margin)


def _grid_values(values: _Values, prefix: str, frame: pd.DataFrame) -> None:
    """Of a grid: how many runs, cells and seeds, and what each column holds."""
    values.put(f"{prefix}.runs", len(frame))
    values.put(f"{prefix}.cells", len(frame.drop(columns="seed").drop_duplicates()))
    values.put(f"{prefix}.seeds", frame["seed"].nunique())
    for column in frame.columns.drop("seed"):
        distinct = frame[column].dropna().drop_duplicates()
        if len(distinct):
            values.latex[f"{prefix}.{_key(column)}"] = axis(list(distinct))
            values.put(f"{prefix}.{_key(column)}.count", len(distinct))


def axis(distinct: list[Any]) -> str:
    """The values of an axis in words, in LaTeX: one, a list, or of many the range."""
    numeric = all(isinstance(v, int | float | np.number) for v in distinct)
    texts = [shown(value) or "" for value in (sorted(distinct) if numeric else distinct)]
    if len(texts) == 1:
        return texts[0]
    if numeric and len(texts) > _LISTED:
        return f"{len(texts)} values from {texts[0]} to {texts[-1]}"
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def _run_values(values: _Values, plan: Plan, study: str, results_folder: Path) -> None:
    runs = read_if_there(results_folder / study / "runs.csv")
    if "diverged" in runs:
        distinct = runs.drop_duplicates("run")
        values.put(f"{study}.measured", len(distinct))
        values.put(f"{study}.diverged", int(distinct["diverged"].sum()))
        for grid, rows in runs.groupby("grid"):
            values.put(f"{study}.{grid}.measured", len(rows))
            values.put(f"{study}.{grid}.diverged", int(rows["diverged"].sum()))
    staleness = read_if_there(results_folder / study / "staleness.csv")
    if {"simulation", "index"} <= set(staleness.columns):
        numbers = staleness.groupby(["simulation", "index"]).mean(numeric_only=True).reset_index()
        values.put_table(f"{study}.staleness", numbers)


def provenance(plan: Plan, study: str, results_folder: Path) -> pd.DataFrame:
    """One row a bundle that is there: of the plan's own, and of the archive where it is used."""
    rows = []
    for bundle in plan.bundles[study]:
        path = provenance_path(results_folder / study / "bundles" / f"{bundle}.csv")
        if path.exists():
            rows.append(json.loads(path.read_text("utf-8")))
    archived = [plan.archive(study) / "provenance.csv"] if plan.archived(study) else []
    frames = [pd.DataFrame(rows), *map(read_if_there, archived)]
    return pd.concat([f for f in frames if len(f)] or [pd.DataFrame()], ignore_index=True)


def _provenance_values(values: _Values, prefix: str, rows: pd.DataFrame) -> None:
    if rows.empty:
        return
    seconds, samples = rows["wall_seconds"].sum(), rows["samples"].sum()
    values.put(f"{prefix}.bundles", len(rows))
    values.put(f"{prefix}.wall", duration(seconds))
    values.put(f"{prefix}.samples", _in_words(samples))
    if seconds:
        values.put(f"{prefix}.samples_per_second", _in_words(samples / seconds))
    for column in ("stalegrad", "python", "torch", "numpy", "device", "backend", "cores"):
        if column in rows:
            values.put(f"{prefix}.{column}", ", ".join(sorted(set(rows[column].astype(str)))))
    if "commit" in rows:
        commits = sorted(set(rows["commit"].fillna("").astype(str)) - {""})
        if commits:
            shortened = sorted({short(commit) for commit in commits})
            values.latex[f"{prefix}.commit"] = ", ".join(map(code, shortened))


def short(commit: str) -> str:
    """The first ten digits of a commit, with the '+' of a changed tree; 'unknown' of one that is
    not known (see `io.commit`)."""
    if commit.startswith("unknown"):
        return "unknown"
    return commit[:10] + ("+" if commit.endswith("+") else "")


def _in_words(count: float) -> str | int:
    """A large count in words: '540 million', '3.1 billion'."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return round(count)


def _verdict_values(values: _Values, verdicts: pd.DataFrame) -> None:
    for row in verdicts.to_dict("records"):
        values.put_row(f"verdict.{row['study']}.{row['claim']}", row)
    if verdicts.empty:
        return
    values.put("verdicts.claims", len(verdicts))
    for verdict in VERDICTS:
        values.put(f"verdicts.{_key(verdict)}", int((verdicts["verdict"] == verdict).sum()))
    for study, rows in verdicts.groupby("study"):
        values.put(f"{study}.verdicts.claims", len(rows))
        for verdict in VERDICTS:
            count = int((rows["verdict"] == verdict).sum())
            values.put(f"{study}.verdicts.{_key(verdict)}", count)
