"""Dead letters explained: every reason has advice, and no bytes, key or header can make it fail or print raw."""

from __future__ import annotations

import base64
import random
import sys

import pytest
from bad_input import BATCH_CASES, CASES, GOOD
from batches import batch

from fleetwatch import dlq_check
from fleetwatch.dlq_check import DIED, check
from fleetwatch.dlq_cli import as_json, as_line, page
from fleetwatch.dlq_explain import ADVICE, batch_lines, frame_lines, hexdump
from fleetwatch.dlq_letters import Letter, Wanted
from fleetwatch.dlq_replay import _obstacle
from telemetry.reasons import TEXT, Reason
from telemetry.schemas.book import SchemaBook

BOOK = SchemaBook()


def letter(value: bytes | None, key: bytes | None = b"k", **headers: bytes) -> Letter:
    return Letter(1, 7, 1_760_000_000_000, key, value, {_name(n): v for n, v in headers.items()})


def _name(name: str) -> str:
    """`x__last__offset` is the header x-last-offset."""
    return name.replace("__", "-") if name.startswith("x__") else name


def provenance(topic: str = "telemetry.vehicle", partition: str = "0", offset: str = "5") -> dict[str, bytes]:
    pairs = {"topic": topic, "partition": partition, "offset": offset}
    return {f"__connect.errors.{name}": text.encode() for name, text in pairs.items()}


def test_every_reason_has_a_text_and_advice():
    assert set(ADVICE) == set(TEXT) == set(Reason)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_bad_record_has_a_page(case):
    for key, value in case.records[:40]:
        lines = list(page(letter(value, key, x__reason=case.ends[0].encode()), BOOK, 64))
        assert all(line.isprintable() for line in lines)
        assert len(lines) < 40
        assert max(map(len, lines)) < 400


def test_a_good_frame_is_read_to_its_end():
    lines = list(frame_lines(GOOD, BOOK))
    assert lines[0] == "@2 schema frame (released, version 1)"
    assert lines[1:4] == ["@10 device_id = bad-1", "@16 catalog = bench.frames/1", "@31 seq = 0"]
    assert lines[-1].endswith("values = 10 values in 1 block")


def test_where_a_frame_goes_wrong_is_named():
    assert list(frame_lines(GOOD[:-5], BOOK))[-1].startswith("@41 values: a block of 10 values after 0, but ")
    assert list(frame_lines(GOOD + b"xy", BOOK))[-1] == f"@{len(GOOD)} 2 bytes are left over"
    unknown = b"\xc3\x01" + b"\x01" * 8 + GOOD[10:]
    assert "no schema that is accepted here" in next(iter(frame_lines(unknown, BOOK)))


@pytest.mark.parametrize("case", BATCH_CASES, ids=lambda case: case.name)
def test_every_bad_batch_has_a_page(case):
    lines = list(batch_lines(case.make()))
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith("base offset 0")


def test_random_bytes_are_shown_as_they_are():
    rng = random.Random(4)
    for n in range(300):
        data = rng.randbytes(n)
        for seed in (data, GOOD[: n % len(GOOD)] + data, batch([(b"k", data)])[:n]):
            list(frame_lines(seed, BOOK))
            list(batch_lines(seed))
        shown = list(hexdump(data, 0))
        assert bytes.fromhex("".join(line[10:58] for line in shown)) == data
    assert list(hexdump(bytes(100), 32))[-1] == "... 68 more bytes; --bytes 0 shows all"


def test_headers_are_never_trusted():
    hostile = letter(
        b"v",
        b"\x1b[31m",
        x__reason=b"\x1b]0;owned\x07",
        x__attempt=b"-1",
        x__last__offset=b"99999999999999999999",
        **{"__connect.errors.partition": b"\xb2", "__connect.errors.topic": b"a\r\nb"},
    )
    assert (hostile.attempt, hostile.last_offset, hostile.source_partition) == (0, -1, -1)
    assert hostile.known_reason is None
    for text in (as_line(hostile), as_json(hostile), *page(hostile, BOOK, 0)):
        assert text.isprintable()
    assert Wanted(reasons=frozenset({hostile.reason}))(hostile)
    assert not Wanted(until_ms=1)(hostile)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (letter(b"v", **provenance()), None),
        (letter(b"v", **provenance(), x__last__offset=b"9"), "a whole batch"),
        (letter(b"v", **provenance(), x__truncated=b"9"), "cut"),
        (letter(b"v", **provenance("telemetry.alerts")), "not from an input topic"),
        (letter(b"v", **provenance(partition="8")), "from a partition that does not exist"),
        (letter(b"v", **provenance(partition="x")), "from a partition that does not exist"),
        (letter(b"v", **provenance(), x__attempt=b"3"), "sent again 3 times"),
    ],
)
def test_what_is_never_sent_again(found, why):
    obstacle = _obstacle(found, {"telemetry.vehicle": 8}, 3)
    assert obstacle is None if why is None else obstacle.startswith(why)


def test_a_record_that_ends_the_decoder_is_found_and_the_others_are_judged(tmp_path, monkeypatch):
    """The decoder has no such record to offer, so an interpreter stands in that dies of a certain one."""
    killer = b"kills the decoder"
    wrapper = tmp_path / "python"
    wrapper.write_text(
        "#!/bin/sh\nrecords=$(cat)\n"
        f'case "$records" in *{base64.b64encode(killer).decode()}*) kill -SEGV $$;; esac\n'
        f'printf "%s" "$records" | "{sys.executable}" "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setattr(dlq_check.sys, "executable", str(wrapper))
    records = [letter(x, b"bad-1", **provenance()) for x in (GOOD, killer, b"junk")]
    assert check(None, records) == ["", DIED, "bad_header"]
