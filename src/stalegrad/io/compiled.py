"""Loops compiled to machine code."""

import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from stalegrad.io.cache import CacheUnavailable, cache_folder

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[[*Arguments], Result]) -> Callable[[*Arguments], Result]:
    """`numba.njit` of `function`, releasing the GIL and kept in the folder that C++ kernels are
    kept in (see `io.cache`). An entry there that is damaged is compiled again; where there is no
    such folder, every process compiles anew.

    Numba is imported at the first call and not before: configuration, which the workflow expands
    at the start of every job, names clusters and simulates none.
    """
    made: list[Callable[[*Arguments], Result]] = []

    @functools.wraps(function)
    def call(*arguments: *Arguments) -> Result:
        if not made:
            made.append(_machine_code(function))
        try:
            return made[0](*arguments)
        except Exception as error:
            if not _is_of_the_cache(error):
                raise
        # The damage was met before the loop began, so that no argument has been changed.
        _forget(function)
        made[0] = _machine_code(function)
        return made[0](*arguments)

    return call


def _machine_code(function: Callable[[*Arguments], Result]) -> Callable[[*Arguments], Result]:
    from numba import config, njit

    try:
        folder = cache_folder() / "numba"
    except CacheUnavailable:
        return njit(nogil=True)(function)
    before = vars(config)["CACHE_DIR"]
    vars(config)["CACHE_DIR"] = str(folder)  # read while the loop is wrapped
    try:
        return njit(cache=True, nogil=True)(function)
    finally:
        vars(config)["CACHE_DIR"] = before


def _is_of_the_cache(error: Exception) -> bool:
    """Whether it was raised while what is kept was read: damage is met in many ways."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        Path(frame.filename).parts[-3:] == ("numba", "core", "caching.py") for frame in frames
    )


def _forget(function: Callable[..., object]) -> None:
    """Remove what is kept of a loop."""
    module = function.__module__.rpartition(".")[2]
    print(f"note: compiling {module}.{function.__name__} again, whose cache is damaged.",
          file=sys.stderr, flush=True)  # fmt: skip
    for path in (cache_folder() / "numba").glob(f"*/{module}.{function.__qualname__}-*.nb[ic]"):
        path.unlink(missing_ok=True)
