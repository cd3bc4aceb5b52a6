"""Loss landscapes: exact on a quadratic, what the grid covers, and the same bytes after a kill."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import quadratic_task, small_cell
from hypothesis import given, settings
from hypothesis import strategies as st

from stalegrad.analysis.landscapes import (
    Store,
    assemble,
    evaluate,
    fit_plane,
    grid_axes,
    lay_out,
    make_landscape,
)
from stalegrad.data_order import generator
from stalegrad.io.errors import ConfigError
from stalegrad.io.files import provenance_path
from stalegrad.planning.bundle import Bundle, LandscapeCell
from stalegrad.planning.config import Preset, Study
from stalegrad.planning.expand import study_landscapes, study_trajectories
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle

RUNS = Bundle((small_cell(), small_cell(rule__momentum=0.5), small_cell(rule__lr=0.2)), 2)
LEFT_OUT = RUNS.cells[2].hash
CELL = LandscapeCell(RUNS, resolution=9, margin=1.0, left_out=(LEFT_OUT,))
LIKE = torch.empty(0, dtype=torch.float64)


def quadratic(weights: np.ndarray) -> np.ndarray:
    """The loss of `CURVED` by its closed form."""
    return 1.5 * (weights**2).sum(axis=-1) / 2


CURVED = quadratic_task([1.0, 2.0], lambda seed: [0.0] * 5)


def recorded(random: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """A history of the runs of RUNS, and weights of 5 parameters."""
    rows = [(cell.hash, stop / 2) for cell in RUNS.cells for stop in range(7)]
    history = pd.DataFrame(rows, columns=["run", "epoch"])
    weights = random.normal(size=(len(rows), 5)).astype(np.float32)
    return history.assign(test_loss=quadratic(weights.astype(float))), weights


def computed(tmp_path, history, weights, cell=CELL):
    layout = lay_out(cell, history, weights)
    store = Store(tmp_path / "partial.npz", "a test", len(layout.coefficients))
    metrics = evaluate(layout.coefficients, layout.basis, VmapBackend(CURVED), LIKE, store)
    return layout, assemble(cell, history, weights, layout, metrics)


# ---- plane and grid ----


def test_plane_is_that_of_points_which_lie_in_one():
    """Three points of a plane in 5 dimensions: the plane is theirs, and nothing is left over."""
    random = generator(1, 0)
    spanned = random.normal(size=(2, 5))
    weights = random.normal(size=5) + random.normal(size=(12, 2)) @ spanned
    plane = fit_plane(weights)
    np.testing.assert_allclose(plane.at(plane.project(weights)), weights, atol=1e-13)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-14)
    assert plane.explained.sum() == pytest.approx(1, abs=1e-14)
    assert plane.explained[0] >= plane.explained[1]


def test_explained_variance_is_the_share_of_all_variance():
    """Deviations of 3, 2 and 1 along three axes: 9, 4 and 1 of 14."""
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    plane = fit_plane(signs * [3.0, 2.0, 1.0])
    np.testing.assert_allclose(plane.explained, [9 / 14, 4 / 14], rtol=1e-14)
    np.testing.assert_allclose(np.abs(plane.axes), np.eye(3)[:2], atol=1e-15)


@settings(deadline=None)
@given(st.integers(0, 99), st.floats(0, 3), st.integers(2, 30))
def test_grid_covers_the_range_and_its_margin(seed, margin, resolution):
    points = generator(seed, 0).normal(size=(7, 2))
    for values, axis in zip(points.T, grid_axes(points, resolution, margin), strict=True):
        span = values.max() - values.min()
        assert len(axis) == resolution
        assert axis[0] == pytest.approx(values.min() - margin * span)
        assert axis[-1] == pytest.approx(values.max() + margin * span)
        np.testing.assert_allclose(np.diff(axis), np.diff(axis)[0])


# ---- what comes out ----


def test_landscape_of_a_quadratic_is_its_closed_form(tmp_path):
    history, weights = recorded(generator(2, 0))
    layout, found = computed(tmp_path, history, weights)
    grid, plane = found.grid, layout.plane
    for line, y in enumerate(grid["y"]):
        for column, x in enumerate(grid["x"]):
            at = grid["origin"] + x * grid["axes"][0] + y * grid["axes"][1]
            assert grid["test_loss"][line, column] == pytest.approx(quadratic(at), rel=1e-12)
    exact = weights.astype(float)
    coordinates = found.points[["pc1", "pc2"]].to_numpy()
    np.testing.assert_allclose(coordinates, plane.project(exact), atol=1e-12)
    projected = found.points["projected_test_loss"]
    np.testing.assert_allclose(projected, quadratic(plane.at(coordinates)), rtol=1e-12)
    # Off the plane and along it are at right angles.
    along = (coordinates**2).sum(axis=1)
    off, away = found.points["off_plane"], found.points["from_origin"]
    np.testing.assert_allclose(off**2 + along, away**2, rtol=1e-12)
    assert found.points["test_loss"].tolist() == history["test_loss"].tolist()


def test_run_left_out_is_projected_but_decides_nothing(tmp_path):
    history, weights = recorded(generator(3, 0))
    _, calm = computed(tmp_path, history, weights)
    wild = weights.copy()
    wild[history["run"] == LEFT_OUT] *= 100
    _, found = computed(tmp_path, history, wild)
    for name in ("x", "y", "origin", "axes", "test_loss"):
        np.testing.assert_array_equal(found.grid[name], calm.grid[name])
    left = found.points[found.points["run"] == LEFT_OUT]
    assert not left["fitted"].any() and found.points["fitted"].sum() == 14
    assert left["projected_test_loss"].gt(10 * calm.points["projected_test_loss"].max()).any()
    assert left[["pc1", "pc2"]].notna().all().all()


def test_weights_that_are_not_finite_are_on_no_plane(tmp_path):
    history, weights = recorded(generator(4, 0))
    weights[6] = np.nan  # the last of the first run
    _, found = computed(tmp_path, history, weights)
    assert found.points.loc[6, ["pc1", "pc2", "projected_test_loss", "off_plane"]].isna().all()
    assert not found.points.loc[6, "fitted"]
    assert found.points.drop(index=6)["projected_test_loss"].notna().all()
    assert np.isfinite(found.grid["test_loss"]).all()


def test_lines_run_straight_between_last_weights_of_one_seed(tmp_path):
    cells = (small_cell(), small_cell(rule__momentum=0.5), small_cell(rule__lr=0.1, seed=2))
    cell = LandscapeCell(Bundle((*cells, small_cell(rule__lr=0.2, seed=2)), 2), 3, 1.0)
    rows = [(c.hash, stop / 2) for c in cell.runs.cells for stop in range(7)]
    history = pd.DataFrame(rows, columns=["run", "epoch"])
    weights = generator(5, 0).normal(size=(28, 5)).astype(np.float32)
    _, found = computed(tmp_path, history, weights, cell)
    ends = {run.hash: weights[7 * i + 6].astype(float) for i, run in enumerate(cell.runs.cells)}
    pairs = found.lines[["first", "second"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [[cells[0].hash, cells[1].hash], [cells[2].hash, cell.runs.cells[3].hash]]
    for row in found.lines.itertuples():
        at = (1 - row.position) * ends[row.first] + row.position * ends[row.second]
        assert row.test_loss == pytest.approx(quadratic(at), rel=1e-12)
    assert found.lines["position"].agg(["min", "max"]).tolist() == [0, 1]


# ---- recorded runs ----


def test_runs_recorded_often_train_as_ever(tmp_path, data_folder):
    place = Place(data_folder, "cpu")
    train_bundle(Bundle(RUNS.cells), tmp_path / "epochs.csv", place)
    train_bundle(RUNS, tmp_path / "often.csv", place, weights=tmp_path / "weights.npz")
    epochs, often = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("epochs", "often"))
    assert often["momentum"].tolist() == [0.9] * 7 + [0.5] * 7 + [0.9] * 7
    assert often["epoch"].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3] * 3
    # 160 samples in minibatches of 20, of which the delay of 1 loses one: 7, 15 and 23 by epoch.
    assert often["updates"].tolist() == [0, 3, 7, 11, 15, 19, 23] * 3
    start = often[often["epoch"] == 0]
    assert start["train_loss"].isna().all() and (start["simulated_seconds"] == 0).all()
    whole = often[often["epoch"].isin([1, 2, 3])].reset_index(drop=True)
    same = [name for name in epochs if name != "train_loss"]
    pd.testing.assert_frame_equal(epochs[same], whole[same], check_dtype=False, check_exact=True)
    # The losses of the stretches of the first epoch, 3 and 4 gradients long, average to its own.
    halves = often[often["epoch"].isin([0.5, 1])]["train_loss"].to_numpy().reshape(3, 2)
    first = epochs[epochs["epoch"] == 1]["train_loss"]
    np.testing.assert_allclose(halves @ [3 / 7, 4 / 7], first, rtol=1e-6)


def test_weights_saved_are_those_the_history_is_of(tmp_path, data_folder):
    place = Place(data_folder, "cpu", "torch")
    train_bundle(RUNS, tmp_path / "often.csv", place, weights=tmp_path / "weights.npz")
    history = pd.read_csv(tmp_path / "often.csv")
    with np.load(tmp_path / "weights.npz") as arrays:
        weights = torch.from_numpy(arrays["weights"])
    task = RUNS.cells[0].problem.load(data_folder, torch.device("cpu"), torch.float32)
    assert torch.equal(weights[0], task.initial_weights(1).float())
    losses = VmapBackend(task).metrics(weights)["test_loss"]
    np.testing.assert_allclose(losses, history["test_loss"], rtol=1e-5)


# ---- killed and gone on from ----

CHILD = """
import json, os, signal, sys
from pathlib import Path
from stalegrad.analysis import landscapes
from stalegrad.io import datasets
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place
from stalegrad.planning.bundle import Bundle, LandscapeCell

