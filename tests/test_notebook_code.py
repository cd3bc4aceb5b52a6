"""Rules and problems of a notebook or a script: known by their source, and never an old number."""

import json
import linecache
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stalegrad.planning import interactive

# Runs cells one after another, as a notebook does; the first that fails ends it.
SHELL = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.loads(sys.argv[1]):
    result = shell.run_cell(cell, store_history=True)
    result.raise_error()
"""
COMMON = """
import pandas as pd
import stalegrad as sg
FACTOR = 0.5
def shorter(gradient):
    return FACTOR * gradient
"""
RULE = """
@sg.spec
class Mine(sg.Rule):
    @staticmethod
    def update(gradient, weights, state, numbers):
        return weights - numbers["lr"] * shorter(gradient), state
"""
TRAIN = """
def losses(*rules, **keys):
    problem = sg.problem("least_squares", rows=64, dimension=8, epoch_samples=64)
    cells = sg.grid(rule=list(rules), problem=problem, batch_size=16, epochs=2,
                    cluster=sg.cluster("constant_delay", delay=1))
    history = sg.train(cells, **keys)
    return [list(part["train_loss"]) for _, part in history.groupby("run", sort=False)]
def kept(cells):
    return list(sg.train(cells, folder="kept", threads=1)["train_loss"])
def said(value):
    print("SAID", value)
"""


def notebook(folder: Path, *cells: str) -> tuple[list[str], str]:
    """What `said` was given, and the error stream."""
    command = [sys.executable, "-c", SHELL, json.dumps([COMMON, RULE, TRAIN, *cells])]
    environment = os.environ | {"IPYTHONDIR": str(folder / "ipython")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    return [line.removeprefix("SAID ") for line in lines if line.startswith("SAID ")], done.stderr


def test_a_notebooks_rule_trains_many_runs_and_is_told_from_its_older_self(tmp_path):
    half = "losses(sg.rule('sgd', lr=0.05), sg.rule('sgd', lr=0.1), backend='torch')"
    said, error = notebook(
        tmp_path,
        f"close = lambda a, b: abs(pd.DataFrame(a) - pd.DataFrame(b)).max().max() < 1e-6\n"
        f"said(close(losses(Mine(lr=0.1), Mine(lr=0.2)), {half}))",
        "old = Mine(lr=0.1)",
        RULE.replace("shorter(gradient)", "0 * gradient"),
        "both = losses(old, Mine(lr=0.1))\n"
        "said(len(both))\n"
        "said(close(both[:1], losses(old)))\n"
        "said(close(both[1:], losses(Mine(lr=0.1))))\n"
        "said(both[0] != both[1])",
    )
    assert said == ["True", "2", "True", "True", "True"] and error == ""


def test_what_is_kept_is_taken_until_what_the_rule_leans_on_changes(tmp_path):
    again = "said(losses(Mine(lr=0.1), Mine(lr=0.2), folder='kept', report=reported))"
    cells = (
        "reports = []\nreported = reports.append",
        again,
        f"reports.clear()\n{again}\nsaid(len(reports))",
        f"FACTOR = 0.25\n{again}\nsaid(len(reports) > 0)",
        f"FACTOR = 0.5\nreports.clear()\n{again}\nsaid(len(reports))",
        f"def shorter(gradient):\n    return gradient\n{again}\nsaid(len(reports) > 0)",
    )
    (one, same, none, other, some, back, nothing, longer, more), _ = notebook(tmp_path, *cells)
    assert (none, some, nothing, more) == ("0", "True", "0", "True")
    assert one == same == back and len({one, other, longer}) == 3
    # A later notebook takes what this one has left.
    (taken, none), _ = notebook(
        tmp_path, "reports = []\nreported = reports.append", f"{again}\nsaid(len(reports))"
    )
    assert (taken, none) == (one, "0")


def test_a_cell_that_was_made_before_an_edit_is_trained_anew(tmp_path):
    made = """
cell = sg.cell(problem=sg.problem("least_squares", rows=64, dimension=8, epoch_samples=64),
               rule=Mine(lr=0.1), cluster=sg.cluster("constant_delay", delay=1), batch_size=16,
               epochs=2)
"""
    (before, after), error = notebook(
        tmp_path, made, "said(kept(cell))", "FACTOR = 0.0", "said(kept(cell))"
    )
    assert before != after and "was made by other code than the present one" in error


@pytest.mark.slow
def test_results_whose_source_cannot_be_had_are_never_taken_and_that_is_said(tmp_path):
    once = "said(losses(Mine(lr=0.1), folder='kept', report=reports.append))"
    (first, second, told), error = notebook(
        tmp_path, f"reports = []\nexec({RULE!r})", once, once, "said(len(reports))"
    )
    assert first == second and told == "4"
    assert "is never taken as it is, because the source of 'Mine' cannot be had; it is tr" in error
    (_, second), error = notebook(
        tmp_path, "class Box: pass\nFACTOR = Box()\nFACTOR.__class__.__mul__ = lambda s, g: g",
        "reports = []", once, once,
    )  # fmt: skip
    assert "because the content of 'FACTOR', a Box, is not known" in error


def test_a_problem_of_a_notebook_has_no_kernel_of_another(tmp_path):
    """Whatever it changes of the class that it is made of."""
    changed = """
