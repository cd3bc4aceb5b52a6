"""What a hash means: a default that changes, or a file that does, changes what it stands for."""

import sys
from pathlib import Path

import pytest

from stalegrad import clusters, specs
from stalegrad.io.errors import ConfigError
from stalegrad.planning import freshness
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell, parse_simulation
from stalegrad.planning.freshness import code_of, training_code
from stalegrad.planning.plan import Plan, as_inputs

# Of every choice: the fields that must be given, the others with their defaults, and the hash.
# A field that gets another default means another run under an old hash: results in measured/ and
# in users' folders are then no longer those of the configuration that they are found by. Give the
# field a new name, or change its value here, together with the hash, knowingly.
DEFAULTS = {
    ("problem", "chain"): (
        {},
        {
            "penalty": "square",
            "dimension": 100,
            "smoothness": 1.0,
            "strong_convexity": 0.0,
            "noise": 0.0,
            "noise_samples": 4096,
            "kinds": 1,
            "kind_shift": 0.0,
            "data_seed": 1,
            "epoch_samples": 1000,
        },
        "033ae889ad75577e",
    ),
    ("problem", "large_cnn"): (
        {"dataset": "mnist"},
        {
            "normalize": False,
            "train_samples": 60000,
            "test_samples": 10000,
            "details": False,
            "initialisation": None,
        },
        "8b7d5bfa8de6c250",
    ),
    ("problem", "least_squares"): (
        {},
        {"rows": 10000, "dimension": 400, "noise": 1e-05, "data_seed": 1, "epoch_samples": 10000},
        "71673adf34dd4c10",
    ),
    ("problem", "lenet5"): (
        {"dataset": "mnist"},
        {
            "normalize": False,
            "train_samples": 60000,
            "test_samples": 10000,
            "details": False,
            "initialisation": None,
        },
        "31404c4c9b14ca97",
    ),
    ("problem", "linear_regression"): (
        {},
        {
            "dimension": 10,
            "train_samples": 1000,
            "test_samples": 1000,
            "epoch_samples": 1000,
            "noise": 0.1,
            "data_seed": 1,
        },
        "d8f4f5521e5a4554",
    ),
    ("rule", "adagrad"): (
        {"lr": 0.1},
        {"warmup_epochs": 0.0, "clip_norm": None, "epsilon": 1e-10},
        "2f70b5466bc371eb",
    ),
    ("rule", "adam"): (
        {"lr": 0.1},
        {"warmup_epochs": 0.0, "clip_norm": None, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-08},
        "d0222b3972bff558",
    ),
    ("rule", "dc_asgd"): (
        {"lr": 0.1, "compensation": 1.0},
        {
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "adaptive": False,
            "decay": 0.95,
            "epsilon": 1e-07,
            "as_published": False,
        },
        "536e00893baf4d5e",
    ),
    ("rule", "delay_adaptive"): (
        {"lr": 0.1, "concurrency": 2},
        {
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
        },
        "db0088f70842116c",
    ),
    ("rule", "delayed_nesterov"): (
        {"lr": 0.1, "period": 2},
        {"warmup_epochs": 0.0, "clip_norm": None, "momentum": 0.9, "activation": 0.0},
        "e1368f7ba14089fa",
    ),
    ("rule", "gap_aware"): (
        {"lr": 0.1},
        {
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
            "decay": 0.999,
            "epsilon": 1e-08,
        },
        "f112ac165f307f54",
    ),
    ("rule", "muon"): (
        {"lr": 0.1, "adam_lr": 0.01},
        {
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "momentum": 0.95,
            "nesterov": True,
            "weight_decay": 0.0,
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-10,
        },
        "681672b13cae4883",
    ),
    ("rule", "sgd"): (
        {"lr": 0.1},
        {
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
        },
        "033ae889ad75577e",
    ),
    ("rule", "staleness_scaled"): (
        {"lr": 0.1},
        {
            "warmup_epochs": 0.0,
            "clip_norm": None,
            "momentum": 0.0,
            "nesterov": False,
            "weight_decay": 0.0,
        },
        "9813079c34daa1c3",
    ),
    ("cluster", "constant_delay"): (
        {"delay": 2},
        {"ramp_epochs": 0.0, "undelayed_epochs": 0.0},
        "033ae889ad75577e",
    ),
    ("cluster", "heterogeneous"): (
        {"workers": 2},
        {
            "profile": "one_slow",
            "slowest": 1.0,
            "compute_time": {"name": "constant", "value": 1.0},
            "barrier": False,
            "answers_once": False,
            "data_by": "worker",
            "policy": None,
        },
        "55580d646aaa9983",
    ),
    ("cluster", "hub_and_spoke"): (
        {"workers": 2, "compute_time": {"name": "expon"}},
        {"minibatches_per_update": 1, "communication_time": 0.0, "policy": None},
        "db7212e7539b358f",
    ),
    ("cluster", "parameter_server"): (
        {"workers": 2, "compute_ms": 1.0},
        {
            "machine_ms": 0.0,
            "jitter": 0.0,
            "spread": 0.0,
            "delay_ms": 0.0,
            "delay_deviation_ms": 0.0,
            "delayed": "all",
            "network_ms": 0.0,
            "service_ms": 0.0,
            "pull": "after",
            "start_ms": 0.0,
            "synchronous": False,
            "run_on": True,
            "policy": None,
        },
        "8dc18ef1946b2a68",
    ),
    ("cluster", "pipeline"): ({"stages": 3}, {}, "db5445ea0c358a58"),
    ("cluster", "trace"): (
        {"file": "tests/recordings/chain.csv.gz"},
        {"unfinished": False},
        "4a74198126b7189f",
    ),
}
BASE = {
    "problem": {"name": "chain"},
    "rule": {"name": "sgd", "lr": 0.1},
    "cluster": {"name": "constant_delay", "delay": 2},
    "batch_size": 10,
    "epochs": 3,
}


