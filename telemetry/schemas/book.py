"""The writers' schemas that a process accepts, by the header of their messages. The rule: an allow-list, bounded.

It begins with every version released and the files of `schemas.accept`; what sources say (the topic of announced
schemas, a schema registry) is added if it is safe to decode with and resolves to what we read, and else refused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fastavro

from telemetry import codec, schemas
from telemetry.reasons import Reason
from telemetry.schemas import SchemaRefusedError, compat
from telemetry.schemas.plan import plan_of

log = logging.getLogger("fleetwatch.schemas")

#: Schemas that a process accepts at most: the rest of a flood is refused, and memory bounded.
WRITERS_MAX = 256

#: Questions to the sources that may be asked at once, and how many a second thereafter.
QUESTIONS_BURST = 20
QUESTIONS_PER_S = 1.0


@dataclass(frozen=True, slots=True)
class Writer:
    """A schema that messages are written with. origin : released, a file, or the source that told of it."""

    name: str
    header: bytes
    schema: dict[str, Any]
    origin: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a source says: messages that begin with `header` are written with the schema `text`."""

    header: bytes
    text: str
    origin: str


class Source(Protocol):
    """Somewhere to ask for schemas that are not known yet."""

    def refresh(self) -> Sequence[Told]:
        """All that has become known there since the last call, as of now."""


class SchemaBook:
    """The allow-list. Used by one thread."""

    def __init__(self, files: Iterable[Path] = ()) -> None:
        self._writers: dict[bytes, Writer] = {}
        self._parsed: dict[bytes, Any] = {}
        for name in schemas.NAMES:
            for version in reversed(schemas.versions(name)):
                self._take(Writer(name, version.header, version.schema, f"released, version {version.number}"))
        for path in files:
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                raise SchemaRefusedError(f"{path}: cannot be read: {exc}") from exc
            schema = schemas.parse(text, str(path))
            self.add(schemas.SINGLE_OBJECT_MARKER + schemas.rabin_of(schema), schema, str(path))

    def _take(self, writer: Writer) -> None:
        self._writers[writer.header] = writer
        self._parsed[writer.header] = fastavro.parse_schema(writer.schema)

    def writers(self) -> list[Writer]:
        """All that are accepted, released ones first."""
        return list(self._writers.values())

    def __contains__(self, header: bytes) -> bool:
        return header in self._writers

    def add(self, header: bytes, schema: dict[str, Any], origin: str) -> bool:
        """Accept a writer's schema, as `schemas.parse` gives it; False if its header is known already.

        Raises
        ------
        SchemaRefusedError : not a record of ours, not compatible with what we read, or there are too many.
        """
        if header in self._writers:
            return False
        name = schemas.name_of(schemas.full_name(schema))
        if name is None:
            raise SchemaRefusedError(f"{origin}: {schemas.full_name(schema)} is not a record of ours")
        if header[:2] == schemas.SINGLE_OBJECT_MARKER and header[2:] != schemas.rabin_of(schema):
            raise SchemaRefusedError(f"{origin}: {header[2:].hex()} is not the fingerprint of the schema")
        if found := compat.problems(schemas.raw(name), schema):
            raise SchemaRefusedError(
                f"{origin}: {name}: what it writes cannot be read here: " + "; ".join(found[:10])
            )
        if name == "frame":
            plan_of(schema)
        if len(self._writers) >= WRITERS_MAX:
            raise SchemaRefusedError(f"{origin}: {WRITERS_MAX} schemas are known already, which is the most")
        self._take(Writer(name, header, schema, origin))
        return True

    def frames(self) -> dict[bytes, tuple[int, ...]]:
        """Header -> plan of the frames' schemas, for `ClassTable.accept`."""
        return {w.header: plan_of(w.schema) for w in self._writers.values() if w.name == "frame"}

    def decode(self, name: str, data: bytes) -> dict[str, Any]:
        """`codec.decode` for every writer accepted, single-object encoding and Confluent wire format alike.

        Raises
        ------
        RefusedError : no header, a header that is not on the list or of another record, or bad Avro.
        """
        if data[:2] != schemas.SINGLE_OBJECT_MARKER and data[:1] != b"\0":
            raise codec.RefusedError(Reason.BAD_HEADER)
        header = data[:10] if data[:1] != b"\0" else data[:5]
        writer = self._writers.get(header)
        if writer is None or writer.name != name:
            raise codec.RefusedError(Reason.UNKNOWN_FINGERPRINT, header.hex())
        newest = writer.header == schemas.header(name)
        parsed = schemas.parsed(name) if newest else self._parsed[header]
        return codec.decode_body(name, data, len(header), parsed)


class Learner:
    """Asks the sources when a worker meets a header that its book lacks. The rule: never for a known one.

    A schema is announced, and that acknowledged, before the first message is written with it. So a header that no
    source knows *after* its message was fetched was not announced, and its message may be refused. A flood of
    unknown headers costs at most QUESTIONS_PER_S questions in the long run; what it hides can be replayed from the
    dead letters. framed : there is a registry, so messages may have the Confluent wire format.
    """

    def __init__(
        self,
        book: SchemaBook,
        sources: Sequence[Source],
        *,
        framed: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book, self.framed, self._sources, self._clock = book, framed, sources, clock
        self._questions, self._asked_s = float(QUESTIONS_BURST), clock()
        self._refused: set[int] = set()  # hashes

    def __call__(self) -> Mapping[bytes, tuple[int, ...]] | None:
        """Ask; the plans of all frames' schemas if there is a new one, else None.

        Raises
        ------
        FleetwatchError : a source does not answer. Nothing may be refused on that ground.
        """
        now_s = self._clock()
        self._questions = min(QUESTIONS_BURST, self._questions + (now_s - self._asked_s) * QUESTIONS_PER_S)
        self._asked_s = now_s
        if self._questions < 1:
            return None
        self._questions -= 1
        return self.book.frames() if self.refresh() else None

    def refresh(self) -> bool:
        """Ask every source, without a limit; whether the book has grown."""
        grown = False
        for source in self._sources:
            for told in source.refresh():
                grown |= self._add(told)
        return grown

    def _add(self, told: Told) -> bool:
        if hash(told) in self._refused:
            return False
        try:
            if not self.book.add(told.header, schemas.parse(told.text, told.origin), told.origin):
                return False
        except SchemaRefusedError as exc:
            if len(self._refused) < WRITERS_MAX:
                self._refused.add(hash(told))
                log.warning("schema %s refused: %s", told.header.hex(), exc)
            return False
        log.info("schema %s accepted from %s", told.header.hex(), told.origin)
        return True
