"""Closed forms against the numbers of the paper, and against cases worked out otherwise."""

import math

import pytest
from scipy.stats import gamma, uniform

from stalegrad.staleness.renewal import (
    exact_staleness_before,
    expected_staleness,
    expected_staleness_sgd,
    renewal_function,
    renewal_function_gamma,
    update_rate,
)

# allawati2020, section 4: alpha = 1, lambda = 2/3.
MEAN = 2.5


def test_update_rate():
    assert update_rate(10, 5, MEAN) == 0.8
    # Cases 1 and 2 of figure 3: the same time between updates, 2 seconds.
    assert 1 / update_rate(10, 10, 2.0) == 2.0
    assert 1 / update_rate(10, 1, 20.0) == 2.0


@pytest.mark.parametrize(
    ("n", "K", "T_c", "staleness"),
    [(10, 10, 1.0, 1.4), (20, 10, 1.0, 2.8), (10, 5, 1.0, 2.8), (10, 1, 0.0, 10.0)],
)
def test_theorem_2(n, K, T_c, staleness):
    assert expected_staleness(n, K, T_c, MEAN) == pytest.approx(staleness, rel=1e-15)


def test_cases_of_figure_3():
    assert expected_staleness(10, 10, 0.0, 2.0) == 1.0
    assert expected_staleness(10, 1, 0.0, 20.0) == 10.0


def test_corollary_3_is_the_theorem_at_one_minibatch():
    assert expected_staleness_sgd(10, 1.0, MEAN) == pytest.approx(14.0, rel=1e-15)
    assert expected_staleness_sgd(7, 3.0, 2.0) == expected_staleness(7, 1, 3.0, 2.0)


@pytest.mark.parametrize("time", [0.25, 1.0, 30.0, 4000.0])
def test_renewal_function_of_exponentials_is_linear(time):
    assert renewal_function_gamma(time, 1.0, 0.0, 2.5) == pytest.approx(time / 2.5, rel=1e-12)


@pytest.mark.parametrize("time", [0.1, 1.0, 50.0])
def test_renewal_function_of_erlang_2(time):
    expected = time / 2 - 1 / 4 + math.exp(-2 * time) / 4
    assert renewal_function_gamma(time, 2.0, 0.0, 1.0) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("time", [0.1, 0.5, 1.0])
def test_renewal_function_of_uniform_distances(time):
    """On [0, 1): m(t) = e^t - 1 up to t = 1."""
    assert renewal_function(time, uniform.cdf) == pytest.approx(math.expm1(time), rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "loc", "rel"), [(1.0, 0.0, 1e-5), (1.0, 1.0, 2e-3), (4.0, 0.0, 1e-5), (0.25, 0, 1e-2)]
)
def test_renewal_function_is_that_of_the_closed_form(shape, loc, rel):
    found = renewal_function(6.0, gamma(shape, loc, 1.5).cdf)
    assert found == pytest.approx(renewal_function_gamma(6.0, shape, loc, 1.5), rel=rel)
    assert renewal_function(0.0, gamma(shape, loc, 1.5).cdf) == 0.0


def test_renewal_function_of_a_small_shape():
    distances = [gamma(0.05 * k).cdf(3.0) for k in range(1, 3000)]
    assert renewal_function_gamma(3.0, 0.05, 0.0, 1.0) == pytest.approx(sum(distances), rel=1e-12)


def test_renewal_function_of_shifted_exponentials():
    assert renewal_function_gamma(0.0, 1.0, 1.0, 1.5) == 0.0
    # No round is shorter than 1, and two take at least 2.
    assert renewal_function_gamma(1.0, 1.0, 1.0, 1.5) == 0.0
    once = 1 - math.exp(-0.9 / 1.5)
    assert renewal_function_gamma(1.9, 1.0, 1.0, 1.5) == pytest.approx(once, rel=1e-14)


def test_exact_staleness():
    # At T_c = 0 an update later than the theorem, counted just after; jain2018's N - 1 before.
    assert exact_staleness_before(10, 1, 0.0, MEAN, 0.0) == 9.0
    assert exact_staleness_before(10, 10, 1.0, MEAN, 0.0) == pytest.approx(1.36, rel=1e-14)
    # Exponential compute times, T_c > 0: the worker itself is like any other.
    own = renewal_function_gamma(1.0, 1.0, 0.0, MEAN)
    exact = exact_staleness_before(10, 5, 1.0, MEAN, own)
    assert exact == pytest.approx(expected_staleness(10, 5, 1.0, MEAN), rel=1e-14)
