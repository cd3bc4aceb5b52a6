"""The variance of gradients over minibatches, against one gradient after the other by autograd."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small_cell

from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.problems import Task
from stalegrad.training.backends.vmap import VmapBackend
from stalegrad.training.bundles import Place, train_bundle
from stalegrad.training.gradient_noise import gradient_noise

NAMES = ["gradient_variance", "mean_gradient_square"]


def quadratic(targets: list[float]) -> Task:
    """Loss (w - t)^2 / 2 of one weight, whose gradient on a minibatch is w - mean(t)."""
    values = torch.tensor(targets, dtype=torch.float64)
    return Task(
        name="quadratic",
        parameters=1,
        initial_weights=lambda seed: torch.zeros(1, dtype=torch.float64),
        loss=lambda w, x, y: ((w - y) ** 2).mean() / 2,
        metrics=lambda w, x, y: {},
        train=(values, values),
        test=(values, values),
        options={},
    )


def test_by_hand():
    """Minibatches (0, 2), (4, 6) and (8, 10), whose means are 1, 5 and 9; 100 is not used.

    At w = 0 and 6 the gradients are -1, -5, -9 and 5, 1, -3: variance 16, means -5 and 1.
    """
    task = quadratic([0, 2, 4, 6, 8, 10, 100])
    weights = torch.tensor([[0.0], [6.0]], dtype=torch.float64)
    found = gradient_noise(task, VmapBackend(task), weights, batch_size=2, batches=3)
    assert list(found) == NAMES
    assert found["gradient_variance"].tolist() == pytest.approx([16, 16])
    assert found["mean_gradient_square"].tolist() == pytest.approx([25, 1])


def test_equals_autograd_on_a_network(lenet):
    weights = torch.stack([lenet.initial_weights(seed) for seed in (1, 2)])
    found = gradient_noise(lenet, VmapBackend(lenet), weights, batch_size=4, batches=3)
    for run, start in enumerate(weights):
        gradients = []
        for first in (0, 4, 8):
            w = start.clone().requires_grad_()
            inputs, targets = (part[first : first + 4] for part in lenet.train)
            lenet.loss(w, inputs, targets).backward()
            gradients.append(w.grad.numpy())
        each = np.stack(gradients)
        wanted = each.var(axis=0, ddof=1).sum(), (each.mean(axis=0) ** 2).sum()
        assert [found[name][run].item() for name in NAMES] == pytest.approx(wanted, rel=1e-9)


def test_a_loss_with_random_numbers_is_an_error(lenet):
    noisy = replace(lenet, noise=3)
    with pytest.raises(ConfigError, match="takes some .dropout.; leave it out"):
        gradient_noise(noisy, VmapBackend(lenet), torch.zeros(1, lenet.parameters), 4, 3)


def test_trajectory_has_it_at_the_start_and_at_every_stop(data_folder, tmp_path):
    """What is recorded of the weights changes nothing of how they are trained."""
    cells = (small_cell(cluster__delay=2), small_cell(cluster__delay=2, seed=2))
    place = Place(data_folder, device="cpu")
    tables = {}
    for batches in (None, 3):
        bundle = Bundle(cells, per_epoch=2, gradient_batches=batches)
        output = tmp_path / f"{batches}.csv"
        train_bundle(bundle, output, place)
        tables[batches] = pd.read_csv(output)
    recorded = tables[3]
    assert recorded.drop(columns=NAMES).equals(tables[None])
    assert (recorded[NAMES] > 0).all().all()
    assert recorded.groupby("run")["gradient_variance"].nunique().min() > 2
