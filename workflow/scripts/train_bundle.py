"""Train the runs of one bundle."""

from pathlib import Path

from stalegrad.bundles import Place, Progress, train_bundle
from stalegrad.cells import Bundle
from stalegrad.logs import logged


def say(progress: Progress) -> None:
    left = progress.seconds / progress.done * (progress.total - progress.done)
    print(f"{progress.done} of {progress.total} epochs, about {left:.0f} s left")


with logged(snakemake.log[0]):
    params = snakemake.params
    place = Place(Path(params.data_folder), params.device, params.backend, snakemake.threads)
    bundle = Bundle.from_json(params.bundle, snakemake.wildcards.bundle)
    train_bundle(bundle, Path(snakemake.output.csv), place, say)
