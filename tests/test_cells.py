"""Cells: content hashes, round trips, expansion of grids, and their cutting into bundles."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from helpers import home_of

from stalegrad import specs
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle, bundles, lockstep_key
from stalegrad.planning.cell import Cell, SimulationCell, parse_cell
from stalegrad.planning.config import Preset, Study, load_preset, load_study
from stalegrad.planning.expand import combinations, study_cells, study_simulations, with_keys

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"

CELL = {
    "problem": {"name": "lenet5", "dataset": "mnist"},
    "rule": {"name": "sgd", "lr": 0.1},
    "cluster": {"name": "constant_delay", "delay": 2},
    "batch_size": 64,
    "epochs": 3,
}
DEFAULTS = {
    "problem.normalize": False,
    "problem.details": False,
    "problem.initialisation": None,
    "problem.train_samples": 60_000,
    "problem.test_samples": 10_000,
    "rule.warmup_epochs": 0.0,
    "rule.clip_norm": None,
    "rule.momentum": 0.0,
    "rule.nesterov": False,
    "rule.weight_decay": 0.0,
    "cluster.ramp_epochs": 0.0,
    "cluster.undelayed_epochs": 0.0,
    "partition": "shared",
    "seed": 1,
}
CHANGES = {
    "problem.dataset": "fashion_mnist",
    "problem.normalize": True,
    "problem.details": True,
    "problem.initialisation": {"torch_seed": 1},
    "problem.train_samples": 59_999,
    "problem.test_samples": 9_999,
    "rule.name": "adam",
    "rule.lr": 0.2,
    "rule.warmup_epochs": 1.0,
    "rule.clip_norm": 1.0,
    "rule.momentum": 0.9,
    "rule.nesterov": True,
    "rule.weight_decay": 0.001,
    "cluster.delay": 3,
    "cluster.ramp_epochs": 0.5,
    "cluster.undelayed_epochs": 0.5,
    "batch_size": 32,
    "epochs": 4,
    "seed": 2,
}


def cell(**keys) -> Cell:
    """CELL with dotted keys changed; dots are written as two underscores."""
    keys = {key.replace("__", "."): value for key, value in keys.items()}
    return parse_cell(with_keys(CELL, keys, "a test"), "a test")


def turned_round(value):
    """The same mapping with all its keys in reverse order."""
    if not isinstance(value, dict):
        return value
    return {key: turned_round(value[key]) for key in reversed(value)}


# ---- hashes ----


def test_hash_is_that_of_earlier_versions():
    """Results are found by it: if this fails, every archived result is lost."""
    assert cell().hash == "16d1a2a1a765c60c"


def test_hash_does_not_depend_on_the_order_of_keys():
    assert parse_cell(turned_round(CELL), "a test").hash == cell().hash


@pytest.mark.parametrize("key", DEFAULTS)
def test_hash_does_not_change_when_a_default_is_spelled_out(key):
    assert cell(**{key: DEFAULTS[key]}) == cell()
    assert cell(**{key: DEFAULTS[key]}).hash == cell().hash


def test_hash_does_not_change_with_the_spelling_of_a_number():
    assert cell(rule__lr=1).hash == cell(rule__lr=1.0).hash
    assert cell(rule__momentum=0).hash == cell().hash


def test_hash_changes_with_every_field():
    hashes = [cell(**{key: value}).hash for key, value in CHANGES.items()]
    assert len({cell().hash, *hashes}) == len(CHANGES) + 1


def test_every_field_has_a_default_or_a_change_here():
    """A field added later must be added above, so that the two tests go on covering all."""
    for part in ("problem", "rule", "cluster"):
        for field in specs.describe(getattr(cell(), part)):
            assert f"{part}.{field}" in CHANGES or (part, field) in {
                ("problem", "name"),
                ("cluster", "name"),
            }


# ---- round trips ----


@pytest.mark.parametrize("key", [None, *CHANGES])
def test_cell_survives_plain_values_and_json(key):
    one = cell() if key is None else cell(**{key: CHANGES[key]})
    assert parse_cell(one.as_dict(), "a test") == one
    again = parse_cell(json.loads(json.dumps(one.as_dict())), "a test")
    assert again == one and again.hash == one.hash


def test_columns_name_every_field_once():
    columns = cell(rule__momentum=0.9).columns()
    assert columns["problem"] == "lenet5" and columns["rule"] == "sgd"
    assert columns["cluster"] == "constant_delay"
    wanted = {"dataset": "mnist", "lr": 0.1, "momentum": 0.9, "delay": 2, "batch_size": 64}
    assert wanted.items() <= columns.items()
    assert all(isinstance(v, bool | int | float | str | None) for v in columns.values())


def test_bundle_survives_json():
    bundle = Bundle((cell(), cell(rule__lr=1 / 3), cell(rule__name="adam", seed=7)))
    again = Bundle.from_json(bundle.to_json(), "b.json")
    assert again == bundle and again.hash == bundle.hash
    assert bundle.hash != Bundle(bundle.cells[:2]).hash


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", "[]", "3", "null", '{"cells": []}', '{"cells": "ab"}', '{"cells": [1]}']
    + ['{"cells": [[1]]}', '{"cells": [{}]}', '{"cells": [null]}'],
)
def test_what_is_no_bundle_is_refused(text):
    with pytest.raises(ConfigError, match="^b.json"):
        Bundle.from_json(text, "b.json")


def test_bundle_of_two_problems_is_refused():
    mixed = Bundle((cell(), cell(problem__dataset="fashion_mnist")))
    with pytest.raises(ConfigError, match="share one problem"):
        Bundle.from_json(mixed.to_json(), "b.json")


# ---- grids ----


def test_combinations_cross_cases_with_axes():
    found = list(combinations({"a": [1, 2], "b": [3, 4]}, [{"c": 5}, {"c": 6}]))
    assert len(found) == 8
    assert found[:3] == [
        {"c": 5, "a": 1, "b": 3},
        {"c": 5, "a": 1, "b": 4},
        {"c": 5, "a": 2, "b": 3},
    ]
    assert list(combinations({}, [{}])) == [{}]


def test_dotted_keys_go_into_a_copy():
    base = {"rule": {"name": "sgd"}}
    assert with_keys(base, {"rule.lr": 0.1, "x.y.z": 1}, "here") == {
        "rule": {"name": "sgd", "lr": 0.1},
        "x": {"y": {"z": 1}},
    }
    assert base == {"rule": {"name": "sgd"}}
    with pytest.raises(ConfigError, match=r"^here: 'rule.name.x' goes into 'name'"):
        with_keys(base, {"rule.name.x": 1}, "here")


def test_seeds_of_the_grid_go_before_those_of_the_preset():
    preset = Preset(title="quick", seeds=2, bundle_size=4)
    for own, wanted in ((None, [1, 2]), (3, [1, 2, 3])):
        study = Study(title="t", cite="c", grids={"g": {"cell": CELL, "seeds": own}})
        cells = study_cells(study, "paper", preset, "f.yaml")["g"]
        assert [c.seed for c in cells] == wanted


def test_error_in_a_cell_names_file_grid_key_and_value():
    preset = Preset(title="quick", seeds=1, bundle_size=4)
    grid = {"cell": CELL, "axes": {"rule.lr": [0.1, "1e-3"]}}
    study = Study(title="t", cite="c", grids={"g": grid})
    with pytest.raises(ConfigError, match=r"^f.yaml, grids.g: 'rule.lr' is the text '1e-3'; "):
        study_cells(study, "paper", preset, "f.yaml")


def test_date_in_a_cell_is_refused_like_any_other_value():
    """YAML reads 2020-01-01 as a date."""
    import datetime

    preset = Preset(title="quick", seeds=1, bundle_size=4)
    grid = {"cell": CELL | {"epochs": datetime.date(2020, 1, 1)}}
    study = Study(title="t", cite="c", grids={"g": grid})
    with pytest.raises(ConfigError, match=r"'epochs' is the text '2020-01-01'; a number is"):
        study_cells(study, "paper", preset, "f.yaml")


def test_simulations_are_expanded_and_need_arrivals():
    simulation = {
        "cluster": {"name": "hub_and_spoke", "compute_time": {"name": "expon"}},
        "axes": {"cluster.workers": [2, 4]},
    }
    study = Study(title="t", cite="c", simulations={"s": simulation | {"arrivals": 10}})
    found = study_simulations(study, "paper", "f.yaml")["s"]
    assert [(s.cluster.workers, s.arrivals, s.replicates) for s in found] == [
        (2, 10, 1),
        (4, 10, 1),
    ]
    assert all(isinstance(s, SimulationCell) for s in found)
    wrong = simulation | {"arrivals": 10, "axes": {"cluster.workers": [2], "minibatches": [1]}}
    study = Study(title="t", cite="c", simulations={"s": wrong})
    with pytest.raises(ConfigError, match=r"f.yaml, simulations.s: 'minibatches' is not a known"):
        study_simulations(study, "paper", "f.yaml")
    study = Study(title="t", cite="c", simulations={"s": simulation})
    with pytest.raises(ConfigError, match=r"f.yaml, simulations.s: 'arrivals' is missing"):
        study_simulations(study, "paper", "f.yaml")


# ---- the published grid ----


def test_figure_2_is_the_published_grid():
    """Every number of the scan has its cell, at the rate, batch size and delay printed there."""
    with open(home_of("jain2018") / "published" / "fig2.csv", newline="") as file:
        published = {
            (float(row["lr"]), int(row["batch_size"]), int(row["delay"]))
            for row in csv.DictReader(file)
        }
    study, preset = load_study(home_of("jain2018")), load_preset("paper", CONFIG)
    cells = study_cells(study, "paper", preset, "jain2018")["fig2"]
    ours = Counter((c.rule.lr, c.batch_size, c.cluster.delay) for c in cells)
    assert len(published) == 300 and ours.keys() == published
    assert set(ours.values()) == {preset.seeds} and preset.seeds >= 3
    assert {(c.epochs, c.rule.momentum, c.problem.dataset) for c in cells} == {(30, 0.9, "mnist")}
    assert len({lr for lr, _, _ in published}) == 10


# ---- bundles ----


def many_cells() -> list[Cell]:
    return [
        cell(rule__lr=lr, cluster__delay=delay, batch_size=size, problem__dataset=dataset)
        for dataset in ("mnist", "fashion_mnist")
        for size in (32, 64)
        for delay in (0, 8, 256)
        for lr in (0.1, 0.2, 0.3)
    ]


def test_every_distinct_run_is_in_exactly_one_bundle():
    cells = many_cells()
    made = bundles([*cells, *cells[:5]], Preset(title="x", seeds=1, bundle_size=4))
    runs = [c.hash for bundle in made for c in bundle.cells]
    assert sorted(runs) == sorted(c.hash for c in cells)
    for bundle in made:
        assert 1 <= len(bundle.cells) <= 4
        assert len({c.problem for c in bundle.cells}) == 1


def test_bundles_keep_within_memory():
    """256 versions of 61,706 float32 are 63 MB a run."""
    cells = [cell(cluster__delay=256, seed=seed) for seed in range(1, 11)]
    roomy = bundles(cells, Preset(title="x", seeds=1, bundle_size=100))
    tight = bundles(cells, Preset(title="x", seeds=1, bundle_size=100, bundle_memory=130))
    assert [len(b.cells) for b in roomy] == [10]
    assert max(len(b.cells) for b in tight) == 2


def test_samples_of_a_run_are_those_of_whole_minibatches_and_of_every_worker():
    assert cell(batch_size=512).samples() == 3 * 117 * 512
    server = {"name": "parameter_server", "workers": 5, "compute_ms": 5.0}
    everything = cell(cluster=server, partition="none", batch_size=512)
    assert everything.samples() == everything.workload().total * 512 == 5 * 3 * 117 * 512
    assert cell(cluster=server, partition="dataset").samples() == cell().samples()


def test_cost_of_a_bundle():
    """Samples times weights, and every worker's own pass where each has all the data."""
    lenet = Bundle((cell(), cell(seed=2)))
    assert lenet.work() == pytest.approx(2 * 3 * 60_000 * 61_706, rel=0.15)
    server = {"name": "parameter_server", "workers": 5, "compute_ms": 5.0}
    costs = {
        partition: Bundle((cell(cluster=server, partition=partition),)).work()
        for partition in ("none", "dataset")
    }
    assert costs["none"] == pytest.approx(5 * costs["dataset"])


def test_lockstep_needs_equal_rule_size_epochs_and_switches():
    def key(**keys) -> str:
        return lockstep_key(cell(**{"rule__momentum": 0.9} | keys))

    same = [key(), key(rule__lr=0.3), key(rule__momentum=0.5), key(cluster__delay=0)]
    same += [key(seed=9), key(rule__warmup_epochs=1.0), key(cluster__ramp_epochs=1.0)]
    assert len(set(same)) == 1
    other = [key(batch_size=32), key(epochs=4), key(rule__nesterov=True), key(rule__clip_norm=1.0)]
    other.append(lockstep_key(cell(rule__name="adam")))
    decayed = [key(rule__weight_decay=strength) for strength in (0.001, 0.01)]
    assert len(set(decayed)) == 1
    assert len({key(), *other, *decayed}) == len(other) + 2
