"""Make the tables of one study, as CSV and as LaTeX, and judge its claims."""

from pathlib import Path

from stalegrad.analysis.claims import judge
from stalegrad.analysis.products import make_all
from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.tables import Table, not_measured
from stalegrad.io.files import write_atomically
from stalegrad.io.logs import logged


def write(path: Path, table: Table) -> None:
    write_atomically(path.with_suffix(".csv"), table.csv())
    write_atomically(path.with_suffix(".tex"), table.latex())


with logged(snakemake.log[0]):
    output = Path(snakemake.output.verdicts)
    folder = output.parent
    results = StudyResults(Path(snakemake.params.home), folder.parent.name, folder)
    verdicts = judge(results).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    stand_in = not_measured if snakemake.params.measured_only else None
    make_all("tables", results, snakemake.params.tables, write, stand_in)
    # Last, since Snakemake takes a failed job for done once there is what was asked for.
    write_atomically(output, verdicts)
