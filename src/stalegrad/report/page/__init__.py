"""The page: the claims as a table to filter and sort, and what shows each, in one HTML file.

It is `results/<preset>/index.html`. It holds its scripts, figures and values, asks no network for
anything, and is made of the same tables and figures as the PDF, which stays the paper. What has not
been made yet is said to be missing in its place.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import altair
import jinja2
import numpy as np
import pandas as pd
import vl_convert

from stalegrad.analysis.claims import COLUMNS, VERDICTS, fragile
from stalegrad.analysis.results import read_csv
from stalegrad.io.errors import ResultError
from stalegrad.io.files import write_atomically
from stalegrad.io.wording import claim_title
from stalegrad.planning.config import Product
from stalegrad.planning.plan import Plan
from stalegrad.report.checked import NOT_MADE, Said, check_files, read_check
from stalegrad.report.page import charts
from stalegrad.report.page.charts import Chart
from stalegrad.report.page.pictures import Picture, picture
from stalegrad.report.pages import claim_anchor, command
from stalegrad.report.values import cells_frame, read_if_there

_FOLDER = Path(__file__).parent
# The trial of a criterion in verdicts.csv: heading, column of the value, column of what it is.
_TRIAL = (
    ("Floor", "floor", "null"),
    ("Ceiling", "ceiling", "best"),
    ("Printed numbers", "printed", "printed_verdict"),
)


@dataclass(frozen=True)
class Grid:
    """What a claim read of a grid: how many runs and cells, and how many of the runs diverged."""

    name: str
    runs: int
    cells: int
    seeds: int
    diverged: int | None


@dataclass(frozen=True)
class Claim:
    """A row of verdicts.csv in words.

    sorted: the value to sort by. trial: what the criterion gives elsewhere, by heading. files: what
    else than grids it read, below `results/<preset>/`. again: the commands that list its cells
    and run them again. shows: anchors of figures and tables.
    """

    anchor: str
    title: str
    quote: str
    where: str
    verdict: str
    statistic: str
    value: str
    sorted: float | None
    interval: str
    threshold: str
    reason: str
    paired: str
    trial: dict[str, str]
    firm: str
    grids: list[Grid]
    files: list[str]
    again: list[str]
    shows: list[str]


@dataclass(frozen=True)
class Shown:
    """A figure or table (`kind`). missing: the command that makes it, where it is not there."""

    kind: str
    anchor: str
    name: str
    caption: str
    missing: str
    picture: Picture | None = None
    pdf: str = ""
    header: Sequence[tuple[str, bool]] = ()
    rows: Sequence[Sequence[str]] = ()
    csv: str = ""
    chart: bool = False

    @property
    def alt(self) -> str:
        """The first sentence of the caption."""
        return re.split(r"(?<=[.:;]) ", self.caption, maxsplit=1)[0]


@dataclass(frozen=True)
class StudyPart:
    """All that the page has of one study."""

    name: str
    title: str
    claims: list[Claim]
    judge: str
    shown: list[Shown]
    notebook: str


def build_page(plan: Plan, results_folder: Path) -> Path:
    """Write `index.html` of `results_folder` (`results/<preset>`), and return its path.

    The same results give the same bytes. Raises ResultError where a verdict names a figure that its
    study does not have.
    """
    drawn = {
        anchor: chart
        for study in plan.studies
        for anchor, chart in _charts(plan, study, results_folder)
    }
    verdicts = _verdicts(results_folder)
    parts = [_study(plan, study, results_folder, verdicts, drawn) for study in plan.studies]
    target = results_folder / "index.html"
    write_atomically(target, _render(plan, parts, drawn, verdicts, results_folder))
    return target


def _render(
    plan: Plan,
    parts: list[StudyPart],
    drawn: Mapping[str, Chart],
    verdicts: pd.DataFrame,
    results_folder: Path,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Columns stand in their own order, and what JSON has no word for must not come so far.
    kept = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    environment.policies["json.dumps_kwargs"] = kept
    counts = {v: sum(c.verdict == v for part in parts for c in part.claims) for v in VERDICTS}
    return environment.get_template("page.html").render(
        preset=plan.settings.preset,
        archived=plan.settings.measured_only,
        check=_spot_check(plan, results_folder),
        unchecked=NOT_MADE,
        studies=parts,
        verdicts=counts,
        charts={anchor: asdict(chart) for anchor, chart in drawn.items()},
        report="report.pdf" if (results_folder / "report.pdf").exists() else "",
        vega=_vega(),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )


def _spot_check(plan: Plan, folder: Path) -> Said | None:
    """None where no check of the archive was made."""
    there = all(file.exists() for file in check_files(folder))
    return read_check(folder) if plan.is_checked and there else None


def _asset(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _vega() -> str:
    """The scripts of Vega-Embed, Vega-Lite and Vega, in the version that Altair writes for."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    # The types of the package make its first argument, which may be left out, a must.
    script = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]
    # It stands in a <script>, which its own text must not end.
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _verdicts(results_folder: Path) -> pd.DataFrame:
    """`verdicts.csv`; text where it has none is '', numbers NaN."""
    frame = read_if_there(results_folder / "verdicts.csv").reindex(columns=list(COLUMNS))
    words = frame.columns.difference(["value", "low", "high", *(value for _, value, _ in _TRIAL)])
    return frame.assign(**frame[words].astype(object).fillna("").astype(str))


