"""The generated pages of the report: LaTeX that `paper/stalegrad.sty` gives its looks."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from stalegrad.analysis.claims import VERDICTS, fragile
from stalegrad.analysis.results import read_csv
from stalegrad.io.wording import claim_title, duration
from stalegrad.planning.config import Product
from stalegrad.planning.plan import Plan
from stalegrad.planning.studies import CRITERIA
from stalegrad.report.checked import NOT_MADE, check_files, read_check
from stalegrad.report.latex import code, escape
from stalegrad.report.values import (
    Grids,
    axis,
    cells_frame,
    provenance,
    read_if_there,
    read_verdicts,
    short,
    shown,
)

_GENERATED = "% Generated from results and configuration; changes are lost.\n"
_GRIDS_HIGH = 6  # of the grids of a study, the lines that a column is to have at most
_LONGEST = 24  # rows of a table that is printed; of a longer one, only where it is

# What `criteria.csv` has for a criterion that was left as it was.
UNCHANGED = "unchanged"
NEW = "none"  # the criterion of before, of a claim that is new
_MARKS = dict(zip(VERDICTS, ("reproduced", "partly", "notreproduced", "cannottell"), strict=True))


def pages(
    plan: Plan, published: Grids, results_folder: Path, prose: Mapping[str, str]
) -> dict[str, str]:
    """File name -> LaTeX of every generated page.

    published: the grids in full; prose: the hand-written sources, by name.
    """
    texts = {
        "figures.tex": _products(plan, results_folder),
        "studies.tex": _studies(plan, prose),
        "facts.tex": _facts(plan, published, results_folder, prose),
        "verdicts.tex": _verdicts(plan, read_verdicts(results_folder)),
        "criteria.tex": _criteria(plan, read_verdicts(results_folder)),
        "scale.tex": _scale(plan, published),
        "check.tex": _check(plan, results_folder),
        "environments.tex": _environments(plan, results_folder),
        "commands.tex": _commands(plan),
    }
    return {name: _GENERATED + text for name, text in texts.items()}


def command(plan: Plan, target: str) -> str:
    """The command that makes one file of the results."""
    archived = " measured_only=true" if plan.settings.measured_only else ""
    return (
        f"snakemake --cores all --config preset={plan.settings.preset}{archived} -- "
        f"{plan.settings.results_folder}/{plan.settings.preset}/{target}"
    )


def _products(plan: Plan, folder: Path) -> str:
    r"""`\definefigure` or `\definetable` for each; what is missing says how to make it."""
    lines = []
    for name, (_, _, product) in plan.figures.items():
        there = (folder / "figures" / f"{name}.pdf").exists()
        content = (
            rf"\graphic{{../figures/{name}.pdf}}" if there else _not_made(plan, "figures", name)
        )
        lines.append(_define("figure", name, content, product))
    for name, (_, _, product) in plan.tables.items():
        lines.append(_define("table", name, _table(plan, folder, name), product))
        lines.append(rf"\definetablefile{{{name}}}{{{code(f'tables/{name}.csv')}}}")
    return "\n".join([*lines, ""])


def _define(kind: str, name: str, content: str, product: Product) -> str:
    return rf"\define{kind}{{{name}}}{{{content}}}{{{escape(product.caption)}}}"


def _not_made(plan: Plan, kind: str, name: str) -> str:
    suffix = {"figures": "pdf", "tables": "csv"}[kind]
    return rf"\notmade{{{code(command(plan, f'{kind}/{name}.{suffix}'))}}}"


def _table(plan: Plan, folder: Path, name: str) -> str:
    path = folder / "tables" / f"{name}.tex"
    if not path.exists():
        return _not_made(plan, "tables", name)
    rows = sum(line.endswith(r"\\") for line in path.read_text("utf-8").splitlines())
    if rows > _LONGEST:
        where = f"{plan.settings.results_folder}/{plan.settings.preset}/tables/{name}.csv"
        return rf"\toolong{{{rows - 1}}}{{{code(where)}}}"
    return rf"\tabularfile{{../tables/{name}.tex}}"


def _studies(plan: Plan, prose: Mapping[str, str]) -> str:
    """One section a study: written by hand where there is one, else all there is, in order.

    Figures and tables that a hand-written section neither shows nor names as a file come after it.
    """
    out = []
    for study, content in plan.studies.items():
        section = f"sections/{study}.tex"
        text = prose.get(section)
        if text is None:
            heading = rf"\section{{{escape(content.title)}}}\label{{sec:{study}}}"
            out += [heading, rf"\studyfacts{{{study}}}"]
            out += [_show(kind, name) for kind, name in _of_study(plan, study)]
            out.append(rf"\subsection{{Verdicts}}\studyverdicts{{{study}}}")
        else:
            out.append(rf"\input{{sections/{study}}}")
            shown_there = {name for names in _SHOWN.findall(text) for name in names}
            left = [p for p in _of_study(plan, study) if p[1] not in shown_there]
            if left:
                out.append(r"\subsection{Further figures and tables}")
                out += [_show(kind, name) for kind, name in left]
    return "\n".join([*out, ""])


# The names in \studyfigure{a}, \studyfigures{a}{b}, tables likewise, and \tablefile{a}.
_SHOWN = re.compile(r"\\(?:studyfigures?|studytables?|tablefile)\{(\w+)\}(?:\{(\w+)\})?")


def _of_study(plan: Plan, study: str) -> list[tuple[str, str]]:
    products = (("figure", plan.figures), ("table", plan.tables))
    return [(kind, n) for kind, all_ in products for n, (s, *_) in all_.items() if s == study]


def _show(kind: str, name: str) -> str:
    return rf"\study{kind}{{{name}}}"


def _facts(plan: Plan, published: Grids, folder: Path, prose: Mapping[str, str]) -> str:
    r"""For `\studyfacts`: what was run of each study, and what is missing."""
    bibliography = prose.get("references.bib", "")
    verdicts = read_verdicts(folder)
    out = [rf"\newcommand{{\studiescounted}}{{{_counted(len(plan.studies))}}}"]
    for study, content in plan.studies.items():
        known = re.search(rf"@\w+\{{{re.escape(content.cite)},", bibliography)
        what = rf" to replicate \citet{{{content.cite}}}" if known else ""
        text = f"What was run{what}: {_amount(plan, study)}."
        text += _judged(verdicts[verdicts["study"] == study])
        text += "".join([_missing(plan, study, folder), _grids(plan, published, study, folder)])
        out.append(rf"\definefacts{{{study}}}{{{text}}}")
    return "\n".join([*out, ""])


_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")


def _counted(studies: int) -> str:
    """The number of studies in words, as a title begins."""
    number = _NUMBERS[studies] if studies < len(_NUMBERS) else str(studies)
    return f"{number} {'study' if studies == 1 else 'studies'}"


def _judged(verdicts: pd.DataFrame) -> str:
    found = verdicts["verdict"].value_counts()
    counted = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if verdict in found)
    return f" Verdicts on its {len(verdicts)} claims: {counted}." if len(verdicts) else ""


def _amount(plan: Plan, study: str) -> str:
    grids, simulations = plan.grids[study], plan.simulations[study]
    runs = len({cell.hash for grid in grids.values() for cell in grid})
    parts = [f"{runs:,} training runs"] if grids else []
    if simulations:
        parts.append(
            f"{sum(map(len, simulations.values())):,} clusters simulated for their staleness"
        )
    return " and ".join(parts) or "nothing"


def _missing(plan: Plan, study: str, folder: Path) -> str:
    wanted = {"runs.csv": plan.grids[study], "staleness.csv": plan.simulations[study]}
    missing = [file for file, of in wanted.items() if of and not (folder / study / file).exists()]
    if not missing:
        return ""
    commands = [rf"\\ {code(command(plan, f'{study}/{file}'))}" for file in missing]
    named = ", ".join(map(code, missing))
    return rf"\missing{{Not yet there of this study: {named}. {''.join(commands)}}}"


def _grids(plan: Plan, published: Grids, study: str, folder: Path) -> str:
    """What was run of each grid, and what is published where that is more."""
    runs = read_if_there(folder / study / "runs.csv")
    rows = []
    for name, in_full in published[study].items():
        there = cells_frame(in_full)
        cells, epochs = shown(_cells(there)), axis(list(there["epochs"].unique()))
        if name not in plan.grids[study]:
            rows.append([code(name), f"0 of {cells}", epochs, "0", "0", "--"])
            continue
        here = cells_frame(plan.grids[study][name])
        found = runs[runs["grid"] == name] if "diverged" in runs else None
        rows.append(
            [
                code(name),
                _of(shown(_cells(here)), cells),
                _of(axis(list(here["epochs"].unique())), epochs),
                shown(here["seed"].nunique()),
                "--" if found is None else shown(len(found)),
                "--" if found is None else shown(int(found["diverged"].sum())),
            ]
        )
    if not rows:
        return ""
    lines = [" & ".join(row) + r" \\" for row in rows]
    # Three columns of longer names would be shrunk to fit the page.
    most = 3 if max(map(len, published[study])) <= 20 else 2
    return rf"\gridtables{{{''.join(map(_grid_column, _columns(lines, most)))}}}"


def _columns(lines: list[str], most: int) -> list[list[str]]:
    """Spread evenly over as many columns as keep each at `_GRIDS_HIGH` lines, at most `most`."""
    columns = min(most, -(-len(lines) // _GRIDS_HIGH))
    high = -(-len(lines) // columns)
    return [lines[start : start + high] for start in range(0, len(lines), high)]


def _grid_column(lines: list[str]) -> str:
    return rf"\gridcolumn{{{' '.join(lines)}}}"


def _of(here: str, there: str) -> str:
    return here if here == there else f"{here} of {there}"


def _cells(frame: pd.DataFrame) -> int:
    return len(frame.drop(columns="seed").drop_duplicates())


def _scale(plan: Plan, published: Grids) -> str:
    """On the first page, what a preset smaller than the published grids means."""
    full = code("snakemake --cores all --config preset=paper")
    if plan.settings.preset == "smoke":
        return (
            r"\scalenote{This is a test of the pipeline, not a replication.}{The "
            r"\texttt{smoke} preset runs every step on a few images and a few cells of each grid, "
            r"so its numbers mean nothing, and no claim is judged by them.}" + "\n"
        )
    if plan.settings.measured_only:
        return (
            r"\scalenote{This report is made of archived runs.}{Of each grid it has every "
            r"cell, with as many seeds as the archive holds for all of them: see the table that "
            r"opens each study's section. A grid without any is said to be missing where it would "
            r"be shown. No run was trained for this report, and "
            rf"{full} trains the seeds that are missing.}}" + "\n"
        )
    here, there = _all_cells(plan.grids), _all_cells(published)
    if here == there:
        return ""
    return (
        r"\scalenote{The grids of this report are thinned.}{The "
        rf"\texttt{{{plan.settings.preset}}} preset runs {here:,} of the {there:,} cells of the "
        r"full grids, for fewer epochs and with fewer seeds. It shows the shape of each result. "
        r"What needs the full grid is marked \emph{cannot tell}, and accuracies lie below the "
        rf"published ones where training is cut short. {full} runs every cell.}}" + "\n"
    )


def _check(plan: Plan, folder: Path) -> str:
    """On the first page, what a spot check of the archive has found."""
    if not plan.is_checked or not all(file.exists() for file in check_files(folder)):
        return rf"\paragraph{{Spot check.}} {escape(NOT_MADE)}" + "\n"
    said = read_check(folder)
    text = " ".join(map(escape, [said.line, *said.details]))
    if not said.disagreements:
        return rf"\paragraph{{Spot check.}} {text}" + "\n"
    wrong = "".join(
        rf"\par {escape(each.name)}: {escape(each.reason)} Both histories stand in "
        rf"{code('check.csv')}."
        for each in said.disagreements
    )
    return rf"\scalenote{{The archive does not hold.}}{{{text}{wrong}}}" + "\n"


def _all_cells(grids: Grids) -> int:
    return sum(_cells(cells_frame(grid)) for study in grids.values() for grid in study.values())


def _verdicts(plan: Plan, verdicts: pd.DataFrame) -> str:
    r"""`\claimsmatrix`, `\printedmatrix`, and for `\studyverdicts` a table of each study."""
    matrix, printed, out = [], [], []
    for study, content in plan.studies.items():
        rows = verdicts[verdicts["study"] == study].to_dict("records")
        heading = escape(content.title)
        matrix.append(rf"\matrixstudy{{9}}{{{heading}}}")
        matrix += [_matrix_row(row) for row in rows] or [
            rf"\matrixnone{{{code(command(plan, 'verdicts.csv'))}}}"
        ]
        if own := [_printed_row(row) for row in rows if row["printed_verdict"] in VERDICTS]:
            printed += [rf"\matrixstudy{{5}}{{{heading}}}", *own]
        table = "\n".join(_verdict(row) for row in rows)
        listed = rf"\verdicttable{{{table}}}" if rows else r"\noverdicts"
        out.append(rf"\defineverdicts{{{study}}}{{{listed}}}")
    return "\n".join([*out, _defined("matrix", matrix), _defined("printed", printed), ""])


def _defined(name: str, rows: Sequence[str]) -> str:
    body = "\n".join(rows)
    return rf"\define{name}{{{body}}}"


def _matrix_row(row: Mapping[str, object]) -> str:
    mark = _mark(row["verdict"]) + (r"\fragilemark" if fragile(row["robustness"]) else "")
    marks = [mark if row["verdict"] == verdict else "" for verdict in VERDICTS]
    numbers = [_compact(row["value"]) or "--", _interval(row), _compact(row["floor"]) or "--"]
    return _row(_linked(row), *marks, *numbers, shown(row["threshold"]) or "")


def _printed_row(row: Mapping[str, object]) -> str:
    """A criterion that the paper's own numbers were put through."""
    return _row(
        _linked(row),
        _mark(row["printed_verdict"]),
        _compact(row["printed"]) or "--",
        _mark(row["verdict"]),
        _compact(row["value"]) or "--",
        shown(row["threshold"]) or "",
    )


