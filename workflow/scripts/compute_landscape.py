"""Compute one loss landscape."""

from pathlib import Path

from stalegrad.analysis.archive import restore
from stalegrad.analysis.landscapes import make_landscape
from stalegrad.io.logs import logged
from stalegrad.planning.plan import Plan
from stalegrad.training.bundles import Place
from stalegrad.training.cards import own_card


def say(done: int, total: int) -> None:
    print(f"{done:,} of {total:,} points")


with logged(snakemake.log[0]):
    params, wildcards = snakemake.params, snakemake.wildcards
    outputs = {name: Path(path) for name, path in snakemake.output.items()}
    if params.kept:
        restore(Path(params.kept), outputs)
    else:
        plan = Plan.load(snakemake.config)
        place = Place.of(plan.settings, snakemake.threads)
        cell = plan.landscapes[wildcards.study][wildcards.landscape]
        recorded = tuple(map(Path, snakemake.input.recorded))
        made = outputs["grid"], outputs["points"], outputs["lines"]
        with own_card(place.device):
            make_landscape(cell, recorded, made, place, say)