folder, output = Path(sys.argv[1]), Path(sys.argv[2])
datasets.SHA256 = json.loads(sys.argv[3])
landscapes._SAVE_EVERY = 0.0
metrics, calls = VmapBackend.metrics, 0

def killing(self, weights):
    global calls
    calls += 1
    if calls == 70:  # of 123 points, one at a time: two chunks of 32 are done
        os.kill(os.getpid(), signal.SIGKILL)
    return metrics(self, weights)

VmapBackend.metrics = killing
cell = LandscapeCell(Bundle.from_json(sys.stdin.read(), "stdin"), 9, 1.0, (sys.argv[4],))
recorded = output / "weights.csv", output / "weights.npz"
outputs = tuple(output / "killed" / name for name in ("grid.npz", "points.csv", "lines.csv"))
landscapes.make_landscape(cell, recorded, outputs, Place(folder, "cpu", "torch"))
"""


def outputs(folder):
    return tuple(folder / name for name in ("grid.npz", "points.csv", "lines.csv"))


@pytest.fixture
def place(data_folder, tmp_path):
    place = Place(data_folder, "cpu", "torch")
    train_bundle(RUNS, tmp_path / "weights.csv", place, weights=tmp_path / "weights.npz")
    return place


def made(tmp_path, name, place, **keywords):
    """The outputs' bytes, and how many points were done after each chunk."""
    told = []
    recorded = tmp_path / "weights.csv", tmp_path / "weights.npz"
    paths = outputs(tmp_path / name)
    make_landscape(CELL, recorded, paths, place, lambda done, total: told.append(done))
    about = json.loads(provenance_path(paths[0]).read_text())
    assert about["landscape"] == CELL.hash and about["points"] == 123 and about["wall_seconds"] > 0
    files = {*paths, provenance_path(paths[0])}
    assert set((tmp_path / name).iterdir()) == files
    return [path.read_bytes() for path in paths], told