def _study(
    plan: Plan,
    study: str,
    folder: Path,
    verdicts: pd.DataFrame,
    drawn: Mapping[str, Chart],
) -> StudyPart:
    notebook = f"notebooks/{study}.html"
    rows = verdicts[verdicts["study"] == study].to_dict("records")
    runs = read_if_there(folder / study / "runs.csv")
    return StudyPart(
        name=study,
        title=plan.studies[study].title,
        claims=[_claim(plan, row, runs) for row in rows],
        judge=command(plan, "verdicts.csv"),
        shown=[*_figures(plan, study, folder, drawn), *_tables(plan, study, folder, drawn)],
        notebook=notebook if (folder / notebook).exists() else "",
    )


def _claim(plan: Plan, row: Mapping[str, Any], runs: pd.DataFrame) -> Claim:
    study = row["study"]
    trial = {heading: _tried(row, value, what) for heading, value, what in _TRIAL}
    trial["What would flip it"] = row["robustness"]
    low, high = _number(row["low"]), _number(row["high"])
    grids, files = row["grids"].split(), row["files"].split()
    return Claim(
        anchor=claim_anchor(row),
        title=claim_title(row["claim"]),
        **{k: row[k] for k in ("quote", "where", "verdict", "statistic", "threshold", "reason")},
        value=_number(row["value"]),
        sorted=None if pd.isna(row["value"]) else float(row["value"]),
        interval=f"[{low}, {high}]" if low and high else "",
        paired=row["paired"],
        trial={heading: text for heading, text in trial.items() if text},
        firm="fragile" if fragile(row["robustness"]) else row["robustness"].partition(":")[0],
        grids=[_grid(plan, study, name, runs) for name in grids if name in plan.grids[study]],
        files=[f"{study}/{file}" for file in [*(["runs.csv"] if grids else []), *files]],
        again=_again(plan, study, grids, files),
        shows=_shows(plan, row),
    )


def _tried(row: Mapping[str, Any], value: str, what: str) -> str:
    """A value of a trial and what it is the value of; one alone where there is no other."""
    return " \N{EN DASH} ".join(part for part in (_number(row[value]), row[what]) if part)


def _shows(plan: Plan, row: Mapping[str, Any]) -> list[str]:
    """Anchors of the figures and tables that show a claim."""
    content, found = plan.studies[row["study"]], []
    for name in row["shows"].split():
        kinds = [k for k in ("figures", "tables") if name in getattr(content, k)]
        if not kinds:
            there = ", ".join(dict.fromkeys([*content.figures, *content.tables]))
            raise ResultError(
                f"The claim {row['study']}.{row['claim']} shows {name!r}, which is no figure or "
                f"table of its study; there are {there or 'none'}. Correct its `shows`."
            )
        found += [_anchor(row["study"], kind, name) for kind in kinds]
    return found


def _anchor(study: str, kind: str, name: str) -> str:
    return f"{study}.{kind}.{name}"


def _grid(plan: Plan, study: str, name: str, runs: pd.DataFrame) -> Grid:
    cells = cells_frame(plan.grids[study][name])
    found = runs[runs["grid"] == name] if "diverged" in runs else None
    return Grid(
        name=name,
        runs=len(cells),
        cells=len(cells.drop(columns="seed").drop_duplicates()),
        seeds=cells["seed"].nunique(),
        diverged=None if found is None else int(found["diverged"].sum()),
    )


