"""`fleetwatch top`: lag from offsets and time, rates, figures from metrics pages, the page itself."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from rich.console import Console

from fleetwatch.cluster_probe import ClusterPage, Member, TopicRow
from fleetwatch.scrape import WorkerFigures, WorkerPage, parse, quantile
from fleetwatch.top_page import TopPage, count, ranges, render, span
from telemetry.lag import LagSeconds, OffsetHistory, Rate


def history(*points: tuple[float, int]) -> OffsetHistory:
    made = OffsetHistory()
    for at_s, end in points:
        made.add(at_s, end)
    return made


@pytest.mark.parametrize(
    ("committed", "seconds", "estimated"),
    [
        (300, 0.0, False),  # nothing waits
        (400, 0.0, False),
        (250, 1.5, False),  # halfway between the observations at 1 s and 2 s, seen at 3 s
        (200, 2.0, False),
        (150, 2.5, False),
        (100, 3.0, False),
        (0, 4.0, True),  # written before what was observed, at 100 records a second
    ],
)
def test_lag_is_the_age_of_what_waits(committed: int, seconds: float, estimated: bool) -> None:
    lag = history((0.0, 100), (1.0, 200), (2.0, 300)).lag(committed, 3.0)
    assert lag == LagSeconds(pytest.approx(seconds), estimated)


def test_lag_grows_while_nothing_is_produced() -> None:
    still = history((0.0, 100), (1.0, 200), (2.0, 200), (9.0, 200))
    assert still.lag(150, 9.0).seconds == pytest.approx(8.5)
    assert still.lag(200, 9.0).seconds == 0


def test_lag_of_which_nothing_was_observed_is_unknown() -> None:
    assert math.isnan(history((0.0, 100)).lag(50, 1.0).seconds)
    assert history().lag(50, 1.0) == LagSeconds(0.0, estimated=False)


def test_a_topic_made_anew_forgets_its_past() -> None:
    assert history((0.0, 1000), (1.0, 10), (2.0, 20)).lag(15, 2.0).seconds == pytest.approx(0.5)


def test_rates() -> None:
    rate = Rate(span_s=10.0)
    assert math.isnan(rate.per_s)
    for at_s in range(30):
        rate.add(float(at_s), 0.0 if at_s < 15 else (at_s - 15) * 100.0)
    assert rate.per_s == pytest.approx(100.0)
    rate.add(30.0, 5.0)  # the process began anew
    assert math.isnan(rate.per_s)


def test_quantiles_interpolate_within_the_bucket() -> None:
    buckets = {0.1: 0.0, 0.2: 50.0, 0.4: 100.0, math.inf: 100.0}
    assert quantile(buckets, 0.5) == pytest.approx(0.2)
    assert quantile(buckets, 0.75) == pytest.approx(0.3)
    assert quantile({0.1: 0.0, math.inf: 5.0}, 0.5) == 0.1
    assert math.isnan(quantile({}, 0.5))
    assert math.isnan(quantile({0.1: 0.0, math.inf: 0.0}, 0.5))


@pytest.fixture
def metrics_page() -> Iterator[tuple[str, CollectorRegistry]]:
    """A real HTTP server with a registry."""
    registry = CollectorRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(generate_latest(registry))

        def log_message(self, *args: object) -> None:
            del args

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", registry
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_workers_figures(metrics_page: tuple[str, CollectorRegistry]) -> None:
    url, registry = metrics_page
    frames = Counter("fleetwatch_frames", "frames", registry=registry)
    samples = Counter("fleetwatch_samples", "samples", registry=registry)
    cpu = Counter("process_cpu_seconds", "cpu", registry=registry)
    latency = Histogram(
        "fleetwatch_alert_latency_seconds", "s", ["clock"], buckets=(0.1, 0.2, 0.4), registry=registry
    )
    samples.inc(1_000_000)
    cpu.inc(0.1)
    worker = WorkerPage(f"{url}/metrics")
    first = worker.scrape(0.0)
    assert first.ns_per_sample == pytest.approx(100)
    assert math.isnan(first.samples_per_s)
    assert math.isnan(first.latency_p99_s)
    frames.inc(100)
    samples.inc(1_000_000)
    cpu.inc(0.05)
    for _ in range(100):
        latency.labels("broker").observe(0.15)
        latency.labels("device").observe(10.0)
    second = worker.scrape(2.0)
    assert second.ns_per_sample == pytest.approx(50)
    assert second.samples_per_s == pytest.approx(500_000)
    assert second.frames_per_s == pytest.approx(50)
    assert second.cpu_share == pytest.approx(0.025)
    assert 0.1 < second.latency_p50_s < second.latency_p99_s < 0.2


def test_a_worker_that_does_not_answer_is_a_row(metrics_page: tuple[str, CollectorRegistry]) -> None:
    url, _ = metrics_page
    assert WorkerPage(f"{url}/nothing").scrape(0.0).problem == "404 Not Found"
    assert "refused" in WorkerPage("http://127.0.0.1:1/metrics").scrape(0.0).problem
    assert WorkerPage("file:///etc/hostname").scrape(0.0).problem == "not an http address"


def test_a_page_that_is_not_prometheus_is_refused() -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse("<html>\n{nope 1 2 3 4\n")


@pytest.mark.parametrize(
    ("value", "said"),
    [(math.nan, "–"), (0, "0"), (0.25, "0.2"), (12, "12"), (999, "999"), (4560, "4.56k"), (1_234_567, "1.23M")],
)
def test_counts(value: float, said: str) -> None:
    assert count(value) == said


def test_spans_and_ranges() -> None:
    assert [span(s) for s in (0.0, 0.012, 1.23, 95.4, math.nan)] == ["0 s", "12 ms", "1.2 s", "95 s", "–"]
    assert ranges([2, 0, 1, 5]) == "0-2,5"
    assert ranges([]) == ""


def printed(page: TopPage, height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(render(page, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


CLUSTER = ClusterPage(
    inputs=(
        TopicRow("telemetry.vehicle", 8, 1234.5, 1200.0, 345, LagSeconds(0.51, estimated=False)),
        TopicRow("telemetry.device", 8, 10.0, math.nan, 9000, LagSeconds(61.0, estimated=True)),
    ),
    missing=("telemetry.late",),
    group_state="stable",
    members=(Member("faust-1", "faust", "/127.0.0.1", {"telemetry.vehicle": (0, 1, 2, 5), "other": (1,)}),),
    alerts_last_minute=7,
    dead_letters_last_minute=0,
    late_last_minute=None,
)


def page(cluster: ClusterPage | None = CLUSTER, problem: str = "") -> TopPage:
    figures = (
        WorkerFigures("http://127.0.0.1:6066/metrics", samples_per_s=5e6, ns_per_sample=17.2),
        WorkerFigures("http://127.0.0.1:6067/metrics", problem="refused"),
    )
    return TopPage(datetime.now(UTC), "127.0.0.1:9092", "fleetwatch", cluster, figures, (), problem)


def test_the_page_shows_what_is_known_and_dashes_for_the_rest() -> None:
    text = printed(page())
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip()}
    assert lines["telemetry.vehicle"] == "telemetry.vehicle 8 1.23k 1.2k 345 510 ms"
    assert lines["telemetry.device"] == "telemetry.device 8 10 – 9k ~61 s"
    assert lines["faust-1"] == "faust-1 127.0.0.1 vehicle 0-2,5"
    assert lines["127.0.0.1:6066"] == "127.0.0.1:6066 – 5M – 17 – – –"
    assert lines["127.0.0.1:6067"] == "127.0.0.1:6067 refused"
    assert "7 alerts   0 dead letters   – late" in text
    assert "no such topic: telemetry.late" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_page_without_a_broker_says_so() -> None:
    text = printed(page(None, problem="no answer"))
    assert "no answer" in text
    assert "open alerts" in text
