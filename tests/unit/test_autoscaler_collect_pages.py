"""Workers' pages over real HTTP: what lies between two of them, and what a page may do that is no good page."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autoscaler.worker_pages import TIMEOUT_S, PageFigures, WorkerPages, load_between, parse
from autoscaler.workload import WorkloadError
from telemetry.page import PageError, fetch

PAGE = """\
# HELP fleetwatch_records_total Records fetched.
# TYPE fleetwatch_records_total counter
fleetwatch_records_total {records}
# TYPE fleetwatch_busy_seconds_total counter
fleetwatch_busy_seconds_total {busy}
# TYPE fleetwatch_lag_records gauge
fleetwatch_lag_records{{topic="t.vehicle",partition="3"}} 12.0
fleetwatch_lag_records{{topic="t.device",partition="3"}} 0.0
fleetwatch_lag_records{{topic="t.vehicle",partition="0"}} 0.0
# TYPE process_start_time_seconds gauge
process_start_time_seconds {start}
another_total{{odd="thing"}} 5
"""


def page(records: float = 0.0, busy: float = 0.0, start: float = 1000.0) -> str:
    return PAGE.format(records=records, busy=busy, start=start)


class Listener(ThreadingHTTPServer):
    request_queue_size = 64  # all pages are asked for at once


class Server:
    """Serves `pages` by path; `drip` sends a byte now and then without end."""

    def __init__(self) -> None:
        self.pages: dict[str, str | bytes] = {}
        self.drip_s = 0.1
        self.ended = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/drip":
                    self.send_response(200)
                    self.end_headers()
                    while not outer.ended.wait(outer.drip_s):
                        try:
                            self.wfile.write(b"#")
                        except OSError:
                            return
                elif self.path == "/short":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(page().encode())
                elif self.path == "/away":
                    self.send_response(302)
                    self.send_header("Location", "/w")
                    self.end_headers()
                elif (found := outer.pages.get(self.path)) is not None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(found.encode() if isinstance(found, str) else found)
                else:
                    self.send_error(404)

            def log_message(self, *args: object) -> None:
                del args

        self.server = Listener(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_page_is_read() -> None:
    figures = parse(page(5.0, 2.5), 7.0)
    lag = {("t.vehicle", 3): 12.0, ("t.device", 3): 0.0, ("t.vehicle", 0): 0.0}
    assert figures == PageFigures(7.0, 5.0, 2.5, 1000.0, lag)
    without = parse("fleetwatch_records_total 1\n", 0.0)
    assert math.isnan(without.busy_s)
    for bad in ("", "<html>\n", "fleetwatch_records_total nope\n", "another_total 1\n"):
        with pytest.raises(ValueError, match=r".+"):
            parse(bad, 0.0)


FIGURES = st.builds(
    PageFigures,
    at_s=st.floats(0, 1e6),
    records=st.floats(0, 1e12),
    busy_s=st.floats(0, 1e7) | st.just(math.nan),
    start_s=st.sampled_from([1.0, 2.0, math.nan]),
    lag=st.just({("t", 1): 0.0}),
)


@given(FIGURES, FIGURES)
def test_a_load_is_what_lies_between_or_none(before: PageFigures, after: PageFigures) -> None:
    load = load_between("w", before, after)
    backwards = after.records < before.records or after.busy_s < before.busy_s
    another = {before.start_s, after.start_s} == {1.0, 2.0}
    unknown = math.isnan(before.busy_s) or math.isnan(after.busy_s)
    if after.at_s <= before.at_s or backwards or another or unknown:
        assert load is None
        return
    assert load is not None
    assert load.partitions == (1,)
    assert 0 <= load.busy <= 1
    assert load.records_per_s >= 0


@given(st.floats(0.1, 1e3), st.floats(0, 1), st.floats(0, 1e6))
def test_a_load_is_a_rate(span_s: float, busy: float, per_s: float) -> None:
    before = parse(page(100.0, 50.0), 10.0)
    after = replace(before, at_s=10.0 + span_s, records=100.0 + per_s * span_s, busy_s=50.0 + busy * span_s)
    assume(after.at_s > before.at_s)
    load = load_between("w", before, after)
    assert load is not None
    assert load.records_per_s == pytest.approx(per_s, rel=1e-6, abs=1e-6)
    assert load.busy == pytest.approx(busy, rel=1e-6, abs=1e-6)


def test_loads_come_with_the_second_look(server: Server) -> None:
    clock = Clock()
    pages = WorkerPages(lambda: {"w-0": server.url("/w")}, clock)
    server.pages["/w"] = page(1000, 5.0)
    first = pages.read()
    assert first.loads == ()
    assert first.waiting == {("t.vehicle", 3): 12.0, ("t.device", 3): 0.0, ("t.vehicle", 0): 0.0}
    clock.now_s = 10.0
    server.pages["/w"] = page(3000, 9.0)
    (load,) = pages.read().loads
    assert (load.name, load.partitions, load.records_per_s, load.busy) == ("w-0", (0, 3), 200.0, pytest.approx(0.4))
    clock.now_s = 20.0
    server.pages["/w"] = page(500, 1.0)  # it was started anew
    assert pages.read().loads == ()
    clock.now_s = 30.0
    server.pages["/w"] = page(600, 2.0, start=2000.0)  # another process, though its counters are higher
    assert pages.read().loads == ()
    clock.now_s = 40.0
    server.pages["/w"] = page(700, 2.0, start=2000.0)
    assert [each.records_per_s for each in pages.read().loads] == [10.0]
    pages.close()


def test_a_page_that_is_silent_is_told_when_it_lasts(server: Server) -> None:
    clock = Clock()
    urls = {"w-0": server.url("/w"), "w-1": server.url("/gone"), "w-2": "http://127.0.0.1:1/metrics"}
    server.pages["/w"] = page()
    pages = WorkerPages(lambda: urls, clock)
    assert pages.read().problems == ()
    clock.now_s = 10.0
    second = pages.read()
    assert [load.name for load in second.loads] == ["w-0"]
    (told,) = second.problems
    assert told.startswith("2 of 3 workers' pages give no figures (w-1: 404 Not Found; w-2: Connection refused)")
    del urls["w-1"], urls["w-2"]  # pods that are gone are not missed
    clock.now_s = 20.0
    assert pages.read().problems == ()
    server.pages["/w"] = "fleetwatch_records_total 5\n"
    (old,) = pages.read().problems
    assert old.startswith("1 of 1 workers' pages have no fleetwatch_busy_seconds_total")
    pages.close()


def test_an_answer_after_silence_begins_anew(server: Server) -> None:
    clock = Clock()
    pages = WorkerPages(lambda: {"w-0": server.url("/w")}, clock)
    server.pages["/w"] = page(100, 1.0)
    pages.read()
    del server.pages["/w"]
    clock.now_s = 10.0
    assert pages.read().loads == ()
    server.pages["/w"] = page(200, 2.0)
    clock.now_s = 20.0
    assert pages.read().loads == ()
    clock.now_s = 30.0
    assert len(pages.read().loads) == 1
    pages.close()


def test_workers_that_cannot_be_listed_are_told() -> None:
    def away() -> dict[str, str]:
        raise WorkloadError("may not list pods")

    pages = WorkerPages(away)
    look = pages.read()
    assert look.loads == ()
    assert not look.waiting
    assert look.problems == ("workers' pages are not read: may not list pods",)
    pages.close()


def test_all_pages_are_read_at_once_and_none_forever(server: Server) -> None:
    server.pages["/w"] = page()
    urls = {f"w-{n}": server.url("/drip") for n in range(10)} | {"w-x": server.url("/w")}
    pages = WorkerPages(lambda: urls)
    began = time.monotonic()
    pages.read()
    second = pages.read()
    assert time.monotonic() - began < 4 * TIMEOUT_S
    assert [load.name for load in second.loads] == ["w-x"]
    (told,) = second.problems
    assert told.startswith("10 of 11 workers' pages give no figures (w-0: not whole within 1 s; ")
    assert told.endswith("; and 7 more): their load is not known")
    pages.close()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/nothing", "404 Not Found"),
        ("/away", "302 Found"),
        ("/short", "cut short"),
        ("/large", "larger than 1000 bytes"),
        ("/binary", "utf-8"),
        ("/drip", "not whole within 0.3 s"),
    ],
)
def test_what_is_no_page_is_refused(server: Server, path: str, text: str) -> None:
    server.pages |= {"/large": "#" * 1001, "/binary": b"\xff\xfe"}
    with pytest.raises(PageError, match=text):
        fetch(server.url(path), 0.3, 1000)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:///etc/hostname", "not an http address"),
        ("http://", "not an http address"),
        ("http://127.0.0.1:99999/", "not an http address"),
        ("http://127.0.0.1:1/", "refused"),
        ("http://[::1/", "not an http address"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, text: str) -> None:
    with pytest.raises(PageError, match=text):
        fetch(url, 0.3, 1000)


def test_a_proxy_of_the_environment_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server.pages["/w"] = "here"
    assert fetch(server.url("/w"), 1.0, 1000) == "here"
