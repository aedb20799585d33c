"""The uninterrupted run: the same core, in process, over the input as Kafka holds it. The rule: no code of its own.

All that is computed here is computed by `streams.core`; only the batches are cut in another way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from streams.core.effects import Effects
from streams.core.state import dirty_rows
from streams.wiring import make_core
from telemetry.settings import Settings
from telemetry.topics import topics
from tests.chaos.records import STATE, Entry
from tests.support.batches import part

BATCH = 2000


class Uninterrupted:
    """Processes one partition of both inputs after the other."""

    def __init__(self, settings: Settings) -> None:
        self._core = make_core(settings)
        self._inputs = [spec.name for spec in topics(settings).inputs]

    def run(self, partition: int, inputs: Sequence[Sequence[Entry]]) -> dict[str, list[Entry]]:
        """What each output topic's partition must hold. inputs : the partition's records of each input topic."""
        effects = Effects()
        now_us = time.time_ns() // 1000
        for topic, records in zip(self._inputs, inputs, strict=True):
            for first in range(0, len(records), BATCH):
                some = records[first : first + BATCH]
                cut = part([(e.key, e.value) for e in some], first)
                self._core.process(topic, partition, [cut], first, now_us, effects)
        found: dict[str, list[Entry]] = {
            kind: [Entry(m["key"], m["value"]) for m in messages]
            for kind, messages in (
                ("features", effects.features),
                ("scores", effects.scores),
                ("late", effects.late),
            )
        }
        found["alerts"] = []
        for alert in effects.alerts:
            key, value, headers = alert.to_message()
            found["alerts"].append(Entry(key, value, tuple(headers)))
        found["dlq"] = [Entry(d.key, d.value, tuple(d.headers(""))) for d in effects.dead]
        found[STATE] = [Entry(m["key"], m["value"]) for m in dirty_rows(self._core)]
        return found
