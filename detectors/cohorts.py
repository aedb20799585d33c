"""Which of the known cohorts a device belongs to, by what it declares. The rule: the most specific match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Enrolling(Protocol):
    """A detector that knows cohorts beforehand, and starts a new device from its own."""

    @property
    def cohorts(self) -> tuple[Mapping[str, str], ...]:
        """What devices of each cohort declare, for example {"model": "E3", "firmware": "5.0.1"}."""
        ...

    def enrol(self, slots: NDArray[np.int32], cohorts: NDArray[np.int16]) -> None:
        """Before the first row of these new devices: int16 (n,), numbers in `cohorts`, -1 = of none."""
        ...


def cohort_of(declared: Mapping[str, str], cohorts: Sequence[Mapping[str, str]]) -> int:
    """The cohort whose terms a device declares, of several the one with most, of equals the first; -1 = none."""
    best, most = -1, -1
    for number, wanted in enumerate(cohorts):
        if len(wanted) > most and all(declared.get(key) == value for key, value in wanted.items()):
            best, most = number, len(wanted)
    return best
