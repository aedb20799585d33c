"""State rows: they go on bit for bit, in whatever portions they come, and are never read as what they are not."""

import numpy as np
import pytest
from batches import part
from fleet_job import T0, job

from detectors.ewma import EwmaZ
from detectors.protocol import Detector
from detectors.robust import RobustMultiscale
from detectors.rules import Rules
from streams.core.alert_policy import PolicySpec
from streams.core.core import Core
from streams.core.effects import Effects
from streams.core.layout import Layout, Piece, shared
from streams.core.lineup import EngineSpec, Lineup
from streams.core.state import Restored, dirty_rows, load
from streams.core.windows import WindowSpec
from telemetry import catalog

CATALOGS = catalog.load()
TOPIC = "t.vehicle"
SECOND = 1_000_000
COLUMNS = CATALOGS["bench.frames/1"].columns
DEVICES = 40


def policy(open_surprise: float = 7.0) -> PolicySpec:
    return PolicySpec(
        open_surprise=open_surprise,
        close_surprise=2.0,
        open_rows=2,
        confirm_us=30 * SECOND,
        resolve_us=20 * SECOND,
        update_us=10 * SECOND,
        cooldown_us=5 * SECOND,
        warmup_us=0,
        major_surprise=15,
        critical_surprise=40,
        frames=False,
    )


def make_core(
    *detectors: Detector, grace_us: int = 0, open_surprise: float = 7.0, devices_max: int = 10_000
) -> Core:
    windows = WindowSpec(10 * SECOND, 10 * SECOND, grace_us, ("count", "mean", "std", "min", "max", "last"))
    spec = EngineSpec(windows, policy(open_surprise), devices_max=devices_max)
    sample = detectors or (EwmaZ(COLUMNS),)
    return Core(CATALOGS, spec, lambda c: Lineup(tuple(sample), (), 1), [TOPIC], ["vehicle"])


@pytest.fixture(scope="module")
def records():
    return job(DEVICES, 60)


def run(core: Core, some: list, start: int = 0, partition: int = 0) -> Effects:
    effects = Effects()
    for first in range(start, len(some), 400):
        core.process(TOPIC, partition, [part(some[first : first + 400], first)], first, T0, effects)
    return effects


def restored(core: Core, values: list[bytes], partitions: tuple[int, ...] = (0,)) -> Restored:
    found = Restored()
    load(core, values, {core.owner(TOPIC, p) for p in partitions}, found)
    return found


def outcome(core: Core, effects: Effects) -> tuple:
    return (
        sorted(m["value"] for m in effects.features),
        [a.event_id for a in effects.alerts],
        sorted(r["value"] for r in dirty_rows(core)),
    )


def test_rows_go_on_bit_for_bit(records):
    half = len(records) // 2
    straight, one, two = make_core(), make_core(), make_core()
    run(straight, records[:half])
    rest = run(straight, records, half)
    run(one, records[:half])
    rows = dirty_rows(one)
    assert len(rows) == DEVICES and dirty_rows(one) == []
    assert restored(two, [r["value"] for r in rows]).rows == DEVICES
    again = run(two, records, half - 500)  # the last 500 are replayed: each row skips what it has seen
    assert two.counters()["replayed"] == 500
    assert outcome(two, again) == outcome(straight, rest)


def test_later_rows_take_the_place_of_earlier_ones(records):
    """A restore in portions meets a device many times; what is held already is overwritten, not doubled."""
    half = len(records) // 2
    straight, one, two = make_core(), make_core(), make_core()
    run(straight, records[:half])
    rest = run(straight, records, half)
    for first in range(0, half, 400):
        one.process(TOPIC, 0, [part(records[first : min(first + 400, half)], first)], first, T0, Effects())
        assert restored(two, [r["value"] for r in dirty_rows(one)]).set_aside.total() == 0
    assert sum(two.devices_held().values()) == DEVICES
    again = run(two, records, half)
    assert outcome(two, again) == outcome(straight, rest)


def test_rows_of_other_partitions_are_passed_over(records):
    one, two = make_core(), make_core()
    run(one, records[:200], partition=3)
    rows = [r["value"] for r in dirty_rows(one)]
    assert restored(two, rows, (0, 1)).rows == 0
    assert restored(two, rows, (3,)).rows == DEVICES


def test_a_threshold_may_change_and_nothing_is_lost(records):
    half = len(records) // 2
    one, two, straight = make_core(), make_core(open_surprise=9.0), make_core(open_surprise=9.0)
    run(one, records[:half])
    found = restored(two, [r["value"] for r in dirty_rows(one)])
    assert (found.rows, found.migrated) == (DEVICES, 0)
    run(straight, records[:half])
    assert sorted(m["value"] for m in run(two, records, half).features) == sorted(
        m["value"] for m in run(straight, records, half).features
    )


