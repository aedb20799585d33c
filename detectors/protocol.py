"""The one protocol that every detector obeys. The rule: a row is scored before it is learnt, in order.

Where Kafka happened to cut a batch must never change a score, so a detector may keep no state about a
*call*, only about a *slot* (a device's row number, given by the caller). `detectors.checks.check_detector`
turns that rule and the others below into laws that run over every detector.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

#: How many guilty columns a detector names for a row, at most.
TOP = 3


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What a detector is, as opposed to what it has learnt.

    Parameters
    ----------
    name : the detector's registered name, for example ``ewma``.
    version : raised whenever the arithmetic changes, because state written by another version must not be
        read as ours.
    rate : ``sample`` detectors see every row, ``window`` detectors one row of features a closed window.
    columns : the names of the d value columns, in order.
    params : every parameter that changes scores.
    """

    name: str
    version: int
    rate: Literal["sample", "window"]
    columns: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state_id(self) -> str:
        """16 hex digits: equal if and only if a state written under one spec may be read under the other."""
        canon = json.dumps(
            [self.name, self.version, self.rate, list(self.columns), dict(self.params)],
            sort_keys=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(canon.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Block:
    """n rows of one device class, in the order of arrival. Never written to by a detector.

    slots : int32 (n,), the device's row number. A slot may occur many times; its rows are in order.
    ts_us : int64 (n,), event time, microseconds.
    values : float32 (n, d), NaN = missing.
    alarm : float32 (n,), the largest surprise that the detectors asked before this one see in each row, 0 = none;
        None = nobody was asked. A row that alarms others is not learnt as normal, whatever it looks like here.
    """

    slots: NDArray[np.int32]
    ts_us: NDArray[np.int64]
    values: NDArray[np.float32]
    alarm: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.slots)


@dataclass(slots=True)
class Scores:
    """The n opinions on a block.

    surprise : float32 (n,), -log10 of the probability, under the normal behaviour learnt so far, of a row at
        least as strange as this one. NaN = no opinion (warming, or every value missing).
    column : int16 (n, TOP), the guilty columns, guiltiest first, -1 = none. Filled only where surprise is at
        least the detector's `explain_from`: attribution is for rows that somebody may look at.
    expected : float32 (n, TOP), what the detector expected of that column, same unit as the values.
    share : float32 (n, TOP), the column's own surprise.
    """

    surprise: NDArray[np.float32]
    column: NDArray[np.int16]
    expected: NDArray[np.float32]
    share: NDArray[np.float32]

    @classmethod
    def empty(cls, n: int) -> Scores:
        """Room for n opinions, all "none"."""
        return cls(
            surprise=np.full(n, np.nan, np.float32),
            column=np.full((n, TOP), -1, np.int16),
            expected=np.full((n, TOP), np.nan, np.float32),
            share=np.full((n, TOP), np.nan, np.float32),
        )

    def head(self, n: int) -> Scores:
        """A view of the first n."""
        return Scores(self.surprise[:n], self.column[:n], self.expected[:n], self.share[:n])


@runtime_checkable
class Detector(Protocol):
    """Called by the core, in one thread, in this order: `reserve`, then `update` for ever; at a commit
    `snapshot` of the slots that changed; at an assignment `forget` and `restore`."""

    @property
    def spec(self) -> DetectorSpec: ...

    @property
    def state_nbytes(self) -> int:
        """Bytes of one slot's snapshot: fixed for a sample-rate detector (its rows go into a matrix); the
        largest possible for a window-rate one."""
        ...

    def reserve(self, n_slots: int) -> None:
        """Make room for slots 0..n_slots-1, keeping what is learnt. Called before a larger slot is used."""
        ...

    def update(self, block: Block, out: Scores) -> None:
        """Score each row, then learn it, in order. Fills every one of out's first len(block) entries."""
        ...

    def forget(self, slots: NDArray[np.int32]) -> None:
        """Make these slots as new."""
        ...

    def snapshot(self, slots: NDArray[np.int32]) -> NDArray[np.uint8]:
        """uint8 (len(slots), state_nbytes): all that `restore` needs to go on bit for bit."""
        ...

    def restore(self, slots: NDArray[np.int32], states: NDArray[np.uint8]) -> None:
        """The inverse of `snapshot`, also on another machine of the same byte order (little-endian).

        Raises
        ------
        ValueError : the matrix has not the shape (len(slots), state_nbytes).
        """
        ...
