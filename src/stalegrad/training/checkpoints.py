"""Checkpoints: the state of a long computation in one npz, to resume from after a kill."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stalegrad.io.files import replaced


def save_checkpoint(
    path: Path, identity: str, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Replace the checkpoint at `path`.

    identity: what must match for a checkpoint to be resumed; about: plain values; arrays: none of
    them may be called `about`.
    """
    text = json.dumps({**about, "identity": identity})
    with replaced(path) as beside, open(beside, "wb") as file:
        np.savez(file, allow_pickle=False, about=np.array(text), **arrays)


def load_checkpoint(
    path: Path, identity: str, otherwise: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """`about` and `arrays` as they were saved; None if there is nothing to resume from.

    A checkpoint that is damaged or has another identity is reported on the error stream;
    `otherwise` says there what happens instead.
    """
    try:
        # np.load leaves a file open that it opened itself and found cut short.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
        about = json.loads(str(arrays.pop("about")))
        if about["identity"] != identity:
            raise ValueError(f"it is of {about['identity']}, not of {identity}")
    except FileNotFoundError:
        return None
    except Exception as error:  # a file cut short fails in many ways; all mean the same
        print(f"note: {path} is not usable ({error}); {otherwise}.", file=sys.stderr)
        return None
    return about, arrays
