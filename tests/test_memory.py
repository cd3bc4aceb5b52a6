"""Memory, told before training: what a run holds, what a step takes, how bundles are cut to it.

That training keeps to it is in test_bundles.py.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers import small_cell

from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import bundles
from stalegrad.planning.config import Preset
from stalegrad.problems.large_cnn import LargeCNN
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training import replay
from stalegrad.training.bundles import plan_runs
from stalegrad.training.memory import free_megabytes, left_by_groups, need

PARAMETERS = LeNet5.network.parameters
SERVER = {"name": "parameter_server", "workers": 4, "compute_ms": 5.0}


def megabytes_of(state) -> float:
    return sum(tensor.nbytes for tensor in state.tensors().values()) / 1e6


def task_of(cell, data_folder):
    return cell.problem.load(data_folder, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster__delay": 0},
        {"cluster__delay": 7},
        {"rule": {"name": "adam", "lr": 0.001}},
        {"rule": {"name": "dc_asgd", "lr": 0.01, "compensation": 2.0, "adaptive": True}},
        {"cluster": SERVER, "partition": "dataset"},
        {"cluster": SERVER | {"synchronous": True}, "partition": "dataset"},
    ],
    ids=str,
)
def test_what_runs_hold_is_known_to_the_byte(changes, data_folder):
    cell = small_cell(**changes)
    task = task_of(cell, data_folder)
    runs = [p.run for p in plan_runs([cell, small_cell(**changes, seed=2)], task.train[1].numpy())]
    found = need(task, runs)
    assert found.held == pytest.approx(megabytes_of(replay.start(task, runs)), rel=1e-12)
    slots = max(run.snapshots.slots for run in runs)
    assert found.snapshots == pytest.approx(2 * slots * PARAMETERS * 4 / 1e6)


def test_step_counts_what_the_network_makes_of_a_minibatch(data_folder):
    """784 numbers, 6 x 28 x 28 and 6 x 14 x 14 twice, ... by hand, in LeNet-5."""
    first, second = 6 * 28 * 28 + 2 * 6 * 14 * 14, 16 * 10 * 10 + 2 * 16 * 5 * 5
    assert LeNet5.network.activations == 784 + first + second + 2 * 120 + 2 * 84 + 10
    assert LargeCNN.network.activations > 784 + 2 * 32 * 26 * 26 + 64 * 24 * 24
    small, large = (small_cell(batch_size=size) for size in (100, 160))
    task = task_of(small, data_folder)
    needs = [need(task, [p.run]).step for p in plan_runs([small, large], task.train[1].numpy())]
    # Twice what it is of sixty samples.
    assert needs[1] - needs[0] == pytest.approx(120 * LeNet5.network.activations * 4 / 1e6)


def test_free_memory_is_told():
    free = free_megabytes(torch.device("cpu"))
    assert free is None or 1 < free < 1e8


def test_a_control_group_leaves_less_than_the_machine_has(tmp_path):
    """A job of 900 bytes below a group of 1,000 that is fuller; and a container of version 1."""
    job = tmp_path / "v2" / "slurm" / "job"
    job.mkdir(parents=True)
    (job / "memory.max").write_text("900\n")
    (job / "memory.current").write_text("500\n")
    (job / "memory.stat").write_text("anon 300\ninactive_file 150\nactive_file 50\n")
    (job.parent / "memory.max").write_text("1000\n")
    (job.parent / "memory.current").write_text("700\n")
    (job.parents[1] / "memory.max").write_text("max\n")
    own = tmp_path / "own"
    own.write_text("0::/slurm/job\n")
    assert left_by_groups(own, tmp_path / "v2") == [900 - (500 - 150 - 50), 300]

    memory = tmp_path / "v1" / "memory"
    memory.mkdir(parents=True)
    (memory / "memory.limit_in_bytes").write_text("800\n")
    (memory / "memory.usage_in_bytes").write_text("900\n")
    (memory / "memory.stat").write_text("active_file 1\ntotal_active_file 30\n")
    own.write_text("5:cpu:/\n4:memory:/docker/0123\n0::/\n")  # as seen from inside a container
    assert left_by_groups(own, tmp_path / "v1") == [800 - 900 + 30]
    assert left_by_groups(tmp_path / "none", tmp_path) == []


def test_patches_on_a_gpu_take_more_than_layers(data_folder):
    cell = small_cell(batch_size=160)
    task = task_of(cell, data_folder)
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    (planned,) = plan_runs([cell], task.train[1].numpy())
    more = need(replace(task, train=(on_gpu, task.train[1])), [planned.run]).step
    more -= need(task, [planned.run]).step
    assert more == pytest.approx((8 - 2) * 160 * LeNet5.network.activations * 4 / 1e6)


# ---- the plan ----


def test_bundles_are_cut_to_the_memory_of_the_largest():
    """(6 + 256) x 61,706 float32 are 64.7 MB a run; without delay, 1.7."""
    cells = [small_cell(cluster__delay=256, epochs=50, seed=seed) for seed in range(1, 5)]
    cells += [small_cell(cluster__delay=0, epochs=50, seed=seed) for seed in range(1, 5)]
    made = bundles(cells, Preset(title="x", seeds=1, bundle_size=100, bundle_memory=140))
    held = [sum((6 + c.cluster.delay) * PARAMETERS * 4 / 1e6 for c in b.cells) for b in made]
    assert len(made) > 1 and max(held) <= 140
    assert sorted(c.hash for b in made for c in b.cells) == sorted(c.hash for c in cells)


def test_run_that_fits_no_bundle_is_refused():
    cell = small_cell(cluster__delay=256, epochs=50)
    with pytest.raises(ConfigError, match=f"'bundle_memory' is 60, .* 65 megabytes .*{cell.hash}"):
        bundles([cell], Preset(title="x", seeds=1, bundle_size=4, bundle_memory=60))
