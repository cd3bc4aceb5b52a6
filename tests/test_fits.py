"""Fits to traces: what a trace was simulated with is found again, and the cluster can be pasted."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from stalegrad import cli, specs
from stalegrad.analysis.recordings import (
    Fit,
    computing_at_once,
    contention,
    fit_distributions,
    fit_trace,
    staleness_of,
)
from stalegrad.clusters.hub_and_spoke import HubAndSpoke
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.io.errors import DataError
from stalegrad.io.traces import APPLIED, COMPLETE, MOMENTS, TraceWriter, read_trace
from stalegrad.staleness.compute_times import (
    DISTRIBUTIONS,
    Exponential,
    Gamma,
    Normal,
    Pareto,
    Uniform,
)

RECORDED = Path(__file__).parent / "recordings" / "chain.csv.gz"
KNOWN = [
    Exponential(loc=0.4, scale=0.6),
    Normal(loc=1.0, scale=0.2),
    Normal(loc=0.5, scale=0.5),
    Uniform(loc=0.5, scale=1.0),
    Gamma(a=3.0, scale=0.3),
    Pareto(b=3.0, scale=0.7),
]


@pytest.mark.parametrize("distribution", KNOWN, ids=lambda each: f"{each.name} {each.mean:.2f}")
def test_the_distribution_that_times_come_from_is_the_likeliest(distribution):
    times = distribution.sample(np.random.default_rng(5), 20_000)
    found = fit_distributions(times)
    assert {each.distribution.name for each in found} <= DISTRIBUTIONS.keys() - {"constant"}
    best = found[0]
    assert type(best.distribution) is type(distribution)
    for name in vars(distribution):
        if name != "name":
            fitted, true = getattr(best.distribution, name), getattr(distribution, name)
            assert fitted == pytest.approx(true, rel=0.05, abs=0.02), name
    # The distance of a true distribution: sqrt(n) D is rarely above 1.6 (Kolmogorov's limit).
    assert best.distance < 1.6 / np.sqrt(len(times)) and best.p_value > 0.01
    assert found[-1].distance > 3 * best.distance


def test_times_that_hardly_vary_are_constant():
    times = 2 + 1e-6 * np.arange(100)
    assert not fit_distributions(times) and fit_distributions((times - 2) * 1e6 + 1)


def test_computations_under_way_are_counted_by_hand():
    # Alone for a second; two from 1 to 2; alone again.
    start, end = np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 6.0])
    np.testing.assert_allclose(computing_at_once(start, end), [1.5, 1.5, 1.0])


def test_contention_is_found_where_there_is_any():
    rng = np.random.default_rng(3)
    together = rng.uniform(1, 8, 4_000)
    noise = np.exp(0.1 * rng.standard_normal(4_000))
    alone, machine = contention(np.maximum(5.0, 1.25 * together) * noise, together)
    assert alone == pytest.approx(5.0, rel=0.03) and machine == pytest.approx(1.25, rel=0.03)
    alone, machine = contention(5.0 * noise, together)
    assert alone == pytest.approx(5.0, rel=0.03) and machine == 0


def simulated_trace(file: Path, cluster: ParameterServer, rounds: int = 400) -> Path:
    """A trace, moments included, of workers that a small loop follows: times in seconds."""
    rng = np.random.default_rng(2)
    others, first = {"all": (1, 1), "one": (1, 2), "only": (0, 1)}[cluster.delayed]
    speed = 1 + cluster.spread * np.linspace(-1, 1, cluster.workers)
    network, free, version = cluster.network_ms, 0.0, 0
    number = np.zeros(cluster.workers, int)

    def gradient(worker: int, read: float, version: int) -> tuple[float, ...]:
        end = read + cluster.compute_ms * speed[worker] * (1 + cluster.jitter * rng.normal())
        delay = cluster.delay_ms + cluster.delay_deviation_ms * rng.normal()
        sent = end + max(delay, 0) * (others if worker else first)
        return sent + network, worker, version, read, read, end, sent

    writer = TraceWriter(file, {"workers": str(cluster.workers)})
    waiting = [gradient(w, cluster.start_ms * w, 0) for w in range(cluster.workers)]
    for arrival in range(rounds * cluster.workers):
        arrived, worker, read_version, *moments = waiting.pop(waiting.index(min(waiting)))
        free = max(free, arrived) + cluster.service_ms
        times = [each / 1_000 for each in (*moments, arrived, free)]
        writer.row((arrival, worker, read_version, worker, number[worker]), times)
        number[worker] += 1
        version += 1
        given = version if cluster.pull == "after" else version - 1
        waiting.append(gradient(worker, free + network, given))
    writer.close(COMPLETE)
    return file


CLUSTERS = [
    ParameterServer(workers=4, compute_ms=9.0, jitter=0.1, network_ms=1.0, service_ms=0.2),
    ParameterServer(workers=3, compute_ms=5.0, delay_ms=30.0, delayed="one", start_ms=7.0),
    ParameterServer(workers=3, compute_ms=5.0, jitter=0.2, delay_ms=20.0, delayed="only"),
    ParameterServer(
        workers=4, compute_ms=9.0, spread=0.3, jitter=0.05, delay_ms=9.0, delay_deviation_ms=2.0
    ),
    ParameterServer(workers=3, compute_ms=5.0, jitter=0.2, pull="before"),
]


@pytest.mark.parametrize("cluster", CLUSTERS, ids=range(len(CLUSTERS)))
def test_the_parameters_of_a_cluster_are_found_again(cluster, tmp_path):
    fit = fit_trace(read_trace(simulated_trace(tmp_path / "trace.csv", cluster)))
    for name in ("workers", "delayed", "pull", "synchronous"):
        assert getattr(fit.cluster, name) == getattr(cluster, name), name
    for name in ("compute_ms", "jitter", "delay_ms", "delay_deviation_ms", "network_ms"):
        found, true = getattr(fit.cluster, name), getattr(cluster, name)
        assert found == pytest.approx(true, rel=0.1, abs=0.02), name
    assert fit.cluster.service_ms == pytest.approx(cluster.service_ms, abs=0.01)
    assert fit.cluster.start_ms == pytest.approx(cluster.start_ms, abs=0.01)
    # Of the spread speeds are drawn with; here it is that of evenly spaced ones.
    assert fit.cluster.spread == pytest.approx(0.745 * cluster.spread, abs=0.02)
    assert fit.cluster.machine_ms == 0
    recorded, simulated = staleness_of(fit.trace), fit.simulated().staleness_before
    assert simulated.mean() == pytest.approx(recorded.mean(), abs=0.1)


def test_synchronous_and_grouped_traces_are_told_apart(tmp_path):
    for per_update, name in ((2, "parameter_server"), (1, "hub_and_spoke")):
        writer = TraceWriter(
            tmp_path / f"{per_update}.csv",
            {"workers": "2", "arrivals_per_update": str(per_update)},
        )
        rng = np.random.default_rng(1)
        for row in range(40):
            start = row // 2 + 0.001
            end = start + 0.2 + 0.1 * rng.random()
            applied = row // 2 + 0.5 + 0.1 * (row % 2)
            moments = (start, start, end, end, end, applied)
            version = row // 2 if per_update == 2 else max(row - 1, 0) // 2 * 2
            writer.row((row, row % 2, version, 0, row), moments)
        writer.close(COMPLETE)
        fit = fit_trace(read_trace(tmp_path / f"{per_update}.csv"), name)
        kind = {"parameter_server": ParameterServer, "hub_and_spoke": HubAndSpoke}[name]
        assert isinstance(fit, Fit) and isinstance(fit.cluster, kind)
        if per_update == 2:
            assert fit.cluster.synchronous


@pytest.mark.parametrize("name", ["parameter_server", "hub_and_spoke"])
def test_the_block_that_is_printed_can_be_pasted(name, tmp_path, capsys):
    figure = tmp_path / "fit.png"
    command = ["trace", "fit", str(RECORDED), "--cluster", name, "--plot", str(figure)]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    block = yaml.safe_load(said)
    cluster = specs.parse("clusters", block["cluster"], where="a test", key="cluster")
    assert specs.name_of(cluster) == name and cluster.workers == 3
    assert "Kolmogorov-Smirnov distance" in said and "staleness 1.998" in said
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_fit_takes_all_moments_and_two_gradients_of_each_worker(tmp_path):
    lines = [
        "# stalegrad-trace: 1",
        "# workers: 2",
        "arrival,worker,version,stream,minibatch,applied",
        *(f"{row},0,{row},0,{row},{row}.0" for row in range(20)),
        "# ended: complete",
    ]
    (tmp_path / "a.csv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match="the column 'read' is missing"):
        fit_trace(read_trace(tmp_path / "a.csv"))
    writer = TraceWriter(tmp_path / "b.csv", {"workers": "2"})
    for row in range(20):
        moments = [row + 0.1 * i for i in range(len((*MOMENTS, APPLIED)))]
        writer.row((row, 0, row, 0, row), moments)
    writer.close(COMPLETE)
    with pytest.raises(DataError, match="worker 1 has 0 gradients"):
        fit_trace(read_trace(tmp_path / "b.csv"))
