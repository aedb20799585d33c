"""Fits the model of `Relations` to healthy devices. The rule: offsets and tails are learnt as the detector meets them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.relations import SMOOTHING

#: Share of healthy rows above a tail's start.
TAIL_SHARE = 0.002
SHAPE_MAX = 0.25
#: Smallest threshold, in conditional standard deviations: what is finer than this is resolution, not health.
THRESHOLD_MIN = 0.5


def _residuals(x: NDArray[np.float64], model: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    z = np.nan_to_num((x - model["mean"]) / model["scale"])
    residuals: NDArray[np.float64] = (z @ model["precision"]) / np.sqrt(np.diag(model["precision"]))
    return residuals


def _smoothed(residuals: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    out = np.zeros_like(residuals)
    now = np.zeros(residuals.shape[1])
    for i, row in enumerate(residuals):
        now = now + weight * (row - now)
        out[i] = now
    return out


def _pareto(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """(threshold, surprise there, 1 / scale, shape) of the tail of non-negative values, by moments."""
    threshold = max(float(np.quantile(values, 1.0 - TAIL_SHARE)), THRESHOLD_MIN)
    excess = values[values > threshold] - threshold
    if len(excess) < 10:
        share = max(len(excess), 1) / len(values)
        return threshold, -math.log10(share), 1.0 / (0.2 * threshold), 0.0
    mean, var = float(excess.mean()), float(excess.var()) + 1e-12
    shape = min(max(0.5 * (1.0 - mean * mean / var), 0.0), SHAPE_MAX)
    scale = max(mean * (1.0 - shape), 0.1 * threshold)
    return threshold, -math.log10(len(excess) / len(values)), 1.0 / scale, shape


def fit(
    columns: Sequence[str], devices: Sequence[NDArray[np.float32]], shrinkage: float = 1e-4, warm_rows: int = 120
) -> dict[str, Any]:
    """The model, as plain lists of numbers.

    Parameters
    ----------
    devices : float32 (rows, d) of each healthy device, in order of time, NaN = missing; together they should
        show every regime that the class knows (standing, driving, charging; cold and warm).
    shrinkage : share of the identity in the correlations.
    warm_rows : rows from which each device's offsets are taken, as the detector does.

    Raises
    ------
    ValueError : fewer than 5 devices, or none with three times warm_rows.
    """
    usable = [np.asarray(x, np.float64) for x in devices if len(x) >= 3 * warm_rows]
    if len(usable) < 5:
        raise ValueError(f"at least 5 devices with {3 * warm_rows} rows are needed, not {len(usable)}")
    pooled = np.concatenate(usable)
    mean = np.nanmean(pooled, axis=0)
    spread = np.nanstd(pooled, axis=0)
    scale = np.where(spread > 1e-9, spread, np.maximum(1e-3 * np.abs(mean), 1e-3))
    z = np.nan_to_num((pooled - mean) / scale)
    correlation = z.T @ z / len(z)
    d = len(columns)
    blend = (1.0 - shrinkage) * correlation + shrinkage * np.eye(d)
    blend[np.diag_indices(d)] = np.maximum(np.diag(blend), 1e-2)
    arrays = {"mean": mean, "scale": scale, "precision": np.linalg.inv(blend)}
    levels: list[list[NDArray[np.float64]]] = [[], []]
    for x in usable:
        residuals = _residuals(x, arrays)
        offsets = residuals[:warm_rows].mean(axis=0)
        for s, weight in enumerate(SMOOTHING):
            levels[s].append(np.abs(_smoothed(residuals[warm_rows:] - offsets, weight)))
    tails = np.zeros((2, 4, d))
    for s in range(2):
        joined = np.concatenate(levels[s])
        for j in range(d):
            tails[s, :, j] = _pareto(joined[:, j])

    def plain(a: NDArray[np.float64], digits: int) -> list[float]:
        return [float(f"{v:.{digits}g}") for v in a.ravel().tolist()]

    return {
        "columns": list(columns),
        "rows": len(pooled),
        "devices": len(usable),
        "mean": plain(mean, 8),
        "scale": plain(scale, 8),
        "precision": plain(arrays["precision"], 8),
        "tails": plain(tails, 6),
    }
