"""The report: every number, caption and verdict in it comes from results and configuration.

The prose stands in `paper/`. It names values by key (`\\val{study.table.row.column}`), figures and
tables by file name, and each study's verdicts by the study; `build_report` writes those as LaTeX
beside a copy of the prose and typesets it. Whatever has not been made yet is said to be missing in
its place.
"""

import shutil
from pathlib import Path

from stalegrad.io.errors import ResultError
from stalegrad.io.files import replaced, write_atomically
from stalegrad.planning.plan import Plan
from stalegrad.planning.studies import REFERENCES, SECTION
from stalegrad.report.latex import typeset
from stalegrad.report.pages import pages
from stalegrad.report.values import collect_values, published_grids, used_keys, values_tex

_SOURCES = ("*.tex", "*.sty", "*.bib", "sections/*.tex")


def build_report(plan: Plan, results_folder: Path, paper_folder: Path = Path("paper")) -> Path:
    """Typeset the report of `results_folder` (`results/<preset>`) from the prose in `paper_folder`.

    Everything LaTeX needs is put together in `results_folder/report`, so that it can be typeset
    there by hand as well; the result is `results_folder/report.pdf`, which is returned. The same
    results and prose give the same bytes. Raises ResultError where LaTeX is missing or fails.
    """
    folder = write_sources(plan, results_folder, paper_folder)
    pdf = typeset(folder / "report.tex")
    target = results_folder / "report.pdf"
    with replaced(target) as beside:
        shutil.copyfile(pdf, beside)
    return target


def write_sources(plan: Plan, results_folder: Path, paper_folder: Path) -> Path:
    """Write `results_folder/report` anew: the prose and, beside it, all that is generated."""
    prose = {
        path.relative_to(paper_folder).as_posix(): path.read_text("utf-8")
        for pattern in _SOURCES
        for path in sorted(paper_folder.glob(pattern))
    }
    if "report.tex" not in prose:
        raise ResultError(
            f"{paper_folder / 'report.tex'} is not there; the report is typeset from it. Give the "
            f"command in the project's own folder."
        )
    folder = results_folder / "report"
    # Nothing of an earlier configuration may be left to be found by LaTeX.
    shutil.rmtree(folder, ignore_errors=True)
    prose = _with_studies(prose, plan)
    for name, text in prose.items():
        write_atomically(folder / name, text)
    published = published_grids(plan)
    values = collect_values(plan, published, results_folder)
    named = used_keys(text for name, text in prose.items() if name.endswith(".tex"))
    write_atomically(folder / "values.tex", values_tex(values, named))
    # Every key there is, for who writes prose.
    listing = "".join(f"{key}\t{value}\n" for key, value in values.items())
    write_atomically(folder / "values.tsv", listing)
    for name, text in pages(plan, published, results_folder, prose).items():
        write_atomically(folder / name, text)
    return folder


def _with_studies(prose: dict[str, str], plan: Plan) -> dict[str, str]:
    """The prose, the section that each study has, and the references that it adds."""
    prose = dict(prose)
    for study, home in plan.homes.items():
        if (section := home / SECTION).exists():
            prose[f"sections/{study}.tex"] = section.read_text("utf-8")
        if (references := home / REFERENCES).exists():
            prose["references.bib"] += references.read_text("utf-8")
    return prose
