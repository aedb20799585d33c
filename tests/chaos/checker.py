"""Compares what is there with what an uninterrupted run gives. The rule: what is forgiven is named here.

Under exactly once nothing may be missing, doubled, changed, unexpected or, within its lane, in another order.
Under at least once a record may come again, with the same id and the same bytes, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.chaos.records import Entry, identity, lane

#: Records of the device shown on either side of the first difference.
CONTEXT = 4
COUNTS = (
    "expected", "found", "missing", "duplicate", "different", "unexpected", "misordered", "aborted", "markers",
)  # fmt: skip


@dataclass
class Comparison:
    """Figures of one or many partitions of one topic. first : the first difference and the two histories."""

    kind: str
    expected: int = 0
    found: int = 0
    missing: int = 0
    duplicate: int = 0
    different: int = 0
    unexpected: int = 0
    misordered: int = 0
    first: str = ""
    aborted: int = 0
    markers: int = 0

    def add(self, other: Comparison) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first = self.first or other.first

    def wrong(self, *, exactly_once: bool) -> int:
        """How many records break the promise."""
        kept = self.missing + self.different + self.unexpected + self.misordered
        return kept + (self.duplicate if exactly_once else 0)


@dataclass
class _Sides:
    """The two runs of one partition, with their ids; by key in order."""

    kind: str
    partition: int
    expected: list[tuple[Any, Entry]]
    found: list[tuple[Any, Entry]]
    by_lane: dict[Any, tuple[list[Any], list[Any]]] = field(default_factory=dict)

    def lanes(self) -> dict[Any, tuple[list[Any], list[Any]]]:
        """Ids by lane: (expected, found), repeated ones once, in order."""
        if not self.by_lane:
            sides: dict[Any, tuple[list[Any], list[Any]]] = defaultdict(lambda: ([], []))
            for side, pairs in enumerate((self.expected, self.found)):
                seen: set[Any] = set()
                for name, entry in pairs:
                    if name not in seen:
                        seen.add(name)
                        sides[lane(self.kind, entry)][side].append(name)
            self.by_lane = dict(sides)
        return self.by_lane


def compare(kind: str, partition: int, expected: Sequence[Entry], found: Sequence[Entry]) -> Comparison:
    """Compare one partition of one topic, record by record.

    Parameters
    ----------
    kind : the topic's field name, see `tests.chaos.records`.
    """
    names = _names(kind, expected)
    sides = _Sides(kind, partition, names(expected), names(found))
    result = Comparison(kind, len(expected), len(found))
    wanted, got = Counter(name for name, _ in sides.expected), Counter(name for name, _ in sides.found)
    content = {name: entry.content for name, entry in sides.expected}
    result.missing = sum((wanted - got).values())
    result.unexpected = sum(count for name, count in got.items() if name not in wanted)
    result.duplicate = sum(count for name, count in (got - wanted).items() if name in wanted)
    differing = [(name, e) for name, e in sides.found if name in content and e.content != content[name]]
    result.different = len(differing)
    common = wanted.keys() & got.keys()
    moved = [
        where
        for where, (one, other) in sides.lanes().items()
        if [name for name in one if name in common] != [name for name in other if name in common]
    ]
    result.misordered = len(moved)
    result.first = _first(sides, wanted, got, {name for name, _ in differing}, set(moved))
    return result


def _names(kind: str, expected: Sequence[Entry]) -> Callable[[Sequence[Entry]], list[tuple[Any, Entry]]]:
    """What gives each record its id. Where a device's clock was set back, a window rightly comes twice: then the
    content is part of the id."""
    counts = Counter(identity(kind, entry) for entry in expected)
    twice = {name for name, count in counts.items() if count > 1}

    def names(entries: Sequence[Entry]) -> list[tuple[Any, Entry]]:
        plain = [(identity(kind, entry), entry) for entry in entries]
        return [((*name, _mark(entry)) if name in twice else name, entry) for name, entry in plain]

    return names


def _first(sides: _Sides, wanted: Counter[Any], got: Counter[Any], differing: set[Any], moved: set[Any]) -> str:
    """Tell of the earliest difference in words, with the histories of its device."""
    seen: set[Any] = set()
    for name, entry in sides.found:
        what = (
            "was not expected" if name not in wanted
            else "differs" if name in differing
            else "came again" if name in seen
            else "came in another order" if lane(sides.kind, entry) in moved
            else ""
        )  # fmt: skip
        seen.add(name)
        if what:
            return _told(sides, name, entry.key, what)
    for name, entry in sides.expected:
        if name not in got:
            return _told(sides, name, entry.key, "is missing")
    return ""


def _told(sides: _Sides, name: Any, key: bytes | None, what: str) -> str:
    lines = [f"{sides.kind}, partition {sides.partition}: record {_text(name)} of {key!r} {what}"]
    for title, pairs in (("expected", sides.expected), ("found", sides.found)):
        own = [(n, e) for n, e in pairs if e.key == key]
        at = [i for i, (n, _) in enumerate(own) if n == name]
        first = max(0, (at[0] if at else _nearest(own, name)) - CONTEXT)
        lines.append(f"  {title}: {len(own)} records of this key" + ("" if at else ", this one not among them"))
        last = (at[-1] if at else first + CONTEXT) + CONTEXT + 1
        lines += [("  > " if n == name else "    ") + _line(n, e) for n, e in own[first:last]]
    return "\n".join(lines)


def _nearest(own: list[tuple[Any, Entry]], name: Any) -> int:
    """Where the record would stand if ids were in order."""
    return sum(str(n) < str(name) for n, _ in own)


def _line(name: Any, entry: Entry) -> str:
    where = ""
    if entry.offset >= 0:
        at = datetime.fromtimestamp(entry.ts_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
        where = f"  offset {entry.offset}  written {at}"
    return f"{_text(name)}  content {_mark(entry)}{where}"


def _mark(entry: Entry) -> str:
    return hashlib.blake2b(repr(entry.content).encode(), digest_size=6).hexdigest()


def _text(name: Any) -> str:
    return "/".join(part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in name)
