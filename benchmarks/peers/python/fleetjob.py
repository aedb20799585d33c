"""The common job's arithmetic for the Python peers. The rule: numpy and numba alone, nothing of Fleetwatch's.

A device's state is one float64 vector: samples seen, the open window's start and count, then mean, variance, sum,
sum of squares, min, max and last of each signal. One compiled call takes in a frame, decoding included, so that
what a peer costs above `loop_job` is the framework and not Python's arithmetic.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass

import numpy as np
from numba import njit

ALPHA = 0.02
Z_SQUARED = 36.0
WARM = 20
WINDOW_US = 10_000_000
#: Marker and fingerprint of the single-object encoding.
AVRO_HEADER = 10
HEAD = 3
COMMIT_S = 5.0


@dataclass(frozen=True)
class Options:
    """What a program is to do, from its arguments name=value."""

    bootstrap: str
    input: str
    features: str
    alerts: str
    group: str
    folder: str
    total: int
    signals: int
    guarantee: str
    kind: str = ""
    threads: int = 1


def options(arguments: list[str]) -> Options:
    given = dict(argument.split("=", 1) for argument in arguments)
    numbers = {name: int(given.pop(name)) for name in ("total", "signals", "threads")}
    return Options(**given, **numbers)


def fresh(signals: int) -> np.ndarray:
    state = np.zeros(HEAD + 7 * signals)
    state[1] = -1.0
    return state


@njit(cache=True)
def _varint(data, at):
    bits, shift = np.uint64(0), np.uint64(0)
    while True:
        b = np.uint64(data[at])
        at += 1
        bits |= (b & np.uint64(0x7F)) << shift
        if b < 128:
            break
        shift += np.uint64(7)
    return np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1)), at


@njit(cache=True)
def advance(state, frame, features):
    """Take in a frame; changes `state`, and `features` (float32, 6 x signals) when a window closes.

    A frame must not be longer than a window.

    Returns
    -------
    closed_us : start of the window that was closed, -1 = none. z_squared : the largest. signal, ts_us : of that.
    """
    signals = (len(state) - 3) // 7
    at = AVRO_HEADER
    for _ in range(2):  # device_id, catalog
        size, at = _varint(frame, at)
        at += size
    _, at = _varint(frame, at)  # seq
    ts_us, at = _varint(frame, at)
    period_us, at = _varint(frame, at)
    count, at = _varint(frame, at)
    if count < 0:
        count = -count
        _, at = _varint(frame, at)  # bytes of the block
    values = np.empty(count, np.float32)
    values.view(np.uint8)[:] = frame[at : at + 4 * count]
    mean, var = state[3 : 3 + signals], state[3 + signals : 3 + 2 * signals]
    window = state[3 + 2 * signals :].reshape(5, signals)
    closed_us, best, guilty, guilty_us = np.int64(-1), -1.0, np.int64(-1), np.int64(0)
    for step in range(count // signals):
        t = ts_us + step * period_us
        start = t - t % WINDOW_US
        if start != np.int64(state[1]):
            if state[1] >= 0.0:
                closed_us = np.int64(state[1])
                n = state[2]
                for s in range(signals):
                    m = window[0, s] / n
                    features[s], features[signals + s] = n, m
                    features[2 * signals + s] = math.sqrt(max(window[1, s] / n - m * m, 0.0))
                    for f in range(2, 5):
                        features[(1 + f) * signals + s] = window[f, s]
            state[1], state[2] = start, 0.0
            window[:2], window[2], window[3] = 0.0, np.inf, -np.inf
        for s in range(signals):
            x = np.float64(values[step * signals + s])
            d = x - mean[s]
            if state[0] >= WARM and d * d / var[s] > best:
                best, guilty, guilty_us = d * d / var[s], s, t
            if state[0] == 0.0:
                mean[s] = x
            else:
                learnt = ALPHA * d
                var[s] = (1.0 - ALPHA) * (var[s] + d * learnt)
                mean[s] += learnt
            window[0, s] += x
            window[1, s] += x * x
            window[2, s] = min(window[2, s], x)
            window[3, s] = max(window[3, s], x)
            window[4, s] = x
        state[0] += 1.0
        state[2] += 1.0
    return closed_us, best, guilty, guilty_us


class Job:
    """`advance` with what goes out of it as bytes."""

    def __init__(self, signals: int) -> None:
        self.signals = signals
        self._features = np.empty(6 * signals, np.float32)
        self._compile()

    def _compile(self) -> None:
        """Before the first message, not at it."""
        frame = bytes(AVRO_HEADER + 6)
        self.take(fresh(self.signals), frame, "")

    def take(self, state: np.ndarray, frame: bytes, device: str) -> tuple[bytes | None, bytes | None]:
        """The features record (window start as int64, then 6 x signals float32) and the alert; None = none."""
        closed_us, best, signal, ts_us = advance(state, np.frombuffer(frame, np.uint8), self._features)
        features = alert = None
        if closed_us >= 0:
            features = closed_us.to_bytes(8, "little") + self._features.tobytes()
        if best > Z_SQUARED:
            found = {"device": device, "ts": ts_us, "signal": signal, "z": math.sqrt(best)}
            alert = json.dumps(found).encode()
        return features, alert


class Meter:
    """Counts messages; tells the CPU time when a fifth of them is done, and when all are."""

    def __init__(self, total: int) -> None:
        self._done, self._next, self._total = 0, total // 5, total

    def count(self, messages: int = 1) -> None:
        self._done += messages
        if self._done >= self._next:
            self._tell()

    def _tell(self) -> None:
        told = {"done": self._done, "cpu_ns": time.process_time_ns(), "time_ms": time.time_ns() // 1_000_000}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        self._next = self._total if self._done < self._total else sys.maxsize
