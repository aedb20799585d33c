"""Which partitions are ours and how far their work has come. The rule: work counts only from where it went on.

applied is what the core has seen, final what a commit has made so. An event that does not begin at `applied` is not
taken: it was fetched before a seek, or something between is missing and must be read again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TopicPart = tuple[str, int]


class NotMemberError(RuntimeError):
    """The worker is not in its group at the moment."""


def group_metadata(group: str, generation: int, member: str) -> bytes:
    """librdkafka's serialized form of a consumer's group metadata, which a transaction's offsets are sent with.

    Raises
    ------
    NotMemberError : a broker would take offsets without a member from anybody.
    """
    if generation < 0 or not member:
        raise NotMemberError(f"not a member of group {group}: generation {generation}, member {member!r}")
    return b"CGMDv2:" + struct.pack("=i", generation) + group.encode() + b"\0" + member.encode() + b"\0\x01"


@dataclass(frozen=True, slots=True)
class Parked:
    """A partition that was revoked while its rows were as committed. at_s : when, by the monotonic clock.

    since : see `Ownership`.
    """

    applied: int
    since: int
    at_s: float


@dataclass(slots=True)
class Ownership:
    """applied, final : next offset by owned partition. membership : (generation, member id) that it was given.

    since : an end of its changelog partition from a time when it was certainly ours: what others write of it
        comes later. (Not the end when it is revoked: by the time that we hear of it another may have written.)
    known : committed offsets that this process has seen, ever: they do not go back.
    awaiting : partitions whose next event must begin at `applied` after a seek; what comes before is left.
    """

    applied: dict[TopicPart, int] = field(default_factory=dict)
    final: dict[TopicPart, int] = field(default_factory=dict)
    awaiting: set[TopicPart] = field(default_factory=set)
    known: dict[TopicPart, int] = field(default_factory=dict)
    since: dict[TopicPart, int] = field(default_factory=dict)
    parked: dict[TopicPart, Parked] = field(default_factory=dict)
    membership: tuple[int, str] = (-1, "")

    def pending(self) -> dict[TopicPart, int]:
        """Offsets of work that is applied and not final."""
        return {at: offset for at, offset in self.applied.items() if offset != self.final.get(at)}

    def finish(self, offsets: Mapping[TopicPart, int]) -> None:
        """These offsets are committed."""
        for at, offset in offsets.items():
            if at in self.applied:
                self.final[at] = self.known[at] = offset

    def take(self, at: TopicPart, offset: int, since: int) -> None:
        """Own a partition from a committed offset on."""
        self.applied[at] = self.final[at] = offset
        self.since[at] = since
        self.awaiting.add(at)

    def park(self, at: TopicPart, now_s: float) -> None:
        """Keep its rows for the case that it comes back; they must be as committed."""
        self.parked[at] = Parked(self.applied[at], self.since[at], now_s)

    def drop(self, some: Iterable[TopicPart]) -> None:
        for at in list(some):
            self.applied.pop(at, None)
            self.final.pop(at, None)
            self.since.pop(at, None)
            self.awaiting.discard(at)
