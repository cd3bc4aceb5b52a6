"""Train archived runs that are drawn at random, and hold them to the archive."""

import json
import secrets
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from stalegrad.analysis.spot_check import spot_check
from stalegrad.io.files import csv_text, write_atomically
from stalegrad.io.logs import logged
from stalegrad.io.wording import duration
from stalegrad.planning.plan import Plan
from stalegrad.training.progress import SECONDS_BETWEEN


def seed_of(wanted: int | None, kept: Path, folder: Path) -> int:
    """Of the draw: as configured, else that of a check that was cut short, else a new one.

    What other checks have trained is removed.
    """
    before = int(kept.read_text()) if kept.exists() else None
    seed = wanted if wanted is not None else before
    if seed is None or seed != before:
        shutil.rmtree(folder, ignore_errors=True)
        seed = secrets.randbelow(1_000_000) if seed is None else seed
        write_atomically(kept, f"{seed}\n")
    return seed


class Teller:
    """Tells the log of each run, and the terminal of the sum now and then."""

    def __init__(self) -> None:
        self.begun = self.told = time.monotonic()

    def __call__(self, made: int, drawn: int, share: float) -> None:
        now = time.monotonic()
        left = duration((now - self.begun) * (1 - share) / share)
        line = f"check: {made} of {drawn} archived runs trained again, about {left} left"
        print(line)
        if now - self.told >= SECONDS_BETWEEN:
            self.told = now
            print(line, file=sys.__stderr__, flush=True)


with logged(snakemake.log[0]):
    plan, output = Plan.load(snakemake.config), Path(snakemake.output.rows)
    folder = output.parent / "check"
    kept = folder / "seed.txt"
    seed = seed_of(plan.settings.check_seed, kept, folder)
    said = f"check: the runs are drawn with CHECK_SEED={seed}"
    print(said)
    print(said, file=sys.__stderr__, flush=True)
    rows, extent = spot_check(plan, folder, snakemake.threads, seed, Teller())
    write_atomically(Path(snakemake.output.extent), json.dumps(asdict(extent), indent=1) + "\n")
    write_atomically(output, csv_text(rows))
    kept.unlink()
