"""Simulate the clusters of one study."""

from pathlib import Path

import pandas as pd

from stalegrad.analysis.simulations import simulate_all
from stalegrad.io.files import csv_text, write_atomically, write_bytes_atomically
from stalegrad.io.logs import logged
from stalegrad.planning.plan import Plan

with logged(snakemake.log[0]):
    study, tables = snakemake.params.study, []
    simulations = Plan.load(snakemake.config).simulations[study]
    for (name, cells), npz in zip(simulations.items(), snakemake.output.npz, strict=True):
        rows, arrays = simulate_all(name, cells)
        write_bytes_atomically(Path(npz), arrays)
        tables.append(rows)
    write_atomically(Path(snakemake.output.csv), csv_text(pd.concat(tables, ignore_index=True)))
