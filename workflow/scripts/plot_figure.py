"""Draw one figure, as PDF and as PNG."""

from pathlib import Path

from stalegrad.figures.style import save, style
from stalegrad.logs import logged
from stalegrad.products import maker
from stalegrad.results import StudyResults

with logged(snakemake.log[0]), style():
    study, name, make = snakemake.params.product
    folder = Path(snakemake.output.pdf).parents[1]
    results = StudyResults(study, folder.name, folder / study)
    figure = maker("figures", study, name, make)(results)
    save(figure, Path(snakemake.output.pdf))
    save(figure, Path(snakemake.output.png))
