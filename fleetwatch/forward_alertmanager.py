"""Alerts for Alertmanager's API v2. The rule: labels are identity; all but `severity` stay.

They are those of the episode's first event. A severity that rises is another set of labels: the old one is ended in
the same POST that begins the new one. What is open is known from the alert topic alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from fleetwatch.alert_feed import Received
from fleetwatch.forward import LaneOf, Message, Outcome, Standing
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, rfc3339
from telemetry.words import figure

API_PATH = "/api/v2/alerts"
BATCH_MAX = 200
#: After a message of `again` failed: so long until the next, at most.
AFTER_FAILURE_S = 5.0
_SENTENCE_MAX = 1024


@dataclass(frozen=True, slots=True)
class Item:
    """One alert of Alertmanager's. ends_us : None = it is on."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_us: int
    ends_us: int | None
    link: str = ""

    def render(self, now_s: float, hold_s: float) -> dict[str, Any]:
        """As the API wants it. An alert that is on ends `hold_s` from now, unless it is said again before."""
        ends_us = int((now_s + hold_s) * 1e6) if self.ends_us is None else max(self.ends_us, self.starts_us)
        shown = {
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "startsAt": rfc3339(self.starts_us),
            "endsAt": rfc3339(ends_us),
        }
        return shown | ({"generatorURL": self.link} if self.link else {})


@dataclass(frozen=True, slots=True)
class AlertmanagerMessage:
    """One POST. keys : the episodes it is about."""

    items: tuple[Item, ...]
    keys: tuple[tuple[str, str], ...]
    hold_s: float

    def render(self, now_s: float) -> tuple[dict[str, str], bytes]:
        body = json.dumps([item.render(now_s, self.hold_s) for item in self.items], separators=(",", ":"))
        return {"Content-Type": "application/json"}, body.encode()

    def parts(self) -> list[Message]:
        if len(self.items) != len(self.keys):
            return [self]
        return [
            AlertmanagerMessage((item,), (key,), self.hold_s)
            for item, key in zip(self.items, self.keys, strict=True)
        ]


@dataclass(slots=True)
class Episode:
    """One that is open. labels : without severity. told : the labels that Alertmanager has; None = not sent."""

    id: str
    partition: int
    first_offset: int
    labels: dict[str, str]
    starts_us: int
    severity: Severity = Severity.INFO
    annotations: dict[str, str] = field(default_factory=dict)
    link: str = ""
    told: dict[str, str] | None = None
    news_ms: int = 0
    due_s: float = 0.0
    refused: bool = False

    def on(self) -> Item:
        assert self.told is not None
        return Item(self.told, self.annotations, self.starts_us, None, self.link)

    def off(self, ends_us: int, **more: str) -> Item:
        assert self.told is not None
        return Item(self.told, self.annotations | more, self.starts_us, ends_us, self.link)


def labels(alert: Alert) -> dict[str, str]:
    """Who it is, by the first event; empty ones are left out, as Alertmanager does."""
    name = "".join(part.capitalize() for part in alert.kind.replace("-", "_").split("_"))
    named = {
        "alertname": f"Fleetwatch{name}",
        "source": "fleetwatch",
        "device": alert.device_id,
        "device_class": alert.device_class,
        "kind": alert.kind,
        "signal": alert.signals[0].signal if alert.signals else "",
    }
    return {label: value for label, value in named.items() if value}


def words(alert: Alert) -> dict[str, str]:
    """What is known of it now: words and figures."""
    shown = {
        "summary": alert.sentence[:_SENTENCE_MAX],
        "score": figure(alert.score),
        "confidence": figure(alert.confidence),
        "warming": "true" if alert.warming else "",
        "kind_now": alert.kind,
        "signals": "; ".join(_signal(s) for s in alert.signals),
        "detector": f"{alert.detector}/{alert.detector_version}",
        "onset": rfc3339(alert.onset_us),
        "updated": rfc3339(alert.ts_us),
        "episode": alert.id,
        "evidence": f"{alert.topic}[{alert.partition}] {alert.offset_first}-{alert.offset_last}",
    }
    return {name: value for name, value in shown.items() if value}


def _signal(s: GuiltySignal) -> str:
    seen, wanted = figure(s.observed, s.unit), figure(s.expected, s.unit)
    return f"{s.signal} {seen}, expected {wanted} (surprise {figure(s.surprise)})"


def link(template: str, alert: Alert) -> str:
    """forward.generator_url with its places filled in."""
    places = {"device": alert.device_id, "class": alert.device_class, "episode": alert.id}
    return template.format_map({name: quote(value, safe="", errors="replace") for name, value in places.items()})


