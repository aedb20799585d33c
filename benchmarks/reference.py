"""What the job's outputs must be, computed naively. The rule: no code of the worker's is used here.

Sample by sample in time, as the job's text says; devices side by side in numpy arrays, which changes no device's
arithmetic: float64, in the order of its samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.job import ROUND_US, STEP_S, T0_US, Variant, device_ids, rounds
from telemetry import codec
from telemetry.alerts import Alert

ALPHA, WARM, Z = 0.02, 20, 6.0
WINDOW_US = 10_000_000
FIGURES = ("count", "mean", "std", "min", "max", "last")
#: Units in the last place of a float32 that mean and std may be off by.
ULPS = 2


@dataclass(slots=True)
class Expected:
    """features : window start -> float32 (devices, 6, signals). alerts : (device, step's time, signal) -> z."""

    features: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    alerts: dict[tuple[str, int, str], tuple[float, float]] = field(default_factory=dict)


class _Window:
    def __init__(self, shape: tuple[int, int]) -> None:
        self.rows = 0
        self.sum, self.ssq = np.zeros(shape), np.zeros(shape)
        self.min, self.max = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
        self.last = np.full(shape, np.nan, np.float32)

    def add(self, x: NDArray[np.float32]) -> None:
        wide = x.astype(np.float64)
        self.rows += 1
        self.sum += wide
        self.ssq += wide * wide
        self.min, self.max, self.last = np.minimum(self.min, x), np.maximum(self.max, x), x

    def figures(self) -> NDArray[np.float32]:
        n = float(self.rows)
        mean = self.sum / n
        std = np.sqrt(np.maximum(self.ssq / n - mean * mean, 0.0))
        parts = [np.full(mean.shape, n), mean, std, self.min, self.max, self.last]
        return np.stack([p.astype(np.float32) for p in parts], axis=1)


def expected(variant: Variant, devices: int, messages: int) -> Expected:
    """The outputs of the job's first `messages` messages, a multiple of `devices`."""
    assert messages % devices == 0
    out = Expected()
    names = device_ids(devices)
    shape = (devices, variant.signals)
    mean, var = np.zeros(shape), np.zeros(shape)
    seen, start, window = 0, -1, _Window(shape)
    for r, frame in enumerate(rounds(variant, devices, messages // devices)):
        frame_z2 = np.full((variant.steps, *shape), -1.0)
        for k in range(variant.steps):
            ts_us = T0_US + r * ROUND_US + k * round(STEP_S * 1e6)
            x = np.ascontiguousarray(frame[:, k, :])
            if ts_us - ts_us % WINDOW_US != start:
                if start >= 0:
                    out.features[start], out.rows[start] = window.figures(), window.rows
                start, window = ts_us - ts_us % WINDOW_US, _Window(shape)
            window.add(x)
            d = x.astype(np.float64) - mean
            if seen >= WARM:
                frame_z2[k] = d * d / var
            if seen == 0:
                mean, var = x.astype(np.float64), np.zeros(shape)
            else:
                inc = ALPHA * d
                var = (1.0 - ALPHA) * (var + d * inc)
                mean = mean + inc
            seen += 1
        worst = frame_z2.max(axis=(0, 2))
        for i in np.flatnonzero(worst > Z * Z).tolist():
            k, s = divmod(int(frame_z2[:, i, :].argmax()), variant.signals)
            ts_us = T0_US + r * ROUND_US + k * round(STEP_S * 1e6)
            out.alerts[names[i], ts_us, f"S{s}"] = (float(worst[i]) ** 0.5, float(frame[i, k, s]))
    return out


def _ulps(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest distance in units in the last place of the larger one."""
    return float(np.max(np.abs(a.astype(np.float64) - b) / np.spacing(np.maximum(np.abs(a), np.abs(b)))))


def differences(want: Expected, devices: int, features: list[bytes], alerts: list[Alert]) -> list[str]:
    """Every way in which the worker's outputs are not those; empty = verified."""
    problems: list[str] = []
    index = {name: i for i, name in enumerate(device_ids(devices))}
    got = {start: np.full(w.shape, np.nan, np.float32) for start, w in want.features.items()}
    filled = {start: np.zeros(devices, np.int64) for start in want.features}
    for message in features:
        record = codec.decode("window_features", message)
        start, i = record["window_start"], index[record["device_id"]]
        if start not in got or record["rows"] != want.rows[start]:
            problems.append(f"features: {record['device_id']} has a window {start} of {record['rows']} rows")
            continue
        filled[start][i] += 1
        for f, name in enumerate(FIGURES):
            got[start][i, f] = record[name]
    for start, w in want.features.items():
        if (filled[start] != 1).any():
            problems.append(f"features: window {start}: {int((filled[start] != 1).sum())} devices not exactly once")
            continue
        for f, name in enumerate(FIGURES):
            a, b = got[start][:, f], w[:, f]
            off = _ulps(a, b) if name in ("mean", "std") else float((a != b).sum() and np.inf)
            if not off <= (ULPS if name in ("mean", "std") else 0):
                problems.append(f"features: window {start}: {name} is off by {off:g} ulp")
    found = {(a.device_id, a.ts_us, a.signals[0].signal): a for a in alerts if a.signals}
    if len(found) != len(alerts):
        problems.append(f"alerts: {len(alerts)} published, {len(found)} different")
    if missing := want.alerts.keys() - found.keys():
        problems.append(f"alerts: {len(missing)} missing, for example {min(missing)}")
    if extra := found.keys() - want.alerts.keys():
        problems.append(f"alerts: {len(extra)} that should not be, for example {min(extra)}")
    for key in want.alerts.keys() & found.keys():
        observed = want.alerts[key][1]
        if abs(found[key].signals[0].observed - observed) > 1e-6 * abs(observed):
            problems.append(f"alerts: {key} observed {found[key].signals[0].observed}, not {observed}")
    return problems