def _criteria(plan: Plan, verdicts: pd.DataFrame) -> str:
    r"""`\criterialist`: criteria that were changed after runs, from each study's file of them.

    Raises ResultError where such a file is not readable.
    """
    lines = []
    now = verdicts.set_index(["study", "claim"])["verdict"]
    for study, home in plan.homes.items():
        if not (home / CRITERIA).exists():
            continue
        frame = read_csv(home / CRITERIA, "claim", "old_criterion", "old_verdict", "new_criterion")
        frame = frame[(frame["new_criterion"] != UNCHANGED) & (frame["old_criterion"] != NEW)]
        frame = frame.fillna("")
        if len(frame):
            lines.append(rf"\criteriastudy{{{escape(plan.studies[study].title)}}}")
        for row in frame.to_dict("records"):
            texts = (claim_title(row["claim"]), row["old_criterion"], row["reason"])
            marks = (_mark(row["old_verdict"]), _mark(now.get((study, row["claim"]))))
            lines.append(r"\criterion" + "".join(f"{{{x}}}" for x in (*marks, *map(escape, texts))))
    return _defined("criteria", lines) + "\n"


def _row(*cells: str) -> str:
    return " & ".join(cells) + r" \\"


def _linked(row: Mapping[str, object]) -> str:
    return rf"\claimlink{{{claim_anchor(row)}}}{{{escape(claim_title(str(row['claim'])))}}}"


