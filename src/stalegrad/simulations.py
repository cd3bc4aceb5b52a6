"""Staleness alone: clusters simulated many times over, without a single gradient."""

import io
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stalegrad import specs
from stalegrad.cells import SimulationCell
from stalegrad.clusters.hub_and_spoke import simulate_staleness
from stalegrad.partitions import CLUSTER, generator


def simulate(cell: SimulationCell, index: int, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Staleness of `cell.cluster`: one row a replicate, and histograms [replicates, bins].

    The rows hold simulation and index, the cluster's columns, and of the staleness counted just
    before the update: mean_before, mean_after, deviation, skewness, largest, normal_distance (see
    `normal_distance`), and update_rate. The first tenth of the arrivals is not counted, so that
    the start, where all workers read the same weights, does not weigh in.
    """
    sample = simulate_staleness(
        cell.cluster,
        cell.arrivals,
        cell.replicates,
        generator(0, CLUSTER, index),
        skip=cell.arrivals // 10,
        bins=16 * cell.cluster.workers + 64,
    )
    if sample.histogram[:, -1].any():
        raise ValueError(f"{name}: staleness beyond the {sample.histogram.shape[1]} bins counted.")
    rows = pd.DataFrame(
        {
            "replicate": np.arange(cell.replicates),
            "mean_before": sample.mean_before,
            "mean_after": sample.mean_after,
            "largest": sample.largest,
            "update_rate": sample.update_rate,
            **pd.DataFrame([shape(counts) for counts in sample.histogram]),
        }
    )
    columns = {"simulation": name, "index": index, **_columns(cell.cluster)}
    return rows.assign(**columns)[[*columns, *rows.columns]], sample.histogram


def _columns(cluster: Any) -> dict[str, Any]:
    described = specs.describe(cluster)
    columns = {"cluster": described.pop("name")}
    for key, value in described.items():
        if isinstance(value, dict):
            columns |= {key: value["name"]}
            columns |= {f"{key}_{k}": v for k, v in value.items() if k != "name"}
        else:
            columns[key] = value
    return columns


def shape(counts: np.ndarray) -> dict[str, float]:
    """Deviation, skewness and distance from the normal fit of staleness counted in a histogram."""
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

    The normal distribution is read half way between whole numbers, so that the distance measures
    shape and not that staleness is whole.
    """
    if not deviation:
        return np.nan
    fitted = stats.norm.cdf(np.arange(len(share)) + 0.5, mean, deviation)
    return float(np.abs(np.cumsum(share) - fitted).max())


def simulate_all(name: str, cells: list[SimulationCell]) -> tuple[pd.DataFrame, bytes]:
    """All cells of a simulation: their rows, and the npz with `histogram_<index>` of each."""
    tables, histograms = [], {}
    for index, cell in enumerate(cells):
        rows, histograms[f"histogram_{index}"] = simulate(cell, index, name)
        tables.append(rows)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **histograms)
    return pd.concat(tables, ignore_index=True), buffer.getvalue()
