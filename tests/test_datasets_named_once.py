"""Data sets are named in one place: a further one is known everywhere."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from stalegrad.io import datasets
from stalegrad.io.errors import ConfigError
from stalegrad.specs import parse

SOURCE = Path(datasets.__file__).parents[1]
# Those that train on one data set to find out how fast this machine is.
USERS = {"training/timing.py"}

ANOTHER = """
import sys
from pathlib import Path
from stalegrad.io import datasets
datasets.DATASETS = dict(datasets.DATASETS, kmnist=datasets.DATASETS["mnist"])
from stalegrad.specs import parse
made = parse("problems", {"name": "lenet5", "dataset": "kmnist"}, where="a test", key="problem")
print(made.datasets(), [source.name for source in datasets.default_sources("kmnist")][-1])
"""


def test_no_other_module_writes_their_names():
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in datasets.DATASETS
    }
    assert found == {"io/datasets.py", *USERS}


@pytest.mark.parametrize("name", ["lenet5", "large_cnn"])
def test_problems_take_them_all_and_no_other(name):
    for dataset in datasets.DATASETS:
        keys = {"name": name, "dataset": dataset}
        made = parse("problems", keys, where="a test", key="problem")
        assert made.datasets() == (dataset,)
    with pytest.raises(ConfigError, match="'problem.dataset' is 'x': input should be 'mnist' or"):
        parse("problems", {"name": name, "dataset": "x"}, where="a test", key="problem")


def test_a_further_one_is_known_to_problems_and_sources():
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("('kmnist',) the Python package")


def test_mirrors_are_folders_that_hold_the_packed_files(monkeypatch):
    asked = []

    def download(url, *limits):
        asked.append(url)
        raise datasets.DataError("not there")

    monkeypatch.setattr(datasets, "_download", download)
    for name, published in datasets.DATASETS.items():
        asked.clear()
        for source in list(datasets.default_sources(name))[:-1]:
            with pytest.raises(datasets.DataError):
                list(source.read())
        wanted = [f"{mirror}{datasets.TRAIN_IMAGES}.gz" for mirror in published.mirrors]
        assert asked == wanted and all(url.startswith("http") for url in asked)
