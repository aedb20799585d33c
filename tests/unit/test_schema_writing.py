"""Every producer's encoder puts the header that it was given before the same bytes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from producers.fleet import make_fleet
from producers.loadgen import LoadGenerator
from producers.recordings import Recording
from producers.replay import PlayedFrame, timeline
from telemetry import catalog, registry, schemas
from telemetry import settings as settings_module
from telemetry.schemas.writing import frame_header

HEADER = registry.header(0x01020304)
OURS = schemas.header("frame")
CATALOGS = catalog.load()
START_US = 1_760_000_000_000_000


def assert_same_but_for_the_header(framed: list[bytes], plain: list[bytes]) -> None:
    assert len(framed) == len(plain) > 0
    for one, other in zip(framed, plain, strict=True):
        assert one == HEADER + other.removeprefix(OURS)
        assert other.startswith(OURS)


def test_version_1_needs_neither_broker_nor_registry():
    away = settings_module.load(environ={}, kafka={"bootstrap": "127.0.0.1:9"})
    assert frame_header(away) == OURS


def test_simulated_frames():
    def frames(header: bytes | None) -> list[bytes]:
        fleet = make_fleet("sensor.pump", 3, CATALOGS, seed=1, start_us=START_US, gap_rate_per_hour=0)
        fleet.write_with(header)
        return [frame.value for _ in range(3) for frame in fleet.step()]

    assert_same_but_for_the_header(frames(HEADER), frames(None))


def test_replayed_frames():
    sample = Path(str(resources.files("producers").joinpath("samples", "drive.csv")))

    def frames(header: bytes | None) -> list[bytes]:
        played = timeline([Recording(sample, CATALOGS, None, None)], start_us=START_US, header=header)
        return [item.value for item in played if isinstance(item, PlayedFrame)]

    assert_same_but_for_the_header(frames(HEADER), frames(None))


def test_load():
    def frames(header: bytes | None) -> list[bytes]:
        load = LoadGenerator(
            CATALOGS["bench.frames/1"], 7, 3, start_us=START_US, seed=1, spike_rate=0.1, header=header
        )
        return [record["value"] for _, _, records in load.frames(20) for record in map(dict, records)]

    framed, plain = frames(HEADER), frames(None)
    assert_same_but_for_the_header(framed, plain)
    assert np.unique([len(value) for value in framed]).size == 1
