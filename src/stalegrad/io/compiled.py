"""Loops compiled to machine code."""

import functools
from collections.abc import Callable
from typing import Any


def compiled(function: Callable) -> Callable:
    """`numba.njit` of `function`, releasing the GIL and kept on disk.

    Numba is imported at the first call and not before: configuration, which the workflow expands
    at the start of every job, names clusters and simulates none.
    """

    @functools.cache
    def machine_code() -> Callable:
        from numba import njit

        return njit(cache=True, nogil=True)(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return machine_code()(*arguments)

    return call
