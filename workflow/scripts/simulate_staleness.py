"""Simulate the clusters of one simulation."""

from pathlib import Path

from stalegrad.files import csv_text, write_atomically, write_bytes_atomically
from stalegrad.logs import logged
from stalegrad.plan import Plan
from stalegrad.simulations import simulate_all

with logged(snakemake.log[0]):
    study, simulation = snakemake.wildcards.study, snakemake.wildcards.simulation
    cells = Plan.load(snakemake.config).simulations[study][simulation]
    rows, arrays = simulate_all(simulation, cells)
    write_atomically(Path(snakemake.output.csv), csv_text(rows))
    write_bytes_atomically(Path(snakemake.output.npz), arrays)
