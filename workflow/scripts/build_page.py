"""Write the page that browses the results."""

from pathlib import Path

from stalegrad.io.logs import logged
from stalegrad.planning.plan import Plan
from stalegrad.report.page import build_page

with logged(snakemake.log[0]):
    build_page(Plan.load(snakemake.config), Path(snakemake.output[0]).parent)
