"""The checker bites: each kind of difference is found, named and shown with both histories."""

import pytest

from tests.chaos.checker import Comparison, compare
from tests.chaos.records import Entry


def letters(*offsets: int, start: int = -1) -> list[Entry]:
    """Dead letters of one device, found from offset `start` on; expected ones have none."""
    found = []
    for i, offset in enumerate(offsets):
        names = {"topic": b"t", "partition": b"0", "offset": str(offset).encode()}
        headers = tuple((f"__connect.errors.{name}", value) for name, value in names.items())
        at = start + i if start >= 0 else -1
        found.append(Entry(b"veh-1", b"bad %d" % offset, (*headers, ("x-worker", b"w%d" % start)), at, 1_000 * at))
    return found


EXPECTED = letters(1, 2, 3, 4)


def figures(result: Comparison) -> tuple[int, ...]:
    return result.missing, result.duplicate, result.different, result.unexpected, result.misordered


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        (letters(1, 2, 3, 4, start=7), (0, 0, 0, 0, 0), ""),
        (letters(1, 3, 4, start=7), (1, 0, 0, 0, 0), "t/0/2 of b'veh-1' is missing"),
        (letters(1, 2, 3, 2, 3, 4, start=7), (0, 2, 0, 0, 0), "t/0/2 of b'veh-1' came again"),
        (letters(1, 2, 3, 4, 9, start=7), (0, 0, 0, 1, 0), "t/0/9 of b'veh-1' was not expected"),
        (letters(1, 3, 2, 4, start=7), (0, 0, 0, 0, 1), "came in another order"),
    ],
)
def test_each_difference(found: list[Entry], wanted: tuple[int, ...], words: str) -> None:
    result = compare("dlq", 0, EXPECTED, found)
    assert figures(result) == wanted
    assert words in result.first
    assert bool(result.first) == any(wanted)


def test_changed_bytes_and_histories() -> None:
    found = letters(1, 2, 3, 4, start=7)
    found[2] = Entry(found[2].key, b"other", found[2].headers, found[2].offset, found[2].ts_ms)
    result = compare("dlq", 3, EXPECTED, found)
    assert figures(result) == (0, 0, 1, 0, 0)
    lines = result.first.splitlines()
    assert lines[0] == "dlq, partition 3: record t/0/3 of b'veh-1' differs"
    assert "expected: 4 records of this key" in lines[1]
    assert [line for line in lines if line.startswith("  > ")] == [
        line for line in lines if "t/0/3  content" in line and line.startswith("  > ")
    ]
    assert any("offset 9  written 00:00:09.000" in line for line in lines)


def test_only_exactly_once_forbids_duplicates() -> None:
    result = compare("dlq", 0, EXPECTED, letters(1, 2, 2, 3, 4, start=7))
    assert result.wrong(exactly_once=True) == 1
    assert result.wrong(exactly_once=False) == 0


def test_what_rightly_comes_twice_is_told_apart_by_its_content() -> None:
    twice = [*letters(1), Entry(b"veh-1", b"again", letters(1)[0].headers)]
    assert figures(compare("dlq", 0, twice, twice)) == (0, 0, 0, 0, 0)
    assert figures(compare("dlq", 0, twice, twice[:1])) == (1, 0, 0, 0, 0)
