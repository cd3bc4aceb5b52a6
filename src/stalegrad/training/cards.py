"""The NVIDIA cards of a machine, of which a process that trains takes one for itself.

A bundle fills a card: its runs are stepped together, as many as most of the free memory holds. Two
bundles on one card would each plan with the same memory, so a bundle holds its card, by a lock, and
others wait or take another card. Locks are of one user, in the folder of `io.cache`.

Nothing here starts CUDA or imports PyTorch: CUDA reads which card it may use when it starts.
"""

import functools
import importlib.util
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stalegrad.io.cache import CacheUnavailable, cache_folder
from stalegrad.io.errors import LockedError
from stalegrad.io.files import held

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOOK_SECONDS = 1.0  # between two looks for a free card
_LIST = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")


@dataclass(frozen=True)
class Card:
    """shown: what CUDA_VISIBLE_DEVICES calls it; name: the same for all processes (its UUID)."""

    shown: str
    name: str


def cards() -> tuple[Card, ...]:
    """The cards that this process may use, in CUDA's order; none where `nvidia-smi`, which comes
    with the driver, is missing or finds none."""
    uuids = _uuids()
    numbers = [str(i) for i in range(len(uuids))]
    shown = os.environ.get(VISIBLE)
    found = []
    for each in numbers if shown is None else [part.strip() for part in shown.split(",")]:
        if each in numbers:
            found.append(Card(each, uuids[int(each)]))
        elif each.startswith(("GPU-", "MIG-")) and uuids:
            whole = [uuid for uuid in uuids if uuid.startswith(each)]
            found.append(Card(each, whole[0] if len(whole) == 1 else each))
        else:
            break  # as CUDA reads it: the first that is not there ends the list
    return tuple(found)


def _uuids() -> list[str]:
    try:
        done = subprocess.run(_LIST, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [line for line in lines if line.startswith("GPU-")] if done.returncode == 0 else []


@functools.cache
def built_for_cuda() -> bool:
    """Whether the PyTorch that is installed can use a card, told without importing it."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    return bool(version and version.exists() and runpy.run_path(str(version)).get("cuda"))


def usable(device: str) -> tuple[Card, ...]:
    """The cards that training may use; none for the device `cpu`, and without a PyTorch for CUDA.

    device: as in the settings.
    """
    return cards() if device != "cpu" and built_for_cuda() else ()


@contextmanager
def own_card(device: str) -> Iterator[Card | None]:
    """Hold a card for the block; None where there is none to use.

    CUDA_VISIBLE_DEVICES is set to it, and stays so: CUDA, once started, keeps to it. If all are
    held, this says so and waits for one. A process that has started CUDA keeps to the card in use.
    """
    found = _in_use(usable(device))
    with ExitStack() as stack:
        card = _first_free(found, stack) if found else None
        if card is not None:
            os.environ[VISIBLE] = card.shown
        yield card


def _in_use(found: tuple[Card, ...]) -> tuple[Card, ...]:
    """Of these cards, those that this process can still choose from."""
    torch = sys.modules.get("torch")
    if len(found) < 2 or torch is None or not torch.cuda.is_initialized():
        return found
    return (found[torch.cuda.current_device()],)


def _first_free(found: tuple[Card, ...], stack: ExitStack) -> Card:
    """Its lock is held until `stack` is left. Without a folder for locks, the first."""
    try:
        folder = cache_folder() / "cards"
    except CacheUnavailable as error:
        print(f"note: the card is not locked, because {error}.", file=sys.stderr, flush=True)
        return found[0]
    told = False
    while True:
        for card in found:
            try:
                stack.enter_context(held(folder / card.name.replace("/", "_")))
                return card
            except LockedError as error:
                busy = str(error).partition(";")[0]
        if not told:
            told = True
            more = "" if len(found) == 1 else f", and so are all {len(found)} cards"
            print(f"note: {busy}{more}; waiting for a card.", file=sys.stderr, flush=True)
        time.sleep(LOOK_SECONDS)
