"""Loops compiled to machine code."""

import functools
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


def compiled(function: Callable[[*Arguments], Result]) -> Callable[[*Arguments], Result]:
    """`numba.njit` of `function`, releasing the GIL and kept on disk.

    Numba is imported at the first call and not before: configuration, which the workflow expands
    at the start of every job, names clusters and simulates none.
    """

    @functools.cache
    def machine_code() -> Callable[[*Arguments], Result]:
        from numba import njit

        return njit(cache=True, nogil=True)(function)

    @functools.wraps(function)
    def call(*arguments: *Arguments) -> Result:
        return machine_code()(*arguments)

    return call
