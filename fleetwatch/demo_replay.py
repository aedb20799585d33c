"""The demo on a recording of a real drive. The rule: it shows what a worker makes of it, and judges nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from fleetwatch import demo_plan as plan
from fleetwatch.alert_feed import AlertFeed, Received
from fleetwatch.demo_page import Page, many
from fleetwatch.demo_run import Sent, drain, sent
from fleetwatch.demo_session import Session
from telemetry import catalog, codec
from telemetry.alerts import AlertState
from telemetry.words import figure, humanise

_SIGNALS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """What the summary tells. windows : the feature records, in order of time."""

    sent: Sent
    processed: int
    run_s: float
    windows: Sequence[dict[str, object]]
    alerts: Sequence[Received]
    dead_letters: int
    lines: Sequence[str]


class ReplayRun:
    """The shipped sample through one worker."""

    def __init__(self, ground: Session) -> None:
        self._ground = ground

    def run(self) -> ReplayFigures:
        """All of it; leaves the stopping to the session."""
        ground, page = self._ground, self._ground.page
        worker = ground.start_worker("worker-1")
        ground.await_ready([worker])
        player = ground.children.start("replay", ["replay", "--sample", "--speed", f"{plan.REPLAY_SPEED:g}"])
        page.say(f"replay: the shipped recording (pid {player.pid}), at {plan.REPLAY_SPEED:g} times real time")
        began_s = time.monotonic()
        with AlertFeed(ground.settings) as feed:

            def look() -> None:
                ground.check(worker.child)
                for received in feed.read(0.2):
                    if received.alert.state is not AlertState.UPDATE:
                        page.alert(received, None)
                frames = ground.cluster.sent(ground.cluster.topics.vehicle)
                page.progress(f"replaying: {many(frames, 'frame')} sent")

            while player.running:
                look()
            run_s = time.monotonic() - began_s
            page.still()
            said = sent(player)
            processed = drain(ground, said.frames, look)
        with AlertFeed(ground.settings) as feed:
            alerts = list(feed.to_end())
        records = ground.cluster.records(ground.cluster.topics.features)
        windows = sorted((codec.decode("window_features", m.value()) for m in records), key=_start_us)
        return ReplayFigures(
            said, processed, run_s, windows, alerts, len(ground.cluster.records(ground.cluster.topics.dlq)),
            self._lines(windows),
        )  # fmt: skip

    def _lines(self, windows: Sequence[dict[str, object]]) -> list[str]:
        """The last full window in words."""
        if not windows:
            return []
        last = max(windows, key=lambda w: (w["rows"], _start_us(w)))
        entry = catalog.load(self._ground.settings.catalog.paths)[str(last["catalog"])]
        lines = []
        for signal, mean, low, high in zip(
            entry.signals, _floats(last["mean"]), _floats(last["min"]), _floats(last["max"]), strict=True
        ):
            if math.isfinite(mean) and high > low:
                lines.append(
                    f"{humanise(signal.name)}: mean {figure(mean, signal.unit)}, "
                    f"{figure(low, signal.unit)} to {figure(high, signal.unit)}"
                )
        return lines[:_SIGNALS_SHOWN]


def _floats(value: object) -> list[float]:
    assert isinstance(value, list)
    return value


def _start_us(window: dict[str, object]) -> int:
    start = window["window_start"]
    assert isinstance(start, int)
    return start


def replay_summary(page: Page, figures: ReplayFigures) -> None:
    """The last page."""

    def row(label: str, text: str) -> None:
        page.plain(Text().append(f"  {label:15}", style="bold").append(text))

    f = figures
    opened = [r for r in f.alerts if r.alert.state is AlertState.OPEN]
    page.plain()
    page.plain("Summary", "bold underline")
    row("frames", f"{f.sent.frames:,} sent, {f.sent.acknowledged:,} acknowledged, {f.processed:,} processed")
    row("samples", f"{f.sent.samples:,} in {f.run_s:.1f} s; {f.sent.samples / f.run_s:,.0f} samples/s")
    row("windows", f"{len(f.windows):,} published" + ("; the fullest one says:" if f.lines else ""))
    for line in f.lines:
        page.plain(f"    {line}")
    row("alerts", f"{len(opened)} opened")
    row("dead letters", f"{f.dead_letters:,}")
