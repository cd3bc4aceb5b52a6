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
    Dirichlet,
    IndependentOrder,
    minibatch_noise,
    split,
)
from stalegrad.io.errors import ConfigError
from stalegrad.planning.bundle import Bundle
from stalegrad.planning.cell import parse_cell
from stalegrad.training.bundles import order_of

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


# ---- Dirichlet ----


def counts_of(parts) -> np.ndarray:
    """Samples of each class [workers, 10]."""
    return np.array([np.bincount(TARGETS[part], minlength=10) for part in parts])


@given(
    alpha=st.floats(1e-3, 1e6),
    workers=st.integers(1, 6),
    least=st.integers(1, 20),
    seed=st.integers(0, 1_000),
)
def test_shares_deal_every_sample_once(alpha, workers, least, seed):
    parts = split(Dirichlet(alpha=alpha), TARGETS, workers, seed, least)
    assert len(parts) == workers and min(map(len, parts)) >= least
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1_003))
    again = split(Dirichlet(alpha=alpha), TARGETS, workers, seed, least)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_which_samples_a_seed_deals_by_shares():
    """Never to change, as above."""
    parts = split(Dirichlet(alpha=0.5), np.arange(12) % 3, 2, seed=1)
    assert [part.tolist() for part in parts] == [[1, 4, 5, 6, 7, 10], [0, 2, 3, 8, 9, 11]]


@given(seed=st.integers(0, 200), workers=st.integers(1, 4))
def test_towards_0_a_class_is_not_divided(seed, workers):
    counts = counts_of(split(Dirichlet(alpha=1e-9), TARGETS, workers, seed))
    assert ((counts > 0).sum(axis=0) == 1).all() and (counts.sum(axis=1) > 0).all()


def test_towards_0_each_of_as_many_workers_as_classes_has_one():
    counts = counts_of(split(Dirichlet(alpha=1e-9), TARGETS, 10, 1))
    assert ((counts > 0).sum(axis=0) == 1).all() and ((counts > 0).sum(axis=1) == 1).all()


@given(seed=st.integers(0, 1_000), workers=st.integers(1, 10))
def test_towards_infinity_every_class_is_divided_equally(seed, workers):
    """To a sample: what the split at random does on average."""
    counts = counts_of(split(Dirichlet(alpha=1e12), TARGETS, workers, seed))
    assert np.abs(counts - np.bincount(TARGETS) / workers).max() <= 1


def test_at_infinity_it_is_the_split_at_random():
    infinite = split(Dirichlet(alpha=np.inf), TARGETS, 5, 3)
    for one, other in zip(infinite, split("dataset", TARGETS, 5, 3), strict=True):
        assert np.array_equal(one, other)
    server = {"name": "parameter_server", "workers": 5, "compute_ms": 1.0}
    cells = [
        parse_cell(small_cell().as_dict() | {"cluster": server, "partition": each}, "a.yaml")
        for each in ({"name": "dirichlet", "alpha": float("inf")}, "dataset")
    ]
    assert cells[0].workload() == cells[1].workload() is not None


def test_shares_have_the_moments_of_their_distribution():
    """Of each class, mean 1 / n and variance (1 - 1 / n) / n / (n alpha + 1)."""
    workers, alpha, sizes = 4, 0.7, np.bincount(TARGETS)
    draws = [counts_of(split(Dirichlet(alpha=alpha), TARGETS, workers, s)) for s in range(300)]
    shares = np.array(draws) / sizes  # [seeds, workers, classes]
    variance = (1 - 1 / workers) / workers / (workers * alpha + 1)
    assert shares.mean(axis=(0, 2)) == pytest.approx(1 / workers, abs=0.02)
    assert shares.var(axis=(0, 2)) == pytest.approx(variance, rel=0.1)


def test_a_worker_gets_samples_of_a_class_at_random():
    first = np.flatnonzero(TARGETS == 3)
    part = split(Dirichlet(alpha=1e12), TARGETS, 2, 1)[0]
    own = part[TARGETS[part] == 3]
    assert own.tolist() == sorted(own) and own.tolist() != first[: len(own)].tolist()


