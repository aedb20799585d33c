"""Alert events for tests, and how they get into the topic."""

from __future__ import annotations

import time
from collections.abc import Iterable

from telemetry.alerts import Alert, AlertState, GuiltySignal, Severity, rfc3339, sentence
from telemetry.clients import producer
from telemetry.settings import Settings
from telemetry.topics import topics

TEMPERATURE = (GuiltySignal("DCGM.FI.DEV.GPU_TEMP", "degC", 91.0, 70.0, 12.0),)
#: Of this run: half a minute ago.
ONSET_US = int(time.time() * 1e6) - 30_000_000


def made(
    device: str,
    state: AlertState = AlertState.OPEN,
    severity: Severity = Severity.MINOR,
    *,
    span_s: float = 3,
    onset_us: int = ONSET_US,
    kind: str = "shift",
    signals: tuple[GuiltySignal, ...] = TEMPERATURE,
    catalog: str = "gpu.node/1",
) -> Alert:
    """One event of the episode of `device` that began at `onset_us`."""
    return Alert(
        id=f"{device}/{rfc3339(onset_us)}",
        device_id=device,
        catalog=catalog,
        kind=kind,
        state=state,
        severity=severity,
        score=12.0,
        confidence=1.0,
        onset_us=onset_us,
        ts_us=onset_us + int(span_s * 1_000_000),
        window_us=int(span_s * 1_000_000),
        signals=signals,
        sentence=sentence(device, kind, signals),
        detector="robust",
        detector_version=1,
        topic="telemetry.device",
        partition=0,
        offset_first=1,
        offset_last=2,
    )


def publish(settings: Settings, alerts: Iterable[Alert | bytes]) -> None:
    """bytes : a record that is no alert."""
    client = producer(settings)
    name = topics(settings).alerts.name
    for item in alerts:
        if isinstance(item, bytes):
            client.produce(name, key=b"junk", value=item)
        else:
            key, value, headers = item.to_message()
            client.produce(name, key=key, value=value, headers=headers)
    assert client.flush(20) == 0
