"""A run that is resumed elsewhere goes on only where each bit would be the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import small_cell

from stalegrad.io.files import provenance_path
from stalegrad.planning.bundle import Bundle
from stalegrad.training import kernels, machine
from stalegrad.training.bundles import Place, train_bundle

CPU = torch.device("cpu")


class Stopped(Exception):
    pass


@pytest.fixture
def saved_first():
    """A checkpoint stands after the first epoch, however short that is."""
    report = []

    def save_and_tell(progress):
        if report:
            raise Stopped
        report.append(progress)

    return save_and_tell


def another_torch(patch):
    patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def another_numpy(patch):
    found = {"SIMD Extensions": {"found": ["SSE2"]}}
    patch.setattr(np, "show_config", lambda mode: found)


def another_processor(patch):
    patch.setattr(machine, "_processor_name", lambda: "Another")


def mkl_told(patch):
    patch.setenv("MKL_CBWR", "COMPATIBLE")


def onednn_told(patch):
    patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def another_compiler(patch):
    patch.setattr(kernels, "compiled_by", lambda: "clang++ -O3 (clang version 18)")


@pytest.mark.parametrize(
    "backend, other",
    [
        *(("torch", other) for other in (another_torch, another_numpy, another_processor)),
        *(("torch", other) for other in (mkl_told, onednn_told)),
        *(("cpu", other) for other in (another_torch, another_numpy, another_compiler)),
    ],
)
def test_a_checkpoint_of_other_arithmetic_is_not_gone_on_from(
    backend, other, tmp_path, data_folder, saved_first, capsys, monkeypatch
):
    place, output = Place(data_folder, "cpu", backend), tmp_path / "out.csv"
    epochs = Bundle((small_cell(epochs=3),))
    with monkeypatch.context() as patch:
        other(patch)
        with pytest.raises(Stopped):
            train_bundle(epochs, output, place, saved_first)
        elsewhere = machine.dispatch(backend, CPU)
    told = []
    train_bundle(epochs, output, place, told.append)
    said = capsys.readouterr().err
    assert [p.computed for p in told] == [1, 2, 3]
    assert f"is not usable (it is of {epochs.hash}" in said and elsewhere in said
    made = json.loads(provenance_path(output).read_text())
    assert made["dispatch"] == machine.dispatch(backend, CPU) != elsewhere


def test_a_kernel_asks_nothing_of_the_processors_name(monkeypatch):
    """Its instructions and its compiler decide; nodes of two models may share a run."""
    before = machine.dispatch("cpu", CPU)
    another_processor(monkeypatch)
    assert machine.dispatch("cpu", CPU) == before


def test_a_kernel_is_named_by_its_compiler_and_flags(monkeypatch):
    assert "-O3" in kernels.compiled_by() and "-march=native" in kernels.compiled_by()
    monkeypatch.setenv("STALEGRAD_ARCHITECTURE", "x86-64-v3")
    assert "-march=x86-64-v3" in kernels.compiled_by()


@pytest.mark.parametrize(
    "variable, value", [("ATEN_CPU_CAPABILITY", "avx2"), ("NPY_DISABLE_CPU_FEATURES", "AVX512F")]
)
def test_what_libraries_are_told_is_seen(variable, value):
    program = (
        "import torch; from stalegrad.training.machine import dispatch;"
        "print(dispatch('torch', torch.device('cpu')))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=os.environ | more,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more in ({}, {variable: value})
    ]
    assert said[0] != said[1] and f"{variable}={value}" in said[1]
