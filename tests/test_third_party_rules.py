"""Rules of one's own: the same numbers on every backend, whatever of a known rule they change."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_schedule, plan, small_cell, trajectory
from pydantic import Field

from stalegrad import rules
from stalegrad.data_order import IndependentOrder
from stalegrad.planning.bundle import Bundle
from stalegrad.problems.least_squares import LeastSquares
from stalegrad.rules import Numbers, Rule, RuleState, steps_digest
from stalegrad.rules.adam import Adam
from stalegrad.rules.dc_asgd import DelayCompensation
from stalegrad.rules.delay_adaptive import DelayAdaptive
from stalegrad.rules.delayed_nesterov import DelayedNesterov
from stalegrad.rules.gap_aware import GapAware
from stalegrad.rules.muon import Muon
from stalegrad.rules.sgd import SGD
from stalegrad.rules.staleness_scaled import StalenessScaled
from stalegrad.specs import spec
from stalegrad.training import kernel_replay
from stalegrad.training.backends.cpu_synthetic import SyntheticBackend
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle

if TYPE_CHECKING:
    from torch import Tensor


@spec
class Power(Rule):
    """Steps by an odd power of the running mean of the gradient."""

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.5
    exponent: Annotated[int, Field(ge=1)] = 3

    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        return {"mean": weights.new_zeros(weights.shape)}

    @staticmethod
    def update(gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers):
        mean = state["mean"] * numbers["decay"] + gradient * (1 - numbers["decay"])
        step = mean.sign() * mean.abs().pow(numbers["exponent"])
        return weights - numbers["lr"] * step, {"mean": mean}


@spec
class Half(SGD):
    """Half the step that the learning rate says, by its numbers alone."""

    def numbers(self) -> dict[str, float | bool]:
        return super().numbers() | {"lr": self.lr / 2}


@spec
class HalfInKernels(Half):
    """The same, with a form for kernels: a factor of the learning rate is theirs to take."""

    def numbers(self) -> dict[str, float | bool]:
        return SGD.numbers(self)

    def step_factors(self, schedule):
        return torch.full((schedule.arrivals,), 0.5).numpy()

    def kernel_form(self, state: RuleState):
        return super().kernel_form(state)


HalfInKernels.kernel_steps = steps_digest(HalfInKernels)


@spec
class Edited(SGD):
    """As SGD is after an edit: it has the form of the steps before."""

    kernel_steps = SGD.kernel_steps

    def kernel_form(self, state: RuleState):
        return super().kernel_form(state)

    @staticmethod
    def update(gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers):
        return SGD.update(0 * gradient, weights, state, numbers)


@spec
class Corrected(SGD):
    @staticmethod
    def correct(gradient, read_weights, weights, state, numbers):
        return gradient + 0.1 * (weights - read_weights), state


@spec
class Started(Adam):
    @staticmethod
    def init(weights: "Tensor") -> RuleState:
        state = Adam.init(weights)
        return {**state, "square": torch.ones_like(state["square"])}


@spec
class Backwards(DelayCompensation):
    @staticmethod
    def update(gradient: "Tensor", weights: "Tensor", state: RuleState, numbers: Numbers):
        return DelayCompensation.update(-gradient, weights, state, numbers)


@spec
class Renamed(SGD):
    """Changes nothing."""

    sort: str = "another"


OWN = [
    Power(lr=0.5, exponent=1, decay=0.25),
    Half(lr=0.1, momentum=0.9),
    HalfInKernels(lr=0.1, momentum=0.9),
    Corrected(lr=0.1),
    Started(lr=0.1),
    Backwards(lr=0.1, compensation=1.0),
    Renamed(lr=0.1, momentum=0.9, nesterov=True),
]
# Rules of the package that no kernel knows.
WITHOUT_KERNEL = [
    GapAware(lr=0.02, momentum=0.9),
    DelayedNesterov(lr=0.05, period=3),
    Muon(lr=0.01, adam_lr=0.001),
]
STALE = [0, 0, 1, 0, 2, 2, 4, 6]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    problem = LeastSquares(rows=64, dimension=8)
    return problem.load(tmp_path_factory.mktemp("data"), torch.device("cpu"), torch.float64)


def replayed(task, rule: Rule, backend):
    """Weights after each arrival; by the loop, as a captured step and in a kernel, which agree."""
    order = IndependentOrder(64, 64, 8, seed=1)
    runs = [plan(rule, make_schedule(STALE), order)]
    return torch.cat(trajectory(task, runs, backend)[0])


@pytest.mark.parametrize("rule", OWN + WITHOUT_KERNEL, ids=lambda rule: type(rule).__name__)
def test_every_way_to_replay_gives_the_same(task, rule):
    ways = [VmapBackend(task), SyntheticBackend(task, "linear_model")]
    found = [replayed(task, rule, backend) for backend in ways]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-14)
    assert found[0][-1].abs().max() > 1e-3  # it has moved


def test_what_the_changes_mean(task):
    backend = SyntheticBackend(task, "linear_model")
    plain = replayed(task, SGD(lr=0.05, momentum=0.9), backend)
    for rule in (Half, HalfInKernels):
        found = replayed(task, rule(lr=0.1, momentum=0.9), backend)
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        *((known, True) for known in (SGD, DelayCompensation, Adam, DelayAdaptive)),
        (StalenessScaled, True),
        *((Renamed, True), (HalfInKernels, True)),
        *(
            (changed, False)
            for changed in (Rule, Power, Half, Edited, Corrected, Started, Backwards)
        ),
        *((type(rule), False) for rule in WITHOUT_KERNEL),
    ],
)
def test_a_kernel_form_holds_until_a_step_is_changed(rule, wanted):
    assert rule.has_kernel_form() == wanted


def test_an_edited_step_is_said_to_be_slower(capsys):
    rules._steps_are.cache_clear()
    assert not Edited.has_kernel_form() and not Edited.has_kernel_form()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: the steps of the rule Edited are not those that its kernel")
    assert line.endswith(f"set 'kernel_steps' in {__file__} to '{steps_digest(Edited)}'.")


@pytest.mark.parametrize("rule", [SGD, DelayCompensation, Adam])
def test_a_kernel_computes_the_steps_as_they_are(rule):
    """After an edit of a step, change replay.h alike, and the digest beside `kernel_form`."""
    assert vars(rule)["kernel_steps"] == steps_digest(rule)


def test_only_what_has_a_form_goes_into_a_kernel(task):
    order, backend = IndependentOrder(64, 64, 8, seed=1), SyntheticBackend(task, "linear_model")
    for rule in OWN:
        run = plan(rule, make_schedule(STALE), order)
        assert kernel_replay.can_advance([run], backend) == type(rule).has_kernel_form()


@pytest.mark.parametrize("rule", OWN[:2] + WITHOUT_KERNEL, ids=lambda rule: type(rule).__name__)
def test_training_gives_the_same_on_every_backend(tmp_path, data_folder, rule):
    cells = tuple(small_cell(rule={"name": "sgd", "lr": 0.01}, seed=seed) for seed in (1, 2))
    own = tuple(replace(cell, rule=rule) for cell in cells)
    losses = {}
    for backend in ("torch", "cpu", "batched"):
        train_bundle(Bundle(own), out := tmp_path / backend, Place(data_folder, "cpu", backend))
        losses[backend] = pd.read_csv(out)["train_loss"].to_numpy()
    for other in ("cpu", "batched"):
        np.testing.assert_allclose(losses[other], losses["torch"], rtol=1e-4)
    assert len(set(losses["torch"])) == 6  # of two runs and three epochs, all apart
