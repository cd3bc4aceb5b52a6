"""Train the runs of one bundle, or of some short ones."""

from pathlib import Path

from stalegrad.io.logs import logged
from stalegrad.io.wording import count
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.config import load_settings
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.progress import Reporter
from stalegrad.training.speed import problem_of

with logged(snakemake.log[0]):
    params, outputs = snakemake.params, [Path(p) for p in snakemake.output if p.endswith(".csv")]
    place = Place.of(load_settings(snakemake.config), snakemake.threads)
    for text, output in zip(params.bundles, outputs, strict=True):
        bundle = Bundle.from_json(text, output.stem)
        about = f"{count(len(bundle.cells), 'run')} of {problem_of(bundle)}"
        with Reporter(snakemake.config, output, about) as reporter:
            train_bundle(bundle, output, place, reporter.report)
