"""What a registered detector needs to be made at all. The rule: relations are fitted, never written by hand."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.relations_fit import fit

MEAN, SD = 20.0, 3.0


def correlated(rng: np.random.Generator, rows: int, d: int, noise: float = 0.3) -> NDArray[np.float32]:
    """float32 (rows, d): all columns follow one hidden cause, each with its own normal noise of `noise` x SD.

    The mean is `MEAN`; a column's deviation from what the hidden cause implies is independent from row to row.
    """
    cause = rng.normal(0.0, 1.0, (rows, 1))
    own = rng.normal(0.0, noise, (rows, d))
    return (MEAN + SD * (cause + own)).astype(np.float32)


@lru_cache(maxsize=64)
def fitted(columns: tuple[str, ...], seed: int = 1, devices: int = 12, rows: int = 900) -> dict[str, Any]:
    """The model of `correlated` columns."""
    rng = np.random.default_rng(seed)
    return fit(columns, [correlated(rng, rows, len(columns)) for _ in range(devices)])


def needed(name: str, columns: tuple[str, ...]) -> dict[str, Any]:
    """Parameters without which a registered detector cannot be made, or has nothing to say."""
    if name == "relations":
        return {"model": fitted(columns)}
    if name == "rules":
        return {"limits": [(-1000.0, 1000.0)] * len(columns)}
    return {}
