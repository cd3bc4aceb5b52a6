"""Staleness simulations: what a study may ask for, what comes out, and what is refused."""

import io

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import skew

from stalegrad.analysis.simulations import shape, simulate_all
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.data_order import CLUSTER, generator
from stalegrad.io.errors import ConfigError
from stalegrad.planning.cell import SimulationCell, parse_simulation
from stalegrad.planning.config import Study
from stalegrad.planning.expand import study_simulations
from stalegrad.schedule import Workload
from stalegrad.staleness.compute_times import Exponential, Pareto

CLUSTER_KEYS = {
    "name": "hub_and_spoke",
    "workers": 4,
    "minibatches_per_update": 2,
    "communication_time": 1.0,
    "compute_time": {"name": "expon", "loc": 1.0, "scale": 1.5},
}
HUB = HubAndSpoke(
    workers=4,
    minibatches_per_update=2,
    communication_time=1.0,
    compute_time=Exponential(loc=1.0, scale=1.5),
)


def simulated(*cells):
    rows, npz = simulate_all("some", list(cells))
    with np.load(io.BytesIO(npz), allow_pickle=False) as arrays:
        return rows, dict(arrays)


def schedules(index, arrivals, replicates):
    """The replicates that the `index`-th cluster of a simulation goes through."""
    rng = generator(0, CLUSTER, index)
    return [HUB.simulate(Workload((arrivals,), 1), rng) for _ in range(replicates)]


def test_a_long_run_has_a_row_a_replicate():
    other = HubAndSpoke(workers=2, compute_time=Pareto(b=1.5))
    rows, arrays = simulated(
        SimulationCell(cluster=HUB, arrivals=200, replicates=3),
        SimulationCell(cluster=other, arrivals=50, replicates=2, skip=0),
    )
    assert rows["index"].tolist() == [0, 0, 0, 1, 1]
    assert rows["arrivals"].tolist() == [200] * 3 + [50] * 2
    assert rows["compute_time"].tolist() == ["expon"] * 3 + ["pareto"] * 2
    assert rows["compute_time_b"].fillna(0).tolist() == [0, 0, 0, 1.5, 1.5]
    for row, schedule in zip(rows.to_dict("records"), schedules(0, 200, 3), strict=False):
        counted = schedule.staleness_before[20:]  # the first tenth is not
        assert row["mean_before"] == pytest.approx(counted.mean())
        assert row["mean_after"] == pytest.approx(schedule.staleness_after[20:].mean())
        assert row["deviation"] == pytest.approx(counted.std())
        histogram = arrays["histogram_0"][row["replicate"]]
        assert histogram[:6].tolist() == np.bincount(counted, minlength=6)[:6].tolist()


def test_the_start_is_one_row_and_means_by_update():
    rows, arrays = simulated(SimulationCell(cluster=HUB, updates=7, replicates=5))
    means = np.array([s.staleness_before.reshape(7, 2).mean(axis=1) for s in schedules(0, 14, 5)])
    np.testing.assert_allclose(arrays["by_update_0"], means.mean(axis=0))
    np.testing.assert_allclose(arrays["by_update_deviation_0"], means.std(axis=0, ddof=1))
    assert len(rows) == 1
    assert rows.loc[0, ["arrivals", "replicates"]].tolist() == [14, 5]
    assert rows.loc[0, "mean_before"] == pytest.approx(means.mean())
    assert rows.loc[0, "mean_after"] == pytest.approx(means.mean() + 1 / 2)


@pytest.mark.parametrize("keys", [{"arrivals": 20}, {"updates": 10, "replicates": 2}], ids=str)
def test_a_kept_schedule_is_that_of_the_first_replicate(keys):
    _, arrays = simulated(SimulationCell(cluster=HUB, schedule=True, **keys))
    (first,) = schedules(0, 20, 1)
    for name in ("worker", "time", "read_version"):
        np.testing.assert_array_equal(arrays[f"{name}_0"], getattr(first, name))


def test_a_kept_schedule_of_workers_that_stop_is_the_one_counted():
    server = ParameterServer(workers=3, compute_ms=10, jitter=0.3)
    rows, arrays = simulated(
        SimulationCell(cluster=server, arrivals=62, replicates=2, schedule=True)
    )
    assert len(arrays["worker_0"]) == rows.loc[0, "arrivals"] == 60
    staleness = np.arange(60) - arrays["read_version_0"]
    counted = arrays["histogram_0"][0]
    assert counted.tolist() == np.bincount(staleness, minlength=len(counted)).tolist()
    assert rows.loc[0, "seconds"] == arrays["time_0"][-1]


