"""Write and compile the report."""

from pathlib import Path

from stalegrad.io.logs import logged
from stalegrad.planning.plan import Plan
from stalegrad.report import build_report

with logged(snakemake.log[0]):
    results = Path(snakemake.output[0]).parent
    build_report(Plan.load(snakemake.config), results, Path("paper"))
