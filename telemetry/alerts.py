"""Alerts as people and programs get them: CloudEvents 1.0 over Kafka, binary mode, JSON data.

The rule: `ce_id` is a function of the input alone, so that a consumer can drop what it has seen.
The data's shape is `telemetry/schemas/alert.schema.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from telemetry.words import figure, humanise, magnitude

SOURCE: Final = "urn:fleetwatch:worker"
TYPE_PREFIX: Final = "io.fleetwatch.alert."
TYPE_SUFFIX: Final = ".v1"
DATA_SCHEMA: Final = "urn:fleetwatch:schema:alert:1"
CONTENT_TYPE: Final = "application/json"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class AlertState(StrEnum):
    OPEN = "open"
    UPDATE = "update"
    RESOLVED = "resolved"

    @property
    def ce_type(self) -> str:
        """The CloudEvents type of an event in this state."""
        return f"{TYPE_PREFIX}{self.value}{TYPE_SUFFIX}"


class Severity(StrEnum):
    INFO = "info"
    MINOR = "minor"
    MAJOR = "major"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the least urgent."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class GuiltySignal:
    """One signal that an alert is about; observed NaN = missing, expected NaN = the detector cannot say."""

    signal: str
    unit: str
    observed: float
    expected: float
    surprise: float

    @property
    def residual(self) -> float:
        """Observed less expected."""
        return self.observed - self.expected


@dataclass(frozen=True, slots=True)
class Alert:
    """One event in the life of an alert. Times in microseconds of event time; see alert.avsc for each field."""

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
    warming: bool = False

    @property
    def device_class(self) -> str:
        """The catalogue entry's name without its version, for example ``vehicle.ev``."""
        return self.catalog.partition("/")[0]

    @property
    def event_id(self) -> str:
        """Names this event: the same whenever the same input is processed again."""
        return f"{self.id}/{self.state.value}/{self.ts_us}"

    def to_data(self) -> dict[str, Any]:
        """The JSON data. Figures keep 7 significant digits (a float32's worth); null = NaN or infinite."""
        return {
            "id": self.id,
            "device": self.device_id,
            "class": self.device_class,
            "catalog": self.catalog,
            "kind": self.kind,
            "state": self.state.value,
            "severity": self.severity.value,
            "score": _number(self.score),
            "confidence": _number(self.confidence),
            "warming": self.warming,
            "onset": rfc3339(self.onset_us),
            "ts": rfc3339(self.ts_us),
            "window_us": self.window_us,
            "signals": [
                {
                    "signal": s.signal,
                    "unit": s.unit,
                    "observed": _number(s.observed),
                    "expected": _number(s.expected),
                    "residual": _number(s.residual),
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
        device = self.device_id.encode()
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.event_id.encode()),
            ("ce_source", SOURCE.encode()),
            ("ce_type", self.state.ce_type.encode()),
            ("ce_time", rfc3339(self.ts_us).encode()),
            ("ce_subject", device),
            ("ce_partitionkey", device),
            ("ce_dataschema", DATA_SCHEMA.encode()),
            ("content-type", CONTENT_TYPE.encode()),
        ]
        return device, _JSON.encode(self.to_data()).encode(), headers

    @classmethod
    def from_message(cls, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] | None) -> Alert:
        """The inverse of `to_message`, as strict as the JSON Schema.

        Raises
        ------
        ValueError : not an alert of ours; the message says what is wrong.
        """
        attributes = ce_attributes(headers)
        for name in ("specversion", "id", "source", "type"):
            if not attributes.get(name):
                raise ValueError(f"header ce_{name} is missing")
        if attributes["specversion"] != "1.0":
            raise ValueError(f"ce_specversion is {attributes['specversion']!r}, not '1.0'")
        try:
            data = json.loads(value or b"")
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ValueError(f"the data are not JSON: {exc}") from exc
        alert = cls.from_data(data)
        if attributes["type"] != alert.state.ce_type:
            raise ValueError(f"ce_type is {attributes['type']!r}, not {alert.state.ce_type!r} as the data say")
        return alert

    @classmethod
    def from_data(cls, data: Any) -> Alert:
        """From the JSON data.

        Raises
        ------
        ValueError : a field is missing, unknown, or has the wrong type.
        """
        top = _Fields(data, "data", _FIELDS)
        detector = _Fields(top.value["detector"], "detector", ("name", "version"))
        evidence = _Fields(top.value["evidence"], "evidence", _EVIDENCE_FIELDS)
        listed = top.value["signals"]
        if not isinstance(listed, list):
            raise ValueError("data.signals is not a list")  # noqa: TRY004 (wrong data, not a wrong call)
        alert = cls(
            id=top.text("id"),
            device_id=top.text("device"),
            catalog=top.text("catalog"),
            kind=top.text("kind"),
            state=AlertState(top.text("state")),
            severity=Severity(top.text("severity")),
            score=top.real("score"),
            confidence=top.real("confidence"),
            onset_us=micros_of(top.text("onset")),
            ts_us=micros_of(top.text("ts")),
            window_us=top.integer("window_us"),
            signals=tuple(_guilty(item, f"signals[{i}]") for i, item in enumerate(listed)),
            sentence=top.text("sentence"),
            detector=detector.text("name"),
            detector_version=detector.integer("version"),
            topic=evidence.text("topic"),
            partition=evidence.integer("partition"),
            offset_first=evidence.integer("offset_first"),
            offset_last=evidence.integer("offset_last"),
            warming=bool(top.value.get("warming", False)),
        )
        if top.text("class") != alert.device_class:
            raise ValueError(f"data.class is {data['class']!r}, the catalogue entry is {alert.catalog!r}")
        return alert


