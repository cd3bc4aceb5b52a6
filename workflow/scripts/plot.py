"""Draw the figures of one study, each as PDF and as PNG."""

from pathlib import Path

from matplotlib import pyplot
from matplotlib.figure import Figure

from stalegrad.analysis.products import make_all
from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.style import not_measured, save, style
from stalegrad.io.logs import logged


def write(path: Path, figure: Figure) -> None:
    for suffix in (".pdf", ".png"):
        save(figure, path.with_suffix(suffix))
    pyplot.close(figure)


with logged(snakemake.log[0]), style():
    home, folder = Path(snakemake.params.home), Path(snakemake.output[0]).parents[1]
    results = StudyResults(home, folder.name, folder / home.name)
    stand_in = not_measured if snakemake.params.measured_only else None
    make_all("figures", results, snakemake.params.figures, write, stand_in)
