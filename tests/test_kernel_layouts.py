"""The structures that kernels are called with are the same in C++ and in Python, or refused."""

import ctypes

import numpy as np
import pytest

from stalegrad.training import kernels
from stalegrad.training.kernels import calls
from stalegrad.training.kernels.calls import Kernel, Minibatches, Stretch, check_layout

INTEGER, POINTER, DOUBLE = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double


def changed(structure, change):
    """A structure of the same name with other fields."""
    fields = change(list(structure._fields_))
    return type(structure.__name__, (calls._Call,), {"_fields_": fields})


def without(name):
    return lambda fields: [field for field in fields if field[0] != name]


def swapped(one, other):
    def change(fields):
        names = [name for name, _ in fields]
        i, j = names.index(one), names.index(other)
        fields[i], fields[j] = fields[j], fields[i]
        return fields

    return change


CHANGES = {
    "one more at the end": (
        Stretch,
        lambda fields: [*fields, ("more", INTEGER)],
        "the end is at 344 there, and more is 8 bytes at 344 here",
    ),
    "one less at the end": (
        Minibatches,
        without("noise"),
        "noise is 8 bytes at 96 there, and the end is at 96 here",
    ),
    "one less in between": (
        calls.TestSet,
        without("width"),
        "width is 8 bytes at 40 there, and options is 8 bytes at 40 here",
    ),
    "two of one type swapped": (
        Stretch,
        swapped("velocity", "mean_square"),
        "velocity is 8 bytes at .* there, and mean_square is 8 bytes at .* here",
    ),
    "a smaller type where padding follows": (
        Stretch,
        lambda fields: [(n, ctypes.c_int32 if n == "waiting" else t) for n, t in fields],
        "waiting is 8 bytes at 80 there, and waiting is 4 bytes at 80 here",
    ),
}


@pytest.mark.parametrize("kernel", ["lenet5", "large_cnn", "linear_model", "chain"])
def test_every_kernel_is_called_with_what_it_was_compiled_for(kernel):
    Kernel(kernel)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_field_is_an_error_that_names_the_structure(change):
    structure, change, said = CHANGES[change]
    library = kernels.load("lenet5")
    check_layout(library, structure)
    with pytest.raises(TypeError, match=f"^The structure {structure.__name__} differs .*: {said}"):
        check_layout(library, changed(structure, change))


@pytest.mark.parametrize("structure", [Minibatches, Stretch, calls.TestSet])
def test_all_structures_are_compared_when_a_kernel_is_made(structure, monkeypatch):
    other = changed(structure, lambda fields: fields[1:])
    monkeypatch.setattr(calls, structure.__name__, other)
    with pytest.raises(TypeError, match=f"The structure {structure.__name__} differs"):
        Kernel("lenet5")


def test_fields_take_what_they_hold_and_no_others():
    weights = np.arange(3.0)
    call = Minibatches(batch=2, weights=weights, noise=None)
    assert (call.batch, call.weights, call.noise) == (2, weights.ctypes.data, None)
    with pytest.raises(TypeError, match="The field weights is an array or None, not 1.5"):
        call.set(weights=1.5)
    with pytest.raises(KeyError, match="weight"):
        call.set(weight=weights)
