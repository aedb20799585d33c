"""The catalogue of bad input through transport and core: where each record ends, and that nobody else notices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from bad_input import (
    ACCEPTED,
    BATCH_CASES,
    CASES,
    DUPLICATE,
    LATE,
    T0,
    YEAR_US,
    BatchCase,
    Case,
    Record,
    at_offset,
    frame,
)
from batches import batch
from fleet_job import job

from streams.core.core import Core
from streams.core.effects import LETTER_BYTES_MAX, DeadLetter, Effects
from streams.core.state import dirty_rows
from streams.transport import rawfetch
from streams.transport.rawfetch import RawPartitionRecords
from streams.wiring import make_core
from telemetry import codec
from telemetry import settings as settings_module
from telemetry.reasons import Reason

TOPIC = "telemetry.vehicle"
NOW = T0 + 600_000_000
GOOD: list[Record] = list(job(3, 60))
HALF = len(GOOD) // 2
SETTINGS = settings_module.load(
    environ={},
    detectors=[{"name": "ewma", "params": {"warm_rows": 20}}, {"name": "robust"}],
    alerts={"warmup_s": 5, "open_rows": 1, "confirm_s": 5, "resolve_s": 5},
    windows={"size_s": 10, "hop_s": 5, "grace_s": 2},
)
MADE = make_core(SETTINGS)


def new_core() -> Core:
    """The worker's core, without reading the catalogue's files a hundred times."""
    return Core(
        MADE.catalogs,
        MADE.spec,
        MADE.factory,
        MADE.topics,
        ["vehicle", "device"],
        future_max_us=int(SETTINGS.processing.future_max_s * 1e6),
        past_max_us=int(SETTINGS.processing.past_max_days * 86_400e6),
    )


class Log:
    """A partition as its broker holds it: batches, each with its first offset."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, bytes]] = []
        self.end = 0

    def add(self, data: bytes, offsets: int) -> None:
        self.batches.append((self.end, at_offset(data, self.end)))
        self.end += offsets

    def add_records(self, records: Sequence[Record], headers: int = 0) -> None:
        if records:
            pairs = [("h", b"x")] * headers
            self.add(batch(records, headers=pairs), len(records))

    def fetch(self, offset: int) -> bytes:
        """A response to a fetch from `offset` on."""
        held = [at for at, (base, _) in enumerate(self.batches) if base <= offset]
        return b"".join(data for _, data in self.batches[held[-1] :]) if offset < self.end else b""


class Outcome(NamedTuple):
    """What became of a log. good : all that was published of the good devices, and their state rows."""

    core: Core
    effects: Effects
    good: dict[str, object]


def run(log: Log) -> Outcome:
    """Read the log as the fetcher does: each response from where the last one ended."""
    core, effects, at, idle = new_core(), Effects(), 0, 0
    while at < log.end and idle < rawfetch.READS:
        idle += 1
        for raw in RawPartitionRecords(
            TopicPartition(TOPIC, 0), log.fetch(at), None, at, check_crcs=True, committed_only=True
        ):
            assert raw.next_offset > at
            core.process(TOPIC, 0, raw.parts, raw.first_offset, NOW, effects)
            at, idle = raw.next_offset, 0
    assert at == log.end, "reading stands still"
    core.finish(TOPIC, effects)
    return Outcome(core, effects, of_good(core, effects))


def of_good(core: Core, effects: Effects) -> dict[str, object]:
    keys = {key for key, _ in GOOD}
    return {
        "features": [m for m in effects.features if m["key"] in keys],
        "scores": [m for m in effects.scores if m["key"] in keys],
        "late": [m for m in effects.late if m["key"] in keys],
        "alerts": [a.to_message() for a in effects.alerts if a.device_id.encode() in keys],
        "state": {row["key"]: row["value"] for row in dirty_rows(core) if row["key"] in keys},
    }


@pytest.fixture(scope="module")
def alone() -> dict[int, dict[str, object]]:
    """Outcomes of the good records alone, by how many offsets are missing between their halves."""
    return {}


def undisturbed(alone: dict[int, dict[str, object]], gap: int) -> dict[str, object]:
    if gap not in alone:
        log = Log()
        log.add_records(GOOD[:HALF])
        log.end += gap
        log.add_records(GOOD[HALF:])
        log.batches.append((log.end, b""))
        quiet = run(log)
        assert not quiet.effects.dead
        assert len(quiet.good["alerts"]) >= 3
        assert len(quiet.good["features"]) > 15
        alone[gap] = quiet.good
    return alone[gap]


