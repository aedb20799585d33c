"""The core: batches in, effects out. The rule: no clock, no Kafka, no Faust; the caller says what time it is.

`fleetwatch worker` and the offline commands run this same code.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.core.devices import (
    C_CLOCK_STEPS,
    C_DUPLICATES,
    C_FRAMES,
    C_GAPS,
    C_NON_FINITE,
    C_OUT_OF_ORDER,
    C_REBOOTS,
    C_REPLAYED,
    C_SAMPLES,
    D_OWNER,
    OWNER_SHIFT,
)
from streams.core.effects import DeadLetter, Effects
from streams.core.engine import Engine
from streams.core.enrolment import declared_by
from streams.core.lineup import EngineSpec, Lineup, Source
from streams.core.records import (
    R_KEY_AT,
    R_KEY_LEN,
    R_OFFSET,
    R_REASON,
    R_VALUE_AT,
    R_VALUE_LEN,
    Part,
    RecordScanner,
    attempts,
)
from telemetry.catalog import Catalog, CatalogSet
from telemetry.framescan import F_CLASS, ClassTable
from telemetry.rawmem import copy_bytes
from telemetry.reasons import Reason
from telemetry.schemas.book import Learner

COUNTER_NAMES: Mapping[str, int] = {
    "frames": C_FRAMES,
    "samples": C_SAMPLES,
    "duplicates": C_DUPLICATES,
    "replayed": C_REPLAYED,
    "out_of_order": C_OUT_OF_ORDER,
    "reboots": C_REBOOTS,
    "missing_frames": C_GAPS,
    "non_finite": C_NON_FINITE,
    "clock_steps": C_CLOCK_STEPS,
}


#: Makes a class's detectors; called once a class, at its first frame or state row.
DetectorFactory = Callable[[Catalog], Lineup]


class Core:
    """All device classes of a worker.

    Parameters
    ----------
    topics : the input topics; a topic carries the catalogue entries of its kind.
    kinds : the kind (vehicle, device) of each topic.
    future_max_us, past_max_us : event time may lie so far from the caller's `now_us`.
    learner : the writers' schemas that are accepted, and whom to ask for more; None = the released ones.
    """

    def __init__(
        self,
        catalogs: CatalogSet,
        spec: EngineSpec,
        factory: DetectorFactory,
        topics: Sequence[str],
        kinds: Sequence[str],
        future_max_us: int = 86_400_000_000,
        past_max_us: int = 315_360_000_000_000,
        learner: Learner | None = None,
    ) -> None:
        self.catalogs, self.spec, self.factory = catalogs, spec, factory
        self.topics = tuple(topics)
        self._future_max_us, self._past_max_us = future_max_us, past_max_us
        keys = [tuple(k for k in catalogs if catalogs[k].kind == kind) for kind in kinds]
        self._learner = learner
        writers, framed = (learner.book.frames(), learner.framed) if learner else (None, False)
        self._scanners = [RecordScanner(ClassTable(catalogs, k, writers, framed=framed)) for k in keys]
        for scanner in self._scanners if learner else ():
            scanner.learn = self._learn
        self._keys = keys
        self.engines: dict[str, Engine] = {}
        self.refused: dict[Reason, int] = {}
        #: Asked when a class's table is full: whether it made room.
        self.evict: Callable[[], bool] = lambda: False
        #: Whether a detector of any class starts devices from their cohort: then `declared` is asked.
        self.knows_cohorts = False
        #: What a device declares of itself, by its id; the caller keeps it as the topic of the devices says.
        self.declared: Callable[[bytes], Mapping[str, str]] = lambda _: {}

    def _learn(self) -> None:
        """A frame's schema is not known: ask, and have every scanner accept what is new."""
        if self._learner is not None and (plans := self._learner()) is not None:
            for scanner in self._scanners:
                scanner.classes.accept(plans)

    def engine(self, catalog_key: str) -> Engine:
        """The engine of a class, made at its first use."""
        engine = self.engines.get(catalog_key)
        if engine is None:
            catalog = self.catalogs[catalog_key]
            number = next(k.index(catalog_key) for k in self._keys if catalog_key in k)
            engine = Engine(catalog, number, self.spec, self.factory(catalog))
            engine.evict = self._evict
            engine.enrolment.declared = self._declared
            self.engines[catalog_key] = engine
        return engine

    def declare(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Know what these devices declare: records of the schema "device"."""
        said = {record["device_id"].encode(): declared_by(record) for record in records}
        self.declared = lambda key: said.get(key, {})

    def _declared(self, key: bytes) -> Mapping[str, str]:
        return self.declared(key)

    def _evict(self) -> bool:
        return self.evict()

    def owner(self, topic: str, partition: int) -> int:
        """How device rows name this input partition."""
        return self.topics.index(topic) << OWNER_SHIFT | partition

    def process(
        self, topic: str, partition: int, parts: list[Part], min_offset: int, now_us: int, effects: Effects
    ) -> None:
        """Apply one partition's records, in order, from min_offset on. What is refused becomes dead letters."""
        t = self.topics.index(topic)
        scanner, keys = self._scanners[t], self._keys[t]
        source = Source(topic, partition, self.owner(topic, partition))
        ts_min, ts_max = max(0, now_us - self._past_max_us), now_us + self._future_max_us
        letters_before = len(effects.dead)
        for frames, refusals in scanner.scan(parts, min_offset, ts_min, ts_max):
            if refusals:
                _refuse(scanner.refusals[:refusals], source, effects)
            if frames:
                present = np.bincount(scanner.table[:frames, F_CLASS], minlength=len(keys))
                for c in np.flatnonzero(present).tolist():
                    self.engine(keys[c]).process(scanner.table, frames, source, effects)
        for lost in scanner.unreadable:
            effects.dead.append(
                DeadLetter(
                    topic, partition, lost.first_offset, lost.reason, None, bytes(lost.raw), lost.last_offset
                )
            )
        if len(effects.dead) > letters_before:
            letters = sorted(effects.dead[letters_before:], key=lambda letter: letter.offset)
            effects.dead[letters_before:] = [letter.bounded(now_us) for letter in _with_attempts(letters, parts)]
            for letter in letters:
                self.refused[letter.reason] = self.refused.get(letter.reason, 0) + 1

    # -- figures and ownership -------------------------------------------------------------------------------

    def counters(self) -> dict[str, int]:
        """Totals since the start, over all classes."""
        totals = {
            name: sum(int(e.devices.counters[c]) for e in self.engines.values())
            for name, c in COUNTER_NAMES.items()
        }
        totals["late_rows"] = sum(e.late_rows for e in self.engines.values())
        totals["windows"] = sum(e.windows_closed for e in self.engines.values())
        return totals

    def devices_held(self) -> dict[str, int]:
        return {key: engine.devices.held for key, engine in self.engines.items()}

    def frames_by_class(self) -> dict[str, int]:
        """Frames accepted since the start."""
        return {key: int(e.devices.counters[COUNTER_NAMES["frames"]]) for key, e in self.engines.items()}

    def devices_reporting(self, owners: set[int], since_us: int) -> dict[str, int]:
        """By class: devices of these owners with a row of then or later."""
        return {key: engine.reporting(owners, since_us) for key, engine in self.engines.items()}

    def alerts_open(self, owners: set[int]) -> Counter[tuple[str, str]]:
        """Alerts of these owners' devices that are open, by (severity, kind)."""
        return sum((engine.alerts_open(owners) for engine in self.engines.values()), Counter())

    def state_nbytes(self) -> int:
        """Memory that the devices' state takes, detectors included (their snapshots' size a slot)."""
        return sum(
            e.nbytes + e.devices.capacity * sum(d.state_nbytes for d in e.detectors) for e in self.engines.values()
        )

    def release(self, owners: set[int]) -> int:
        """Forget the devices of revoked partitions; returns how many."""
        return sum(engine.release(owners) for engine in self.engines.values())

    def forget(self, keys: Sequence[bytes], owners: Set[int]) -> None:
        """Forget the devices of these ids, whatever their class, that belong to these owners."""
        for engine in self.engines.values():
            slots = engine.devices.slots_of_keys(keys)
            slots = slots[slots >= 0]
            engine.forget(slots[np.isin(engine.devices.rows[slots, D_OWNER], list(owners))])

    def finish(self, topic: str, effects: Effects) -> None:
        """Close every open window, as at the end of a recording."""
        for engine in self.engines.values():
            engine.finish(Source(topic, 0, self.owner(topic, 0)), effects)


def _refuse(refusals: NDArray[np.int64], source: Source, effects: Effects) -> None:
    for row in refusals.tolist():
        key = copy_bytes(row[R_KEY_AT], row[R_KEY_LEN]) if row[R_KEY_LEN] >= 0 else None
        value = copy_bytes(row[R_VALUE_AT], row[R_VALUE_LEN]) if row[R_VALUE_LEN] >= 0 else None
        reason = Reason(row[R_REASON])
        effects.dead.append(DeadLetter(source.topic, source.partition, row[R_OFFSET], reason, key, value))


def _with_attempts(letters: list[DeadLetter], parts: list[Part]) -> Iterator[DeadLetter]:
    """These letters, ascending by offset, each with the attempt that its record's headers name."""
    numbers: dict[int, int] = {}
    single = [letter.offset for letter in letters if letter.last_offset < 0]
    for part in parts:
        here = single[bisect_left(single, part.base_offset) : bisect_right(single, part.last_offset)]
        if here and not part.refused:
            numbers |= {o: n for o, n in zip(here, attempts(part, here), strict=True) if n}
    for letter in letters:
        attempt = numbers.get(letter.offset, 0)
        yield replace(letter, attempt=attempt) if attempt else letter