from dataclasses import replace
from stalegrad.problems.least_squares import LeastSquares
@sg.spec
class Doubled(LeastSquares):
    def load(self, data_folder, device, dtype):
        task = super().load(data_folder, device, dtype)
        def loss(weights, inputs, targets):
            return 2 * task.loss(weights, inputs, targets)
        return replace(task, loss=loss, gradients=None)
keys = dict(rows=64, dimension=8, epoch_samples=64)
def first(problem):
    cell = sg.cell(problem=problem, rule=sg.rule("sgd", lr=0.01), batch_size=16, epochs=1,
                   cluster=sg.cluster("constant_delay", delay=0))
    return sg.train(cell)
"""
    (ratio, name), _ = notebook(
        tmp_path,
        changed,
        "plain = sg.problem('least_squares', **keys)\n"
        "one, two = first(plain), first(Doubled(**keys))\n"
        "said(round(two['train_loss'][0] / one['train_loss'][0], 1) > 1.5)\n"
        "said(two['problem'][0])",
    )
    assert (ratio, name) == ("True", "__main__.Doubled")


def test_a_network_of_a_notebook_is_known_by_its_source(tmp_path):
    network = """
import torch
from sklearn.datasets import load_digits
x, y = load_digits(return_X_y=True)
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(64, 10)
    def forward(self, x):
        return self.inner(x / 16)
def hash_of(make):
    problem = sg.module_problem(make, (x[:160], y[:160]), (x[160:200], y[160:200]))
    return sg.cell(problem=problem, rule=sg.rule("sgd", lr=0.1), batch_size=16, epochs=1,
                   cluster=sg.cluster("constant_delay", delay=0)).hash
"""
    hashes, _ = notebook(
        tmp_path,
        network,
        "said(hash_of(Net))\nsaid(hash_of(Net))\nsaid(hash_of(lambda: Net()))",
        network.replace("x / 16", "x / 8"),
        "said(hash_of(Net))",
    )
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


# ---- a script ----

SCRIPT = (
    COMMON
    + RULE
    + TRAIN
    + "print(losses(Mine(lr=0.1), Mine(lr=0.2), folder='kept', report=lambda p: print('trains')))"
)


def script(folder: Path, text: str) -> subprocess.CompletedProcess:
    (folder / "mine.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=folder, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_script_is_trained_again_when_it_is_edited(tmp_path):
    first, again = script(tmp_path, SCRIPT), script(tmp_path, SCRIPT)
    assert "trains" in first.stdout and "trains" not in again.stdout
    edited = script(tmp_path, SCRIPT.replace("FACTOR = 0.5", "FACTOR = 0.0"))
    assert "was made by other code than the present one; it is trained again" in edited.stderr
    assert edited.stdout.splitlines()[-1] != first.stdout.splitlines()[-1]


# ---- what is read of it ----


def test_what_is_in_files_is_known_by_them():
    found = interactive.written(test_a_script_is_trained_again_when_it_is_edited, json.JSONDecoder)
    assert found == interactive.Written(frozenset({Path(__file__)}), (), None)
    assert found.digest is None


@pytest.mark.parametrize("value", [1, 2.5, "a", None, [1, (2,)], {"a": {3}}, json.loads])
def test_values_are_told_apart(value):
    def texts(given):
        return interactive.written(given).texts

    assert texts([value]) == texts([value]) != texts([[value, 0]])


def defined(source: str, **variables):
    """What `found` is after a cell of a notebook."""
    file, space = f"<cell {len(linecache.cache)}>", {"__name__": "__main__", **variables}
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    exec(compile(source, file, "exec"), space)
    return space["found"]


SHADOWED = "def found(x):\n    y = x.z\n    return y"
DEFAULT = "def found(x, y=FACTOR):\n    return x"
BODY = "class found:\n    shape = FACTOR\n    def f(self):\n        return self.shape"
NESTED = "def found(x):\n    def inner():\n        return FACTOR\n    return inner"
CAPTURED = (
    "def make(y):\n    def inner(x):\n        return y\n    return inner\nfound = make(FACTOR)"
)
LAMBDA = "found, other = lambda: FACTOR, {}"
DECORATED = (
    "import functools\n@functools.lru_cache\n@functools.cache\ndef found():\n    return FACTOR"
)


@pytest.mark.parametrize("source", [DEFAULT, BODY, NESTED, CAPTURED, LAMBDA, DECORATED])
def test_what_a_definition_reads_is_part_of_it(source):
    one, same, other = (interactive.written(defined(source, FACTOR=f)) for f in (1, 1, 2))
    assert one.unknown is None and one.digest == same.digest != other.digest
    unknown = interactive.written(defined(source, FACTOR=object()))
    assert "a object, is not known" in unknown.unknown


def test_a_variable_that_only_shares_a_name_is_no_part_of_it():
    one, other = (interactive.written(defined(SHADOWED, x=v, y=v, z=v)) for v in (1, object()))
    assert one == other and one.unknown is None


def test_an_object_of_a_library_is_not_taken_for_a_part_of_it():
    layer = torch.nn.Linear(2, 2)
    found = interactive.written(defined("def found():\n    return layer", layer=layer))
    assert "the content of 'layer', a Linear, is not known" in found.unknown
    for part in (torch.relu, torch.nn.functional.relu, np.exp, len, torch.nn.Linear):
        found = interactive.written(defined("def found():\n    return part", part=part))
        assert found.unknown is None


def test_what_is_not_known_is_said():
    assert interactive.written(object()).unknown.endswith("a object, is not known")
    assert interactive.written([1]).unknown is None
