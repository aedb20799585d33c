"""Example records for the AsyncAPI document. The rule: our encoders write them,
our decoders read them.

So what stands in the document as an example is what a reader of the topic gets, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from streams.core.effects import DeadLetter
from telemetry import catalog, codec, schemas
from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, rfc3339, sentence
from telemetry.reasons import Reason

DEVICE = "veh-0007"
RUN = "5d1c0f"
ORDER = "0f4a3be7c1d2"
#: 2023-11-14T22:13:20.123456Z: nothing here depends on when it was written.
T_US = 1_700_000_000_123_456
WINDOW_US = 1_500_000
#: Values are multiples of this: a float32 holds them exactly, and they read the same in decimal.
GRAIN = 0.25

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Example:
    """A record. payload : its value as a JSON document says it; None = opaque bytes."""

    name: str
    key: bytes
    value: bytes
    payload: Any
    headers: Headers


def plain(value: Any) -> Any:
    """A decoded value in JSON's terms, bytes as Avro's JSON encoding has them: one character a byte."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


@cache
def _known() -> catalog.CatalogSet:
    return catalog.load()


def _entry(name: str) -> catalog.Catalog:
    """The newest version of an entry that ships with the project."""
    return _known().latest(name)


def _avro(name: str, title: str, value: bytes, device: str = DEVICE) -> Example:
    return Example(title, device.encode(), value, plain(codec.decode(name, value)), {})


def _frame(name: str, device: str, steps: int) -> bytes:
    """Signals in the middle of their ranges, rising by a grain each step."""
    known = _entry(name)
    middle = [((s.min or 0.0) + (s.max or 0.0)) / 2 for s in known.signals]
    rising = np.round(np.array(middle) / GRAIN) * GRAIN + GRAIN * np.arange(steps)[:, None]
    period_us = round(known.period_ms * 1000)
    return codec.FrameEncoder(device, known.key, period_us).encode(41, T_US, rising)


def _frames() -> list[Example]:
    made = [("vehicle", "vehicle.can", DEVICE), ("device", "sensor.pump", "pump-0003")]
    return [_avro("frame", title, _frame(entry, device, 2), device) for title, entry, device in made]


def _window() -> dict[str, Any]:
    return {
        "device_id": DEVICE,
        "catalog": _entry("vehicle.can").key,
        "window_start": T_US,
        "window_us": WINDOW_US,
    }


def _features() -> list[Example]:
    signals = len(_entry("vehicle.can").signals)
    level = {name: [10.5] * signals for name in ("mean", "min", "max", "last")}
    still = {name: [0.0] * signals for name in ("std", "slope", "roc_max", "missing")}
    record = {**_window(), "hop_us": WINDOW_US, "rows": 30, "count": [30.0] * signals, **level, **still}
    return [_avro("window_features", "window", codec.encode("window_features", record))]


def _scores() -> list[Example]:
    said = {"detector": "relations", "detector_version": 4, "surprise": 17.25, "ts": T_US + 500_000}
    signal = _entry("vehicle.can").columns[0]
    return [_avro("score", "score", codec.encode("score", {**_window(), **said, "signal": signal}))]


def _state() -> list[Example]:
    """The row itself is opaque to all but the release that wrote it; this one is cut short."""
    row = {"state_id": "8f14e45f", "offset": 12345, "row": bytes(range(8)), "bank": b""}
    record = {"device_id": DEVICE, "catalog": _window()["catalog"], **row}
    return [_avro("state_row", "row", codec.encode("state_row", record))]


def _truth_record() -> dict[str, Any]:
    """As a simulator has it before it is encoded."""
    entry = _entry("vehicle.ev")
    return {
        "fault_id": f"battery_cell_drift-{T_US // 1_000_000}-1:{DEVICE}",
        "device_id": DEVICE,
        "catalog": entry.key,
        "kind": "battery_cell_drift",
        "onset": T_US,
        "end": None,
        "signals": [next(name for name in entry.columns if "CellVoltage" in name)],
        "magnitude": 0.25,
        "params": {},
    }


def _truth() -> list[Example]:
    return [_avro("truth", "fault", codec.encode("truth", _truth_record()))]


def _devices() -> list[Example]:
    said = {"model": "EV-77", "firmware": "3.1.0", "since": T_US, "attributes": {"site": "north"}}
    record = {"device_id": DEVICE, "catalog": _entry("vehicle.ev").key, **said}
    return [_avro("device", "device", codec.encode("device", record))]


def alert(state: AlertState) -> Alert:
    """An event of one episode: one window a state."""
    signal = next(s for s in _entry("vehicle.ev").signals if s.name.endswith("CellVoltage.Min"))
    guilty = (GuiltySignal(signal.name, signal.unit, 3.42, 3.73, 17.25),)
    return Alert(
        id=f"{DEVICE}/{rfc3339(T_US)}",
        device_id=DEVICE,
        catalog=_entry("vehicle.ev").key,
        kind="relation",
        state=state,
        severity=Severity.MAJOR,
        score=17.25,
        confidence=0.9,
        onset_us=T_US,
        ts_us=T_US + WINDOW_US * (1 + list(AlertState).index(state)),
        window_us=WINDOW_US,
        signals=guilty,
        sentence=sentence(DEVICE, "relation", guilty),
        detector="relations",
        detector_version=4,
        topic="telemetry.vehicle",
        partition=3,
        offset_first=100,
        offset_last=104,
        warming=True,
    )


def _alerts() -> list[Example]:
    found = []
    for state in AlertState:
        key, value, headers = alert(state).to_message()
        found.append(
            Example(state.value, key, value, json.loads(value), {name: text.decode() for name, text in headers})
        )
    return found


def _dead_letters() -> list[Example]:
    cut = _frame("vehicle.can", DEVICE, 1)[:-5]
    letter = DeadLetter("telemetry.vehicle", 3, 105, Reason.AVRO_TRUNCATED, DEVICE.encode(), cut).bounded(T_US)
    headers = {name: text.decode() for name, text in letter.headers("worker-0")}
    return [Example("truncated", letter.key or b"", letter.value or b"", None, headers)]


def _json(title: str, key: str, data: Any) -> Example:
    return Example(title, key.encode(), json.dumps(data).encode(), data, {})


def _orders() -> list[Example]:
    inject = f"battery_cell_drift@30s:{DEVICE}"
    return [
        _json("any", "", {"order": ORDER, "inject": inject}),
        _json("one", RUN, {"order": ORDER, "inject": inject, "run": RUN}),
    ]


def _answers() -> list[Example]:
    return [
        _json("done", RUN, {"order": ORDER, "run": RUN, "injected": _truth_record()}),
        _json("refused", RUN, {"order": ORDER, "run": RUN, "refused": f"there is no device {DEVICE} in this run"}),
    ]


def _announcements() -> list[Example]:
    return [_json("frame", schemas.header("frame").hex(), schemas.raw("frame"))]


#: message -> its examples
EXAMPLES: Mapping[str, Callable[[], list[Example]]] = {
    "frame": _frames,
    "window_features": _features,
    "score": _scores,
    "state_row": _state,
    "truth": _truth,
    "device": _devices,
    "alert": _alerts,
    "dead_letter": _dead_letters,
    "order": _orders,
    "answer": _answers,
    "announcement": _announcements,
}
