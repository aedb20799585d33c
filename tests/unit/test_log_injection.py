"""Words that a device chose cannot forge a log record, move a cursor or lose the record; nor break a page."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from rich.console import Console

from fleetwatch.alert_feed import Received
from fleetwatch.alert_text import LineWriter
from fleetwatch.alerts_cli import structured
from fleetwatch.cluster_probe import ClusterPage, Member
from fleetwatch.pages import page_console
from fleetwatch.scrape import WorkerFigures
from fleetwatch.top_page import TopPage, render
from telemetry import log
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity

FORGED = "12:00:00 ERROR   fleetwatch.worker: all is lost"
#: Line ends of every kind, escape sequences of seven and eight bits, direction marks, half pairs, markup, formats.
HOSTILE = (
    f"veh\n{FORGED}",
    f"veh\r\n{FORGED}",
    f"veh\r{FORGED}",
    f"veh\x0b{FORGED}",
    f"veh\x0c{FORGED}",
    f"veh\x85{FORGED}",
    f"veh\u2028{FORGED}",
    f"veh\u2029{FORGED}",
    f"veh\x1c{FORGED}",
    "\x1b[2J\x1b[1;1Hgone",
    "\x1b]0;title\x07",
    "\x9b31mred",
    "\x08\x08\x08\x7f",
    "\u202egpj.exe",
    "\u2066hidden\u2069",
    "half \ud83d of a pair",
    "nul \x00 byte",
    '", "level": "critical", "x": "',
    '"}\n{"ts": "2026", "level": "critical", "message": "forged"}',
    "[/]",
    "[bold red on white]",
    "[link=file:///etc/passwd]look[/link]",
    "%s %n %(secret)s {0} {self}",
    "x" * 100_000,
)
#: Nothing of this may reach a terminal, a file or a collector.
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
T0 = 1_760_000_000_000_000
hostile = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=60))


@pytest.fixture
def logged() -> Iterator[Callable[[str], Callable[[str], str]]]:
    """style -> (a device's words -> what is written of a record with them)."""
    root = logging.getLogger()
    kept, level = root.handlers[:], root.level

    def of(style: str) -> Callable[[str], str]:
        def write(words: str) -> str:
            stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
            log.setup("INFO", style, stream)
            root.info("device %s is silent", words)
            stream.flush()
            return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]

        return write

    yield of
    root.handlers[:] = kept
    root.setLevel(level)


@pytest.mark.parametrize("words", HOSTILE)
def test_a_record_is_one_entry_in_text(logged: Callable[[str], Callable[[str], str]], words: str) -> None:
    written = logged("text")(words)
    first, *others = written.removesuffix("\n").split("\n")
    assert re.match(r"\d\d:\d\d:\d\d INFO    root: device ", first)
    assert all(line.startswith(log.CONTINUED) for line in others)
    assert not RAW.search(written)
    assert len(written.splitlines()) == 1 + len(others)
    assert len(written) < 2 * log.MESSAGE_MAX


@pytest.mark.parametrize("words", HOSTILE)
def test_a_record_is_one_entry_in_json(logged: Callable[[str], Callable[[str], str]], words: str) -> None:
    written = logged("json")(words)
    assert written.count("\n") == len(written.splitlines()) == 1
    assert not RAW.search(written)
    entry = json.loads(written)
    assert entry.keys() == {"ts", "level", "logger", "message"}
    assert entry["level"] == "info"
    wanted = f"device {words} is silent"
    assert entry["message"] == wanted if len(wanted) <= log.MESSAGE_MAX else entry["message"].endswith("...")


@pytest.mark.parametrize("formatter", [log.TextFormatter(), log.JsonFormatter()])
@given(words=hostile, name=hostile)
@example(words=f"\n{FORGED}", name=f"logger\n{FORGED}")
def test_no_words_anywhere_of_a_record_forge_another(formatter: logging.Formatter, words: str, name: str) -> None:
    try:
        raise ValueError(words)
    except ValueError as exc:
        record = logging.LogRecord(
            name, logging.ERROR, "f", 1, "%s", (words,), (ValueError, exc, exc.__traceback__)
        )
    written = formatter.format(record)
    assert not RAW.search(written)
    first, *others = written.splitlines()
    if isinstance(formatter, log.TextFormatter):
        assert all(line.startswith(log.CONTINUED) for line in others)
    else:
        assert not others
        assert set(json.loads(first)) == {"ts", "level", "logger", "message", "exception"}


@given(words=hostile)
def test_printable_text_is_printable_and_bounded(words: str) -> None:
    made = log.printable(words, 24)
    assert made.isprintable()
    assert len(made) <= 24 * 10 + 3


def alert(words: str, signals: tuple[GuiltySignal, ...] = ()) -> Alert:
    return Alert(
        id="episode-1",
        device_id=words,
        catalog=words,
        kind=words,
        state=AlertState.OPEN,
        severity=Severity.MAJOR,
        score=9.0,
        confidence=1.0,
        onset_us=T0,
        ts_us=T0,
        window_us=10_000_000,
        signals=signals,
        sentence=words,
        detector=words,
        detector_version=words,
        topic=words,
        partition=0,
        offset_first=0,
        offset_last=0,
    )


@given(words=hostile)
def test_an_alert_is_one_line_of_text_and_one_of_json(words: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    guilty = GuiltySignal(words, words, 1.0, 2.0, 9.0)
    for width in (None, 80):
        for signals in ((), (guilty,), (guilty, guilty)):
            line = LineWriter(colour=False, width=width, zone=UTC).line(alert(words, signals), now)
            assert line.isprintable()
    received = Received(alert(words), {"id": "1", "source": words, "type": "t"}, 0)
    as_json = structured(received)
    assert as_json.isprintable()
    assert json.loads(as_json)["data"]["device"] == words


@given(words=hostile)
@example(words="[/]")
@example(words="[bold red on white]")
def test_top_shows_hostile_words_as_words(words: str) -> None:
    guilty = GuiltySignal(words, words, 1.0, 2.0, 9.0)
    member = Member(member_id=words, client_id=words, host=words, partitions={words: (0,)})
    cluster = ClusterPage((), (), "stable", (member,), 1, 1, 1)
    page = TopPage(
        at=datetime(2026, 1, 1, tzinfo=UTC),
        bootstrap="127.0.0.1:9092",
        group="fleetwatch",
        cluster=cluster,
        workers=(WorkerFigures(url="http://x/metrics", problem=words),),
        open_alerts=[Received(alert(words), {}, 0), Received(alert(words, (guilty,)), {}, 0)],
        problem=words,
    )
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False, markup=page_console()._markup, force_terminal=False)
    console.print(render(page))
    assert not RAW.search(out.getvalue())
    if words.startswith("[bold"):
        assert words in out.getvalue()  # as it is, not as a style