@pytest.mark.parametrize("workers, least", [(4, 251), (11, 1)])
def test_shares_that_leave_a_worker_too_little_are_refused(workers, least, monkeypatch):
    monkeypatch.setattr(data_order, "_DRAWS", 200)
    said = f"with 'alpha' 1e-09 some of the {workers} workers always get fewer than {least} of 1003"
    with pytest.raises(ValueError, match=said):
        split(Dirichlet(alpha=1e-9), TARGETS, workers, 1, least)


def dealt(partition, **changes):
    server = {"name": "parameter_server", "workers": 2, "compute_ms": 1.0}
    return parse_cell(small_cell(**changes).as_dict() | {"cluster": server} | partition, "a.yaml")


def test_a_cell_is_dealt_by_shares():
    keys = {"partition": {"name": "dirichlet", "alpha": 0.1}}
    cell = dealt(keys)
    assert cell.partition == Dirichlet(alpha=0.1) and cell.hash == "e57ede2dda2407ca"
    assert cell.as_dict()["partition"] == keys["partition"]
    assert {cell.columns()[key] for key in ("partition", "alpha")} == {"dirichlet", 0.1}
    assert Bundle.from_json(Bundle((cell,)).to_json(), "a.json").cells == (cell,)
    assert len({cell.hash, dealt(keys, seed=2).hash, dealt({"partition": "dataset"}).hash}) == 3
    # A part is a minibatch at least, although a draw may leave less.
    sizes = [
        min(len(part) for part in order_of(dealt(keys, seed=seed), TARGETS[:60]).parts)
        for seed in range(1, 40)
    ]
    assert min(sizes) >= cell.batch_size
    assert min(len(split(cell.partition, TARGETS[:60], 2, s)[0]) for s in range(40)) < min(sizes)


def test_an_infinite_alpha_survives_its_files():
    cell = dealt({"partition": {"name": "dirichlet", "alpha": float("inf")}})
    assert Bundle.from_json(Bundle((cell,)).to_json(), "a.json").cells == (cell,)


@pytest.mark.parametrize(
    ("partition", "said"),
    [
        ({"name": "dirichlet"}, "'partition.alpha' is missing and has no default"),
        ({"name": "dirichlet", "alpha": 0}, "'partition.alpha' is 0: input should be greater than"),
        ({"name": "dirichlet", "alpha": float("nan")}, "'partition.alpha' is nan: "),
        ({"name": "dirichlet", "alpha": "0.1"}, "'partition.alpha' is the text '0.1'; a number"),
        ({"name": "dirichlet", "alpha": 1.0, "beta": 2}, "'partition.beta' is not a known key"),
        ({"name": "labels", "alpha": 1.0}, "'partition.name' is 'labels': input should be 'dirich"),
        ("dirichlet", "or {'name': 'dirichlet', 'alpha': 0.1}"),
    ],
)
def test_what_is_no_partition_is_refused(partition, said):
    with pytest.raises(ConfigError) as caught:
        dealt({"partition": partition})
    assert said in str(caught.value)


def test_labels_are_needed():
    problem = {"name": "least_squares", "rows": 160}
    keys = {"problem": problem, "partition": {"name": "dirichlet", "alpha": 1.0}}
    with pytest.raises(ConfigError, match="'least_squares' has no labels; use another partition"):
        dealt(keys)
    dealt(keys | {"partition": {"name": "dirichlet", "alpha": float("inf")}})


def test_unknown_partition_is_refused():
    with pytest.raises(ValueError, match="'halves' is not a partition; allowed: shared, "):
        split("halves", TARGETS, 2, 1)


def test_configuration_refuses_what_the_data_would():
    cluster = {"name": "parameter_server", "workers": 4, "compute_ms": 1.0}
    values = small_cell().as_dict() | {"cluster": cluster, "partition": "labels"}
    with pytest.raises(ConfigError, match="a.yaml: 'partition' is 'labels': 10 classes cannot"):
        parse_cell(values, "a.yaml")
    assert parse_cell(values | {"partition": "labels_uneven"}, "a.yaml").cluster.workers == 4
