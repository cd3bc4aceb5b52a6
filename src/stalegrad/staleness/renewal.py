"""Closed forms for hub-and-spoke clusters, from renewal theory (Al-Lawati and Draper 2020).

Everywhere n is the number of workers, K the minibatches an update, mu the mean compute time in
seconds and T_c the communication time in seconds. All are limits: of a cluster that has run long
enough, and whose compute times are not all multiples of one number.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import gammainc


def update_rate(workers: int, minibatches_per_update: int, mean_compute_time: float) -> float:
    """Updates a second, n / (K mu): Lemma 1, equation 4."""
    return workers / (minibatches_per_update * mean_compute_time)


def expected_staleness(
    workers: int,
    minibatches_per_update: int,
    communication_time: float,
    mean_compute_time: float,
) -> float:
    """Mean staleness in updates, (n / K) (T_c + mu) / mu: Theorem 2, equation 5."""
    latency = communication_time + mean_compute_time
    return workers / minibatches_per_update * latency / mean_compute_time


def expected_staleness_sgd(
    workers: int, communication_time: float, mean_compute_time: float
) -> float:
    """Mean staleness where every arrival is an update, n (T_c + mu) / mu: Corollary 3, equation 6.

    The theorem at K = 1.
    """
    return expected_staleness(workers, 1, communication_time, mean_compute_time)


def exact_staleness_before(
    workers: int,
    minibatches_per_update: int,
    communication_time: float,
    mean_compute_time: float,
    own_renewals: float,
) -> float:
    """Mean staleness counted just before the update, with the gradient's own worker set apart.

    A gradient becomes stale by what arrives between the newest update that its worker could know
    and its own arrival, T_c + mu on average. In that time each of the n - 1 other workers, which is
    at a random point of its round, sends (T_c + mu) / mu gradients. The gradient's own worker is at
    the start of a round: in the T_c before it, it has sent the gradient of the round before and, on
    average, `own_renewals` = m(T_c) earlier ones, m being the renewal function of the compute time.
    Hence, K gradients making an update,

        ((n - 1) (T_c + mu) / mu + 1 + m(T_c)) / K    for T_c > 0,
        (n - 1) / K                                   for T_c = 0,

    for at T_c = 0 the worker knows the update that its own last gradient triggered. Counted just
    after, it is 1 / K more. Not in the paper: theorem 2 treats the gradient's own worker like any
    other, with n in place of n - 1 and no other term.
    """
    others = (workers - 1) * (communication_time + mean_compute_time) / mean_compute_time
    own = 1 + own_renewals if communication_time > 0 else 0
    return (others + own) / minibatches_per_update


def renewal_function_gamma(time: float, shape: float, loc: float, scale: float) -> float:
    """Mean number m(t) of renewals up to `time` whose distances are loc + scale Gamma(shape).

    Distances are in seconds, the first counted from time 0; shape 1 is the shifted exponential.
    m(t) is the sum over k of P(S_k <= t), S_k being the sum of k distances.
    """
    if time <= 0:
        return 0.0
    rest = time / scale
    # Past this k the gamma part alone exceeds `time` but for a chance below rounding.
    most = (rest + 10 * np.sqrt(rest) + 40) / shape
    k = np.arange(1, int(np.ceil(most)) + 1)
    return float(gammainc(k * shape, np.maximum(time - k * loc, 0) / scale).sum())


def renewal_function(
    time: float, cdf: Callable[[np.ndarray], np.ndarray], points: int = 2000
) -> float:
    """Mean number m(t) of renewals up to `time` whose distances have the distribution `cdf`.

    time and distances in seconds, the first distance counted from time 0. The renewal equation
    m(t) = F(t) + int_0^t m(t - s) dF(s) is solved on `points` steps with F taken at their middles
    (the Riemann-Stieltjes method of Xie 1989), which needs no density. Its error falls with the
    step, by its square where F is smooth.
    """
    if time <= 0:
        return 0.0
    step = time / points
    at = cdf(step * np.arange(points + 1))
    middle = cdf(step * (np.arange(points) + 0.5))
    renewals = np.zeros(points + 1)
    for i in range(1, points + 1):
        grown = np.diff(renewals[:i]) @ middle[i - 1 : 0 : -1]
        renewals[i] = (at[i] + grown - middle[0] * renewals[i - 1]) / (1 - middle[0])
    return float(renewals[-1])
