"""What is recorded of the machine that trains."""

import platform

import pytest
import torch

from stalegrad.training import kernels
from stalegrad.training.machine import vector_instructions

CPU = torch.device("cpu")


def test_instructions_are_those_that_the_kernel_is_built_for(monkeypatch):
    if platform.machine() != "x86_64":
        pytest.skip("another processor has other targets")
    for target, wanted in (("x86-64", "SSE2"), ("x86-64-v3", "AVX2")):
        monkeypatch.setenv(kernels.ARCHITECTURE, target)
        try:
            told = vector_instructions("cpu", "least_squares", CPU)
        except kernels.KernelUnavailable as error:
            pytest.skip(str(error))
        assert told == wanted


def test_instructions_of_pytorch_are_those_that_it_chose():
    wanted = torch.backends.cpu.get_cpu_capability()
    assert vector_instructions("torch", "least_squares", CPU) == wanted
