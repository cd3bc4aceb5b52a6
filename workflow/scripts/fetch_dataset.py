"""Fetch and verify one data set."""

from stalegrad.io.datasets import fetch_dataset
from stalegrad.io.logs import logged

with logged(snakemake.log[0]):
    fetch_dataset(
        snakemake.wildcards.dataset,
        snakemake.params.folder,
        local_folder=snakemake.params.local_data,
    )
