"""The common job in plain Faust, to compare with. The rule: what a careful Faust user would write, no more.

`table` keeps a device's state in a Table and takes one event at a time; `take` takes up to 1,000 at a time, works
on a step's ten signals with numpy and keeps its state in memory only. Prints one line of JSON at the input's end.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import sys
import time
from typing import Any

import fastavro
import faust
import numpy as np
from numpy.typing import NDArray

from benchmarks.job import FRAMES, PARTITIONS
from benchmarks.reference import ALPHA, WARM, WINDOW_US, Z
from telemetry import schemas

SIGNALS = FRAMES.signals
#: The share of the input after which CPU time is counted, as for the worker.
FROM = 0.2
SETTLE_S = 2.0


def decode(data: bytes) -> tuple[str, int, int, list[float]]:
    """Device id, time of the first step, period, values."""
    record: Any = fastavro.schemaless_reader(io.BytesIO(data[10:]), schemas.parsed("frame"), None)
    ts = record["ts"]
    ts_us = ts if isinstance(ts, int) else round(ts.timestamp() * 1e6)
    return record["device_id"], ts_us, record["period_us"], record["values"]


def fresh() -> dict[str, Any]:
    """A device's state: samples seen, mean and variance of each signal, the open window's figures."""
    return {"n": 0, "mean": [0.0] * SIGNALS, "var": [0.0] * SIGNALS, "start": -1, "window": []}


def opened() -> list[list[float]]:
    """Count, sum, sum of squares, min, max, last of each signal."""
    return [[0.0, 0.0, 0.0, math.inf, -math.inf, math.nan] for _ in range(SIGNALS)]


def features(window: list[list[float]]) -> bytes:
    rows = [
        (n, total / n, math.sqrt(max(ssq / n - (total / n) ** 2, 0.0)), low, high, last)
        for n, total, ssq, low, high, last in window
    ]
    return np.array(rows, np.float32).tobytes()


def step(state: dict[str, Any], values: list[float], at: int) -> tuple[float, int]:
    """Score and learn one step, add it to the window; the largest z^2 and its signal."""
    best, guilty = -1.0, -1
    mean, var, window, n = state["mean"], state["var"], state["window"], state["n"]
    for s in range(SIGNALS):
        x = values[at + s]
        d = x - mean[s]
        if n >= WARM and var[s] > 0.0 and d * d / var[s] > best:
            best, guilty = d * d / var[s], s
        if n == 0:
            mean[s] = x
        else:
            inc = ALPHA * d
            var[s] = (1.0 - ALPHA) * (var[s] + d * inc)
            mean[s] += inc
        w = window[s]
        w[0] += 1.0
        w[1] += x
        w[2] += x * x
        w[3] = min(w[3], x)
        w[4] = max(w[4], x)
        w[5] = x
    state["n"] = n + 1
    return best, guilty


class Meter:
    """Counts messages; reports the CPU time from 20 % of them to the end and leaves."""

    def __init__(self, total: int) -> None:
        self._total, self._from = total, int(FROM * total)
        self._done, self._cpu_s = 0, 0.0

    async def count(self, messages: int) -> None:
        before = self._done
        self._done += messages
        if before < self._from <= self._done:
            self._cpu_s, self._from = time.process_time(), self._done
        if before < self._total <= self._done:
            await asyncio.sleep(SETTLE_S)  # what is buffered goes out, offsets are committed
            used = time.process_time() - self._cpu_s
            print(json.dumps({"ns_per_message": used / (self._total - self._from) * 1e9}), flush=True)
            os._exit(0)


def per_event(app: Any, source: Any, out: Any, alerts: Any, meter: Meter) -> None:
    """One event at a time, state in a Table."""
    table = app.Table("state", default=fresh, partitions=PARTITIONS, key_type=str)

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def process(stream: Any) -> None:
        async for data in stream:
            device, ts_us, period_us, values = decode(data)
            state = table[device]
            best, guilty, at_us = -1.0, -1, 0
            for k in range(len(values) // SIGNALS):
                t = ts_us + k * period_us
                start = t - t % WINDOW_US
                if start != state["start"]:
                    if state["window"]:
                        await out.send(key=device, value=features(state["window"]))
                    state["start"], state["window"] = start, opened()
                z2, s = step(state, values, k * SIGNALS)
                if z2 > best:
                    best, guilty, at_us = z2, s, t
            if best > Z * Z:
                found = {"device": device, "ts": at_us, "signal": guilty, "z": math.sqrt(best)}
                await alerts.send(key=device, value=json.dumps(found).encode())
            table[device] = state
            await meter.count(1)


class _Arrays:
    """A device's state for `take`."""

    __slots__ = ("mean", "n", "start", "var", "window")

    def __init__(self) -> None:
        self.n, self.start = 0, -1
        self.mean, self.var = np.zeros(SIGNALS), np.zeros(SIGNALS)
        self.window: NDArray[np.float64] = np.zeros((6, SIGNALS))

    def open(self, start: int) -> None:
        self.start = start
        self.window = np.zeros((6, SIGNALS))
        self.window[3], self.window[4] = np.inf, -np.inf

    def features(self) -> bytes:
        n, total, ssq, low, high, last = self.window
        mean = total / n
        std = np.sqrt(np.maximum(ssq / n - mean * mean, 0.0))
        return np.stack([n, mean, std, low, high, last]).astype(np.float32).tobytes()

    def step(self, x: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Score and learn one step; z^2 of each signal once it is warm."""
        d = x - self.mean
        z2 = d * d / self.var if self.n >= WARM else None
        if self.n == 0:
            self.mean = x.copy()
        else:
            inc = ALPHA * d
            self.var = (1.0 - ALPHA) * (self.var + d * inc)
            self.mean = self.mean + inc
        self.n += 1
        w = self.window
        w[0] += 1.0
        w[1] += x
        w[2] += x * x
        np.minimum(w[3], x, out=w[3])
        np.maximum(w[4], x, out=w[4])
        w[5] = x
        return z2


def per_take(app: Any, source: Any, out: Any, alerts: Any, meter: Meter) -> None:
    """Up to 1,000 events at a time, state in memory only."""
    held: dict[str, _Arrays] = {}

    async def one(data: bytes) -> None:
        device, ts_us, period_us, listed = decode(data)
        state = held.get(device)
        if state is None:
            state = held[device] = _Arrays()
        values = np.array(listed).reshape(-1, SIGNALS)
        best, guilty, at_us = -1.0, -1, 0
        for k in range(len(values)):
            t = ts_us + k * period_us
            start = t - t % WINDOW_US
            if start != state.start:
                if state.start >= 0:
                    await out.send(key=device, value=state.features())
                state.open(start)
            z2 = state.step(values[k])
            if z2 is not None and z2.max() > best:
                best, guilty, at_us = float(z2.max()), int(z2.argmax()), t
        if best > Z * Z:
            found = {"device": device, "ts": at_us, "signal": guilty, "z": math.sqrt(best)}
            await alerts.send(key=device, value=json.dumps(found).encode())

    @app.agent(source)  # type: ignore[untyped-decorator]
    async def process(stream: Any) -> None:
        async for events in stream.take(1000, within=0.1):
            for data in events:
                await one(data)
            await meter.count(len(events))


def main(kind: str, bootstrap: str, topic: str, total: int) -> None:
    """Run one of the two until `total` messages are done."""
    app = faust.App(
        f"{topic}.{kind}",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        topic_partitions=PARTITIONS,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_commit_interval=1.0,
        web_enabled=False,
        datadir=f"faust-{kind}",
    )
    source = app.topic(topic, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    raw = {"key_type": str, "value_type": bytes, "value_serializer": "raw", "partitions": PARTITIONS}
    out, alerts = app.topic(f"{topic}.{kind}.features", **raw), app.topic(f"{topic}.{kind}.alerts", **raw)
    {"table": per_event, "take": per_take}[kind](app, source, out, alerts, Meter(total))
    faust.Worker(app, loglevel="ERROR", quiet=True, redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
