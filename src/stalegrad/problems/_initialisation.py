"""Weights at the start that PyTorch draws, as a plain script has them after `torch.manual_seed`."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from stalegrad.specs import spec

# PyTorch has one generator, which threads share.
_DRAWING = threading.Lock()

# What `torch.manual_seed` takes, less the negative ones, which stand for others of these.
TorchSeed = Annotated[int, Field(ge=0, lt=1 << 64)]


@spec
class Initialisation:
    """The same initial weights for every run, whatever its own seed.

    torch_seed: they are those of PyTorch's layers, made on the CPU in the order of the network
        after `torch.manual_seed(torch_seed)`.
    """

    torch_seed: TorchSeed


def _read(keys: Any) -> Any:
    """The initialisation that a mapping describes; one that is made already stays itself."""
    if keys is None or isinstance(keys, Initialisation):
        return keys
    if not isinstance(keys, Mapping) or set(keys) != {"torch_seed"}:
        raise ValueError(
            "an initialisation is a mapping with the one key 'torch_seed', such as "
            "{torch_seed: 614310}; left out, weights follow from the seed of the run"
        )
    # Errors inside come out under this field's name, then torch_seed.
    return Initialisation(**keys)


# The type of a field that holds one, or none: takes the mapping of a configuration as well.
MaybeInitialisation = Annotated[Initialisation | None, BeforeValidator(_read)]


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Inside, PyTorch draws on the CPU as after `torch.manual_seed(seed)`, on one thread at a time.

    Afterwards its generator is where it was before.
    """
    import torch

    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
