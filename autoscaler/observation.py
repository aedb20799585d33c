"""What was seen of a group of workers at one moment. The rule: figures only, and nothing in them that was guessed.

The unit of work is the partition *number*: the input topics are co-partitioned, so partition 3 of each belongs to
the same worker, and offsets are summed over the topics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """One worker between two looks at its page.

    partitions : numbers that it owns. records_per_s : processed. busy : share of the time that its loop did not
    wait, 0..1.
    """

    name: str
    partitions: tuple[int, ...]
    records_per_s: float
    busy: float


@dataclass(frozen=True, slots=True)
class Observation:
    """A group, its partitions and its workload, all read within about a second.

    Attributes
    ----------
    at_s : when, by a clock that never goes back.
    ends, committed : float64 (partitions,), next offset of a reader of committed records, and the group's.
        Transaction markers and aborted records that nobody has to process are no difference between the two.
        A group that has not committed stands where it would begin.
    lag_s : float64 (partitions,), age of the oldest record that waits; 0 = none waits, NaN = not known.
    replicas : that the workload is to have, by its `scale`; ready : that are, by it.
    members : of the group. epoch : another value after each change of membership or assignment.
    rebalancing : the group is being assigned anew.
    owner : int64 (partitions,), index into the members in order of their ids; -1 = nobody's.
    workers : those whose pages answered twice; may be none.
    scaled_by : the field manager that last set `replicas`; "" = not known.
    problems : what was not seen and is no reason to stop, in words.
    """

    at_s: float
    ends: Array
    committed: Array
    lag_s: Array
    replicas: int
    ready: int
    members: int
    epoch: str
    rebalancing: bool
    owner: NDArray[np.int64]
    workers: tuple[WorkerLoad, ...] = ()
    scaled_by: str = ""
    problems: tuple[str, ...] = ()

    @property
    def partitions(self) -> int:
        """How many there are."""
        return len(self.ends)


class BlindError(Exception):
    """The group could not be looked at: the text says why, and what to do. The last decision holds."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that an operator should know beside the decision. code : CamelCase, as of a Kubernetes Event."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, and why.

    Attributes
    ----------
    replicas : wanted.
    code : CamelCase word for the reason, from a small fixed set: a metric's label and an Event's reason.
    text : the reason in words, with figures.
    notes : what else was found, e.g. a hot partition.
    figures : name -> value of what it was decided from, for metrics; NaN = not known.
    """

    replicas: int
    code: str
    text: str
    notes: tuple[Note, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
