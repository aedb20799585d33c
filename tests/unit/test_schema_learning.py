"""The core meets a frame whose schema it does not know: it asks before it refuses, once, and goes on in order."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from batches import part
from schema_versions import BOOT_ID, header_of, with_fields, write

from streams.core.core import Core
from streams.core.effects import Effects
from streams.wiring import detector_factory, engine_spec
from telemetry import catalog, codec, registry
from telemetry import settings as settings_module
from telemetry.errors import BrokerUnavailableError
from telemetry.reasons import Reason
from telemetry.schemas.book import Learner, SchemaBook, Told

T0 = 1_760_000_000_000_000
NEXT = with_fields([BOOT_ID])
CATALOGS = catalog.load()
SETTINGS = settings_module.load(environ={}, detectors=[], windows={"size_s": 1, "hop_s": 1, "grace_s": 0})


class Channel:
    """A source that knows some schemas; counts how often it was asked."""

    def __init__(self, *found: Told, away: bool = False) -> None:
        self.found, self.away, self.asked = found, away, 0

    def refresh(self) -> Sequence[Told]:
        self.asked += 1
        if self.away:
            raise BrokerUnavailableError("away")
        return self.found


def core(*sources: Channel) -> Core:
    return Core(
        CATALOGS,
        engine_spec(SETTINGS),
        detector_factory(SETTINGS),
        ["vehicles", "devices"],
        ["vehicle", "device"],
        learner=Learner(SchemaBook(), sources, framed=True),
    )


def frames(count: int, entry: str, headers: Sequence[bytes | None]) -> list[tuple[bytes, bytes]]:
    """Frames of one device, of today's schema (None) and the next one's in turn."""
    found = []
    for seq in range(count):
        header = headers[seq % len(headers)]
        record = {"device_id": "d-1", "catalog": entry, "seq": seq, "ts": T0 + 500_000 * seq, "period_us": 0}
        record["values"] = [float(seq)] * len(CATALOGS[entry].signals)
        value = codec.encode("frame", record) if header is None else write(NEXT, record | {"boot_id": 7}, header)
        found.append((b"d-1", value))
    return found


def run(subject: Core, records: list[tuple[bytes, bytes]], topic: str = "vehicles", first: int = 0) -> Effects:
    effects = Effects()
    subject.process(topic, 0, [part(records, first)], 0, T0 + 10**9, effects)
    return effects


ANNOUNCED = Told(header_of(NEXT), json.dumps(NEXT), "test")


@pytest.mark.parametrize("header", [header_of(NEXT), registry.header(12)])
def test_a_schema_learnt_in_the_middle_of_a_batch_costs_no_frame(header):
    channel = Channel(Told(header, json.dumps(NEXT), "test"))
    subject = core(channel)
    effects = run(subject, frames(41, "bench.frames/1", [None, None, header]))
    assert effects.dead == []
    windows = [codec.decode("window_features", m["value"]) for m in effects.features]
    assert [w["rows"] for w in windows] == [2] * 20
    np.testing.assert_allclose([w["mean"][0] for w in windows], np.arange(20) * 2 + 0.5)
    assert subject.counters()["frames"] == 41
    assert subject.counters()["out_of_order"] == subject.counters()["missing_frames"] == 0
    run(subject, frames(41, "bench.frames/1", [header]), first=41)
    assert channel.asked == 1


def test_both_inputs_learn_from_one_question():
    channel = Channel(ANNOUNCED)
    subject = core(channel)
    assert run(subject, frames(3, "bench.frames/1", [header_of(NEXT)])).dead == []
    assert run(subject, frames(3, "sensor.pump/1", [header_of(NEXT)]), "devices").dead == []
    assert channel.asked == 1


def test_what_nobody_knows_is_refused_after_one_question_a_batch():
    channel = Channel()
    subject = core(channel)
    effects = run(subject, frames(2000, "bench.frames/1", [None, header_of(NEXT)]))
    assert {letter.reason for letter in effects.dead} == {Reason.UNKNOWN_FINGERPRINT}
    assert len(effects.dead) == subject.counters()["frames"] == 1000
    assert channel.asked == 1


def test_nothing_is_refused_while_a_source_is_away():
    with pytest.raises(BrokerUnavailableError):
        run(core(Channel(away=True)), frames(2, "bench.frames/1", [header_of(NEXT)]))
