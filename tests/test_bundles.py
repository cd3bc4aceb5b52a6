"""Training a bundle: the same bytes however it is cut, killed and gone on from."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small_cell

from stalegrad.clusters.constant_delay import ConstantDelay
from stalegrad.io import files
from stalegrad.io.errors import ConfigError, DataError
from stalegrad.io.files import provenance_path
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.memory import SHARE
from stalegrad.problems.lenet5 import LeNet5
from stalegrad.training import bundles, memory, replay
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.machine import vector_instructions

COLUMNS = [
    *("run", "epoch", "updates", "simulated_seconds", "mean_staleness", "max_staleness"),
    *("train_loss", "test_loss", "test_accuracy", "diverged"),
]

# Eight runs, not all of which can be stepped together.
MIXED = Bundle(
    (
        small_cell(rule__lr=0.02, cluster__delay=0),
        small_cell(rule__lr=0.05, cluster__delay=3, seed=2),
        small_cell(rule__lr=0.05, rule__momentum=0.0, cluster__delay=7),
        small_cell(rule__warmup_epochs=1.0, cluster__ramp_epochs=1.0, cluster__delay=4),
        small_cell(rule={"name": "adam", "lr": 0.001}, cluster__delay=2),
        small_cell(rule={"name": "adam", "lr": 0.003}, seed=3),
        small_cell(batch_size=40, epochs=2),
        small_cell(rule__clip_norm=0.5, rule__nesterov=True),
    )
)


@pytest.fixture
def place(data_folder, monkeypatch) -> Place:
    # After every epoch, however long that takes: what is saved must not depend on the machine.
    monkeypatch.setattr(bundles, "SAVING_SHARE", math.inf)
    return Place(data_folder, device="cpu")


@pytest.fixture
def lockstep(monkeypatch):
    """The torch backend as on a GPU: all runs that can be are stepped together."""

    def make(name, task):
        backend = VmapBackend(task)
        backend.runs_at_once = None
        return backend

    monkeypatch.setattr(bundles, "make_backend", make)


def trained(bundle: Bundle, folder: Path, place: Place, **keywords) -> bytes:
    output = folder / "out.csv"
    train_bundle(bundle, output, place, **keywords)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["out.csv", "out.csv.provenance.json"]
    return output.read_bytes()


def histories(content: bytes) -> dict[str, str]:
    """Run -> its rows."""
    rows: dict[str, str] = {}
    for line in content.decode().splitlines(keepends=True)[1:]:
        rows[line[:16]] = rows.get(line[:16], "") + line
    return rows


# ---- what comes out ----


def test_history_has_a_row_a_run_and_epoch(tmp_path, place):
    content = trained(MIXED, tmp_path, place)
    table = pd.read_csv(StringIO(content.decode()))
    assert list(table.columns) == COLUMNS
    wanted = [(c.hash, e) for c in MIXED.cells for e in range(1, c.epochs + 1)]
    assert list(zip(table["run"], table["epoch"], strict=True)) == wanted
    # 160 samples in minibatches of 20 are 8 steps an epoch, of which a delay of 3 loses 3 in all.
    delayed = table[table["run"] == MIXED.cells[1].hash]
    assert delayed["updates"].tolist() == [5, 13, 21]
    assert delayed["simulated_seconds"].tolist() == [8, 16, 24]
    assert delayed["max_staleness"].tolist() == [3, 3, 3]
    # Staleness 0, 1, 2, 3, 3, 3, ...
    means = [(3 + 3 * 2) / 5, (3 + 3 * 10) / 13, (3 + 3 * 18) / 21]
    assert delayed["mean_staleness"].tolist() == pytest.approx(means, rel=1e-8)
    assert not table["diverged"].any()
    assert np.isfinite(table[["train_loss", "test_loss"]]).all().all()
    # It does learn: ten classes, and the images tell them apart.
    last = table[table["run"] == MIXED.cells[5].hash].iloc[-1]
    assert last["test_accuracy"] > 0.3


def test_provenance_says_on_what_and_how_much(tmp_path, place):
    bundle = Bundle(MIXED.cells[:2])
    trained(bundle, tmp_path, place)
    about = json.loads(provenance_path(tmp_path / "out.csv").read_text())
    assert about["bundle"] == bundle.hash and about["runs"] == 2
    assert about["samples"] == (24 + 21) * 20
    assert about["torch"] == torch.__version__ and about["device"].startswith("cpu: ")
    assert about["backend"] in ("cpu", "torch") and about["wall_seconds"] > 0
    assert about["instructions"] == vector_instructions(
        about["backend"], "lenet5", torch.device("cpu")
    )


def test_progress_is_told_after_every_epoch(tmp_path, place):
    told = []
    trained(MIXED, tmp_path, place, report=told.append)
    total = sum(cell.epochs for cell in MIXED.cells)
    assert [(p.done, p.total) for p in told] == [(8, total), (16, total), (total, total)]
    assert [len(p.history) for p in told] == [8, 16, total]


# ---- the same bytes ----


def test_same_command_twice_gives_the_same_bytes(tmp_path, place):
    assert trained(MIXED, tmp_path / "a", place) == trained(MIXED, tmp_path / "b", place)


def test_threads_decide_no_byte(tmp_path, place):
    one = trained(MIXED, tmp_path / "one", place)
    two = trained(MIXED, tmp_path / "two", Place(place.data_folder, "cpu", threads=2))
    assert one == two


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_run_in_a_bundle_equals_the_run_alone(tmp_path, place, backend):
    place = Place(place.data_folder, "cpu", backend)
    bundle = MIXED if backend == "auto" else Bundle(MIXED.cells[1:8:3])
    together = histories(trained(bundle, tmp_path / "together", place))
    for cell in bundle.cells:
        alone = histories(trained(Bundle((cell,)), tmp_path / cell.hash, place))
        assert alone == {cell.hash: together[cell.hash]}


def test_runs_stepped_together_equal_each_alone_to_rounding(tmp_path, place, lockstep):
    together = pd.read_csv(StringIO(trained(MIXED, tmp_path / "together", place).decode()))
    for cell in MIXED.cells:
        alone = trained(Bundle((cell,)), tmp_path / cell.hash, place)
        found = together[together["run"] == cell.hash].reset_index(drop=True)
        wanted = pd.read_csv(StringIO(alone.decode()))
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-4)


# ---- divergence ----

CALM = (small_cell(rule__lr=0.02), small_cell(rule__lr=0.03, cluster__delay=3))
WILD = small_cell(rule__lr=1e6, seed=5)


@pytest.mark.parametrize("stepped", ["one by one", "together"])
def test_diverged_run_leaves_and_its_neighbours_are_unchanged(tmp_path, place, request, stepped):
    if stepped == "together":
        request.getfixturevalue("lockstep")
    calm = histories(trained(Bundle(CALM), tmp_path / "calm", place))
    content = trained(Bundle((CALM[0], WILD, CALM[1])), tmp_path / "mixed", place)
    mixed = histories(content)
    assert {cell.hash: mixed[cell.hash] for cell in CALM} == calm
    table = pd.read_csv(StringIO(content.decode()))
    wild = table[table["run"] == WILD.hash]
    assert wild["epoch"].tolist() == [1] and wild["diverged"].tolist() == [True]
    assert not np.isfinite(wild["train_loss"]).any()
    assert not table[table["run"] != WILD.hash]["diverged"].any()


def test_bundle_in_which_all_diverge_ends(tmp_path, place):
    told = []
    content = trained(Bundle((WILD,)), tmp_path, place, report=told.append)
    assert len(histories(content)[WILD.hash].splitlines()) == 1
    assert [(p.done, p.total) for p in told] == [(3, 3)]


def test_run_without_a_gradient_in_its_first_epoch_has_not_diverged(tmp_path, place):
    """A delay of 10 steps with 8 in an epoch: nothing is applied in the first."""
    cell = small_cell(rule__lr=0.02, cluster__delay=10)
    table = pd.read_csv(StringIO(trained(Bundle((cell,)), tmp_path, place).decode()))
    assert table["updates"].tolist() == [0, 6, 14]
    assert np.isnan(table["train_loss"][0]) and np.isfinite(table["train_loss"][1:]).all()
    assert not table["diverged"].any()


# ---- killed and gone on from ----

KILLED = Bundle((small_cell(cluster__delay=3), small_cell(rule__lr=1e6), small_cell(seed=2)))

CHILD = '''
import json, os, signal, sys
from pathlib import Path
import numpy as np
from stalegrad.io import datasets
from stalegrad.training import backends, bundles
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.planning.bundle import Bundle

when, folder, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
datasets.SHA256 = json.loads(sys.argv[4])
bundle = Bundle.from_json(sys.stdin.read(), "stdin")
bundles.SAVING_SHARE = float("inf")  # after every epoch, however long that takes
count = 0

def killing(function, number, before=lambda *arguments: None):
    """The function, but its call of this number kills the process."""
    def wrapped(*arguments, **keywords):
        global count
        count += 1
        if count == number:
            before(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return wrapped

if when == "in epoch 2":
    # Five and eight and eight gradients are taken in the first epoch: this is within the second.
    VmapBackend.gradients = killing(VmapBackend.gradients, 30)
elif when == "writing the checkpoint of epoch 2":
    np.savez = killing(np.savez, 2, lambda file, **arrays: (file.write(b"half"), file.flush()))
bundles.train_bundle(bundle, output, bundles.Place(folder, "cpu", "torch"))
'''


@pytest.mark.parametrize("when", ["in epoch 2", "writing the checkpoint of epoch 2"])
def test_killed_bundle_goes_on_from_its_last_epoch(tmp_path, small_data, place, when):
    folder, hashes = small_data
    output = tmp_path / "killed" / "out.csv"
    sums = json.dumps({"mnist": hashes})
    child = subprocess.run(
        [sys.executable, "-c", CHILD, when, str(folder), str(output), sums],
        input=KILLED.to_json(),
        text=True,
        capture_output=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not output.exists() and (output.parent / "out.csv.checkpoint.npz").exists()

    told = []
    place = Place(place.data_folder, "cpu", "torch")
    train_bundle(KILLED, output, place, told.append)
    assert len(told) == 2  # of three epochs; the first is not trained again
    assert len(told[0].history) > len(KILLED.cells)
    assert output.read_bytes() == trained(KILLED, tmp_path / "undisturbed", place)


def stopped_after(epochs: int, bundle: Bundle, output: Path, place: Place) -> Path:
    """Train some epochs; return the checkpoint that stands then."""
    told = []

    def report(progress):
        told.append(progress)
        if len(told) == epochs + 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_bundle(bundle, output, place, report)
    checkpoint = output.with_name(output.name + ".checkpoint.npz")
    assert checkpoint.exists() and not output.exists()
    return checkpoint


def test_checkpoint_holds_the_rules_state_and_the_snapshots(tmp_path, place, lockstep):
    """Adam's means, warm-up and gradients in flight go on: stepped together, all in one part."""
    checkpoint = stopped_after(1, MIXED, tmp_path / "a" / "out.csv", place)
    assert checkpoint.stat().st_size > 0
    told = []
    resumed = trained(MIXED, tmp_path / "a", place, report=told.append)
    assert len(told) == 2
    assert resumed == trained(MIXED, tmp_path / "b", place)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99], ids=lambda keep: f"cut to {keep}")
