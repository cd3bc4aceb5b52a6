"""Gather the bundles of a study, and what the archive holds of it, into two tables."""

from pathlib import Path

from stalegrad.analysis.archive import archived_history
from stalegrad.analysis.results import collect, read_csv
from stalegrad.io.files import csv_text, write_atomically
from stalegrad.io.logs import logged
from stalegrad.planning.plan import Plan

with logged(snakemake.log[0]):
    study = snakemake.wildcards.study
    plan = Plan.load(snakemake.config)
    histories = [read_csv(Path(path)) for path in snakemake.input.bundles]
    if plan.archived(study):
        histories.append(archived_history(plan.archive(study)))
    runs, history = collect(plan.grids[study], histories)
    for table, path in ((runs, snakemake.output.runs), (history, snakemake.output.history)):
        write_atomically(Path(path), csv_text(table))
