"""What server and workers send each other: eight numbers, then weights or a gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Beside gradients: to a worker, to go on or to stop; to the server. float64 holds them exactly.
TASK = ("stop", "version", "stream", "minibatch")
RESULT = ("version", "stream", "minibatch", "loss", "read", "start", "end", "sent")
_NUMBERS = 8
_LINE = 64  # bytes of a line of the cache, and of the widest vector


@dataclass(frozen=True)
class Messages:
    """Room for `count` messages, one below the other.

    raw [count, bytes] uint8: what is sent. numbers [count, 8] float64 and values [count, P], of the
    precision of the weights: views of it.
    """

    raw: Tensor
    numbers: Tensor
    values: Tensor

    @classmethod
    def room(cls, count: int, parameters: int, dtype: torch.dtype) -> "Messages":
        head, body = _NUMBERS * 8, parameters * dtype.itemsize
        size = head + -(-body // _LINE) * _LINE  # so that every row begins on a line
        raw = torch.zeros(count, size, dtype=torch.uint8)
        numbers = raw[:, :head].view(torch.float64)
        return cls(raw, numbers, raw[:, head : head + body].view(dtype))
