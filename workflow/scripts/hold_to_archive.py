"""Fail where a run is not as archived; else say that all are."""

from pathlib import Path

from stalegrad.io.errors import ResultError
from stalegrad.io.files import write_atomically
from stalegrad.io.logs import logged
from stalegrad.report.checked import message, read_check

with logged(snakemake.log[0]):
    results = Path(snakemake.output[0]).parent
    said = read_check(results)
    if said.disagreements:
        where = f"{results}/report.pdf, {results}/index.html and {results}/check.csv"
        raise ResultError(f"{message(said)}\nThey stand in {where} too.")
    write_atomically(Path(snakemake.output[0]), "\n".join([said.line, *said.details]) + "\n")
