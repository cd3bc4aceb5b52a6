"""Train runs and record them several times an epoch; with their weights where a rule asks."""

from pathlib import Path

from stalegrad.bundles import Place, Progress, train_bundle
from stalegrad.cells import Bundle
from stalegrad.logs import logged


def say(progress: Progress) -> None:
    print(f"{progress.done} of {progress.total} stretches, {progress.seconds:.0f} s")


with logged(snakemake.log[0]):
    params = snakemake.params
    data_folder = Path(snakemake.config["data_folder"])
    place = Place(data_folder, params.device, params.backend, snakemake.threads)
    bundle = Bundle.from_json(params.bundle, snakemake.rule)
    weights = snakemake.output.get("weights")
    train_bundle(bundle, Path(snakemake.output[0]), place, say, weights=weights and Path(weights))
