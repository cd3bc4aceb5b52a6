"""Put the simulations of a study into one table."""

from pathlib import Path

import pandas as pd

from stalegrad.files import csv_text, write_atomically
from stalegrad.logs import logged
from stalegrad.results import read_csv

with logged(snakemake.log[0]):
    rows = pd.concat([read_csv(Path(path)) for path in snakemake.input], ignore_index=True)
    write_atomically(Path(snakemake.output[0]), csv_text(rows))
