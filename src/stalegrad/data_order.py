"""Which samples each worker sees, and in which order."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, PlainValidator

from stalegrad.schedule import Workload
from stalegrad.specs import spec

# What random numbers are drawn for, from one seed; never renumber, or old results change.
WEIGHTS, ORDER, PARTITION, CLUSTER, DROPOUT, SYNTHETIC = range(6)


def generator(seed: int, purpose: int, *more: int) -> np.random.Generator:
    """An independent generator for one purpose of one run (and epoch, stream, ...)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *more)))


def minibatch_noise(
    seed: int, stream: int, batch: int, samples: int, per_sample: int
) -> np.ndarray:
    """Random bytes [samples, per_sample] of a minibatch, numbered within its stream.

    The same whatever else is trained beside it, and for all runs that share the minibatch.
    """
    rng = generator(seed, DROPOUT, stream, batch)
    return rng.integers(256, size=(samples, per_sample), dtype=np.uint8)


Partition = Literal[
    "shared", "independent", "none", "dataset", "labels", "labels_uncut", "labels_uneven"
]
PARTITIONS: tuple[Partition, ...] = get_args(Partition)


@spec
class Dirichlet:
    """Labels skewed more the smaller `alpha` is: of each class, the shares of the n workers are
    drawn from the Dirichlet distribution whose n parameters are all alpha (Yurochkin et al. 2019;
    `p_k ~ Dir(alpha)` of Li et al. 2022).

    alpha: 0.1 is a strong skew. Towards 0 each class goes to one worker, as a whole; towards
        infinity every worker gets the same share of each class, to a sample. `.inf` is the
        partition `dataset`, which has these shares on average.
    """

    name: Literal["dirichlet"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=True)]


def _read(value: Any) -> Any:
    """The partition that configuration names or describes; a partition stays itself."""
    if isinstance(value, Mapping):  # errors inside come out under this field's name, then the key's
        return Dirichlet(**{str(key): each for key, each in value.items()})
    if isinstance(value, Dirichlet) or value in PARTITIONS:
        return value
    names = ", ".join(map(repr, PARTITIONS))
    raise ValueError(f"input should be {names} or {{'name': 'dirichlet', 'alpha': 0.1}}")


# The type of a field that holds a partition: takes the mapping of a configuration as well.
AnyPartition = Annotated[Partition | Dirichlet, PlainValidator(_read)]

_DRAWS = 100_000  # of shares, until every worker has enough: some five seconds


def split(
    partition: str | Dirichlet, targets: np.ndarray, workers: int, seed: int, least: int = 1
) -> tuple[np.ndarray, ...]:
    """Sample numbers of each data stream, for integer `targets` [N].

    shared: one stream over all samples, from which every gradient takes the next minibatch.
    independent: the same, of minibatches drawn with replacement (see `IndependentOrder`).

    All others give every worker a stream of its own (Lamour et al. 2023, section II.B):

    none: all samples, in an order of its own. So n workers compute n times the gradients.
    dataset: equal parts of a random permutation; the fewer than n samples left over are dropped.
    labels: the samples of some classes. Classes are shuffled and dealt round-robin, and parts cut
        to the shortest.
    labels_uncut: the same with parts left as long as they are.
    labels_uneven: the same, where some workers may get one class more than others.
    Dirichlet: every sample to one worker, by shares of its class. Shares are drawn anew until every
        worker has `least` samples.

    Raises ValueError for another name, as `check_labels` where classes cannot be dealt so, and
    where no draw leaves every worker `least` samples.
    """
    partition = named(partition)
    if isinstance(partition, Dirichlet):
        rng = generator(seed, PARTITION)
        return _by_shares(partition.alpha, targets, workers, least, rng)
    if partition not in PARTITIONS:
        raise ValueError(f"{partition!r} is not a partition; allowed: {', '.join(PARTITIONS)}")
    everything = np.arange(len(targets))
    if partition in ("shared", "independent"):
        return (everything,)
    if partition == "none":
        return (everything,) * workers
    rng = generator(seed, PARTITION)
    if partition == "dataset":
        part = len(targets) // workers
        return tuple(rng.permutation(len(targets))[: part * workers].reshape(workers, part))
    classes = np.unique(targets)
    check_labels(partition, len(classes), workers)
    dealt = deal_labels(classes, workers, rng)
    parts = [np.flatnonzero(np.isin(targets, hand)) for hand in dealt]
    if partition == "labels":
        # Which samples the cut leaves out is left to chance.
        shortest = min(map(len, parts))
        parts = [np.sort(rng.permutation(part)[:shortest]) for part in parts]
    return tuple(parts)


def named(partition: str | Dirichlet) -> str | Dirichlet:
    """The partition, by its name where it is one that has a name of its own."""
    unskewed = isinstance(partition, Dirichlet) and math.isinf(partition.alpha)
    return "dataset" if unskewed else partition


