"""The study `recorded`: its traces replayed, and its claims on results that meet and break them."""

import hashlib
import json

import numpy as np
import pytest
import yaml
from helpers import home_of, of_study

from stalegrad.analysis.archive import gather
from stalegrad.analysis.claims import NOT_REPRODUCED, REPRODUCED, claims_of
from stalegrad.analysis.nulls import changed
from stalegrad.analysis.results import StudyResults
from stalegrad.analysis.simulations import simulate_all
from stalegrad.io.errors import ResultError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.planning.plan import Plan
from stalegrad.training.bundles import Place, train_bundle

HOME = home_of("recorded")
CLAIMS = claims_of(HOME)
LISTED = {
    name: group["flags"] | own
    for group in yaml.safe_load((HOME / "recordings.yaml").read_text()).values()
    for name, own in group["traces"].items()
}
tables = of_study("recorded", "tables")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The archived runs, and the simulations."""
    plan = Plan.load({"preset": "paper", "studies": ["recorded"]})
    folder = tmp_path_factory.mktemp("recorded")
    gather(HOME / "measured", plan.grids["recorded"], folder)
    rows, arrays = simulate_all("monte_carlo", plan.simulations["recorded"]["monte_carlo"])
    rows.to_csv(folder / "staleness.csv", index=False)
    (folder / "schedules").mkdir()
    (folder / "schedules" / "monte_carlo.npz").write_bytes(arrays)
    return StudyResults(HOME, "paper", folder)


def test_every_trace_of_the_list_is_there_as_it_was_asked_for(results):
    assert len(LISTED) >= 40
    for name, flags in LISTED.items():
        processes = json.loads(results.recording(name).about["processes"])
        for key in ("workers", "delay-ms", "delayed", "straggler", "synchronous", "start"):
            if key in flags:
                assert processes[key.replace("-", "_")] == flags[key], name


@pytest.mark.parametrize(
    "name", ["slow10-asynchronous-1", "slow100-synchronous-1", "mnist-sixteen-1"]
)
def test_a_replay_ends_with_the_recorded_weights(name, results, real_data, tmp_path):
    trace = results.recording(name)
    cluster = {"name": "trace", "file": str(trace.file)}
    cell = parse_cell(json.loads(trace.about["cell"]) | {"cluster": cluster}, "a test")
    weights = tmp_path / "weights.npz"
    train_bundle(
        Bundle((cell,)),
        tmp_path / "run.csv",
        Place(real_data, "cpu", "cpu"),
        weights=weights,
    )
    last = np.load(weights)["weights"][-1]
    assert hashlib.sha256(np.ascontiguousarray(last).tobytes()).hexdigest() == trace.event(
        "weights"
    )


def found(name, results):
    function = CLAIMS[name]
    threshold = function.claim["threshold"]
    finding = function(results, threshold.value)
    # What is compared with the threshold decides the verdict.
    assert (finding.verdict == REPRODUCED) == threshold.meets(finding.value)
    return finding


# Not met at their ceiling either, which is why they tell nothing.
NEVER_MET = {
    "asynchronous_is_faster_by_the_clock",
    "constant_delay_stands_for_recorded_order",
    "delay_fits_a_normal",
    "real_cells_end_like_simulated",
}


@pytest.mark.parametrize("name", sorted(CLAIMS.keys() - NEVER_MET))
def test_claims_are_met_by_the_best_results(name, results):
    made = CLAIMS[name].claim["ceiling"].view(results, np.random.default_rng(0))
    assert found(name, made).verdict == REPRODUCED


def test_cells_that_are_not_simulated_give_no_verdict(results):
    """As at the preset smoke, where another cell is recorded than simulated."""
    runs = results.runs
    others = runs.assign(delay_ms=runs["delay_ms"].mask(runs["grid"] == "ten_simulated", 7.0))
    with pytest.raises(ResultError, match="no cell .* is both recorded and simulated"):
        CLAIMS["real_cells_end_like_simulated"](changed(results, runs=others), 3.0)


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_claims_are_broken_by_their_null(name, results):
    made = CLAIMS[name].claim["null"].view(results, np.random.default_rng(0))
    assert found(name, made).verdict == NOT_REPRODUCED


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_the_threshold_itself_meets_a_claim(name, results):
    """At the floor: the value that was found, as the threshold, is met."""
    value = found(name, results).value
    assert CLAIMS[name](results, value).verdict == REPRODUCED


def test_distances_of_distributions():
    one, other = np.array([0.5, 0.5]), np.array([0.0, 0.5, 0.5])
    assert tables.variation_distance(one, other) == pytest.approx(0.5)
    assert tables.variation_distance(one, one) == 0
