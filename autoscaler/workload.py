"""What is scaled, as the look at it sees it. The rule: a count that could not be read is an error, never a guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Scale:
    """replicas : that there are to be; ready : that are. scaled_by : who last set `replicas`; "" = not known."""

    replicas: int
    ready: int
    scaled_by: str = ""


class WorkloadError(Exception):
    """The workload could not be read or scaled: the text says why, and what to do. The last decision holds."""


class Workload(Protocol):
    """A Deployment or StatefulSet, or what stands for one in tests."""

    def read(self) -> Scale:
        """Raises WorkloadError."""
        ...
