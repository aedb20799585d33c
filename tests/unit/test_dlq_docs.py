"""docs/bad-input.md shows the catalogue as it is."""

from pathlib import Path

from bad_input import ACCEPTED, BATCH_CASES, CASES, DUPLICATE, LATE

from streams.core.effects import DeadLetter
from telemetry.reasons import Reason

DOC = (Path(__file__).parents[2] / "docs" / "bad-input.md").read_text(encoding="utf-8")


def rows() -> list[str]:
    found = []
    for case in CASES:
        ends = dict.fromkeys(case.ends)
        words = [end if end in (ACCEPTED, DUPLICATE, LATE) else f"`{end}`" for end in ends]
        found.append(f"| {case.name} | {', '.join(words)} |")
    return found + [f"| {case.name} | `{case.reason}` |" for case in BATCH_CASES]


def test_every_case_is_a_row_and_no_other():
    tables = DOC.partition("## Records")[2].partition("## What holds this")[0]
    shown = [line for line in tables.splitlines() if line.startswith("| ") and line[2:] != "case | reason |"]
    assert [line for line in shown if line != "| case | where it ends |"] == rows()


def test_every_header_is_described():
    letter = DeadLetter("t", 0, 1, Reason.TOO_LARGE, b"k", b"v", 2, key_length=9, value_length=9)
    record = DeadLetter("t", 0, 1, Reason.BAD_SEQ, b"k", b"\xc3\x01" + bytes(8))
    for name, _ in (*letter.headers("w"), *record.headers("w")):
        assert name.removeprefix("__connect.errors") in DOC
