"""What a worker's log tells of assignments and restores. The rule: only lines that it writes for everybody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

_RESTORED = re.compile(r"restored partitions \[([\d, ]*)\]: (\d+) rows of (\d+) records in ([\d.]+) s")

_ASSIGNED = "Setting newly assigned partitions"


@dataclass(frozen=True, slots=True)
class Restore:
    """One restore: when it was done, epoch seconds, and what the worker says of it. seconds : that it took."""

    at_s: float
    partitions: frozenset[int]
    rows: int
    records: int
    seconds: float

    @property
    def began_s(self) -> float:
        return self.at_s - self.seconds


def lines(text: str) -> Iterator[tuple[float, str]]:
    """(epoch seconds, message) of each JSON line; what else stands in the file is passed over."""
    for line in text.splitlines():
        if line.startswith("{") and line.endswith("}"):
            entry = json.loads(line)
            yield datetime.fromisoformat(entry["ts"]).timestamp(), entry["message"]


def restores(text: str) -> list[Restore]:
    """The restores that a log tells of, in order."""
    found = []
    for at_s, message in lines(text):
        if match := _RESTORED.fullmatch(message):
            partitions = frozenset(int(p) for p in match[1].split(","))
            found.append(Restore(at_s, partitions, int(match[2]), int(match[3]), float(match[4])))
    return found


def assignments(text: str) -> list[float]:
    """When the worker got partitions, epoch seconds."""
    return [at_s for at_s, message in lines(text) if message.startswith(_ASSIGNED)]
