"""`import stalegrad as sg`: the names there are, and that they do what the workflow does."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import write_results

import stalegrad as sg
from stalegrad.analysis.archive import archived_history
from stalegrad.data_order import CLUSTER, generator
from stalegrad.io.errors import ConfigError, ResultError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.planning.studies import archive_of
from stalegrad.rules import Rule
from stalegrad.schedule import Schedule, Workload
from stalegrad.specs import spec
from stalegrad.training.bundles import Place, train_bundle

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "matplotlib", "pandas", "sklearn", "numba", "pydantic", "numpy"}


@spec
class Still(Rule):
    """Does not move."""

    @staticmethod
    def update(gradient, weights, state, numbers):
        return weights + 0 * gradient, state


def least_squares(**changes):
    return sg.problem(
        "least_squares", **{"rows": 64, "dimension": 8, "epoch_samples": 64} | changes
    )


def keys(**changes):
    return {
        "problem": least_squares(),
        "rule": sg.rule("sgd", lr=0.1),
        "cluster": sg.cluster("constant_delay", delay=1),
        "batch_size": 16,
        "epochs": 2,
    } | changes


# ---- the names ----


def test_importing_it_imports_nothing_heavy():
    code = f"import sys, stalegrad as sg; dir(sg); print(*sorted({HEAVY} & sys.modules.keys()))"
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


def test_a_cluster_is_simulated_without_pytorch():
    code = (
        "import sys, stalegrad as sg\n"
        "sg.simulate(sg.cluster('constant_delay', delay=1), arrivals=10)\n"
        "print(*sorted({'torch', 'pandas'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


def test_every_name_is_there_and_has_a_docstring():
    assert sorted(sg.__all__) == sg.__all__ and len(sg.__all__) <= 12
    for name in sg.__all__:
        assert getattr(sg, name).__doc__, name
    assert {*sg.__all__} <= {*dir(sg)}
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = sg.trian


def test_type_checkers_are_told_of_it():
    assert resources.files(sg).joinpath("py.typed").is_file()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["stalegrad"]


# ---- cells ----


def test_a_cell_is_that_of_the_configuration():
    values = {
        "problem": {"name": "least_squares", "rows": 64, "dimension": 8, "epoch_samples": 64},
        "rule": {"name": "sgd", "lr": 0.1},
        "cluster": {"name": "constant_delay", "delay": 1},
        "batch_size": 16,
        "epochs": 2,
    }
    assert sg.cell(**values) == sg.cell(**keys()) == parse_cell(values, "a test")
    assert sg.cell(**keys(seed=3, partition="independent")).seed == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 65}, "cell: 'batch_size' is 65, more than the 64 training samples"),
        ({"epochs": 0}, "cell: 'epochs' is 0"),
        ({"partition": "labels"}, "the problem 'least_squares' has no labels"),
        (
            {"cluster": {"name": "constant_delay", "delay": 99}},
            "'cluster' cannot do what .* no gradient would",
        ),
        ({"rule": {"name": "sgd", "lr": 0}}, "cell: 'rule.lr' is 0"),
        ({"rule": "sgd"}, "cell: 'rule' is 'sgd'; it must be a mapping with a 'name'"),
        ({"problem": None}, "cell: 'problem' is None; it must be a mapping"),
    ],
)
def test_a_cell_that_cannot_be_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        sg.cell(**keys(**changes))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sg.rule("sdg", lr=1.0), "rule: .* is 'sdg', which is not known; choose one of"),
        (lambda: sg.rule("sgd", rate=1.0), "rule: 'sgd.rate' is not a known key; allowed here"),
        (lambda: sg.cluster("constant_delay"), "cluster: 'constant_delay.delay' is missing"),
        (lambda: sg.problem("lenet5", dataset="x"), "problem: 'lenet5.dataset' is 'x'"),
    ],
)
def test_a_part_that_is_not_known_is_refused(make, said):
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_grid_is_the_product_of_what_is_several():
    rules = [sg.rule("sgd", lr=lr) for lr in (0.1, 0.2)]
    made = sg.grid(**keys(rule=rules, batch_size=(8, 16), seed=range(1, 4)))
    assert [(c.rule.lr, c.batch_size, c.seed) for c in made] == [
        (lr, size, seed) for lr in (0.1, 0.2) for size in (8, 16) for seed in (1, 2, 3)
    ]
    assert sg.grid(**keys()) == [sg.cell(**keys())]
    with pytest.raises(ConfigError, match="grid: 'seed' is empty"):
        sg.grid(**keys(seed=[]))


# ---- simulation ----


def test_a_simulation_is_the_clusters_schedule():
    servers = sg.cluster("hub_and_spoke", workers=8, compute_time={"name": "expon"})
    found = sg.simulate(servers, arrivals=4_000, seed=3)
    assert isinstance(found, Schedule) and sg.Schedule is Schedule
    wanted = servers.simulate(Workload((4_000,), 1), generator(3, CLUSTER))
    assert np.array_equal(found.read_version, wanted.read_version) and found.arrivals == 4_000
    assert found.staleness_before[400:].mean() == pytest.approx(7, abs=0.1)
    other = sg.simulate(servers, arrivals=4_000, seed=4)
    assert not np.array_equal(found.read_version, other.read_version)


def test_a_simulation_that_is_too_short_is_refused():
    with pytest.raises(ConfigError, match="simulate: 'arrivals' is 5, which the cluster const"):
        sg.simulate({"name": "constant_delay", "delay": 9}, arrivals=5)


# ---- training ----


def test_training_gives_the_history_of_the_cells_in_order(tmp_path):
    problems = [least_squares(dimension=d) for d in (8, 4)]
    cells = sg.grid(**keys(problem=problems, seed=[2, 1]))
    cells = [cells[i] for i in (0, 2, 1, 3)]  # problems take turns
    history = sg.train([*cells, cells[0]], threads=1)
    assert list(history["run"]) == [c.hash for c in cells for _ in range(2)]
    assert list(history["dimension"]) == [8, 8, 4, 4, 8, 8, 4, 4]
    for problem in problems:
        alike = tuple(c for c in cells if c.problem == problem)
        train_bundle(Bundle(alike), tmp_path / "out.csv", Place(tmp_path, "cpu"))
        wanted = pd.read_csv(tmp_path / "out.csv", dtype={"run": str})
        found = history[history["run"].isin(wanted["run"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[wanted.columns], wanted)


def test_a_rule_of_ones_own_is_trained_beside_others():
    cells = sg.grid(**keys(rule=[Still(lr=0.1), sg.rule("sgd", lr=0.1)]))
    history = sg.train(cells)
    moved = history.groupby("rule")["excess_loss"].nunique()
    assert moved.to_dict() == {"sgd": 2, "test_python.Still": 1}


def test_what_is_kept_in_a_folder_is_taken(tmp_path, capsys):
    cells, told = sg.grid(**keys(seed=[1, 2])), []
    first = sg.train(cells, folder=tmp_path, report=told.append)
    assert told
    told.clear()
    again = sg.train(cells, folder=tmp_path, report=told.append)
    pd.testing.assert_frame_equal(first, again)
    assert not told and capsys.readouterr().err == ""


def test_two_classes_of_one_name_are_refused():
    def made():
        class Same(Still):
            pass

        return spec(Same)(lr=0.1)

    cells = [replace(sg.cell(**keys()), rule=made()) for _ in range(2)]
    with pytest.raises(ConfigError, match="two classes are called 'test_python.test_two.*Same'"):
        sg.train(cells)
    with pytest.raises(ConfigError, match="there is no cell to train"):
        sg.train([])


# ---- results ----


def test_the_archive_of_a_study_is_read():
    found = sg.results("lamour2023", config=ROOT / "config")
    archived = archived_history(archive_of(ROOT / "studies" / "lamour2023")).set_index("run")
    runs = found.runs.drop_duplicates("run")
    assert len(runs) > 1_000 and set(runs["run"]) <= set(archived.index)
    first = runs.iloc[0]
    last = archived.loc[first["run"]].iloc[-1]
    assert first["final_test_accuracy"] == last["test_accuracy"]
    assert len(found.curves(first["grid"])) > 0
    folder = found.folder
    assert folder.is_dir() and list((folder / "landscapes").glob("*.npz"))
    del found
    assert not folder.exists()


def test_what_the_workflow_has_gathered_comes_first(tmp_path):
    folder = tmp_path / "paper" / "jain2018"
    folder.mkdir(parents=True)
    write_results(folder, only=["warmup"])
    found = sg.results("jain2018", results_folder=tmp_path, config=ROOT / "config")
    assert set(found.runs["grid"]) == {"warmup"}


def test_results_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ResultError, match="quick/jain2018 holds no results; `snakemake --config p"):
        sg.results("jain2018", preset="quick", results_folder=tmp_path, config=ROOT / "config")
    with pytest.raises(ConfigError, match="'studies' names 'jane', which is not known"):
        sg.results("jane", config=ROOT / "config")
