"""How long training will take: measured on this machine, kept, and said before it begins."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import small_cell

from stalegrad.io.files import provenance_path
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.planning.config import Settings
from stalegrad.planning.freshness import training_code
from stalegrad.training import kernels, speed
from stalegrad.training.progress import announcement
from stalegrad.training.speed import Speed, Speeds

SETTINGS = Settings()
PARAMETERS = 61_706
LENET = Speed(
    backend="cpu",
    instructions="AVX2",
    reason="",
    steps=((PARAMETERS, 1e-3), (8 * PARAMETERS, 1e-3), (32 * PARAMETERS, 4e-3)),
    alone=128 * PARAMETERS,
    call=0.0,
    epoch=0.0,
    sample=1e-4,
    rate=8_000.0,
    torch_rate=2_000.0,
)
CHAIN = Speed(
    backend="cpu",
    instructions="AVX2",
    reason="",
    steps=((16, 1e-6), (8_192, 5e-6), (16_384, 1e-5)),
    alone=8_192,
    call=1e-2,
    epoch=1e-3,
    sample=0.0,
    rate=1e6,
    torch_rate=1e5,
)
SPEEDS = Speeds(2.0, False, {"lenet5": LENET, "chain": CHAIN})


def chain(**changes):
    values = {
        "problem": {"name": "chain", "dimension": 16, "epoch_samples": 1000},
        "rule": {"name": "sgd", "lr": 0.1},
        "cluster": {"name": "constant_delay", "delay": 1},
        "batch_size": 1,
        "epochs": 3,
        "partition": "independent",
    }
    return parse_cell(values | changes, "a test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Where nothing has been measured yet."""
    monkeypatch.setenv("STALEGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- seconds of a bundle ----


@pytest.mark.parametrize(
    "minibatch, wanted", [(1, 1e-3), (4, 1e-3), (20, 2.5e-3), (32, 4e-3), (64, 8e-3)]
)
def test_a_step_between_the_sizes_that_were_timed(minibatch, wanted):
    """Small minibatches take as long as a tile of images; large ones in proportion."""
    assert LENET.step(minibatch * PARAMETERS) == pytest.approx(wanted)


def test_a_step_smaller_than_all_that_were_timed_takes_as_long_as_the_smallest():
    assert CHAIN.step(4) == 1e-6


def test_seconds_of_a_network_are_steps_and_evaluation():
    """160 images in minibatches of 20, three times, and the 50 of the test set after each."""
    cells = small_cell(), small_cell(seed=2)
    assert SPEEDS.seconds(Bundle(cells)) == pytest.approx(2 * 3 * (8 * 2.5e-3 + 50 * 1e-4))


def test_runs_that_are_stepped_together_share_the_calls():
    alone = 3 * (1000 * 1e-6 + 1e-3)
    assert SPEEDS.seconds(Bundle((chain(),))) == pytest.approx(alone)
    clipped = [
        chain(rule={"name": "sgd", "lr": 0.1, "clip_norm": 1.0}, seed=seed) for seed in (1, 2)
    ]
    assert SPEEDS.seconds(Bundle(tuple(clipped))) == pytest.approx(2 * alone + 3 * 1000 * 1e-2)


def test_jobs_go_to_the_place_that_is_free_first():
    assert speed.lasting([5.0, 1.0, 2.0, 3.0], 2) == 6.0
    assert speed.lasting([5.0, 1.0], 9) == 5.0


# ---- what is kept ----


def test_what_is_kept_comes_back(cache):
    speed.write(SETTINGS, SPEEDS)
    assert speed.read(SETTINGS) == SPEEDS


def test_each_build_device_and_backend_has_its_own(monkeypatch):
    speed.write(SETTINGS, SPEEDS)
    assert speed.read(Settings(backend="torch")) is None
    assert speed.read(Settings(device="cpu")) is None
    monkeypatch.setattr(kernels, "_processor", lambda: "another of this home folder's machines")
    assert speed.read(SETTINGS) is None


def test_each_target_has_its_own(monkeypatch):
    speed.write(SETTINGS, SPEEDS)
    monkeypatch.setenv(kernels.ARCHITECTURE, "x86-64-v3")
    assert speed.read(SETTINGS) is None


DAMAGED = ["", "[]", '{"start": 1, "cuda": false}', '{"start": "', "{}"]


def damage(cache: Path, content: str) -> None:
    speed.write(SETTINGS, SPEEDS)
    (file,) = cache.glob("speed-*.json")
    file.write_text(content)


@pytest.mark.parametrize("content", DAMAGED)
def test_what_is_damaged_is_measured_again(cache, content, monkeypatch):
    """By a process that is told what to measure; `test_it_is_measured_once` starts a real one."""
    asked = []

    def measure(command, **keywords):
        asked.append(command[1:])
        speed.write(SETTINGS, SPEEDS)

    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(run=measure))
    damage(cache, content)
    assert speed.read(SETTINGS) is None
    assert speed.measured(SETTINGS, [Bundle((chain(),))]) == SPEEDS == speed.read(SETTINGS)
    device, backend = SETTINGS.device, SETTINGS.backend
    assert asked == [["-m", "stalegrad.training.timing", device, backend, "chain"]]


