"""What kernels are called with: the structures of `kernels/*.h`, filled from arrays."""

import ctypes
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stalegrad.training import kernels

Array = Tensor | np.ndarray
_integer, _pointer = ctypes.c_int64, ctypes.c_void_p


class _Call(ctypes.Structure):
    """Fields are set by name: numbers, contiguous arrays, or None. Arrays are kept alive."""

    def __init__(self, **fields: int | float | Array | None):
        super().__init__()
        self.arrays: dict[str, Array | None] = {}
        self.set(**fields)

    def set(self, **fields: int | float | Array | None) -> None:
        kinds = {name: kind for name, kind, *_ in self._fields_}
        for name, value in fields.items():
            if kinds[name] is not _pointer:
                setattr(self, name, value)
            elif value is None or isinstance(value, Array):
                self.arrays[name] = value
                setattr(self, name, None if value is None else address(value))
            else:
                raise TypeError(f"The field {name} is an array or None, not {value!r}.")


class Minibatches(_Call):
    """See replay.h."""

    _fields_ = [
        *[(name, _integer) for name in ("groups", "batch")],
        *[(name, _pointer) for name in ("bounds", "rows", "inputs", "targets")],
        *[(name, _integer) for name in ("dimension", "width")],
        *[(name, _pointer) for name in ("options", "weights", "gradients", "losses", "noise")],
    ]


class Stretch(_Call):
    """See replay.h."""

    _fields_ = [
        *[(name, _integer) for name in ("count", "batch", "local_steps")],
        *[(name, _pointer) for name in ("rows", "noise", "read", "write", "factors", "scales")],
        *[(name, _integer) for name in ("per_update", "waiting")],
        *[(name, _pointer) for name in ("inputs", "targets")],
        *[(name, _integer) for name in ("dimension", "width")],
        *[(name, _pointer) for name in ("options", "rates", "local_rates")],
        *[(name, ctypes.c_double) for name in ("momentum", "weight_decay", "compensation")],
        *[(name, ctypes.c_double) for name in ("decay", "epsilon")],
        *[(name, _integer) for name in ("nesterov", "compensates", "adaptive", "aliased")],
        *[(name, ctypes.c_double) for name in ("beta1", "beta2", "rest1", "rest2")],
        *[(name, _integer) for name in ("adam", "runs")],
        *[(name, _pointer) for name in ("weights", "velocity", "mean_square", "pending", "saved")],
        *[(name, _pointer) for name in ("decay1", "decay2")],
        *[(name, _integer) for name in ("slots", "apart")],
        ("losses", _pointer),
    ]


class TestSet(_Call):
    """See classification.h."""

    _fields_ = [
        *[(name, _integer) for name in ("runs", "count")],
        *[(name, _pointer) for name in ("inputs", "targets")],
        *[(name, _integer) for name in ("dimension", "width")],
        *[(name, _pointer) for name in ("options", "weights", "losses", "classes")],
    ]


class _Field(ctypes.Structure):
    """See replay.h."""

    _fields_ = [("name", ctypes.c_char_p), ("offset", _integer), ("size", _integer)]


def check_layout(library: ctypes.CDLL, structure: type[_Call]) -> None:
    """Raises TypeError if a library was compiled with another layout of a structure than the one
    here, since it would read and write in the wrong places."""
    told = getattr(library, f"{structure.__name__}_layout")
    told.restype = ctypes.POINTER(_Field)
    fields = list(itertools.takewhile(lambda field: field.name, told()))
    there = [(field.name.decode(), field.offset, field.size) for field in fields]
    here = [
        (name, getattr(structure, name).offset, getattr(structure, name).size)
        for name, *_ in structure._fields_
    ]
    there.append(("the end", told()[len(fields)].offset, 0))
    here.append(("the end", ctypes.sizeof(structure), 0))
    for compiled, mirrored in zip(there, here, strict=False):
        if compiled != mirrored:
            raise TypeError(
                f"The structure {structure.__name__} differs between the kernels' headers and "
                f"kernels/calls.py: {_place(*compiled)} there, and {_place(*mirrored)} here. Write "
                f"the same fields in the same order in both."
            )


def _place(name: str, offset: int, size: int) -> str:
    return f"{name} is {size} bytes at {offset}" if size else f"{name} is at {offset}"


def address(array: Array) -> int:
    """The address of the first number of `array`."""
    return array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data


class Kernel:
    """The functions that replay.h and classification.h ask of a kernel, on samples given as the
    fields `inputs`, `targets`, `dimension`, `width` and `options` of a call."""

    def __init__(self, name: str):
        self.name, self.library = name, kernels.load(name)
        structures = [Minibatches, Stretch]
        if hasattr(self.library, f"{name}_predictions_float32"):
            structures.append(TestSet)
        for structure in structures:
            check_layout(self.library, structure)

    def gradients(
        self,
        weights: Tensor,
        rows: Tensor,
        bounds: Tensor,
        samples: Mapping[str, Any],
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Gradients [R, P] and losses [R] at the samples `rows` [G, B] of each group of runs, of
        which group g has those from bounds[g] to bounds[g + 1] and the random bytes noise[g]."""
        weights = weights.contiguous()
        out, losses = torch.empty_like(weights), weights.new_empty(len(weights))
        minibatches = Minibatches(
            groups=len(rows),
            batch=rows.shape[1],
            bounds=bounds,
            rows=rows.contiguous(),
            weights=weights,
            gradients=out,
            losses=losses,
            noise=None if noise is None else noise.contiguous(),
            **samples,
        )
        self._call("gradients", minibatches, weights.dtype)
        return out, losses

    def replay(self, stretch: Stretch, dtype: torch.dtype, samples: Mapping[str, Any]) -> None:
        stretch.set(**samples)
        self._call("replay", stretch, dtype)

    def predictions(self, weights: Tensor, samples: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Cross-entropies (float64) and predicted classes [R, N] at weights [R, P]."""
        weights, count = weights.contiguous(), len(samples["targets"])
        losses = torch.empty((len(weights), count), dtype=torch.float64)
        classes = torch.empty((len(weights), count), dtype=torch.int64)
        test_set = TestSet(
            runs=len(weights),
            count=count,
            weights=weights,
            losses=losses,
            classes=classes,
            **samples,
        )
        self._call("predictions", test_set, weights.dtype)
        return losses, classes

    def _call(self, name: str, structure: _Call, dtype: torch.dtype) -> None:
        precision = str(dtype).removeprefix("torch.")
        if getattr(self.library, f"{self.name}_{name}_{precision}")(ctypes.byref(structure)):
            raise MemoryError(f"The kernel {self.name} could not allocate its scratch space.")
