"""What every producing command needs: stopping, progress, metrics, and the run itself. The rule: stopping drains.

SIGINT or SIGTERM stops the stepping; what was sent is flushed and counted. A second one aborts.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

import click
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from producers.pacing import Pacer
from producers.sink import KafkaSink
from telemetry.errors import DeliveryError

#: A sped-up run of unknown length begins so long ago, so that its time does not overtake the clock.
OPEN_RUN_START_S = 30 * 86_400
PROGRESS_TERMINAL_S = 1.0
PROGRESS_LINES_S = 10.0


def default_start_us(now_us: int, speed: float, event_s: float | None) -> int:
    """Event time at which a run without --start begins, such that it never runs ahead of the clock.

    Workers refuse telemetry from the future. event_s : how much event time the run will produce, if known.
    """
    if 0 < speed <= 1:
        return now_us
    if event_s is None:
        return now_us - OPEN_RUN_START_S * 1_000_000
    ahead_s = event_s * (1 - 1 / speed) if speed else event_s
    return now_us - round(ahead_s * 1e6)


class Stop:
    """Set by SIGINT and SIGTERM while `installed`; the second signal aborts."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        return self.requested

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del signum, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    @contextmanager
    def installed(self) -> Iterator[Stop]:
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class Status:
    """What a run has done so far. event_us: event time reached; None where there is none."""

    frames: int = 0
    samples: int = 0
    event_us: int | None = None
    faults: int = 0
    bad_rows: int = 0


class StatusCollector(Collector):
    """Prometheus metrics of a run, read from its own counts when scraped."""

    def __init__(self, status: Status, sink: KafkaSink, pacer: Pacer) -> None:
        self._status, self._sink, self._pacer = status, sink, pacer

    def collect(self) -> Iterator[Metric]:
        prefix = "fleetwatch_producer"
        counters = (
            ("frames_sent", "Frames handed to the client.", self._status.frames),
            ("samples_sent", "Values in these frames: steps x signals.", self._status.samples),
            ("frames_acknowledged", "Frames that the brokers acknowledged.", self._sink.acknowledged),
            ("frames_failed", "Frames whose delivery failed.", self._sink.failed),
            ("faults_injected", "Faults injected.", self._status.faults),
            ("rows_refused", "Malformed rows of recordings.", self._status.bad_rows),
        )
        for name, text, value in counters:
            yield CounterMetricFamily(f"{prefix}_{name}", text, value=value)
        gauges = (
            ("queue_frames", "Frames sent and not yet answered.", self._sink.queued),
            ("lateness_seconds", "How far sending is behind its schedule.", self._pacer.late_s),
            ("slipped_seconds", "How far the schedule was moved after stalls.", self._pacer.slipped_s),
        )
        for name, text, number in gauges:
            yield GaugeMetricFamily(f"{prefix}_{name}", text, value=number)


def serve_metrics(port: int, collector: Collector) -> None:
    """/metrics on all addresses.

    Raises
    ------
    click.ClickException : the port is taken.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        start_http_server(port, registry=registry)
    except OSError as exc:
        raise click.ClickException(f"metrics port {port}: {exc.strerror or exc}") from exc


class Progress:
    """Progress on stderr: one line that changes on a terminal, a new line every ten seconds elsewhere."""

    def __init__(
        self, status: Status, sink: KafkaSink, pacer: Pacer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._status, self._sink, self._pacer, self._clock = status, sink, pacer, clock
        self._terminal = sys.stderr.isatty()
        self._every_s = PROGRESS_TERMINAL_S if self._terminal else PROGRESS_LINES_S
        self._began_s = self._last_s = clock()
        self._last_frames = 0
        self._open = False

    def tick(self) -> None:
        """Show the state if it is time to."""
        now_s = self._clock()
        if now_s - self._last_s < self._every_s:
            return
        rate = (self._status.frames - self._last_frames) / (now_s - self._last_s)
        self._last_s, self._last_frames = now_s, self._status.frames
        line = self.line(rate)
        if self._terminal:
            click.echo("\r\x1b[2K" + line, err=True, nl=False)
            self._open = True
        else:
            click.echo(line, err=True)

    def line(self, rate: float) -> str:
        s, parts = self._status, [f"{int(self._clock() - self._began_s):>5} s"]
        if s.event_us is not None:
            at = datetime.fromtimestamp(s.event_us // 1_000_000, UTC)
            parts.append(f"event time {at:%Y-%m-%d %H:%M:%S}")
        parts += [f"{s.frames:,} frames", f"{rate:,.0f}/s", f"{self._sink.queued:,} queued"]
        for count, text in (
            (s.faults, "faults injected"),
            (s.bad_rows, "bad rows"),
            (self._sink.failed, "failed"),
        ):
            if count:
                parts.append(f"{count:,} {text}")
        if self._pacer.late_s > 0.5:
            parts.append(f"late by {self._pacer.late_s:.1f} s")
        if self._sink.first_error:
            parts.append(self._sink.first_error)
        return "  ".join(parts)

    def say(self, text: str) -> None:
        """A line of its own above the changing one."""
        self.end()
        click.echo(text, err=True)

    def end(self) -> None:
        """Leave the changing line as it is."""
        if self._open:
            click.echo("", err=True)
            self._open = False


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def settle(status: Status, frames: KafkaSink, side: KafkaSink | None, timeout_s: float) -> None:
    """Flush, compare, and print the last line.

    Raises
    ------
    DeliveryError : not everything was acknowledged; the message has the numbers.
    """
    problems = []
    for name, sink in (("frames", frames), ("truth, devices and dead letters", side)):
        if sink is not None:
            try:
                sink.close(timeout_s)
            except DeliveryError as exc:
                problems.append(f"{name}: {exc}")
    click.echo(
        f"sent {_many(status.frames, 'frame')} ({_many(status.samples, 'sample')}), "
        f"acknowledged {frames.acknowledged:,}"
        + (f", {_many(status.bad_rows, 'bad row')}" if status.bad_rows else "")
    )
    if problems:
        raise DeliveryError("not everything was delivered: " + "; ".join(problems))
