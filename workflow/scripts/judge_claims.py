"""Judge the claims of one study."""

from pathlib import Path

from stalegrad.claims import judge
from stalegrad.files import write_atomically
from stalegrad.logs import logged
from stalegrad.results import StudyResults

with logged(snakemake.log[0]):
    output = Path(snakemake.output[0])
    results = StudyResults(output.parent.name, snakemake.params.preset, output.parent)
    csv = judge(results).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomically(output, csv)
