"""Small things that a user meets: each a sentence that says what is wrong first."""

import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import make_schedule, small_cell

from stalegrad import cli
from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.clusters.parameter_server import ParameterServer
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import bundles
from stalegrad.planning.config import Preset
from stalegrad.schedule import Workload
from stalegrad.training.bundles import plan_run

TARGETS = np.arange(160) % 10


@pytest.mark.parametrize(
    "numbers",
    [
        {"compute_ms": 1e-300, "machine_ms": 1e9},
        {"compute_ms": 1e308},
        {"compute_ms": 1.0, "machine_ms": 1e308},
        {"compute_ms": 1.0, "network_ms": 1e308},
        {"compute_ms": 1.0, "delay_ms": 1e308, "delayed": "one"},
        {"compute_ms": 1.0, "service_ms": 1e308},
        {"compute_ms": 1.0, "start_ms": 1e308},
        {"compute_ms": 1.0, "jitter": 1e308},
    ],
    ids=lambda numbers: ", ".join(f"{k} {v}" for k, v in numbers.items()),
)
def test_times_that_cannot_be_added_up_are_refused(numbers):
    said = "times are too large or too small, or too far apart|should be less than or equal to 10*"
    with pytest.raises(ValueError, match=said):
        cluster = ParameterServer(workers=3, **numbers)
        cluster.simulate(Workload((40, 40, 40), 3), np.random.default_rng(1))


def test_a_schedule_at_no_time_is_refused():
    schedule = make_schedule([0, 0])
    for time in (np.inf, np.nan):
        with pytest.raises(ValueError, match="times are too large or too small"):
            replace(schedule, time=np.array([1.0, time]))


def test_an_error_of_a_cell_comes_before_what_the_cell_is():
    cell = replace(small_cell(), cluster=ConstantDelay(delay=500))
    with pytest.raises(ConfigError) as refusal:
        plan_run(cell, TARGETS)
    said = str(refusal.value)
    assert re.match(f"cell {cell.hash}: .*500.*\\. The cell is {{", said)
    assert said.index(". The cell is ") < 150 and said.endswith("}.")


def test_an_error_of_a_cluster_comes_before_what_the_cluster_is():
    with pytest.raises(ConfigError, match="ask for: a delay of 500 .*The cluster is {'name"):
        small_cell(cluster__delay=500)


def test_so_does_one_of_a_cell_that_is_too_large():
    cell = small_cell()
    preset = Preset(title="small", seeds=1, bundle_size=1, bundle_memory=1)
    with pytest.raises(ConfigError) as refusal:
        bundles([cell], preset)
    said = str(refusal.value)
    assert said.index("allow more") < said.index("The cell is {")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--dataset", "mnist", "--lr", "0.1", "--batch-size", "9", "--epochs", "1"],
        ["run-bundle", "a.json"],
        ["bundles", "--study", "jain2018"],
        ["figure", "jain2018_fig2", "--results", "results"],
    ],
)
def test_an_empty_output_is_refused(command, capsys):
    assert cli.main([*command, "--output", ""]) == 2
    assert "argument --output: '': it must be a path, and not empty" in capsys.readouterr().err
