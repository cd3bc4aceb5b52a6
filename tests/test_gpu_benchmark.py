"""`benchmarks/gpu`, rehearsed on a CPU with a faked capture: all of it, small."""

import gzip
import importlib
import itertools
import json
import pkgutil
import runpy
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_cuda import FakeCuda
from helpers import ROOT

from stalegrad import clusters, rules
from stalegrad.analysis.archive import add_to_archive
from stalegrad.planning.plan import Plan
from stalegrad.training import backends

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def on_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("on_gpu")


@pytest.fixture
def compressed(data_folder, tmp_path) -> Path:
    """The small data set as it is carried: four compressed IDX files."""
    folder = tmp_path / "carried"
    folder.mkdir()
    for file in (data_folder / "mnist").iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    return folder


@pytest.fixture
def tiny(on_gpu):
    return on_gpu.Sizes(
        **{"exact_samples": 48, "exact_batch": 8, "captures": 2, "runs": (1, 3), "batch": 8},
        **{"most_steps": 20, "row": 0.02, "train": 320, "test": 20, "epochs": 3, "rates": 1},
        limits=dict.fromkeys(on_gpu.STAGES, 3600.0),  # however busy the machine is
    )


@pytest.mark.slow
def test_all_stages_on_a_cpu(on_gpu, compressed, tiny, tmp_path, monkeypatch):
    FakeCuda().install(monkeypatch)
    output = tmp_path / "out"
    assert on_gpu.measure(compressed, output, 7200, "cpu", ["a.whl"], tiny) == 0
    content = json.loads((output / "results.json").read_text())
    stages = {name: stage["rows"] for name, stage in content["stages"].items()}
    assert [stage["ended"] for stage in content["stages"].values()] == ["whole"] * 4
    assert content["machine"]["carried"] == ["a.whl"]

    *exact, growth = stages["exact"]
    kinds = set(itertools.product(on_gpu.RULES, on_gpu.CLUSTERS, ("float64", "float32")))
    assert {(row["rule"], row["cluster"], row["dtype"]) for row in exact} == kinds
    assert len(exact) == len(kinds)
    for row in exact:
        assert row["within"] and row["captured"] and row["as called"], row
    assert growth["within"] and growth["what"] == "2 captures after the first"

    rated = [row for row in stages["rates"] if "way" in row]
    ways = ["plain PyTorch", *on_gpu.WAYS, *on_gpu.WAYS]
    assert [row["way"] for row in rated] == ways
    assert [row["runs"] for row in rated] == [1] + [1] * 4 + [3] * 4
    assert all(row["samples/s"] > 0 and row["times plain"] > 0 for row in rated)
    profiled = [row for row in stages["rates"] if "kernel" in row]
    assert len(profiled) > 5 and any("mm" in row["kernel"] for row in profiled)

    *epochs, last = stages["figure2"]
    assert [row["epoch"] for row in epochs if "training, s" in row] == ["1", "2", "3"]
    assert last["epoch"] == "all 3, extrapolated from 3" and last["runs"] == 6
    (bundle,) = stages["bundles"]
    assert bundle["runs"] == 6 and bundle["batch"] == 64

    told = (output / "results.md").read_text()
    for said in (*content["said"], "## Samples a second", "| plain PyTorch | 1 | 8 |"):
        assert said in told
    assert (
        f"{len(kinds) + 1} comparisons" in content["said"][0]
        and "0 of them wrong" in content["said"][0]
    )
    row = content["said"][1].partition(": ")[2]
    pattern, backend = eval(row.partition("  #")[0])[0]
    assert pattern == "no card*" and backend in ("batched", "torch")

    archive = tmp_path / "archive"
    made = output / "bundles" / f"{bundle['bundle']}.csv"
    assert add_to_archive(archive, [made]) == 6
    assert "batched" in (archive / "provenance.csv").read_text()


def test_bundles_are_of_figure_2_as_published(on_gpu, monkeypatch):
    """With the hashes that the archive of the study would have for seed 4."""
    bench = on_gpu.Bench(Path(), Path(), torch.device("cpu"), on_gpu.Sizes())
    made = on_gpu.figure2_parts(bench, on_gpu.SEED)
    plan = Plan.load({"preset": "paper", "studies": ["jain2018"], "recompute": True})
    first = {cell.hash: cell for cell in plan.grids["jain2018"]["fig2"] if cell.seed == 1}
    wanted = {replace(cell, seed=on_gpu.SEED).hash for cell in first.values()}
    assert {cell.hash for cells in made for cell in cells} == wanted and len(wanted) == 300
    assert [cells[0].batch_size for cells in made] == [1024, 512, 256, 128, 64]


def modules_of(package) -> set[str]:
    names = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return {name for name in names if not name.startswith("_")}


def test_every_rule_and_every_cluster_is_held_to_the_cpu(on_gpu):
    assert {rule["name"] for rule in on_gpu.RULES.values()} == modules_of(rules)
    kinds = {values["cluster"]["name"] for values in on_gpu.CLUSTERS.values()}
    assert kinds == modules_of(clusters) - {"trace"}  # whose schedule is a server's, as these are


