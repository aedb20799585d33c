"""A small job for one worker, and what must be on its topics once it is done. The rule: record for record."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batches import part
from fleet_job import job
from real_worker import committed, read_all, wait_for

from streams.core.effects import Effects
from streams.core.state import dirty_rows
from streams.wiring import make_core
from telemetry import clients
from telemetry import settings as settings_module
from telemetry.settings import Settings
from telemetry.topics import Topics, ensure, topics

PARTITIONS = 4


@dataclass
class Job:
    """One worker group's settings and input. sent : records written so far."""

    config: Path
    settings: Settings
    names: Topics
    records: list[tuple[bytes, bytes]]
    sent: int = 0

    @classmethod
    def make(
        cls, folder: Path, bootstrap: str, prefix: str, devices: int = 40, rounds: int = 120, **changed: Any
    ) -> Job:
        sections: dict[str, Any] = {
            "kafka": {"bootstrap": bootstrap},
            "topics": {"prefix": prefix, "partitions": PARTITIONS},
            "processing": {"group": f"{prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
            "detectors": [{"name": "ewma"}],
            "alerts": {"mode": "frames", "open_surprise": 8.0},
            "windows": {"grace_s": 0},
            "service": {"log_level": "INFO", "log_format": "text"},
        }
        for section, values in changed.items():
            sections[section] = {**sections.get(section, {}), **values}
        config = folder / "settings.yaml"
        config.write_text(json.dumps(sections))
        settings = settings_module.load(config, environ={})
        ensure(settings)
        return cls(config, settings, topics(settings), job(devices, rounds))

    def send(self, count: int, pause_s: float = 0.0, extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Write the next records, `extra` bad ones after them; pause_s between rounds of 40."""
        producer = clients.producer(self.settings, linger_ms=0)
        some = [*self.records[self.sent : self.sent + count], *extra]
        for i, (key, value) in enumerate(some):
            producer.produce(self.names.vehicle.name, value, key)
            if pause_s and i % 40 == 39:
                producer.poll(0)
                time.sleep(pause_s)
        assert producer.flush(30) == 0
        self.sent += len(some)

    def done(self) -> int:
        return committed(self.settings, self.names.vehicle.name)

    def wait(self, timeout_s: float = 150) -> None:
        wait_for(lambda: self.done() >= self.sent, timeout_s, f"the work on {self.sent} records")

    def check(self) -> None:
        """Features, alerts, dead letters, newest state rows: as a run without a fault over the same input."""
        expected, found = self._expected(), self._found()
        for kind in expected:
            assert found[kind] == expected[kind], _difference(kind, expected[kind], found[kind])
        assert len(expected["features"]) > 20

    def _expected(self) -> Mapping[str, list[Any]]:
        core, effects = make_core(self.settings), Effects()
        by_partition: dict[int, list[Any]] = {}
        for message in read_all(self.settings, self.names.vehicle.name):
            if message.partition() >= PARTITIONS:
                continue  # a topic that has grown
            by_partition.setdefault(message.partition(), []).append(message)
        for partition, messages in by_partition.items():
            assert [m.offset() for m in messages] == list(range(len(messages)))
            records = [(m.key(), m.value()) for m in messages]
            core.process(self.names.vehicle.name, partition, [part(records)], 0, time.time_ns() // 1000, effects)
        return {
            "features": sorted(m["value"] for m in effects.features),
            "alerts": sorted(alert.to_message()[1] for alert in effects.alerts),
            "dlq": sorted((d.partition, d.offset, d.value) for d in effects.dead),
            "state": sorted((m["key"], m["value"]) for m in dirty_rows(core)),
        }

    def _found(self) -> Mapping[str, list[Any]]:
        rows = {m.key(): m.value() for m in read_all(self.settings, self.names.state.name)}
        dead = []
        for m in read_all(self.settings, self.names.dlq.name):
            headers = dict(m.headers())
            place = (int(headers["__connect.errors.partition"]), int(headers["__connect.errors.offset"]))
            dead.append((*place, m.value()))
        return {
            "features": sorted(m.value() for m in read_all(self.settings, self.names.features.name)),
            "alerts": sorted(m.value() for m in read_all(self.settings, self.names.alerts.name)),
            "dlq": sorted(dead),
            "state": sorted(rows.items()),
        }


def _difference(kind: str, expected: list[Any], found: list[Any]) -> str:
    missing = [e for e in expected if e not in found]
    more = [f for f in found if f not in expected]
    return f"{kind}: {len(expected)} expected, {len(found)} found, missing {missing[:1]}, unexpected {more[:1]}"