def test_killed_landscape_computes_only_what_is_missing(tmp_path, small_data, place):
    folder, hashes = small_data
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path),
         json.dumps({"mnist": hashes}), LEFT_OUT],
        input=RUNS.to_json(), text=True, capture_output=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["grid.npz.partial.npz"]
    resumed, told = made(tmp_path, "killed", place)
    assert told == [96, 123]  # 81 of the grid, 21 weights and a line of 21; 64 were there
    whole, all_told = made(tmp_path, "undisturbed", place)
    assert all_told == [32, 64, 96, 123]
    assert resumed == whole


def test_threads_decide_no_byte_of_a_landscape(tmp_path, place):
    two = Place(place.data_folder, "cpu", "torch", threads=2)
    assert made(tmp_path, "one", place)[0] == made(tmp_path, "two", two)[0]


def test_interrupt_keeps_what_is_done(tmp_path, place, monkeypatch):
    recorded = tmp_path / "weights.csv", tmp_path / "weights.npz"

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_landscape(CELL, recorded, outputs(tmp_path / "a"), place, interrupt)
    assert made(tmp_path, "a", place)[1] == [64, 96, 123]


@pytest.mark.parametrize("kind", ["other weights", "cut short"])
def test_points_of_something_else_are_reported_and_not_used(tmp_path, place, capsys, kind):
    recorded = tmp_path / "weights.csv", tmp_path / "weights.npz"

    def interrupt(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        make_landscape(CELL, recorded, outputs(tmp_path / "a"), place, interrupt)
    partial = tmp_path / "a" / "grid.npz.partial.npz"
    if kind == "cut short":
        partial.write_bytes(partial.read_bytes()[:200])
    else:
        with np.load(recorded[1]) as arrays:
            np.savez(recorded[1], weights=arrays["weights"] * np.float32(1.01))
    capsys.readouterr()
    again, told = made(tmp_path, "a", place)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "grid.npz.partial.npz" in note
    assert len(told) == 4 and again == made(tmp_path, "b", place)[0]


# ---- configuration ----

GRID = {
    "cell": {
        "problem": {"name": "lenet5", "dataset": "mnist"},
        "rule": {"name": "sgd", "lr": 0.1},
        "cluster": {"name": "constant_delay", "delay": 1},
        "batch_size": 32,
        "epochs": 2,
    },
    "axes": {"rule.momentum": [0.0, 0.9]},
    "per_epoch": 3,
}
PRESET = Preset(title="a test", seeds=2, bundle_size=4)


def study(**content) -> Study:
    return Study(title="", cite="", **content)


def one_landscape(**changes) -> LandscapeCell:
    content = {"landscapes": {"a": GRID | {"resolution": 10} | changes}}
    return study_landscapes(study(**content), "paper", PRESET, "here")["a"]


def test_trajectory_is_a_bundle_recorded_more_often():
    found = study_trajectories(study(trajectories={"a": GRID}), "paper", PRESET, "here")["a"]
    assert len(found.cells) == 4 and found.per_epoch == 3
    plain = Bundle(found.cells)
    assert found.hash != plain.hash
    assert Bundle.from_json(found.to_json(), "") == found
    assert Bundle.from_json(plain.to_json(), "") == plain


def test_trajectory_records_the_variance_of_gradients():
    content = {"trajectories": {"a": GRID | {"gradient_batches": 4}}}
    found = study_trajectories(study(**content), "paper", PRESET, "here")["a"]
    assert found.gradient_batches == 4
    assert found.hash != Bundle(found.cells, per_epoch=3).hash
    assert Bundle.from_json(found.to_json(), "") == found
    with pytest.raises(ConfigError, match="'gradient_batches' is 1; it must be a whole number >="):
        Bundle.from_json(found.to_json().replace('batches": 4', 'batches": 1'), "here")


def test_more_minibatches_than_there_are_samples_are_an_error():
    content = {"trajectories": {"a": GRID | {"gradient_batches": 1876}}}
    with pytest.raises(ConfigError, match=r"'gradient_batches' is 1876, .* more than the 60000"):
        study_trajectories(study(**content), "paper", PRESET, "here")


def test_landscape_leaves_out_the_runs_that_match():
    found = one_landscape(left_out={"rule.momentum": 0.9})
    assert [c.hash for c in found.runs.cells if c.rule.momentum == 0.9] == list(found.left_out)
    assert found.margin == 1.0
    others = (one_landscape(), one_landscape(resolution=11), one_landscape(margin=2.0))
    assert len({found.hash, *(other.hash for other in others)}) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"left_out": {"rule.momentum": 0.5}}, "'left_out' .* matches none"),
        ({"left_out": {"rule.lr": 0.1}}, "'left_out' .* matches all"),
        ({"axes": {"problem.dataset": ["mnist", "fashion_mnist"]}}, "differ in their 'problem'"),
        (
            {"cell": GRID["cell"] | {"epochs": 1}, "axes": {}, "per_epoch": 1, "seeds": 1},
            "'per_epoch' is 1, which leaves 2 weight vectors",
        ),
    ],
)
def test_landscapes_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=f"here, landscapes.a: .*{said}"):
        one_landscape(**changes)
