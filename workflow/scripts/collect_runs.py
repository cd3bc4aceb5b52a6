"""Gather the bundles of a study, and what the archive holds of it, into two tables."""

from pathlib import Path

from stalegrad.files import csv_text, write_atomically
from stalegrad.logs import logged
from stalegrad.measured import archived_history
from stalegrad.plan import Plan
from stalegrad.results import collect, read_csv

with logged(snakemake.log[0]):
    study = snakemake.wildcards.study
    plan = Plan.load(snakemake.config)
    histories = [read_csv(Path(path)) for path in snakemake.input.bundles]
    if plan.archived(study):
        histories.append(archived_history(study))
    runs, history = collect(plan.grids[study], histories)
    for table, path in ((runs, snakemake.output.runs), (history, snakemake.output.history)):
        write_atomically(Path(path), csv_text(table))