def test_of_other_settings_what_means_the_same_is_taken(records):
    """Another grace changes the windows: the detector goes on, the windows begin anew."""
    half = len(records) // 2
    one, two, straight = make_core(), make_core(grace_us=SECOND), make_core()
    run(one, records[:half])
    run(straight, records[:half])
    found = restored(two, [r["value"] for r in dirty_rows(one)])
    assert (found.rows, found.migrated, found.set_aside.total()) == (DEVICES, DEVICES, 0)
    detector = two.engines["bench.frames/1"].detectors[0]
    same = straight.engines["bench.frames/1"].detectors[0]
    ids = straight.engines["bench.frames/1"].devices.keys(np.arange(DEVICES, dtype=np.int32))
    ours = two.engines["bench.frames/1"].devices.slots_of_keys(ids)
    assert np.array_equal(detector.snapshot(ours), same.snapshot(np.arange(DEVICES, dtype=np.int32)))
    windows = two.engines["bench.frames/1"].windows
    blank = make_core(grace_us=SECOND).engine("bench.frames/1").windows
    assert np.array_equal(windows.snapshot(ours), np.repeat(blank.snapshot(ours[:1]), DEVICES, axis=0))


def test_a_detector_that_is_added_begins_anew_beside_the_others(records):
    one = make_core(EwmaZ(COLUMNS))
    two = make_core(EwmaZ(COLUMNS), Rules(COLUMNS, limits=[(0.0, 1e9)] * len(COLUMNS)), RobustMultiscale(COLUMNS))
    run(one, records[:1000])
    assert restored(two, [r["value"] for r in dirty_rows(one)]).migrated == DEVICES
    ids = one.engines["bench.frames/1"].devices.keys(np.arange(DEVICES, dtype=np.int32))
    ours = two.engines["bench.frames/1"].devices.slots_of_keys(ids)
    kept, *new = two.engines["bench.frames/1"].detectors
    before = one.engines["bench.frames/1"].detectors[0]
    assert np.array_equal(kept.snapshot(ours), before.snapshot(np.arange(DEVICES, dtype=np.int32)))
    fresh = make_core(*new).engine("bench.frames/1").detectors
    for detector, untouched in zip(new, fresh, strict=True):
        assert np.array_equal(
            detector.snapshot(ours), np.repeat(untouched.snapshot(ours[:1] + 500), DEVICES, axis=0)
        )


def test_a_detector_of_other_parameters_is_never_read_as_ours(records):
    one, two = make_core(EwmaZ(COLUMNS)), make_core(EwmaZ(COLUMNS, alpha=0.01))
    run(one, records[:1000])
    assert restored(two, [r["value"] for r in dirty_rows(one)]).migrated == DEVICES
    blank = make_core(EwmaZ(COLUMNS, alpha=0.01)).engine("bench.frames/1").detectors[0]
    slots = np.arange(DEVICES, dtype=np.int32)
    assert np.array_equal(two.engines["bench.frames/1"].detectors[0].snapshot(slots), blank.snapshot(slots))


def test_what_is_not_a_row_of_ours_is_set_aside_and_counted(records):
    one, two = make_core(), make_core()
    run(one, records[:200])
    good = [r["value"] for r in dirty_rows(one)]
    engine = one.engines["bench.frames/1"]
    state_id = engine.state_id.encode()
    bad = [
        b"",
        b"junk that is longer than a header",
        good[0][:40],
        good[1][:-20],
        good[2].replace(b"bench.frames/1", b"bench.framed/1"),
        good[3].replace(state_id, b"f" * len(state_id)),
        good[4].replace(state_id, state_id.replace(state_id[:8], b"00000000", 1)),
    ]
    found = restored(two, bad)
    assert found.rows == 0 and found.set_aside.total() == len(bad), found
    assert restored(two, good).rows == DEVICES


def test_a_tombstone_forgets_the_device_of_that_owner_only(records):
    core = make_core()
    run(core, records[:200], partition=0)
    keys = core.engines["bench.frames/1"].devices.keys(np.arange(3, dtype=np.int32))
    core.forget([*keys, b"nobody"], {core.owner(TOPIC, 1)})
    assert sum(core.devices_held().values()) == DEVICES
    core.forget([*keys, b"nobody"], {core.owner(TOPIC, 0)})
    assert sum(core.devices_held().values()) == DEVICES - 3


def test_a_full_table_asks_for_room_before_it_refuses(records):
    core = make_core(devices_max=1024)
    many = job(1024, 1)
    run(core, many, partition=1)
    assert sum(core.devices_held().values()) == 1024
    asked = []

    def evict() -> bool:
        asked.append(1)
        return core.release({core.owner(TOPIC, 1)}) > 0

    core.evict = evict
    renamed = [(b"new" + key, value.replace(b"\x16veh", b"\x1cnewveh", 1)) for key, value in many[:10]]
    effects = run(core, renamed)
    assert len(asked) == 1 and effects.dead == []
    assert sum(core.devices_held().values()) == 10


def test_layouts_name_their_pieces():
    a, b, c = Piece.of(16, "a"), Piece.of(0, "b"), Piece.of(7, "c")
    layout = Layout((a, b, c), (a,))
    assert Layout.parse(layout.state_id) == layout
    assert layout.nbytes == 23 and layout.bank_nbytes == 16
    assert shared((a, c), (c, b, a)) == [(0, 7), (1, 0)]
    assert shared((Piece("a" * 8, 16),), (a,)) == []
    for wrong in ("", "d41d8cd98f00b204", "12345678-x", "1234567-8", "+12345678-8", "12345678--8"):
        assert Layout.parse(wrong) is None
