"""Makes a cohort's prior for `Covariance` from healthy devices. The rule: the detector's own features, as it meets
them; devices differ, and how much they do is part of what is normal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.covariance import Covariance
from detectors.covariance_matrix import EXCESS, START, TOLD, N, offsets
from detectors.protocol import Block, Scores

ROWS_MIN = 100


def _learnt(columns: tuple[str, ...], rows: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """What the detector has learnt of one device, in the units of its values; too few rows for it: empty."""
    n, d = rows.shape
    detector = Covariance(columns)
    detector.reserve(1)
    slots = np.zeros(n, np.int32)
    detector.update(
        Block(slots, np.arange(n, dtype=np.int64), np.ascontiguousarray(rows, np.float32)), Scores.empty(n)
    )
    state = detector.snapshot(slots[:1])[0]
    wide = state[: 32 * d].view(np.float64)
    fields = state[32 * d :].view(np.float32).astype(np.float64)
    fast, slow, last, seen, spread, _, _, _, _, start, excess, wait, scalar = offsets(d)
    if fields[scalar + N] < ROWS_MIN or fields[scalar + TOLD] < 1:
        return {}
    mean, unit = wide[: 2 * d], wide[2 * d :]
    covariance = np.zeros((2 * d, 2 * d))
    covariance[np.tril_indices(2 * d)] = fields[:fast]
    covariance += np.tril(covariance, -1).T
    return {
        "mean": mean.copy(),
        "covariance": covariance * np.outer(unit, unit),
        "movement": fields[slow:last] * unit[:d] ** 2,
        "start": fields[start:excess],
        "excess": fields[excess:wait],
        "tail": fields[[scalar + START, scalar + EXCESS]],
        "seen": np.tile(fields[seen:spread], 2),
    }


def fit_prior(columns: tuple[str, ...], devices: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    """Parameters
    ----------
    columns : names of the d value columns.
    devices : float32 (rows, d) for each healthy device, in order of time, NaN = missing. Devices with fewer than
        `ROWS_MIN` rows are left out.

    Returns
    -------
    Plain lists: means and units (standard deviations, 0 = never seen to vary) of the 2 d features, their covariance
    in these units as a packed lower triangle, the usual mean square of a value's steps, starts and mean excesses of
    the tails of the smoothed residuals and of the column statistic, and the rows that it stands for. The covariance
    is that within the devices plus that between their means.

    Raises
    ------
    ValueError : no device has enough rows, or one has another number of columns.
    """
    d = len(columns)
    if any(rows.ndim != 2 or rows.shape[1] != d for rows in devices):
        raise ValueError(f"every device must have {d} columns")
    learnt = [one for one in (_learnt(tuple(columns), rows) for rows in devices) if one]
    if not learnt:
        raise ValueError(f"no device has {ROWS_MIN} rows")
    seen = np.stack([one["seen"] for one in learnt])
    weight = seen / np.maximum(seen.sum(axis=0), 1.0)
    mean = (weight * np.stack([one["mean"] for one in learnt])).sum(axis=0)
    covariance = np.zeros((2 * d, 2 * d))
    total = np.zeros((2 * d, 2 * d))
    for one in learnt:
        both = np.minimum.outer(one["seen"], one["seen"])
        apart = one["mean"] - mean
        covariance += both * (one["covariance"] + np.outer(apart, apart))
        total += both
    covariance /= np.maximum(total, 1.0)
    unit = np.sqrt(np.diag(covariance))
    inverse = np.divide(1.0, unit, out=np.zeros_like(unit), where=unit > 0.0)
    scaled = covariance * np.outer(inverse, inverse)
    movement = (weight[:, :d] * np.stack([one["movement"] for one in learnt])).sum(axis=0) * inverse[:d] ** 2
    return {
        "mean": mean.tolist(),
        "unit": unit.tolist(),
        "covariance": scaled[np.tril_indices(2 * d)].tolist(),
        "movement": movement.tolist(),
        "start": np.median([one["start"] for one in learnt], axis=0).tolist(),
        "excess": np.median([one["excess"] for one in learnt], axis=0).tolist(),
        "tail": np.median([one["tail"] for one in learnt], axis=0).tolist(),
        "rows": int(max(1, seen.max(axis=1).sum())),
    }
