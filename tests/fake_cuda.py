"""A CUDA graph on a CPU: capture writes down each operation and executes none; replay repeats them.

As on a GPU, a graph knows addresses alone. Numbers and branches of Python are those of the capture,
and a tensor that Python puts in the place of another one later is not seen.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stalegrad.training import cuda_graph
from stalegrad.training.cuda_graph import Recorder


def tensors(*trees: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Tape(TorchDispatchMode):
    """Writes operations down, and takes back at its end what they changed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict, list[Tensor]]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = tensors(args, kwargs)
        if function._schema.is_mutable:
            for tensor in inputs:
                storage = tensor.untyped_storage()
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        out = function(*args, **kwargs)
        known = {address(tensor) for tensor in inputs}
        made = [None if address(tensor) in known else tensor for tensor in tensors(out)]
        self.calls.append((function, args, kwargs, made))
        return out

    def take_back(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)


class FakeGraph:
    """In the place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.calls: list = []
        self.replays = 0

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, made in self.calls:
            for place, value in zip(made, tensors(function(*args, **kwargs)), strict=True):
                if place is not None:
                    place.copy_(value)


class FakeCuda:
    """In the place of what `cuda_graph` uses of `torch.cuda`.

    graphs: all that were captured, the empty first one too; pools, streams: those they were
    captured in and on. pool: the one it hands out. fails: what a capture of any step ends with,
    where that is an error.
    """

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []
        self.pools: list[object] = []
        self.streams: list[object] = []
        self.pool = object()
        self.log: list[str] = []
        self.fails: Exception | None = None

    @contextmanager
    def capture(self, graph, pool, stream, capture_error_mode) -> Iterator[None]:
        self.pools.append(pool)
        self.streams.append(stream)
        tape = _Tape()
        try:
            with tape:
                yield
        except RuntimeError:  # as the end of a capture that was spoilt
            raise RuntimeError("CUDA error: the capture has failed") from None
        finally:
            tape.take_back()
        if tape.calls and self.fails is not None:
            raise self.fails
        if not tape.calls:
            warnings.warn("The CUDA Graph is empty", stacklevel=1)
        graph.calls = tape.calls
        self.graphs.append(graph)

    def stream(self, device: object) -> SimpleNamespace:
        name = f"stream {len(self.log)}"
        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.log.append(f"{name} waits for {other.name}"),
            synchronize=lambda: self.log.append(f"{name} is done"),
        )

    @property
    def steps(self) -> list[FakeGraph]:
        """The graphs that are of a step."""
        return [graph for graph in self.graphs if graph.calls]

    def install(self, patch: pytest.MonkeyPatch) -> Recorder:
        patch.setattr(torch.cuda, "Stream", self.stream)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: self.pool)
        patch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
        patch.setattr(torch.cuda, "graph", self.capture)
        recorder = Recorder(torch.device("cuda", 0))
        patch.setattr(cuda_graph, "_on_stream", lambda device: nullcontext(recorder))
        return recorder


class HostNeeded(RuntimeError):
    """A step has asked for a number of the device, or brought one to it."""


# Whose result, or its shape, is known once the device has computed it.
_ON_HOST = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal")
_ON_HOST += ("unique", "_unique2", "unique_dim", "bincount", "repeat_interleave", "_is_all_true")


class NoHost(TorchDispatchMode):
    """Refuses what waits for the device or copies from or to another one.

    On the device `meta`, which holds no numbers, PyTorch refuses to read any as well.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.partition("::")[2]
        waits = name in _ON_HOST and "output_size" not in (kwargs or {})
        if name in ("index", "index_put", "index_put_"):  # a mask is turned into numbers
            waits = any(t.dtype in (torch.bool, torch.uint8) for t in tensors(args[1]))
        if waits:
            raise HostNeeded(f"{name} waits for the device")
        out = function(*args, **(kwargs or {}))
        # A number on the host is an argument of a kernel, and is no copy.
        copies = name in ("_to_copy", "copy_")
        kinds = {t.device.type for t in tensors(args, kwargs, out) if copies or t.dim()}
        if len(kinds) > 1 or name == "lift_fresh":
            raise HostNeeded(f"{name} copies between host and device")
        return out
