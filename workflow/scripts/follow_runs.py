"""Train runs and record them several times an epoch; with their weights where a rule asks."""

from pathlib import Path

from stalegrad.analysis.archive import restore
from stalegrad.io.logs import logged
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.config import load_settings
from stalegrad.training.bundles import Place, Progress, train_bundle


def say(progress: Progress) -> None:
    print(f"{progress.done} of {progress.total} stretches, {progress.seconds:.0f} s")


with logged(snakemake.log[0]):
    params = snakemake.params
    outputs = {name: Path(path) for name, path in snakemake.output.items()}
    if params.kept:
        restore(Path(params.kept), outputs)
    else:
        place = Place.of(load_settings(snakemake.config), snakemake.threads)
        bundle = Bundle.from_json(params.bundle, snakemake.rule)
        train_bundle(bundle, outputs["history"], place, say, weights=outputs.get("weights"))
