"""Configuration with one thing wrong, wherever it may be: a sentence that names file and key.

Committed files are taken, and one place in them changed: a key misspelt, left out or given twice, a
value put in place of another. What is still allowed must expand; anything else must be refused with
file and key, by an error of ours, before any work.
"""

import copy
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import ROOT, Checkout
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stalegrad.io.errors import ConfigError
from stalegrad.planning.config import read_yaml
from stalegrad.planning.plan import Plan

CONFIG = ROOT / "config"
SETTINGS = read_yaml(CONFIG / "config.yaml") | {"preset": "smoke", "studies": ["some"]}
PRESET = read_yaml(CONFIG / "presets" / "smoke.yaml")
# Copied, so that a value that YAML shares between places can be changed in one.
STUDIES = {
    path.parent.name: yaml.load(yaml.dump(read_yaml(path)), yaml.SafeLoader)
    for path in sorted((ROOT / "studies").glob("*/study.yaml"))
}

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the first is ten times as fast

VALUES = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1, 2, 0.0, -0.5, 0.5, 1e-300, 10**9]),
    st.sampled_from([math.nan, math.inf, "", " ", "1e-3", "sgd", "../up", "$(id)", "名", "a\nb"]),
    st.sampled_from([[], [[]], [None], {}, {"name": "sgd"}, {"": 1}, {"name": None}, [1, "a"]]),
    st.integers(-5, 300),
    st.floats(allow_nan=True, width=32),
    st.text(max_size=8),
)


def places(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to every value of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


@st.composite
def changed(draw, tree: dict) -> tuple[dict, str]:
    """A copy of `tree` with one change, and what was done to which key."""
    tree = copy.deepcopy(tree)
    *parents, last = draw(st.sampled_from(list(places(tree))))
    inner = tree
    for part in parents:
        inner = inner[part]
    where = ".".join(map(str, [*parents, last]))
    kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "misspell"]))
    if kind == "misspell" and isinstance(inner, dict):
        inner[f"{last}x"] = inner.pop(last)
        return tree, f"misspell {where}"
    if kind == "remove":
        del inner[last]
        return tree, f"remove {where}"
    inner[last] = draw(VALUES)
    return tree, f"{where} = {inner[last]!r}"


def names_a_key(message: str) -> bool:
    """Keys are quoted; a file that is not readable at all has none."""
    return "'" in message or "every key must be text" in message


def check(settings: dict, preset: dict, study: dict, changed_file: str) -> None:
    """Expand all of it; where it is refused, it is by file and key."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (("config/presets/smoke", preset), ("studies/some/study", study)):
            path = Path(folder, name).with_suffix(".yaml")
            path.parent.mkdir(parents=True)
            path.write_text(yaml.dump(content, Dumper=DUMPER, allow_unicode=True))
        try:
            Plan.load(settings, Path(folder, "config"))
        except ConfigError as error:
            lines = str(error).splitlines()
            wanted = changed_file.format(folder)
            assert lines and all(wanted in line.partition(": ")[0] for line in lines), lines
            assert all(map(names_a_key, lines)), lines


def examples(number: int):
    """Expanding a study takes time, and says nothing about the test."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=number, deadline=None, suppress_health_check=slow)


@pytest.mark.parametrize("study", STUDIES)
@examples(30)
@given(data=st.data())
def test_any_change_of_a_study_expands_or_is_refused_by_file_and_key(study, data):
    tree, _ = data.draw(changed(STUDIES[study]))
    check(SETTINGS, PRESET, tree, "{}/studies/some/study.yaml")


SMALL = {"title": "x", "cite": "y", "grids": {"one": STUDIES["jain2018"]["grids"]["fig2"]}}


@examples(60)
@given(changed(PRESET))
def test_any_change_of_a_preset_is_refused_by_file_and_key(change):
    tree, _ = change
    check(SETTINGS, tree, SMALL, "{}/config/presets/smoke.yaml")


@examples(60)
@given(changed({k: v for k, v in SETTINGS.items() if k != "preset"}))
def test_any_change_of_the_settings_is_refused_by_file_and_key(change):
    tree, _ = change
    check({"preset": "smoke"} | tree, PRESET, SMALL, "config/config.yaml")


@examples(100)
@given(st.recursive(VALUES, lambda v: st.lists(v) | st.dictionaries(st.text(max_size=5), v)))
def test_any_tree_in_place_of_a_file_is_refused(tree):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.yaml")
        path.write_text(yaml.safe_dump(tree, allow_unicode=True))
        try:
            read_yaml(path)
        except ConfigError as error:
            assert str(error).startswith(f"{path}: ")


@examples(100)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_in_place_of_a_file_are_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.yaml")
        path.write_bytes(content)
        try:
            read_yaml(path)
        except ConfigError as error:
            assert str(error).startswith(f"{path}: ")


# ---- and in front of Snakemake ----

WRONG = [
    ("studies/long/study.yaml", "epochs: 100", "epochs: 0", "grids.one: 'epochs' is 0"),
    ("studies/long/study.yaml", "epochs: 100", "epocs: 100", "'epocs' is not a known key"),
    ("studies/long/study.yaml", "delay: 2", "delay: 40000", "a delay of 40000 steps with 40000 steps"),
    ("studies/long/study.yaml", "title: A", "title: B\ntitle: A", "the key 'title' stands there twice"),
    ("config/presets/smoke.yaml", "seeds: 1", "seeds: x", "'seeds' is the text 'x'"),
    ("config/config.yaml", "threads: 1", "threads: 0", "'threads' is 0"),
    ("config/config.yaml", "preset: quick", "threads: 2\npreset: quick", "'threads' stands there twice"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "said"), WRONG)
def test_what_is_wrong_ends_snakemake_with_a_sentence_before_any_work(
    tmp_path, file, old, new, said
):
    checkout = Checkout.make(tmp_path)
    checkout.has_one_study(epochs=100)
    path = tmp_path / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    done = checkout.run("--config", "preset=smoke", "--", "results/smoke/long/runs.csv")
    assert done.returncode != 0 and "Traceback" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if said in line]
    assert line.startswith(file) and not (tmp_path / "results").exists()