_FIELDS: Final = (
    "id", "device", "class", "catalog", "kind", "state", "severity", "score", "confidence", "onset", "ts",
    "window_us", "signals", "sentence", "detector", "evidence",
)  # fmt: skip
_EVIDENCE_FIELDS: Final = ("topic", "partition", "offset_first", "offset_last")
_SIGNAL_FIELDS: Final = ("signal", "unit", "observed", "expected", "surprise")


class _Fields:
    """Reads one JSON object that has the named fields; every getter raises ValueError on another type.

    Fields of a later version are passed over.
    """

    def __init__(self, value: Any, where: str, names: Sequence[str]) -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not an object")  # noqa: TRY004
        if missing := [name for name in names if name not in value]:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        self.value: Mapping[str, Any] = value
        self._where = where

    def _wrong(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"{self._where}.{name} is {self.value[name]!r}, not {wanted}")

    def text(self, name: str) -> str:
        found = self.value[name]
        if not isinstance(found, str):
            raise self._wrong(name, "text")
        return found

    def integer(self, name: str) -> int:
        found = self.value[name]
        if not isinstance(found, int) or isinstance(found, bool):
            raise self._wrong(name, "a whole number")
        return found

    def real(self, name: str) -> float:
        """NaN for null."""
        found = self.value[name]
        if found is None:
            return math.nan
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self._wrong(name, "a number or null")
        return float(found)


def _guilty(value: Any, where: str) -> GuiltySignal:
    item = _Fields(value, where, _SIGNAL_FIELDS)
    return GuiltySignal(
        item.text("signal"), item.text("unit"), item.real("observed"), item.real("expected"), item.real("surprise")
    )


def ce_attributes(headers: Iterable[tuple[str, bytes | None]] | None) -> dict[str, str]:
    """The CloudEvents attributes of a binary-mode record, without their ``ce_`` prefix."""
    return {
        name.removeprefix("ce_"): (value or b"").decode(errors="replace")
        for name, value in headers or ()
        if name.startswith("ce_")
    }


def _number(value: float) -> float | None:
    """JSON has no NaN: null stands for it."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(ts_us: int) -> str:
    """Event time as text, to the microsecond, UTC."""
    seconds, micros = divmod(ts_us, 1_000_000)
    return f"{_second(seconds)}.{micros:06d}Z"


def micros_of(text: str) -> int:
    """The inverse of `rfc3339`.

    Raises
    ------
    ValueError : not a time, or a time without a zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def sentence(
    device_id: str, kind: str, signals: Sequence[GuiltySignal], others: int = 0, *, warming: bool = False
) -> str:
    """The alert in plain words, from its guiltiest signal (the first).

    others : signals besides this one that the expected value was inferred from; 0 = from its own past.
    """
    return _whole(device_id, kind, signals, others) + ("; still warming to this device" if warming else "")


def _whole(device_id: str, kind: str, signals: Sequence[GuiltySignal], others: int) -> str:
    if not signals:
        if kind == "flood":
            return f"{device_id} sends far more often than its class does"
        return f"{device_id} behaves unlike itself ({kind})"
    more = f"; also {', '.join(humanise(s.signal) for s in signals[1:])}" if len(signals) > 1 else ""
    return _about(kind, signals[0], others) + more


def _about(kind: str, signal: GuiltySignal, others: int) -> str:
    name, unit, observed, expected = humanise(signal.signal), signal.unit, signal.observed, signal.expected
    if math.isnan(observed):
        return f"{name} stopped reporting"
    if kind == "stuck":
        return f"{name} is stuck at {figure(observed, unit)}"
    if not (math.isfinite(observed) and math.isfinite(expected)):
        return f"{name} is {figure(observed, unit)}, which is unusual"
    delta = observed - expected
    if kind == "range":
        limit = f"at {'most' if delta > 0 else 'least'} {figure(expected, unit)}"
        return f"{name} is {figure(observed, unit)}, which is impossible ({limit})"
    if kind == "rate":
        way = "rose" if delta > 0 else "fell"
        places = magnitude(observed, expected)
        return (
            f"{name} {way} faster than is possible "
            f"(to {figure(observed, unit, places)}, at {'most' if delta > 0 else 'least'} "
            f"{figure(expected, unit, places)})"
        )
    if delta == 0:
        return f"{name} is {figure(observed, unit)}, as expected, but behaves unusually"
    places = magnitude(observed, expected)
    side = "above" if delta > 0 else "below"
    gap = f"{figure(abs(delta))} points" if unit == "%" else figure(abs(delta), unit)
    implied = "the other signal implies" if others == 1 else f"the other {others} signals imply"
    return (
        f"{name} is {gap} {side} what {implied if others else 'was expected'} "
        f"({figure(observed, unit, places)}, expected {figure(expected, unit, places)})"
    )
