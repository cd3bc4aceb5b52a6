"""Make one table, as CSV and as LaTeX."""

from pathlib import Path

from stalegrad.files import write_atomically
from stalegrad.logs import logged
from stalegrad.products import maker
from stalegrad.results import StudyResults

with logged(snakemake.log[0]):
    study, name, make = snakemake.params.product
    folder = Path(snakemake.output.csv).parents[1]
    results = StudyResults(study, folder.name, folder / study)
    table = maker("tables", study, name, make)(results)
    write_atomically(Path(snakemake.output.csv), table.csv())
    write_atomically(Path(snakemake.output.tex), table.latex())
