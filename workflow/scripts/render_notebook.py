"""Run the notebook of one study on its results, and show it as HTML."""

from pathlib import Path

from stalegrad.io.logs import logged
from stalegrad.report.rendering import render_notebook

with logged(snakemake.log[0]):
    params, output = snakemake.params, snakemake.output
    variables = {
        "STALEGRAD_PRESET": str(params.preset),
        "STALEGRAD_RESULTS": str(params.results),
        "STALEGRAD_STUDY": str(params.home),
    }
    render_notebook(
        Path(snakemake.input.notebook),
        Path(output.ipynb),
        Path(output.html),
        variables,
        back=f"../index.html#{snakemake.wildcards.study}",
    )