def test_checkpoint_cut_short_is_reported_and_not_used(tmp_path, place, capsys, keep):
    bundle = Bundle(MIXED.cells[:2])
    checkpoint = stopped_after(1, bundle, tmp_path / "a" / "out.csv", place)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    assert_starts_again(bundle, tmp_path, place, capsys)


@pytest.mark.parametrize("kind", ["noise", "flipped bit", "a lone array", "another npz"])
def test_checkpoint_of_other_content_is_reported_and_not_used(tmp_path, place, capsys, kind):
    bundle = Bundle(MIXED.cells[:2])
    checkpoint = stopped_after(1, bundle, tmp_path / "a" / "out.csv", place)
    content = bytearray(checkpoint.read_bytes())
    if kind == "noise":
        checkpoint.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "flipped bit":
        content[len(content) // 2] ^= 1
        checkpoint.write_bytes(content)
    else:
        with open(checkpoint, "wb") as file:
            np.save(file, np.arange(3)) if kind == "a lone array" else np.savez(
                file, x=np.arange(3)
            )
    assert_starts_again(bundle, tmp_path, place, capsys)


@pytest.mark.parametrize("other", ["bundle", "backend", "device", "torch", "code", "instructions"])
def test_checkpoint_of_something_else_is_reported_and_not_used(
    tmp_path, place, capsys, other, monkeypatch
):
    bundle = Bundle(MIXED.cells[:2])
    place = Place(place.data_folder, "cpu", "torch")
    output = tmp_path / "a" / "out.csv"
    with monkeypatch.context() as patch:
        if other == "backend":
            patch.setattr(VmapBackend, "name", "another")
        elif other == "device":
            patch.setattr(bundles.Checkpoint, "beside", on_cuda(bundles.Checkpoint.beside))
        elif other == "torch":
            patch.setattr(torch, "__version__", "0.4.1")
        elif other == "instructions":
            patch.setattr(bundles, "vector_instructions", lambda *_: "AVX-1024")
        elif other == "code":
            patch.setattr(bundles, "training_code", lambda *_: "of yesterday")
        stopped_after(1, Bundle(MIXED.cells[2:4]) if other == "bundle" else bundle, output, place)
    assert_starts_again(bundle, tmp_path, place, capsys)


def on_cuda(beside):
    """As if the state had been saved on a GPU."""
    return lambda output, bundle, plans, backend, keep: beside(
        output, bundle, plans, backend.replace("on cpu", "on cuda"), keep
    )


def assert_starts_again(bundle: Bundle, tmp_path: Path, place: Place, capsys) -> None:
    capsys.readouterr()
    told = []
    again = trained(bundle, tmp_path / "a", place, report=told.append)
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ") and "starts from its beginning" in note
    assert "out.csv.checkpoint.npz" in note
    assert len(told) == 3
    assert again == trained(bundle, tmp_path / "b", place)


# ---- memory ----

PARAMETERS = LeNet5.network.parameters


def megabytes_of(state) -> float:
    return sum(tensor.nbytes for tensor in state.tensors().values()) / 1e6


def with_free(monkeypatch, megabytes: float) -> list[float]:
    """Let so much be had; what the states begun and not yet done hold is noted after each epoch."""
    monkeypatch.setattr(memory, "free_megabytes", lambda device: megabytes / SHARE)
    held = []
    advance = bundles._in_memory

    def noting(parts, *rest):
        held.append(sum(megabytes_of(part.state) for part in parts if part.state))
        return advance(parts, *rest)

    monkeypatch.setattr(bundles, "_in_memory", noting)
    return held


def peaks(data_folder):
    task = MIXED.cells[0].problem.load(data_folder, torch.device("cpu"), torch.float32)
    planned = bundles.plan_runs(list(MIXED.cells), task.train[1].numpy())
    return [memory.need(task, [p.run]).peak for p in planned]


def test_bundle_that_does_not_fit_is_trained_piece_by_piece(tmp_path, place, monkeypatch):
    whole = trained(MIXED, tmp_path / "whole", place)
    room = 1.5 * max(peaks(place.data_folder))
    held = with_free(monkeypatch, room)
    assert trained(MIXED, tmp_path / "pieces", place) == whole
    assert max(held) <= room
    assert len(held) > 3  # more rounds than there are epochs


def test_runs_stepped_together_are_cut_to_what_fits(tmp_path, place, monkeypatch, lockstep):
    whole = pd.read_csv(_written(trained(MIXED, tmp_path / "whole", place), tmp_path))
    together = []
    real = replay.advance_in_steps

    def counting(task, runs, state, backend):
        together.append(len(runs))
        return real(task, runs, state, backend)

    monkeypatch.setattr(replay, "advance_in_steps", counting)
    with_free(monkeypatch, 2.5 * max(peaks(place.data_folder)))
    cut = pd.read_csv(_written(trained(MIXED, tmp_path / "cut", place), tmp_path))
    assert max(together) == 2
    pd.testing.assert_frame_equal(cut, whole, rtol=1e-4)


def _written(content: bytes, folder):
    path = folder / "copy.csv"
    path.write_bytes(content)
    return path


def test_pieces_go_on_after_an_interrupt(tmp_path, place, monkeypatch):
    whole = trained(MIXED, tmp_path / "whole", place)
    with_free(monkeypatch, 1.5 * max(peaks(place.data_folder)))
    told = []

    def report(progress):
        told.append(progress.done)
        if len(told) == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_bundle(MIXED, tmp_path / "a" / "out.csv", place, report)
    first = []
    resumed = trained(MIXED, tmp_path / "a", place, report=lambda p: first.append(p.done))
    assert resumed == whole
    assert first[0] > told[0]  # not from the beginning


def test_run_alone_that_does_not_fit_names_the_cell(tmp_path, place, monkeypatch):
    cell = small_cell(cluster__delay=7)
    with_free(monkeypatch, 3.0)
    with pytest.raises(ConfigError) as refused:
        train_bundle(Bundle((cell,)), tmp_path / "out.csv", place)
    said = str(refused.value)
    assert said.startswith(f"cell {cell.hash}: ") and "one run takes about" in said
    snapshots = 7 * PARAMETERS * 4 / 1e6
    assert f"{snapshots:,.0f} of them for the weights" in said and "3 are available" in said
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_does_not_say_limits_nothing(tmp_path, place, monkeypatch):
    monkeypatch.setattr(memory, "free_megabytes", lambda device: None)
    bundle = Bundle(MIXED.cells[:2])
    assert trained(bundle, tmp_path / "a", place)
    assert bundles._in_memory([], [], math.inf, 2) == []


# ---- nothing half-written ----


def test_failed_write_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "folder" / "result.csv"
    files.write_atomically(path, "old")
    with pytest.raises(RuntimeError), files.replaced(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["result.csv"]


def test_failure_while_writing_the_output_leaves_a_checkpoint_to_go_on_from(
    tmp_path, place, monkeypatch
):
    bundle, folder = Bundle(MIXED.cells[:2]), tmp_path / "a"
    real = os.replace

    def replace(source, target):
        if Path(target).suffix == ".csv":
            raise OSError("No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="No space left"):
            train_bundle(bundle, folder / "out.csv", place)
    assert [path.name for path in folder.iterdir()] == ["out.csv.checkpoint.npz"]
    told = []
    again = trained(bundle, folder, place, report=told.append)
    assert len(told) == 1 and again == trained(bundle, tmp_path / "b", place)


# ---- what is refused ----


def test_cluster_that_does_not_fit_the_data_names_the_cell(tmp_path, place):
    """As where classes are dealt, and the work is known only once the data are read."""
    cell = dataclasses.replace(small_cell(), cluster=ConstantDelay(delay=24))
    with pytest.raises(ConfigError, match=f"cell {cell.hash}: .*delay of 24 steps with 24 steps"):
        trained(Bundle((cell,)), tmp_path, place)
    assert list(tmp_path.iterdir()) == []


def test_missing_data_are_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="stalegrad data"):
        trained(Bundle((small_cell(),)), tmp_path, Place(tmp_path / "nowhere", "cpu"))


def test_cuda_that_is_not_there_is_an_error(tmp_path, data_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="'device' is 'cuda', but PyTorch finds no CUDA"):
        trained(Bundle((small_cell(),)), tmp_path, Place(data_folder, "cuda"))


def test_a_gpu_is_handed_its_work_by_one_thread():
    """CUDA captures one graph at a time in a process."""
    place = Place(Path("data"), threads=4)
    assert place.threads_on(torch.device("cpu")) == 4
    assert place.threads_on(torch.device("cuda")) == 1


def test_threads_of_pytorch_are_put_back(tmp_path, place):
    torch.set_num_threads(2)
    try:
        trained(Bundle(CALM), tmp_path, place)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
