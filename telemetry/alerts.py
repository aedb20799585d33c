"""Alerts as people and programs get them: CloudEvents 1.0 over Kafka, binary mode, JSON data.

The rule: `ce_id` is a function of the input alone, so that a consumer can drop what it has seen.
The data's shape is `telemetry/schemas/alert.schema.json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

SOURCE = "urn:fleetwatch:worker"
TYPE_PREFIX = "io.fleetwatch.alert."
DATA_SCHEMA = "urn:fleetwatch:schema:alert:1"
CONTENT_TYPE = "application/json"


class AlertState(StrEnum):
    OPEN = "open"
    UPDATE = "update"
    RESOLVED = "resolved"


class Severity(StrEnum):
    INFO = "info"
    MINOR = "minor"
    MAJOR = "major"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class GuiltySignal:
    """One signal that an alert is about; observed NaN = missing, expected NaN = the detector cannot say."""

    signal: str
    unit: str
    observed: float
    expected: float
    surprise: float


@dataclass(frozen=True, slots=True)
class Alert:
    """One event in the life of an alert. Times in microseconds of event time; see alert.avsc for each field.

    ordinal : number of the event within its episode, part of `ce_id`.
    """

    id: str
    device_id: str
    catalog: str
    kind: str
    state: AlertState
    severity: Severity
    score: float
    confidence: float
    onset_us: int
    ts_us: int
    window_us: int
    signals: tuple[GuiltySignal, ...]
    sentence: str
    detector: str
    detector_version: int
    topic: str
    partition: int
    offset_first: int
    offset_last: int

    @property
    def event_id(self) -> str:
        """Names this event: the same whenever the same input is processed again."""
        return f"{self.id}/{self.state}/{self.ts_us}"

    def to_data(self) -> dict[str, Any]:
        """The JSON data."""
        return {
            "id": self.id,
            "device": self.device_id,
            "class": self.catalog.partition("/")[0],
            "catalog": self.catalog,
            "kind": self.kind,
            "state": str(self.state),
            "severity": str(self.severity),
            "score": _number(self.score),
            "confidence": _number(self.confidence),
            "onset": rfc3339(self.onset_us),
            "ts": rfc3339(self.ts_us),
            "window_us": self.window_us,
            "signals": [
                {
                    "signal": s.signal,
                    "unit": s.unit,
                    "observed": _number(s.observed),
                    "expected": _number(s.expected),
                    "surprise": _number(s.surprise),
                }
                for s in self.signals
            ],
            "sentence": self.sentence,
            "detector": {"name": self.detector, "version": self.detector_version},
            "evidence": {
                "topic": self.topic,
                "partition": self.partition,
                "offset_first": self.offset_first,
                "offset_last": self.offset_last,
            },
        }

    def to_message(self) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
        """(key, value, headers) for the alert topic."""
        headers = {
            "ce_specversion": "1.0",
            "ce_id": self.event_id,
            "ce_source": SOURCE,
            "ce_type": f"{TYPE_PREFIX}{self.state}.v1",
            "ce_time": rfc3339(self.ts_us),
            "ce_subject": self.device_id,
            "ce_partitionkey": self.device_id,
            "ce_dataschema": DATA_SCHEMA,
            "content-type": CONTENT_TYPE,
        }
        value = json.dumps(self.to_data(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return self.device_id.encode(), value.encode(), [(name, text.encode()) for name, text in headers.items()]

    @classmethod
    def from_message(cls, value: bytes | None, headers: Iterable[tuple[str, bytes]] | None) -> Alert:
        """The inverse of `to_message`.

        Raises
        ------
        ValueError : not an alert of ours; the message says what is wrong.
        """
        ce_type = dict(headers or ()).get("ce_type", b"").decode(errors="replace")
        if not ce_type.startswith(TYPE_PREFIX):
            raise ValueError(f"ce_type is {ce_type!r}, not {TYPE_PREFIX}*")
        try:
            data = json.loads(value or b"")
        except (json.JSONDecodeError, UnicodeDecodeError) as exc:
            raise ValueError(f"the data are not JSON: {exc}") from exc
        return cls.from_data(data)

    @classmethod
    def from_data(cls, data: Any) -> Alert:
        """From the JSON data.

        Raises
        ------
        ValueError : a field is missing or has the wrong type.
        """
        try:
            return cls(
                id=str(data["id"]),
                device_id=str(data["device"]),
                catalog=str(data["catalog"]),
                kind=str(data["kind"]),
                state=AlertState(data["state"]),
                severity=Severity(data["severity"]),
                score=_float(data["score"]),
                confidence=_float(data["confidence"]),
                onset_us=micros_of(data["onset"]),
                ts_us=micros_of(data["ts"]),
                window_us=int(data["window_us"]),
                signals=tuple(
                    GuiltySignal(
                        str(s["signal"]),
                        str(s["unit"]),
                        _float(s["observed"]),
                        _float(s["expected"]),
                        _float(s["surprise"]),
                    )
                    for s in data["signals"]
                ),
                sentence=str(data["sentence"]),
                detector=str(data["detector"]["name"]),
                detector_version=int(data["detector"]["version"]),
                topic=str(data["evidence"]["topic"]),
                partition=int(data["evidence"]["partition"]),
                offset_first=int(data["evidence"]["offset_first"]),
                offset_last=int(data["evidence"]["offset_last"]),
            )
        except (KeyError, TypeError) as exc:
            raise ValueError(f"the data are not an alert: {exc!r}") from exc


def _number(value: float) -> float | None:
    """JSON has no NaN: null stands for it."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def rfc3339(ts_us: int) -> str:
    """Event time as text, to the microsecond, UTC."""
    seconds, micros = divmod(ts_us, 1_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{micros:06d}Z"


def micros_of(text: Any) -> int:
    """The inverse of `rfc3339`.

    Raises
    ------
    ValueError : not a time.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DULL = {"vehicle", "current", "is", "cabin", "row"}


@lru_cache(maxsize=4096)
def humanise(name: str) -> str:
    """A signal's name as a person says it: the last parts of the path, in words."""
    parts = [part for part in name.split(".") if part]
    words = [_CAMEL.sub(" ", part).replace("_", " ").lower() for part in parts]
    kept = [word for word in words if word not in _DULL] or words
    return " ".join(kept[-3:])


def figure(value: float, unit: str = "") -> str:
    """Three or four significant digits, and the unit."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def sentence(device_id: str, kind: str, signals: Sequence[GuiltySignal]) -> str:
    """The alert in plain words, from its guiltiest signal."""
    if not signals:
        return f"{device_id} behaves unlike itself ({kind})"
    first = signals[0]
    name = humanise(first.signal)
    more = f"; also {', '.join(humanise(s.signal) for s in signals[1:])}" if len(signals) > 1 else ""
    if math.isnan(first.observed):
        return f"{name} stopped reporting{more}"
    if kind == "stuck":
        return f"{name} is stuck at {figure(first.observed, first.unit)}{more}"
    if math.isnan(first.expected):
        return f"{name} is {figure(first.observed, first.unit)}, which is unusual{more}"
    delta = first.observed - first.expected
    side = "above" if delta > 0 else "below"
    return (
        f"{name} is {figure(abs(delta), first.unit)} {side} what was expected "
        f"({figure(first.observed, first.unit)}, expected {figure(first.expected, first.unit)}){more}"
    )
