"""How the speeds of a cluster's workers are spread."""

from typing import Literal

import numpy as np

Profile = Literal["one_slow", "one_fast", "half_slow", "linear", "geometric"]


def seconds_per_gradient(profile: Profile, workers: int, slowest: float) -> np.ndarray:
    """s_m [M] between 1 and `slowest`, never decreasing in m.

    one_slow: all 1 but the last; one_fast: all `slowest` but the first; half_slow: the second half
    is slow; linear and geometric: evenly spaced, or by even factors.
    """
    m = np.arange(workers)
    place = m / max(workers - 1, 1)
    if profile == "one_slow":
        return np.where(m == workers - 1, slowest, 1.0)
    if profile == "one_fast":
        return np.where(m == 0, 1.0, slowest)
    if profile == "half_slow":
        return np.where(m < workers // 2, 1.0, slowest)
    return 1 + (slowest - 1) * place if profile == "linear" else slowest**place
