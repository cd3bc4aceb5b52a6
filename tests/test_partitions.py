"""Partitions: who gets which samples."""

import numpy as np
import pytest
from helpers import small_cell
from hypothesis import given
from hypothesis import strategies as st

from stalegrad import data_order
from stalegrad.data_order import (
    PARTITIONS,
    DataOrder,
    IndependentOrder,
    minibatch_noise,
    split,
)
from stalegrad.io.errors import ConfigError
from stalegrad.planning.cell import parse_cell

TARGETS = np.random.default_rng(0).integers(10, size=1_003)


def classes(part):
    return set(TARGETS[part].tolist())


# What a seed stands for in every result there is, the archived ones included: never to change.


@pytest.mark.parametrize(
    ("purpose", "drawn"),
    [
        (data_order.WEIGHTS, [11727853, 6352724, 5167672]),
        (data_order.ORDER, [7982004, 15107588, 11120979]),
        (data_order.PARTITION, [3911914, 8289662, 6394218]),
        (data_order.CLUSTER, [1914693, 206728, 10129919]),
        (data_order.DROPOUT, [10251397, 7630148, 14671003]),
        (data_order.SYNTHETIC, [4747533, 712386, 5611381]),
    ],
)
def test_what_a_seed_stands_for(purpose, drawn):
    generators = [data_order.generator(1, purpose, *more) for more in ((), (0, 0), (2, 3))]
    assert [int(g.bit_generator.random_raw()) >> 40 for g in generators] == drawn


def test_which_samples_a_seed_draws():
    order = DataOrder((np.arange(10), np.arange(10, 20)), 3, seed=1)
    rows = order.indices(np.array([0, 0, 1]), np.array([0, 3, 2]))
    assert rows.tolist() == [[5, 3, 0], [9, 1, 6], [11, 18, 13]]
    independent = IndependentOrder(samples=1000, epoch_samples=100, batch_size=3, seed=1)
    rows = independent.indices(np.zeros(3, int), np.array([0, 63, 64]))
    assert rows.tolist() == [[387, 900, 98], [150, 683, 787], [759, 51, 554]]
    halves = split("dataset", np.arange(10), 2, seed=1)
    assert [part.tolist() for part in halves] == [[7, 8, 6, 2, 4], [1, 0, 5, 9, 3]]
    assert split("labels", np.arange(8) % 4, 2, seed=1)[0].tolist() == [1, 2, 5, 6]
    assert minibatch_noise(1, 0, 2, 1, 4).tolist() == [[191, 206, 3, 251]]


@pytest.mark.parametrize("partition", PARTITIONS)
def test_same_seed_same_parts(partition):
    first, again, other = (split(partition, TARGETS, 5, seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    differs = any(len(a) != len(b) or (a != b).any() for a, b in zip(first, other, strict=True))
    assert differs == (partition not in ("shared", "independent", "none"))


def test_shared_is_one_stream_and_none_is_all_samples_for_every_worker():
    (stream,) = split("shared", TARGETS, 5, 1)
    assert (stream == np.arange(1_003)).all()
    parts = split("none", TARGETS, 5, 1)
    assert len(parts) == 5 and all((part == np.arange(1_003)).all() for part in parts)


def test_workers_without_a_partition_have_orders_of_their_own():
    order = DataOrder(split("none", TARGETS, 2, 1), 10, seed=1)
    first, second = order.indices(np.array([0, 1]), np.array([0, 0]))
    assert (first != second).any()


def test_dataset_is_cut_into_equal_random_parts():
    parts = split("dataset", TARGETS, 5, 1)
    together = np.concatenate(parts)
    assert [len(part) for part in parts] == [200] * 5
    assert len(np.unique(together)) == 1_000
    assert all(classes(part) == set(range(10)) for part in parts)
    assert (np.diff(parts[0]) < 0).any()


@given(seed=st.integers(0, 1_000), workers=st.sampled_from([1, 2, 5, 10]))
def test_labels_are_dealt_whole_and_evenly(seed, workers):
    parts = split("labels_uncut", TARGETS, workers, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1_003))
    owned = [classes(part) for part in parts]
    assert all(len(own) == 10 // workers for own in owned)
    assert set().union(*owned) == set(range(10))
    cut = split("labels", TARGETS, workers, seed)
    assert {len(part) for part in cut} == {min(map(len, parts))}
    assert all(set(c) <= set(p) for c, p in zip(cut, parts, strict=True))


def test_labels_are_shuffled_before_they_are_dealt():
    assert len({tuple(sorted(classes(split("labels", TARGETS, 5, s)[0]))) for s in range(20)}) > 5


def test_cut_is_random():
    """Not the first samples of a class."""
    parts, uncut = (split(name, TARGETS, 10, 1) for name in ("labels", "labels_uncut"))
    longest = max(range(10), key=lambda w: len(uncut[w]))
    assert (parts[longest] != uncut[longest][: len(parts[longest])]).any()


@pytest.mark.parametrize("partition", ["labels", "labels_uncut"])
@pytest.mark.parametrize("workers", [3, 4, 6, 7, 8, 9])
def test_labels_that_cannot_be_dealt_evenly_are_refused(partition, workers):
    with pytest.raises(ValueError, match=f"cannot be dealt evenly to {workers} workers"):
        split(partition, TARGETS, workers, 1)


def test_uneven_dealing_must_be_asked_for():
    parts = split("labels_uneven", TARGETS, 3, 1)
    assert [len(classes(part)) for part in parts] == [4, 3, 3]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1_003))


@pytest.mark.parametrize("partition", ["labels", "labels_uncut", "labels_uneven"])
def test_more_workers_than_labels_are_refused(partition):
    with pytest.raises(ValueError, match="some workers would have no data"):
        split(partition, TARGETS, 11, 1)


def test_unknown_partition_is_refused():
    with pytest.raises(ValueError, match="'halves' is not a partition; allowed: shared, "):
        split("halves", TARGETS, 2, 1)


def test_configuration_refuses_what_the_data_would():
    cluster = {"name": "parameter_server", "workers": 4, "compute_ms": 1.0}
    values = small_cell().as_dict() | {"cluster": cluster, "partition": "labels"}
    with pytest.raises(ConfigError, match="a.yaml: 'partition' is 'labels': 10 classes cannot"):
        parse_cell(values, "a.yaml")
    assert parse_cell(values | {"partition": "labels_uneven"}, "a.yaml").cluster.workers == 4