def _mark(verdict: object) -> str:
    return rf"\verdictmark{{{_MARKS[verdict]}}}" if verdict in _MARKS else "--"


def _verdict(row: Mapping[str, object]) -> str:
    parts = (
        claim_anchor(row),
        _MARKS.get(str(row["verdict"]), "cannottell"),
        escape(claim_title(str(row["claim"]))),
        escape(str(row["quote"])),
        escape(str(row["where"])),
        _measured(row),
        shown(row["threshold"]) or "--",
    )
    return r"\verdict" + "".join(f"{{{part}}}" for part in parts)


def _measured(row: Mapping[str, object]) -> str:
    value = _compact(row["value"])
    if value is None:
        return "--"
    return " ".join(filter(None, (f"{shown(row['statistic']) or 'value'}:", value, _interval(row))))


def claim_anchor(row: Mapping[str, object]) -> str:
    """Where a claim stands in report and page: `<study>.<claim>`."""
    return re.sub(r"[^\w.-]", "-", f"{row['study']}.{row['claim']}", flags=re.ASCII)


def _compact(value: object) -> str | None:
    return shown(float(f"{value:.3g}")) if isinstance(value, float) else shown(value)


def _interval(row: Mapping[str, object]) -> str:
    low, high = _compact(row["low"]), _compact(row["high"])
    return "" if low is None or high is None else f"[{low}, {high}]"


