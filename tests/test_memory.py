"""Memory, told before training: what a run holds, what a step takes, how bundles are cut to it.

That training keeps to it is in test_bundles.py.
"""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from checkout import DATA
from helpers import small_cell

from stalegrad.io.datasets import fetch_dataset
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle, bundles
from stalegrad.planning.config import Preset
from stalegrad.planning.memory import of_cell, of_job
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


CHANGES = [
    {"cluster__delay": 0},
    {"cluster__delay": 7},
    {"rule": {"name": "adam", "lr": 0.001}},
    {"rule": {"name": "dc_asgd", "lr": 0.01, "compensation": 2.0, "adaptive": True}},
    {"cluster": SERVER, "partition": "dataset"},
    {"cluster": SERVER | {"synchronous": True}, "partition": "dataset"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
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


def test_on_a_gpu_the_samples_of_an_epoch_are_looked_up_in_a_table(data_folder):
    """It has the 160 samples of the longest epoch, and is there twice while it is filled."""
    cell = small_cell(batch_size=16)
    task = task_of(cell, data_folder)
    (planned,) = plan_runs([cell], task.train[1].numpy())
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"))
    more = need(replace(task, train=(on_gpu, task.train[1])), [planned.run]).held
    more -= need(task, [planned.run]).held
    assert more == pytest.approx(2 * 160 * 8 / 1e6)


# ---- the plan ----


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_plan_counts_no_less_than_the_job_will(changes, data_folder):
    cell = small_cell(**changes)
    task = task_of(cell, data_folder)
    (planned,) = plan_runs([cell], task.train[1].numpy())
    told, found = of_cell(cell), need(task, [planned.run])
    assert found.snapshots <= told.snapshots and found.held <= told.held
    assert told.step == pytest.approx(found.step, rel=1e-12)


def test_a_job_asks_for_what_a_step_and_a_checkpoint_take_on_top():
    one, other = small_cell(cluster__delay=256, epochs=50), small_cell(batch_size=40)
    told = [of_cell(cell) for cell in (one, other)]
    asked = 2 * (told[0].held + told[1].held) + max(need.step for need in told)
    assert Bundle((one, other)).megabytes() == of_job((one, other))
    assert of_job((one, other)) == pytest.approx(1_500 + asked / 0.8, abs=1)


# Trains a bundle and prints how much the process held before it and at most (Linux).
TRAINING = """
import sys
from pathlib import Path
from stalegrad.planning.bundle import Bundle
from stalegrad.training.bundles import Place, train_bundle

def at_most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6

bundle, before = Bundle.from_json(sys.stdin.read(), "stdin"), at_most()
train_bundle(bundle, Path(sys.argv[1]), Place(Path(sys.argv[2]), "cpu", sys.argv[3]))
print(before, at_most())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_training_takes_what_was_told(backend, tmp_path):
    """A hundred old weights of 4.8 MB: more than PyTorch's own libraries."""
    fetch_dataset("mnist", DATA)
    problem = {"name": "large_cnn", "dataset": "mnist", "train_samples": 256, "test_samples": 100}
    cell = small_cell(problem=problem, batch_size=1, epochs=1, cluster__delay=100)
    bundle = Bundle((cell,))
    done = subprocess.run(
        [sys.executable, "-c", TRAINING, str(tmp_path / "out.csv"), str(DATA), backend],
        input=bundle.to_json(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    before, most = map(float, done.stdout.split())
    task = task_of(cell, DATA)
    (planned,) = plan_runs([cell], task.train[1].numpy())
    # Libraries and data are some 200 MB that no run takes.
    assert need(task, [planned.run]).held <= most - before <= of_cell(cell).peak + 200
    assert most <= bundle.megabytes()


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
