"""Fits the model of `Relations` to healthy devices. The rule: offsets and tails are learnt as the detector meets
them; a missing value is one that the others imply."""

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


#: Rounds of filling missing values by the relations and learning the relations anew.
FILLS = 5


def _filled(z: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """z with its NaN replaced by what the row's other values imply; a row of nothing becomes the means, 0."""
    missing = np.isnan(z)
    out = np.where(missing, 0.0, z)
    patterns, which = np.unique(missing, axis=0, return_inverse=True)
    for p in range(len(patterns)):
        gone = np.flatnonzero(patterns[p])
        if 0 < len(gone) < z.shape[1]:
            rows = np.flatnonzero(which.ravel() == p)
            there = np.flatnonzero(~patterns[p])
            given = z[np.ix_(rows, there)] @ precision[np.ix_(there, gone)]
            out[np.ix_(rows, gone)] = -np.linalg.solve(precision[np.ix_(gone, gone)], given.T).T
    return out


def _unexplained(missing: NDArray[np.bool_], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d, d): what the filled values lack of the covariance, as a mean over all rows: the variance of each missing
    value given the others of its row."""
    lack = np.zeros_like(precision)
    patterns, count = np.unique(missing, axis=0, return_counts=True)
    for pattern, n in zip(patterns, count.tolist(), strict=True):
        gone = np.flatnonzero(pattern)
        lack[np.ix_(gone, gone)] += n * np.linalg.inv(precision[np.ix_(gone, gone)])
    return lack / len(missing)


def _precision(z: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """The precision matrix of standardised rows with NaN, by expectation and maximisation."""
    d = z.shape[1]
    missing = np.isnan(z)
    precision: NDArray[np.float64] = np.eye(d)
    for _ in range(FILLS if missing.any() else 1):
        filled = _filled(z, precision)
        correlation = filled.T @ filled / len(z) + _unexplained(missing, precision)
        blend = (1.0 - shrinkage) * correlation + shrinkage * np.eye(d)
        blend[np.diag_indices(d)] = np.maximum(np.diag(blend), 1e-2)
        precision = np.asarray(np.linalg.inv(blend), np.float64)
    return precision


def _smoothed(residuals: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """float64, the shape of the residuals: smoothed over the values that are there, NaN where one is not."""
    out = np.full_like(residuals, np.nan)
    now = np.zeros(residuals.shape[1])
    there = ~np.isnan(residuals)
    for i, row in enumerate(residuals):
        now = np.where(there[i], now + weight * (row - now), now)
        out[i, there[i]] = now[there[i]]
    return out


def _settled(z: NDArray[np.float64], precision: NDArray[np.float64], warm_rows: int) -> NDArray[np.float64]:
    """(rows, d): residuals of one device less its offsets; NaN where a value is missing or taught an offset."""
    residuals: NDArray[np.float64] = (_filled(z, precision) @ precision) / np.sqrt(np.diag(precision))
    there = ~np.isnan(z)
    teaches = there & (np.cumsum(there, axis=0) <= warm_rows)
    offsets = np.where(teaches, residuals, 0.0).sum(axis=0) / np.maximum(teaches.sum(axis=0), 1)
    return np.where(there & ~teaches, residuals - offsets, np.nan)


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
    ValueError : fewer than 5 devices have three times warm_rows, a device's rows are not d wide, or a column
        has not twice warm_rows values in any device.
    """
    d = len(columns)
    if any(x.ndim != 2 or x.shape[1] != d for x in devices):
        raise ValueError(f"each device's rows must be {d} wide, as there are columns")
    usable = [np.asarray(x, np.float64) for x in devices if len(x) >= 3 * warm_rows]
    if len(usable) < 5:
        raise ValueError(f"at least 5 devices with {3 * warm_rows} rows are needed, not {len(usable)}")
    most = np.max([np.isfinite(x).sum(axis=0) for x in usable], axis=0)
    seldom = [name for name, n in zip(columns, most.tolist(), strict=True) if n < 2 * warm_rows]
    if seldom:
        raise ValueError(f"no device has {2 * warm_rows} values of {', '.join(seldom)}")
    pooled = np.concatenate(usable)
    pooled[~np.isfinite(pooled)] = np.nan
    mean = np.nanmean(pooled, axis=0)
    spread = np.nanstd(pooled, axis=0)
    scale = np.where(spread > 1e-9, spread, np.maximum(1e-3 * np.abs(mean), 1e-3))
    precision = _precision((pooled - mean) / scale, shrinkage)
    levels: list[list[NDArray[np.float64]]] = [[], []]
    for x in np.split(pooled, np.cumsum([len(x) for x in usable])[:-1]):
        settled = _settled((x - mean) / scale, precision, warm_rows)
        for s, weight in enumerate(SMOOTHING):
            levels[s].append(np.abs(_smoothed(settled, weight)))
    tails = np.zeros((2, 4, d))
    for s in range(2):
        joined = np.concatenate(levels[s])
        for j in range(d):
            tails[s, :, j] = _pareto(joined[~np.isnan(joined[:, j]), j])

    def plain(a: NDArray[np.float64], digits: int) -> list[float]:
        return [float(f"{v:.{digits}g}") for v in a.ravel().tolist()]

    return {
        "columns": list(columns),
        "rows": len(pooled),
        "devices": len(usable),
        "mean": plain(mean, 8),
        "scale": plain(scale, 8),
        "precision": plain(precision, 8),
        "tails": plain(tails, 6),
    }