def _again(plan: Plan, study: str, grids: Iterable[str], files: Iterable[str]) -> list[str]:
    """Commands that list the cells that a claim read, train them, and make what it read beside."""
    preset, named = plan.settings.preset, " ".join(f"--grid {name}" for name in grids)
    commands = []
    if named:
        commands += [
            *(f"stalegrad cells --study {study} --preset {preset} --grid {grid}" for grid in grids),
            f"stalegrad bundles --study {study} --preset {preset} {named} --all --output work",
            "stalegrad run-bundle work/*.json --output done",
        ]
    wanted = " ".join(f"{plan.settings.results_folder}/{preset}/{study}/{file}" for file in files)
    if wanted:
        options = f"--cores all --config preset={preset} recompute=true"
        commands.append(f"snakemake --force {options} -- {wanted}")
    return commands


def _figures(plan: Plan, study: str, folder: Path, drawn: Mapping[str, Chart]) -> list[Shown]:
    found = []
    for name, product in plan.studies[study].figures.items():
        file = f"figures/{study}_{name}"
        anchor = _anchor(study, "figures", name)
        there = (folder / f"{file}.png").exists()
        found.append(
            Shown(
                **_said(plan, anchor, product, "" if there else f"{file}.png"),
                picture=picture(folder / f"{file}.png") if there else None,
                pdf=f"{file}.pdf" if (folder / f"{file}.pdf").exists() else "",
                chart=anchor in drawn,
            )
        )
    return found


def _tables(plan: Plan, study: str, folder: Path, drawn: Mapping[str, Chart]) -> list[Shown]:
    found = []
    for name, product in plan.studies[study].tables.items():
        file = f"tables/{study}_{name}.csv"
        anchor = _anchor(study, "tables", name)
        table = read_if_there(folder / file)
        found.append(
            Shown(
                **_said(plan, anchor, product, file if table.empty else ""),
                header=[(str(c), pd.api.types.is_numeric_dtype(table[c])) for c in table],
                rows=[[_number(v) for v in row] for row in table.itertuples(index=False)],
                csv="" if table.empty else file,
                chart=anchor in drawn,
            )
        )
    return found


def _said(plan: Plan, anchor: str, product: Product, missing: str) -> dict[str, Any]:
    _, kind, name = anchor.rsplit(".", 2)
    return {
        "kind": {"figures": "Figure", "tables": "Table"}[kind],
        "anchor": anchor,
        "name": name,
        "caption": product.caption,
        "missing": command(plan, missing) if missing else "",
    }


def _charts(plan: Plan, study: str, folder: Path) -> list[tuple[str, Chart]]:
    """Anchor and chart of each figure and table of a study that answers the pointer."""
    content, found = plan.studies[study], []
    tables = {n: read_if_there(folder / "tables" / f"{study}_{n}.csv") for n in content.tables}
    for name, maps in content.heat_maps.items():
        if charts.BOTH <= set(table := tables[maps.table]):
            needed = [maps.x, maps.y, *([maps.panels] if maps.panels else [])]
            _check(f"heat_maps.{name} of {study}", f"the table {maps.table}", table, needed)
            found.append((_anchor(study, "figures", name), charts.heat_maps(table, maps)))
    mapped = {maps.table for maps in content.heat_maps.values()}
    for name, table in tables.items():
        if name not in mapped and charts.BOTH <= set(table):
            found.append((_anchor(study, "tables", name), charts.dots(table)))
    runs = read_if_there(folder / study / "runs.csv") if content.curves else pd.DataFrame()
    if len(runs):
        history = read_csv(folder / study / "history.csv")
        for name, wanted in content.curves.items():
            coloured = [wanted.colour] if wanted.colour else []
            where = f"curves.{name} of {study}"
            _check(where, "runs.csv", runs, [*wanted.panels, *coloured])
            _check(where, "history.csv", history, [wanted.x, wanted.y])
            chosen = runs[runs["grid"].isin(wanted.grids)].drop_duplicates("run")
            found.append((_anchor(study, "figures", name), charts.curves(chosen, history, wanted)))
    return [(anchor, chart) for anchor, chart in found if any(p.rows for p in chart.panels)]


def _check(where: str, file: str, frame: pd.DataFrame, needed: Iterable[str]) -> None:
    for column in needed:
        if column not in frame:
            raise ResultError(
                f"study.yaml: {where} names the column {column!r}, which {file} does not have; "
                f"there are {', '.join(map(str, frame))}."
            )


def _number(value: Any) -> str:
    """A value as the page shows it: four digits, a minus sign, '' for what is not there."""
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    text = f"{value:,}" if isinstance(value, int | np.integer) else _float(float(value))
    return text.replace("-", "\u2212")


def _float(value: float) -> str:
    if not np.isfinite(value):
        return "\u221e" if value > 0 else "-\u221e"
    if value and abs(value) < 1e-4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= 10_000 else f"{value:.4g}"