@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-8), (torch.float32, 1e-3)])
def test_a_gradient_that_is_a_little_wrong_is_found(
    on_gpu, tiny, data_folder, dtype, error, monkeypatch
):
    problem = on_gpu.LeNet5(dataset="mnist", train_samples=48, test_samples=1)
    task = problem.load(data_folder, torch.device("cpu"), torch.float32)
    cells = [on_gpu._exact_cell(tiny, "momentum", "hub_and_spoke", seed) for seed in (1, 2)]
    runs = [planned.run for planned in on_gpu.plan_runs(cells, task.train[1].numpy())]
    right = on_gpu.BatchedBackend.gradients

    def wrong(self, *arguments):
        gradients, losses = right(self, *arguments)
        return gradients * (1 + error), losses

    both = [on_gpu._on_cpu(task, runs, each) for each in (torch.float32, torch.float64)]
    wanted, allowed = both[dtype == torch.float64], on_gpu._allowed([both])[dtype]
    assert wanted.dtype == dtype and on_gpu._held_to(wanted, task, runs, allowed)["within"]
    monkeypatch.setattr(on_gpu.BatchedBackend, "gradients", wrong)
    assert not on_gpu._held_to(wanted, task, runs, allowed)["within"]


# ---- limits ----


@pytest.fixture
def results(on_gpu, tmp_path):
    machine = {"device": "cpu: x", "torch": "2", "python": "3", "commit": "c"}
    return sys.modules["results"].Results(tmp_path, machine)


def test_a_stage_is_cut_at_its_limit_and_keeps_its_rows(on_gpu, results, tmp_path):
    written = []

    def endless():
        yield {"n": 1}
        written.append(json.loads((tmp_path / "results.json").read_text()))
        written.append((tmp_path / "results.md").read_text())
        while True:
            time.sleep(0.01)

    start = time.monotonic()
    on_gpu.run_stage(results, "a", "First", endless, 0.3)
    assert time.monotonic() - start < 5
    on_gpu.run_stage(results, "b", "Second", lambda: iter([{"n": 2}]), 5)
    on_gpu.run_stage(results, "c", "Third", lambda: iter([{"n": 3}]), -1)
    # As soon as it was there.
    assert written[0]["stages"]["a"]["rows"] == [{"n": 1}] and "| 1 |" in written[1]
    stages = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert stages["a"]["ended"] == "cut at its limit of 0 s" and stages["a"]["rows"] == [{"n": 1}]
    assert stages["b"]["ended"] == "whole" and stages["b"]["rows"] == [{"n": 2}]
    assert stages["c"]["ended"] == "no time was left for it" and not results.failed


def test_an_error_ends_a_row_or_a_stage_and_is_named(on_gpu, results):
    def broken():
        yield on_gpu.attempted({"n": 1}, lambda: {"x": 1 / 0})
        raise RuntimeError("the card has fallen off the bus\nmore")

    on_gpu.run_stage(results, "a", "First", broken, 5)
    on_gpu.run_stage(results, "b", "Second", lambda: iter([{"n": 2}]), 5)
    assert results.rows("a") == [{"n": 1, "error": "ZeroDivisionError: division by zero"}]
    assert results.failed and results.rows("b") == [{"n": 2}]


def test_the_time_being_up_is_no_error_of_a_row(on_gpu):
    def up():
        raise on_gpu.TimeUp

    with pytest.raises(on_gpu.TimeUp):
        on_gpu.attempted({}, up)


def test_limits_leave_each_stage_its_time(on_gpu):
    """Together with the time that the last one needs at least, nine minutes."""
    limits = on_gpu.Sizes().limits
    assert list(limits) == list(on_gpu.STAGES)
    *first, _ = limits.values()
    assert sum(first) <= 9 * 60 - on_gpu.MARGIN - 120


# ---- the row of the table ----


@pytest.mark.parametrize(
    "vmap, captured, wanted", [(10, 20, "batched"), (30, 20, "torch"), (None, 20, None)]
)
def test_the_row_names_the_faster_backend(on_gpu, vmap, captured, wanted, monkeypatch):
    bench = on_gpu.Bench(Path(), Path(), torch.device("cuda"), on_gpu.Sizes())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    by_way = {"captured": {10: 5.0, 300: captured, 1000: 1.0}, "captured, TF32": {300: 99.0}}
    by_way |= {"vmap": {10: 9.0, 300: vmap, 1000: 9.0}} if vmap else {}
    row = on_gpu.best_row(by_way, bench)
    if wanted is None:
        assert row is None
        return
    (rows,) = (eval(f"({row}\n)"),)
    monkeypatch.setattr(backends, "ON_CARD", (*rows, *backends.ON_CARD))
    assert rows == (("NVIDIA H200*", wanted),)
    assert backends.on_card("NVIDIA H200 NVL") == wanted and backends.on_card("x") == "batched"


# ---- the command ----


def test_the_command_says_what_it_takes(capsys):
    command = runpy.run_path(str(BENCHMARKS / "gpu"))
    with pytest.raises(SystemExit):
        command["main"](["--help"])
    said = capsys.readouterr().out
    assert "pip download" in said and "--packages" in said


def test_wheels_are_carried_and_come_first(tmp_path, monkeypatch, on_gpu):
    import wheels

    with pytest.raises(SystemExit, match="holds no wheels"):
        wheels.carry(tmp_path)
    with zipfile.ZipFile(tmp_path / "made_up_carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up_carried/__init__.py", "here = True\n")
        wheel.writestr("../escaped", "")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert wheels.carry(tmp_path) == ["made_up_carried-1-py3-none-any.whl"]
    assert importlib.import_module("made_up_carried").here
    assert not list((tmp_path / "temporary").glob("escaped"))
