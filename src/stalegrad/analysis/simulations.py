"""Staleness alone: clusters simulated many times, without computing a gradient."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from stalegrad import specs
from stalegrad.clusters._staleness import StalenessSample, sample_schedules
from stalegrad.clusters.hub_and_spoke import HubAndSpoke, simulate_staleness
from stalegrad.data_order import CLUSTER, generator
from stalegrad.planning.cell import SimulationCell

Arrays = dict[str, np.ndarray]


def simulate_all(name: str, cells: list[SimulationCell]) -> tuple[pd.DataFrame, bytes]:
    """All cells of a simulation: their rows, and the npz with `<array>_<index>` of each."""
    tables: list[pd.DataFrame] = []
    arrays: Arrays = {}
    for index, cell in enumerate(cells):
        rows, kept = simulate(cell, index)
        columns = {"simulation": name, "index": index, **_columns(cell)}
        tables.append(rows.assign(**columns)[[*columns, *rows.columns]])
        arrays |= {f"{key}_{index}": value for key, value in kept.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return pd.concat(tables, ignore_index=True), buffer.getvalue()


def simulate(cell: SimulationCell, index: int) -> tuple[pd.DataFrame, Arrays]:
    """Staleness of `cell.cluster`, the `index`-th of its simulation: rows, and arrays to keep."""
    if cell.updates:
        rows, arrays = _first_updates(cell, cell.updates, index)
    else:
        rows, arrays = _long_run(cell, index)
    if cell.schedule:
        arrays |= _first_schedule(cell, index)
    return rows, arrays


def _long_run(cell: SimulationCell, index: int) -> tuple[pd.DataFrame, Arrays]:
    """One row a replicate, and `histogram` [replicates, bins] of staleness just before the update.

    Columns: mean_before and mean_after, counted just before and just after the update; largest
    (before); update_rate a simulated second; the simulated seconds counted; and of the histogram
    deviation, skewness and normal_distance (see `shape`), which are NaN where staleness went beyond
    its last bin.
    """
    sample = _sample(cell, generator(0, CLUSTER, index))
    rows = pd.DataFrame(
        {
            "replicate": np.arange(cell.replicates),
            "mean_before": sample.mean_before,
            "mean_after": sample.mean_after,
            "largest": sample.largest,
            "update_rate": sample.update_rate,
            "seconds": sample.seconds,
            **pd.DataFrame([shape(counts) for counts in sample.histogram]),
        }
    )
    return rows, {"histogram": sample.histogram}


def _sample(cell: SimulationCell, random: np.random.Generator) -> StalenessSample:
    """`hub_and_spoke` without a policy is counted after `skipped` arrivals; others from start to
    end."""
    bins = 16 * cell.cluster.streams() + 64
    if isinstance(cell.cluster, HubAndSpoke) and cell.cluster.policy is None:
        return simulate_staleness(
            cell.cluster, cell.workload.total, cell.replicates, random, skip=cell.skipped, bins=bins
        )
    return sample_schedules(cell.cluster, cell.workload, cell.replicates, random, bins)


def _first_updates(cell: SimulationCell, updates: int, index: int) -> tuple[pd.DataFrame, Arrays]:
    """One row with means over all replicates, and of each update, over replicates, the mean and
    the standard deviation of its gradients' mean staleness just before it: `by_update` and
    `by_update_deviation`, both [updates]."""
    sample = simulate_staleness(
        cell.cluster,
        cell.workload.total,
        cell.replicates,
        generator(0, CLUSTER, index),
        updates=updates,
        bins=1,
    )
    row = {
        "replicates": cell.replicates,
        "mean_before": sample.mean_before.mean(),
        "mean_after": sample.mean_after.mean(),
        "largest": sample.largest.max(),
        "update_rate": sample.update_rate.mean(),
    }
    arrays = {
        "by_update": sample.by_update.mean(axis=0),
        "by_update_deviation": sample.by_update.std(axis=0, ddof=1),
    }
    return pd.DataFrame([row]), arrays


def _first_schedule(cell: SimulationCell, index: int) -> Arrays:
    """`worker`, `time` and `read_version` [arrivals] of the first replicate."""
    # Compute times are drawn in the order of arrivals, so these are the arrivals counted above.
    schedule = cell.cluster.simulate(cell.workload, generator(0, CLUSTER, index))
    return {name: getattr(schedule, name) for name in ("worker", "time", "read_version")}


def _columns(cell: SimulationCell) -> dict[str, Any]:
    described = specs.describe(cell.cluster)
    columns = {"arrivals": cell.workload.total, "cluster": described.pop("name")}
    return columns | _flat(described)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A spec within another becomes its name, and its fields with the name of its key in front."""
    columns: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            inner = _flat(value)
            columns |= {key: inner.pop("name")} | {f"{key}_{k}": v for k, v in inner.items()}
        else:
            columns[key] = value
    return columns


def shape(counts: np.ndarray) -> dict[str, float]:
    """Deviation, skewness and distance from the normal fit of staleness counted in a histogram.

    All NaN if the last bin, which holds all larger values, is not empty.
    """
    if counts[-1]:
        return dict.fromkeys(("deviation", "skewness", "normal_distance"), np.nan)
    staleness, share = np.arange(len(counts)), counts / counts.sum()
    mean = (staleness * share).sum()
    centred = staleness - mean
    deviation = np.sqrt((centred**2 * share).sum())
    skewness = (centred**3 * share).sum() / deviation**3 if deviation else np.nan
    return {
        "deviation": deviation,
        "skewness": skewness,
        "normal_distance": normal_distance(share, mean, deviation),
    }


def normal_distance(share: np.ndarray, mean: float, deviation: float) -> float:
    """Kolmogorov-Smirnov distance between a distribution on 0, 1, ... and its normal fit.

    The normal distribution is evaluated half way between whole numbers, so that the distance
    measures shape, and not that staleness is a whole number.
    """
    if not deviation:
        return np.nan
    fitted = ndtr((np.arange(len(share)) + 0.5 - mean) / deviation)
    return float(np.abs(np.cumsum(share) - fitted).max())
