"""Options that the producing commands share. The rule: a wrong value is refused before anything starts."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import click

from telemetry import codec

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|)")
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def now_us() -> int:
    return time.time_ns() // 1000


class DurationType(click.ParamType):
    """``90``, ``90s``, ``2m``, ``1.5h``: seconds as a float, above 0."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value).strip())
        if match is None or (seconds := float(match[1]) * _UNITS_S[match[2]]) <= 0:
            self.fail(f"{value!r} is not a time; write 90, 90s, 2m or 1.5h", param, ctx)
        return seconds


class InstantType(click.ParamType):
    """An ISO 8601 time, UTC unless it says otherwise, as microseconds since the epoch."""

    name = "iso-time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            self.fail(f"{value!r} is not an ISO 8601 time, as in 2026-05-01T08:00:00Z", param, ctx)
        start_us = codec.micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
        if start_us < 0:
            self.fail(f"{value!r} lies before 1970", param, ctx)
        return start_us


class DeviceIdType(click.ParamType):
    """A device id as the contract allows it."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", text):
            self.fail(f"{text!r} is not a device id: 1 to 64 of A-Z a-z 0-9 . _ : -", param, ctx)
        return text


SPEED = click.option(
    "--speed",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds of event time a second: 1 = real time, 10 = ten times, 0 = as fast as possible.",
)
START = click.option(
    "--start",
    "start_us",
    type=InstantType(),
    help="Event time of the beginning, for example 2026-05-01T08:00:00Z. Default: now; sped up, early enough "
    "not to overtake the clock.",
)
METRICS = click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve Prometheus metrics (frames, samples, acknowledged, failed, queue, lateness) on this port.",
)
SEED = click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed gives the same data."
)