class Alertmanager:
    """What is open, by device and class: the worker has one episode of each at a time.

    Parameters
    ----------
    lost : called with the number of open alerts that are no longer said, and why.
    """

    stateful = True

    def __init__(
        self,
        path: str,
        min_severity: Severity,
        *,
        resend_s: float,
        hold_s: float,
        silent_s: float,
        open_max: int,
        generator_url: str = "",
        lost: Callable[[int, str], None] = lambda _count, _why: None,
    ) -> None:
        self.path = path.rstrip("/").removesuffix(API_PATH) + API_PATH
        self._min, self._link, self._lost = min_severity, generator_url, lost
        self._resend_s, self._hold_s, self._silent_s = resend_s, hold_s, silent_s
        self._open_max = open_max
        self._episodes: dict[tuple[str, str], Episode] = {}

    @property
    def open(self) -> int:
        return sum(e.told is not None for e in self._episodes.values())

    def accept(self, received: Received, partition: int, offset: int) -> tuple[Message | None, int]:
        key = (received.alert.device_id, received.alert.device_class)
        known = self._episodes.get(key)
        since = known.first_offset if known is not None and known.partition == partition else offset
        items = self._apply(received, partition, offset)
        return (AlertmanagerMessage(tuple(items), (key,), self._hold_s) if items else None), since

    def recall(self, received: Received, partition: int, offset: int) -> None:
        self._apply(received, partition, offset)

    def _apply(self, received: Received, partition: int, offset: int) -> list[Item]:
        alert, key = received.alert, (received.alert.device_id, received.alert.device_class)
        known = self._episodes.get(key)
        over_us = min(alert.ts_us, received.arrived_ms * 1000)  # a device's clock may be ahead
        if alert.state is AlertState.RESOLVED:
            if known is None or known.id != alert.id:
                return []
            del self._episodes[key]
            known.annotations = words(alert)
            return [] if known.told is None else [known.off(over_us)]
        episode = known
        if episode is None or episode.id != alert.id:
            starts_us = min(alert.onset_us, received.arrived_ms * 1000)
            episode = Episode(alert.id, partition, offset, labels(alert), starts_us)
        before = known.told if known is not None else None
        self._note(episode, received)
        ended = []
        if known is not None and before is not None and before != episode.told:
            ended = [Item(before, known.annotations, known.starts_us, over_us, known.link)]
        self._episodes.pop(key, None)
        self._episodes[key] = episode  # the newest news last
        self._keep_bounded()
        return [*ended, *([episode.on()] if episode.told is not None else [])]

    def _note(self, episode: Episode, received: Received) -> None:
        alert = received.alert
        episode.severity = max(episode.severity, alert.severity, key=lambda s: s.rank)
        episode.annotations, episode.link = words(alert), link(self._link, alert)
        episode.news_ms, episode.refused = received.arrived_ms, False
        episode.due_s = received.arrived_ms / 1000 + self._resend_s
        if episode.severity.rank >= self._min.rank:
            episode.told = episode.labels | {"severity": episode.severity.value}

    def _keep_bounded(self) -> None:
        if len(self._episodes) > self._open_max:
            del self._episodes[next(iter(self._episodes))]
            self._lost(1, "open_max")

    def again(self, now_s: float, lanes: set[int], lane_of: LaneOf, when: Standing) -> dict[int, Message]:
        found: dict[int, list[tuple[tuple[str, str], Item]]] = {lane: [] for lane in lanes}
        gone, unsaid = [], 0
        for key, episode in self._episodes.items():
            if episode.partition not in when.known:
                continue
            silent = episode.partition in when.current and now_s - episode.news_ms / 1000 > self._silent_s
            if episode.told is None or episode.refused:
                gone += [key] if silent else []
                continue
            if not silent and now_s < episode.due_s:
                continue
            mine = found.get(lane_of(key[0]))
            if mine is None or len(mine) >= BATCH_MAX:
                continue  # at the next look
            mine.append((key, self._said_again(episode, now_s, silent)))
            if silent:
                gone.append(key)
                unsaid += 1
        for key in gone:
            del self._episodes[key]
        if unsaid:
            self._lost(unsaid, "silent")
        return {lane: self._message(pairs) for lane, pairs in found.items() if pairs}

    def _said_again(self, episode: Episode, now_s: float, silent: bool) -> Item:
        episode.due_s = now_s + self._resend_s
        if not silent:
            return episode.on()
        note = f"no news for {self._silent_s:g} s; ended by the forwarder, not by the worker"
        return episode.off(int(now_s * 1e6), ended=note)

    def _message(self, pairs: Iterable[tuple[tuple[str, str], Item]]) -> AlertmanagerMessage:
        keys, items = zip(*pairs, strict=True)
        return AlertmanagerMessage(items, keys, self._hold_s)

    def heard(self, message: Message, now_s: float, result: Outcome) -> None:
        assert isinstance(message, AlertmanagerMessage)
        if result is Outcome.DELIVERED:
            return
        for key in message.keys:
            if (episode := self._episodes.get(key)) is not None:
                episode.refused = result is Outcome.REFUSED
                episode.due_s = min(episode.due_s, now_s + AFTER_FAILURE_S)

    def oldest(self, partition: int) -> int | None:
        return min((e.first_offset for e in self._episodes.values() if e.partition == partition), default=None)

    def forget(self, partition: int) -> None:
        for key in [key for key, e in self._episodes.items() if e.partition == partition]:
            del self._episodes[key]
