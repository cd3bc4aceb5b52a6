"""Which samples each worker sees, and in which order."""

from dataclasses import dataclass

import numpy as np

from stalegrad.schedule import Workload

# Streams of random numbers drawn from one seed; never renumber, or old results change.
WEIGHTS, ORDER, PARTITION, CLUSTER, DROPOUT = range(5)


def generator(seed: int, purpose: int, *more: int) -> np.random.Generator:
    """An independent generator for one purpose of one run (and epoch, stream, ...)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *more)))


def split(partition: str, targets: np.ndarray, workers: int, seed: int) -> tuple[np.ndarray, ...]:
    """Sample numbers of each data stream.

    shared: one stream over all samples, from which every gradient takes the next minibatch.
    """
    if partition == "shared":
        return (np.arange(len(targets)),)
    raise ValueError(f"{partition!r} is not a partition; allowed: shared.")


@dataclass(frozen=True)
class DataOrder:
    """Minibatches without replacement: every stream is shuffled anew each epoch.

    parts: sample numbers of each stream. Samples past the last full minibatch of an epoch are left
    out of that epoch, so that every minibatch has the same size.
    """

    parts: tuple[np.ndarray, ...]
    batch_size: int
    seed: int

    def workload(self, epochs: int) -> Workload:
        return Workload(tuple(len(part) // self.batch_size for part in self.parts), epochs)

    def indices(self, stream: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Sample numbers [n, batch_size] of minibatches [n], each numbered within its stream."""
        out = np.empty((len(batch), self.batch_size), np.int64)
        for s in np.unique(stream):
            part = self.parts[s]
            per_epoch = len(part) // self.batch_size
            epoch = batch // per_epoch
            for e in np.unique(epoch[stream == s]):
                shuffled = generator(self.seed, ORDER, int(s), int(e)).permutation(part)
                rows = shuffled[: per_epoch * self.batch_size].reshape(per_epoch, -1)
                wanted = (stream == s) & (epoch == e)
                out[wanted] = rows[batch[wanted] - e * per_epoch]
        return out