def test_it_is_measured_once(cache, monkeypatch):
    damage(cache, DAMAGED[2])
    bundles = [Bundle((chain(),))]
    first = speed.measured(SETTINGS, bundles)
    assert first.problems.keys() == {"chain"} and first == speed.read(SETTINGS)
    chained = first.problems["chain"]
    assert all(seconds > 0 for _, seconds in chained.steps) and chained.rate > 0
    assert 0.1 < first.start < 60 and not first.cuda
    monkeypatch.setattr(speed, "subprocess", None)
    assert speed.measured(SETTINGS, bundles) == first


def test_without_a_compiler_pytorch_is_timed(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    found = speed.measured(SETTINGS, [Bundle((chain(),))]).problems["chain"]
    assert found.backend == "torch" and "/no/such/compiler" in found.reason
    assert found.slowdown == 1.0


def test_a_problem_that_is_not_known_is_not_timed(monkeypatch):
    monkeypatch.setattr(speed, "TIMED", ("lenet5",))
    monkeypatch.setattr(speed, "subprocess", None)
    assert speed.measured(SETTINGS, [Bundle((chain(),))]) is None


def test_reading_it_imports_neither_torch_nor_pandas():
    code = (
        "import sys; from stalegrad.training import speed\n"
        "from stalegrad.planning.config import Settings\n"
        "speed.read(Settings())\n"
        "print(*{'torch', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


# ---- what is said before training ----

MANY = Bundle(tuple(small_cell(seed=seed, epochs=1000) for seed in (1, 2)))  # 50 s of one core
SHORT = Bundle((chain(),))
PLAN = SimpleNamespace(
    bundles={"some": {MANY.hash: MANY}, "other": {SHORT.hash: SHORT}},
    short_bundles=lambda study: {SHORT.hash: SHORT} if study == "other" else {},
    settings=SETTINGS,
)


def test_how_long_it_takes_is_said(tmp_path):
    """Every job also starts, Snakemake and then the script."""
    speed.write(SETTINGS, SPEEDS)
    measured = "(measured: lenet5 8,000 samples/s a core, AVX2 kernel)"
    assert announcement(PLAN, tmp_path, 2) == [
        f"training: 3 runs, about 54 s on 2 cores {measured}"
    ]
    (line,) = announcement(PLAN, tmp_path, 1)
    assert line.startswith("training: 3 runs, about 58 s on 1 core (")
    (line,) = announcement(PLAN, tmp_path, None)
    assert line.startswith("training: 3 runs, about 50 s of one core like this machine's (")


def test_what_is_trained_is_not_counted(tmp_path):
    speed.write(SETTINGS, SPEEDS)
    for study, bundle in (("some", MANY), ("other", SHORT)):
        output = tmp_path / study / "bundles" / f"{bundle.hash}.csv"
        output.parent.mkdir(parents=True)
        output.touch()
        made = {"bundle": bundle.hash, "code": training_code(bundle.cells)}
        provenance_path(output).write_text(json.dumps(made))
        left = announcement(PLAN, tmp_path, 2)
        assert left == [] or left[0].startswith("training: 1 runs, about 4 s on 2 cores")
    assert left == []


def test_training_without_the_kernel_is_said_with_what_it_costs(tmp_path):
    slow = replace(LENET, backend="torch", reason="no C++ compiler was found", torch_rate=8_000.0)
    speed.write(SETTINGS, replace(SPEEDS, problems={"lenet5": slow, "chain": CHAIN}))
    line, note = announcement(PLAN, tmp_path, 2)
    assert line.endswith("lenet5 8,000 samples/s a core, AVX2 PyTorch)")
    assert note == (
        "note: trained by PyTorch: lenet5 (about 50 s of one core). The fused kernels, which are "
        "several times as fast, are not used, because no C++ compiler was found."
    )


def test_a_kernel_slower_than_pytorch_is_said_with_what_it_costs(tmp_path):
    slow = replace(LENET, torch_rate=20_000.0)
    speed.write(SETTINGS, replace(SPEEDS, problems={"lenet5": slow, "chain": CHAIN}))
    _, note = announcement(PLAN, tmp_path, 2)
    assert note == (
        "note: the kernel of lenet5 takes 2.5 times as long as PyTorch here, about 50 s of one "
        "core; with `--config backend=torch` it is about 20 s."
    )


def test_of_a_gpu_nothing_is_promised(tmp_path):
    speed.write(SETTINGS, replace(SPEEDS, cuda=True, problems={}))
    (line,) = announcement(PLAN, tmp_path, 2)
    assert line.startswith("training: 3 runs on a GPU; how long")
