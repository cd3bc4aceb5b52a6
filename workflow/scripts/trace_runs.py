"""Follow runs update by update beside their virtual iterates."""

from pathlib import Path

from stalegrad.analysis.virtual_iterates import trace_cells
from stalegrad.io.files import csv_text, write_atomically
from stalegrad.io.logs import logged
from stalegrad.planning.plan import Plan

with logged(snakemake.log[0]):
    study, trace = snakemake.wildcards.study, snakemake.wildcards.trace
    plan = Plan.load(snakemake.config)
    rows = trace_cells(plan.traces[study][trace], Path(plan.settings.data_folder))
    write_atomically(Path(snakemake.output[0]), csv_text(rows))