def test_the_catalogue_is_whole():
    assert len(CASES) + len(BATCH_CASES) >= 100
    assert len({case.name for case in (*CASES, *BATCH_CASES)}) == len(CASES) + len(BATCH_CASES)
    ends = {end for case in CASES for end in case.ends} | {case.reason for case in BATCH_CASES}
    # `state_full` needs a limit on devices, `wrong_partition` many partitions: they have tests of their own
    assert ends == {reason.code for reason in Reason} - {"ok", "state_full", "wrong_partition"} | {
        ACCEPTED,
        DUPLICATE,
        LATE,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_record_ends_where_it_must_and_disturbs_nobody(case: Case, alone):
    log = Log()
    log.add_records(GOOD[: HALF - 4])
    log.add_records([*GOOD[HALF - 4 : HALF], *case.records, *GOOD[HALF : HALF + 4]], case.headers)
    log.add_records(GOOD[HALF + 4 :])
    outcome = run(log)
    letters = {letter.offset: letter for letter in outcome.effects.dead}
    assert [letter.offset for letter in outcome.effects.dead] == sorted(letters)
    for i, (record, end) in enumerate(zip(case.records, case.ends, strict=True)):
        letter = letters.pop(HALF + i, None)
        if end in (ACCEPTED, DUPLICATE, LATE):
            assert letter is None
        else:
            assert (letter.reason.code, letter.key, letter.value, letter.last_offset) == (end, *record, -1)
    assert not letters
    counters = outcome.core.counters()
    assert counters["frames"] == len(GOOD) + case.ends.count(ACCEPTED) + case.ends.count(LATE)
    assert counters["duplicates"] == case.ends.count(DUPLICATE)
    late = [record for record, end in zip(case.records, case.ends, strict=True) if end == LATE]
    assert [(m["key"], m["value"]) for m in outcome.effects.late] == late
    wanted = {end: case.ends.count(end) for end in case.ends if end not in (ACCEPTED, DUPLICATE, LATE)}
    assert {reason.code: n for reason, n in outcome.core.refused.items()} == wanted
    assert outcome.good == undisturbed(alone, len(case.records))


@pytest.mark.parametrize("case", BATCH_CASES, ids=lambda case: case.name)
def test_a_bad_batch_becomes_one_letter_and_reading_goes_on_behind_it(case: BatchCase, alone):
    log, data = Log(), case.make()
    span = case.read + case.spans
    log.add_records(GOOD[:HALF])
    log.add(data, span)
    log.add_records(GOOD[HALF:])
    outcome = run(log)
    (letter,) = outcome.effects.dead
    assert letter.reason.code == case.reason
    assert letter.reason.stage == "transport"
    assert (letter.offset, letter.last_offset) == (HALF + case.read, HALF + span - 1)
    assert letter.key is None
    held = at_offset(data, HALF)
    if case.name.startswith("batch length"):  # all that came is given: where the batch ends is not known
        assert letter.value.startswith(held)
    else:
        assert letter.value == held
    assert outcome.core.counters()["frames"] == len(GOOD) + case.read
    assert outcome.good == undisturbed(alone, span)


def test_one_clock_ten_years_ahead_makes_nobody_late():
    """Neither others nor the device itself: the frame is refused before it moves a watermark."""
    log = Log()
    log.add_records([(b"fast", frame("fast", 0, T0))])
    log.add_records([(b"fast", frame("fast", 1, T0 + 10 * YEAR_US))])
    device = ["fast", *(f"other-{i}" for i in range(9))]
    records = [(d.encode(), frame(d, 2 + i, T0 + (1 + i) * 100_000)) for i in range(1000) for d in device]
    for first in range(0, len(records), 1000):
        log.add_records(records[first : first + 1000])
    outcome = run(log)
    assert [letter.reason for letter in outcome.effects.dead] == [Reason.ABSURD_TIME]
    assert outcome.core.counters()["frames"] == len(records) + 1 == 10_001
    assert outcome.core.counters()["late_rows"] == outcome.core.counters()["out_of_order"] == 0
    assert outcome.effects.late == []


def test_where_a_batch_was_cut_changes_no_letter():
    records = [record for case in CASES for record in case.records if case.headers == 0]
    seen = []
    for cut in (7, 300, len(records)):
        log = Log()
        for first in range(0, len(records), cut):
            log.add_records(records[first : first + cut])
        outcome = run(log)
        seen.append([(x.offset, x.reason, x.key, x.value) for x in outcome.effects.dead])
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) > 1100


def test_a_fetch_that_begins_inside_a_bad_batch_gives_a_letter_from_there_on():
    case = next(case for case in BATCH_CASES if case.name == "zstd, damaged")
    raw = next(
        RawPartitionRecords(
            TopicPartition(TOPIC, 3), at_offset(case.make(), 100), None, 101, check_crcs=True, committed_only=True
        )
    )
    effects = Effects()
    new_core().process(TOPIC, 3, raw.parts, raw.first_offset, NOW, effects)
    assert [(x.offset, x.last_offset) for x in effects.dead] == [(101, 102)]
    assert (raw.first_offset, raw.next_offset) == (101, 103)


def test_many_bombs_in_one_response_take_memory_once():
    bomb = next(case for case in BATCH_CASES if case.name == "zstd bomb, 95 MB").make()
    log = Log()
    for _ in range(20):
        log.add(bomb, 1)
    responses, at = 0, 0
    while at < log.end:
        raw = next(
            RawPartitionRecords(
                TopicPartition(TOPIC, 4), log.fetch(at), None, at, check_crcs=True, committed_only=True
            )
        )
        assert len(raw.parts) == 1
        at, responses = raw.next_offset, responses + 1
    assert responses == 20