def _by_shares(
    alpha: float, targets: np.ndarray, workers: int, least: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """The partition `Dirichlet`. Which samples of a class a worker gets is left to chance."""
    classes, sizes = np.unique(targets, return_counts=True)
    ends = _drawn_ends(alpha, sizes, workers, least, rng)
    shuffled = (rng.permutation(np.flatnonzero(targets == each)) for each in classes)
    dealt = [np.split(samples, cuts) for samples, cuts in zip(shuffled, ends, strict=True)]
    return tuple(np.sort(np.concatenate(part)) for part in zip(*dealt, strict=True))


def _drawn_ends(
    alpha: float, sizes: np.ndarray, workers: int, least: int, rng: np.random.Generator
) -> np.ndarray:
    """Where to cut the samples of each class, of which there are `sizes` [C], between the workers
    [C, workers - 1]."""
    draws = _DRAWS if least * workers <= sizes.sum() else 0
    for _ in range(draws):
        shares = rng.dirichlet(np.full(workers, alpha), len(sizes))
        ends = np.rint(np.cumsum(shares, axis=1) * sizes[:, None]).astype(np.int64)
        if np.diff(ends, axis=1, prepend=0).sum(axis=0).min() >= least:
            return ends[:, :-1]
    raise ValueError(
        f"with 'alpha' {alpha:g} some of the {workers} workers always get fewer than {least} of "
        f"{sizes.sum()} samples; choose a larger 'alpha', fewer workers or a smaller 'batch_size'"
    )


def deal_labels(
    classes: np.ndarray, workers: int, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """The classes of each worker: shuffled and dealt round-robin.

    In a run, `rng` is `generator(seed, PARTITION)`, fresh.
    """
    shuffled = rng.permutation(classes)
    return tuple(shuffled[w::workers] for w in range(workers))


def check_labels(partition: str, classes: int, workers: int) -> None:
    """Raises ValueError where `partition` cannot deal so many classes to so many workers."""
    if not partition.startswith("labels"):
        return
    if workers > classes:
        raise ValueError(
            f"{workers} workers and {classes} classes: with a partition by labels some workers "
            f"would have no data; use at most {classes} workers, or partition 'dataset'"
        )
    if classes % workers and partition != "labels_uneven":
        raise ValueError(
            f"{classes} classes cannot be dealt evenly to {workers} workers; use a number of "
            f"workers that divides {classes}, or partition 'labels_uneven' to give some one more"
        )


@dataclass(frozen=True)
class DataOrder:
    """Minibatches without replacement: every stream is shuffled anew each epoch.

    parts: sample numbers of each stream. Samples past the last full minibatch of an epoch are left
    out of that epoch, so that every minibatch has the same size. local_steps: minibatches that go
    to a worker at once; `batch` numbers these.
    """

    parts: tuple[np.ndarray, ...]
    batch_size: int
    seed: int
    local_steps: int = 1

    @property
    def taken(self) -> int:
        """Samples that a worker takes at once."""
        return self.local_steps * self.batch_size

    def workload(self, epochs: int) -> Workload:
        batches = tuple(len(part) // self.taken for part in self.parts)
        return Workload(batches, epochs, self.local_steps)

    def indices(self, stream: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Sample numbers [n, taken] of minibatches [n], each numbered within its stream."""
        out = np.empty((len(batch), self.taken), np.int64)
        for s in np.unique(stream):
            part = self.parts[s]
            per_epoch = len(part) // self.taken
            epoch = batch // per_epoch
            for e in np.unique(epoch[stream == s]):
                shuffled = generator(self.seed, ORDER, int(s), int(e)).permutation(part)
                rows = shuffled[: per_epoch * self.taken].reshape(per_epoch, -1)
                wanted = (stream == s) & (epoch == e)
                out[wanted] = rows[batch[wanted] - e * per_epoch]
        return out


# Minibatches drawn from one generator; part of what a seed means, so never to be changed.
_BLOCK = 64


@dataclass(frozen=True)
class IndependentOrder:
    """Minibatches drawn with replacement, each independent of all others, as theorems assume.

    samples: in the one stream there is; epoch_samples: how many draws count as an epoch, which
    decides no more than when the history is recorded. local_steps: as in `DataOrder`.
    """

    samples: int
    epoch_samples: int
    batch_size: int
    seed: int
    local_steps: int = 1

    @property
    def taken(self) -> int:
        """Samples that a worker takes at once."""
        return self.local_steps * self.batch_size

    def workload(self, epochs: int) -> Workload:
        return Workload((self.epoch_samples // self.taken,), epochs, self.local_steps)

    def indices(self, stream: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Sample numbers [n, taken] of minibatches [n] of stream 0."""
        out = np.empty((len(batch), self.taken), np.int64)
        block, row = np.divmod(batch, _BLOCK)
        for b in np.unique(block):
            wanted = block == b
            rng = generator(self.seed, ORDER, 0, int(b))
            drawn = rng.integers(self.samples, size=(_BLOCK, self.taken))
            out[wanted] = drawn[row[wanted]]
        return out


Order = DataOrder | IndependentOrder
