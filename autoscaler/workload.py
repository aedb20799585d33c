"""What is scaled, as the collector sees it. The rule: what cannot be read is an error, never a count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class WorkloadError(Exception):
    """The workload, or its pods, could not be read: the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Scale:
    """replicas : that are to be; ready : that are. scaled_by : field manager that last set it; "" = not known."""

    replicas: int
    ready: int
    scaled_by: str = ""


class Workload(Protocol):
    """A Deployment, a StatefulSet, or the group itself."""

    def read(self) -> Scale:
        """The scale now, with a time-out of its own.

        Raises
        ------
        WorkloadError : not readable.
        """


class GroupWorkload:
    """Nothing is scaled (target none): whoever is a member of the group counts as a replica.

    members : how many there were at the last look; see `KafkaSource.members`.
    """

    def __init__(self, members: Callable[[], int]) -> None:
        self._members = members

    def read(self) -> Scale:
        members = self._members()
        return Scale(members, members)
