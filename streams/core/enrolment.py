"""Which cohort a new device starts from. The rule: asked once, before its first row; afterwards its state says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.cohorts import Enrolling, cohort_of
from detectors.protocol import Detector
from streams.core.devices import DeviceTable


def declared_by(record: Mapping[str, Any]) -> dict[str, str]:
    """What a record of the schema "device" says that a cohort may ask for."""
    return {"model": record["model"], "firmware": record["firmware"], **record["attributes"]}


class Enrolment:
    """Tells the detectors of one class that know cohorts which one each new device is of.

    declared : what a device declares of itself, by its id; the caller keeps it as the topic of the devices says.
    """

    def __init__(self, devices: DeviceTable, detectors: Sequence[Detector]) -> None:
        self._devices = devices
        self._detectors = [d for d in detectors if isinstance(d, Enrolling) and d.cohorts]
        self._done = np.zeros(devices.capacity, np.bool_)
        self.declared: Callable[[bytes], Mapping[str, str]] = lambda _: {}

    def _grow(self) -> None:
        more = self._devices.capacity - len(self._done)
        if more > 0:
            self._done = np.append(self._done, np.zeros(more, np.bool_))

    def of(self, slots: NDArray[np.int32]) -> None:
        """Enrol those of these rows' devices that are new. slots : int32 (n,), may repeat."""
        if not self._detectors:
            return
        self._grow()
        new = np.unique(slots[~self._done[slots]])
        if len(new) == 0:
            return
        said = [self.declared(key) for key in self._devices.keys(new)]
        for detector in self._detectors:
            detector.enrol(new, np.array([cohort_of(each, detector.cohorts) for each in said], np.int16))
        self._done[new] = True

    def done(self, slots: NDArray[np.int32]) -> None:
        """These devices were restored: their state says where they started from."""
        self._grow()
        self._done[slots] = True

    def forget(self, slots: NDArray[np.int32]) -> None:
        self._done[slots[slots < len(self._done)]] = False
