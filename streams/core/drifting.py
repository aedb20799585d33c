"""Drift of detectors' scores in one class. The rule: told and counted, never published: it is no function of the
input alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.drift import DriftWatch
from streams.core.effects import Drift
from streams.core.windows import O_PANE, O_SLOT


@dataclass(frozen=True, slots=True)
class DriftSpec:
    """See `detectors.drift.DriftWatch`. devices_max : of each class."""

    delta: float
    devices_max: int
    idle_us: int


class DriftStage:
    """Watches the peaks of closed windows; it keeps no state that outlives it.

    Parameters
    ----------
    spec : None = nothing is watched.
    detectors : their names, in the order of the peaks; none = nothing is watched.
    """

    def __init__(self, spec: DriftSpec | None, catalog_key: str, detectors: Sequence[str], hop_us: int) -> None:
        self._catalog_key, self._detectors, self._hop_us = catalog_key, tuple(detectors), hop_us
        self._watch: DriftWatch | None = None
        if spec is not None and detectors:
            self._watch = DriftWatch(
                len(detectors), delta=spec.delta, devices_max=spec.devices_max, idle_us=spec.idle_us
            )
        #: Drifts seen so far, by detector.
        self.counts: Counter[str] = Counter()

    def see(self, head: NDArray[np.int64], peaks: NDArray[np.float32], keys: Sequence[bytes]) -> list[Drift]:
        """What closed windows show. head, peaks : as `Closed` has them; keys : the devices' ids."""
        if self._watch is None:
            return []
        ends_us = (head[:, O_PANE] + 1) * self._hop_us
        told = []
        for row, q, before, after in self._watch.update(head[:, O_SLOT].astype(np.int32), ends_us, peaks):
            self.counts[self._detectors[q]] += 1
            device = keys[row].decode()
            told.append(Drift(device, self._catalog_key, self._detectors[q], int(ends_us[row]), before, after))
        return told

    def forget(self, slots: NDArray[np.int32]) -> None:
        """Begin anew with these devices."""
        if self._watch is not None:
            self._watch.forget(slots.tolist())