def test_shape_by_hand():
    """Of staleness 0, 1, 1, 2: half way between whole numbers the fit is at most as far off as its
    tail above 2.5."""
    found = shape(np.array([1, 2, 1, 0]))
    assert found["deviation"] == pytest.approx(np.sqrt(0.5))
    assert found["skewness"] == pytest.approx(0.0)
    assert found["normal_distance"] == pytest.approx(ndtr(-1.5 / np.sqrt(0.5)))
    lopsided = np.repeat([0, 1, 4], [4, 2, 1])
    found = shape(np.append(np.bincount(lopsided), 0))
    assert found["skewness"] == pytest.approx(skew(lopsided))
    cut = (np.array([0.5, 1.5, 2.5, 3.5, 4.5]) - lopsided.mean()) / lopsided.std()
    distance = np.abs(np.array([4, 6, 6, 6, 7]) / 7 - ndtr(cut)).max()
    assert found["normal_distance"] == pytest.approx(distance)


def test_no_shape_is_told_beyond_the_last_bin():
    assert shape(np.array([1, 2, 1, 0]))["deviation"] == pytest.approx(np.sqrt(0.5))
    assert np.isnan(list(shape(np.array([1, 2, 0, 1])).values())).all()


def test_heavy_tails_are_counted_all_the_same():
    hub = HubAndSpoke(workers=2, compute_time=Pareto(b=1.05))
    rows, arrays = simulated(SimulationCell(cluster=hub, arrivals=20_000))
    assert rows.loc[0, "largest"] > arrays["histogram_0"].shape[1]
    assert np.isnan(rows.loc[0, "deviation"])
    # Between two gradients of one worker the other makes one on average, whatever the tail.
    assert rows.loc[0, "mean_before"] == pytest.approx(1, abs=0.6)


def test_axes_change_any_key():
    simulation = {
        "cluster": CLUSTER_KEYS,
        "axes": {"arrivals": [100, 200], "cluster.workers": [2, 3]},
        "cases": [{"skip": 5}, {"replicates": 2}],
    }
    study = Study(title="t", cite="c", simulations={"s": simulation})
    found = study_simulations(study, "paper", "f.yaml")["s"]
    assert [(s.skipped, s.replicates, s.arrivals, s.cluster.workers) for s in found] == [
        *((5, 1, 100, 2), (5, 1, 100, 3), (5, 1, 200, 2), (5, 1, 200, 3)),
        *((10, 2, 100, 2), (10, 2, 100, 3), (20, 2, 200, 2), (20, 2, 200, 3)),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "'arrivals' is missing and has no default"),
        ({"arrivals": 10, "updates": 5, "replicates": 2}, "'arrivals' does not go with 'updates'"),
        ({"updates": 5, "skip": 1, "replicates": 2}, "'skip' does not go with 'updates'"),
        ({"updates": 5}, "'replicates' is 1; single updates are averaged"),
        ({"arrivals": 10, "skip": 10}, "'skip' is 10, all of the 10 arrivals"),
        ({"arrivals": 10, "skip": -1}, "'skip' is -1"),
        ({"arrivals": 2.5}, "'arrivals' is 2.5"),
        ({"arrivals": 10, "replicates": 0}, "'replicates' is 0"),
        ({"arrivals": 10, "minibatches": 1}, "'minibatches' is not a known key; allowed here: arr"),
        ({"arrivals": 10, "cluster": {"name": "hub"}}, "'cluster.name' is 'hub'"),
        ({"arrivals": 1}, "'arrivals' is 1, too few for one update of the cluster {'name': 'hub_"),
        (
            {"arrivals": 5, "cluster": {"name": "heterogeneous", "workers": 8}},
            "'arrivals' is 5, too few for one update",
        ),
        (
            {"updates": 5, "cluster": {"name": "constant_delay", "delay": 1}},
            "'updates' is only for the cluster 'hub_and_spoke'",
        ),
    ],
    ids=str,
)
def test_errors_name_place_key_and_reason(changes, reason):
    with pytest.raises(ConfigError) as error:
        parse_simulation({"cluster": CLUSTER_KEYS} | changes, "f.yaml, simulations.s")
    assert str(error.value).startswith(f"f.yaml, simulations.s: {reason}")