def test_what_is_too_long_for_a_message_is_cut_and_says_so():
    key, value = bytes(600_000), bytes(700_000)
    letter = DeadLetter("t", 0, 5, Reason.TOO_LARGE, key, value).bounded(NOW)
    assert len(letter.key) + len(letter.value) == LETTER_BYTES_MAX
    headers = dict(letter.headers("w"))
    assert (headers["x-truncated"], headers["x-truncated-key"]) == (b"700000", b"600000")
    whole = DeadLetter("t", 0, 5, Reason.TOO_LARGE, b"k", bytes(LETTER_BYTES_MAX - 1)).bounded(NOW)
    assert "x-truncated" not in dict(whole.headers("w"))
    assert dict(whole.headers("w"))["x-time"] == b"2025-10-09T09:03:20.000+00:00"


def test_the_schema_that_a_record_names_is_in_its_headers():
    fingerprint = next(case for case in CASES if case.name == "fingerprint of another schema").records[0][1][2:10]
    for value, wanted in (
        (b"\xc3\x01" + fingerprint + b"...", fingerprint.hex().encode()),
        (b"\xc3\x01\x07", b"07"),
        (b"junk", None),
        (None, None),
    ):
        letter = DeadLetter("t", 0, 5, Reason.UNKNOWN_FINGERPRINT, b"k", value)
        assert dict(letter.headers("w")).get("x-schema-fp") == wanted


def test_more_devices_than_allowed_are_refused_and_those_held_go_on(alone):
    few = settings_module.load(environ={}, processing={"devices_max": 1024}, detectors=[])
    core, effects = make_core(few), Effects()
    records = [(f"d-{i}".encode(), frame(f"d-{i}", 0, T0)) for i in range(1100)]
    log = Log()
    log.add_records(records)
    log.add_records([(k, frame(k.decode(), 1, T0 + 1_000_000)) for k, _ in records[:100]])
    (raw,) = RawPartitionRecords(
        TopicPartition(TOPIC, 0), log.fetch(0), None, 0, check_crcs=True, committed_only=True
    )
    core.process(TOPIC, 0, raw.parts, 0, NOW, effects)
    assert [letter.reason for letter in effects.dead] == [Reason.STATE_FULL] * 76
    assert [letter.key for letter in effects.dead] == [key for key, _ in records[1024:]]
    assert core.counters()["frames"] == 1124


def test_a_storm_of_nan_and_extremes_leaves_state_and_results_finite():
    case = next(case for case in CASES if case.name == "NaN, infinity and extremes")
    log = Log()
    log.add_records(case.records)
    calm = [(b"bad-n", frame("bad-n", 1000 + i, T0 + (200 + i) * 1_000_000)) for i in range(100)]
    log.add_records(calm)
    outcome = run(log)
    features = [codec.decode("window_features", m["value"]) for m in outcome.effects.features]
    levels = [x for f in features for name in ("mean", "std", "min", "max", "last") for x in f[name]]
    assert len(levels) > 1000
    assert not [x for x in levels if math.isinf(x)]
    scores = [codec.decode("score", m["value"]) for m in outcome.effects.scores]
    assert not [s for s in scores if math.isinf(s["surprise"])]
    late = [f for f in features if f["window_start"] >= T0 + 240_000_000]
    assert late
    assert all(f[name] == list(range(10)) for f in late for name in ("mean", "min", "max", "last"))
    assert all(f[name] == [0.0] * 10 for f in late for name in ("std", "slope", "roc_max"))


def test_a_letter_says_how_often_its_record_was_sent_again():
    log, bad = Log(), (b"bad-1", b"not a frame")
    unlawful = (b"veh\n", frame("veh\n", 0, T0))
    log.add(batch([bad, unlawful, GOOD[0]], headers=[("x-attempt", b"1"), ("other", b""), ("x-attempt", b"2")]), 3)
    log.add_records([GOOD[1], bad, unlawful])
    for wrong in (b"-3", b"1e9", b"99999", b"\xb2", b""):
        log.add(batch([bad], headers=[("x-attempt", wrong), ("none", None)]), 1)
    outcome = run(log)
    assert [(x.offset, x.attempt) for x in outcome.effects.dead] == [
        (0, 2), (1, 2), (4, 0), (5, 0), *((6 + i, 0) for i in range(5)),
    ]  # fmt: skip
    assert dict(outcome.effects.dead[0].headers("w"))["x-attempt"] == b"2"


def test_numbers_out_of_nowhere_do_not_overflow_the_counters():
    log = Log()
    for device in "abcd":
        log.add_records(
            [(device.encode(), frame(device, n, T0 + i * 1_000_000)) for i, n in enumerate((0, 2**62, 2**63 - 1))]
        )
    counters = run(log).core.counters()
    assert counters["frames"] == 12
    assert counters["missing_frames"] == 8 << 20
