"""Put the verdicts of all studies into one table."""

from pathlib import Path

import pandas as pd

from stalegrad.analysis.results import read_csv
from stalegrad.io.files import write_atomically
from stalegrad.io.logs import logged

with logged(snakemake.log[0]):
    verdicts = pd.concat([read_csv(Path(path)) for path in snakemake.input], ignore_index=True)
    write_atomically(Path(snakemake.output[0]), verdicts.to_csv(index=False, lineterminator="\n"))