def hash_with(part: str, name: str, fields) -> str:
    return parse_cell(BASE | {part: {"name": name, **fields}}, "a test").hash


@pytest.fixture
def at_root(monkeypatch):
    """Paths of files are seen from the folder that a command is given in."""
    monkeypatch.chdir(Path(__file__).parents[1])


@pytest.mark.parametrize(("part", "name"), DEFAULTS)
def test_a_hash_stands_for_the_defaults_it_was_made_with(part, name, at_root):
    given, defaults, pinned = DEFAULTS[part, name]
    assert hash_with(part, name, given) == pinned
    assert hash_with(part, name, given | defaults) == pinned, "a default has changed"
    described = specs.describe(
        getattr(parse_cell(BASE | {part: {"name": name, **given}}, ""), part)
    )
    assert described.keys() - {"name"} == given.keys() | defaults.keys(), "a field is new here"


# Of fields that the archive holds runs with: the hash with a value other than the default.
CHOSEN = {
    ("problem", "lenet5", "initialisation"): ({"torch_seed": 614310}, "b19aaa6b0f530f77"),
    ("problem", "large_cnn", "initialisation"): ({"torch_seed": 614310}, "4dd2f2ba587b6894"),
    ("cluster", "parameter_server", "pull"): ("before", "91f2dfaad44cedfb"),
}


@pytest.mark.parametrize(("part", "name", "field"), CHOSEN)
def test_a_hash_stands_for_the_value_it_was_made_with(part, name, field):
    value, pinned = CHOSEN[part, name, field]
    given, _, unset = DEFAULTS[part, name]
    assert hash_with(part, name, given | {field: value}) == pinned != unset


def test_every_choice_is_pinned():
    kinds = {"problem": "problems", "rule": "rules", "cluster": "clusters"}
    assert set(DEFAULTS) == {(part, n) for part, kind in kinds.items() for n in specs.names(kind)}


# ---- files that a spec names ----


@pytest.fixture
def traced(tmp_path, monkeypatch):
    """A made-up cluster of which a field names a file; gives the values of a cell with it."""
    (tmp_path / "traced.py").write_text(
        "from stalegrad.clusters.constant_delay import ConstantDelay\n"
        "from stalegrad.specs import spec\n\n\n"
        "@spec\nclass Traced(ConstantDelay):\n    trace: str\n\n"
        "    def files(self):\n        return (self.trace,)\n"
    )
    (tmp_path / "times.csv").write_text("1.0\n")
    monkeypatch.setattr(clusters, "__path__", [*clusters.__path__, str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    yield BASE | {"cluster": {"name": "traced", "delay": 2, "trace": "times.csv"}}
    sys.modules.pop("stalegrad.clusters.traced", None)
    specs.spec_class.cache_clear()


def test_the_content_of_a_file_is_part_of_the_hash(traced):
    before = parse_cell(traced, "a test")
    freshness.file_digest.cache_clear()
    assert parse_cell(traced, "a test").hash == before.hash
    Path("times.csv").write_text("2.0\n")
    freshness.file_digest.cache_clear()
    assert parse_cell(traced, "a test").hash != before.hash


def test_a_file_that_a_spec_names_is_among_what_decides_a_result(traced):
    bundle = Bundle((parse_cell(traced, "a test"),))
    before = training_code(bundle.cells)
    assert Path("times.csv") in code_of("training.bundles", bundle.cells)
    assert "times.csv" in as_inputs(Plan.code_of("training.bundles", bundle))
    Path("times.csv").write_text("2.0\n")
    freshness.file_digest.cache_clear()
    assert training_code(bundle.cells) != before


def test_a_file_that_is_not_there_is_refused(traced):
    Path("times.csv").unlink()
    for parse, values in (
        (parse_cell, traced),
        (parse_simulation, {"cluster": traced["cluster"], "arrivals": 10}),
    ):
        with pytest.raises(ConfigError, match="^a test: 'cluster' names the file times.csv, which"):
            parse(values, "a test")