def _environments(plan: Plan, folder: Path) -> str:
    """What the runs were made on: one row for each device and set of versions."""
    frames = [provenance(plan, study, folder).assign(study=study) for study in plan.studies]
    rows = pd.concat([frame for frame in frames if len(frame)] or [pd.DataFrame()])
    if rows.empty:
        return (
            r"\missing{No training run of this report has left a record of where it was made.}"
            + "\n"
        )
    keys = ["study", "device", "backend", "torch", "python"]
    rows[[*keys, "commit"]] = rows[[*keys, "commit"]].fillna("").astype(str)
    lines = []
    for (study, device, *versions), part in rows.groupby(keys):
        commits = part.loc[part["commit"] != "", "commit"].unique()
        seconds = part["wall_seconds"].sum()
        cells = [
            code(study),
            code(short(commits[0])) if len(commits) == 1 else shown(len(commits)),
            escape(device),
            *map(escape, versions),
            shown(int(part["runs"].sum())),
            shown(int(part["samples"].sum())),
            escape(duration(seconds)),
        ]
        lines.append(" & ".join(map(str, cells)) + r" \\")
    return rf"\environmenttable{{{' '.join(lines)}}}" + "\n"


def _commands(plan: Plan) -> str:
    """The command for each figure and table: one for either kind, and the names by study."""
    out = []
    for kind, suffix, products in (
        ("figures", "pdf", plan.figures),
        ("tables", "csv", plan.tables),
    ):
        out.append(_command_line(plan, f"{kind}/STUDY_NAME.{suffix}"))
        for study in plan.studies:
            names = [short for owner, short, _ in products.values() if owner == study]
            if names:
                listed = ", ".join(map(code, names))
                out.append(rf"\commandnames{{{code(study)}}}{{{listed}}}")
    out.append(_command_line(plan, "STUDY/verdicts.csv"))
    out.append(_command_line(plan, "report.pdf"))
    return "\n".join([*out, ""])


def _command_line(plan: Plan, target: str) -> str:
    return rf"\commandline{{{code(command(plan, target))}}}"
