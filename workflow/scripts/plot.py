"""Draw the figures of one study, each as PDF and as PNG."""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure

from stalegrad.figures.style import not_measured, save, style
from stalegrad.logs import logged
from stalegrad.products import make_all
from stalegrad.results import StudyResults


def write(path: Path, figure: Figure) -> None:
    for suffix in (".pdf", ".png"):
        save(figure, path.with_suffix(suffix))
    pyplot.close(figure)


with logged(snakemake.log[0]), style():
    study, folder = snakemake.params.study, Path(snakemake.output[0]).parents[1]
    results = StudyResults(study, folder.name, folder / study)
    stand_in = not_measured if snakemake.params.measured_only else None
    make_all("figures", results, snakemake.params.figures, write, stand_in)
