"""A peer's outputs against the job's reference. The rule: every window and alert exactly once, and none else."""

from __future__ import annotations

import json

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from benchmarks.job import device_ids
from benchmarks.reference import FIGURES, ULPS, Expected

#: Of |z|, relative: a peer's own order of operations may round otherwise.
Z_TOLERANCE = 1e-9
START_BYTES = 8


def features(value: bytes) -> tuple[int, NDArray[np.float32]]:
    """Window start and float32 (6, signals) of a features record: int64, then the figures, little endian.

    Raises
    ------
    ValueError : it is of another length.
    """
    figures = np.frombuffer(value, "<f4", offset=START_BYTES)
    return int.from_bytes(value[:START_BYTES], "little"), figures.reshape(len(FIGURES), -1)


def counts(want: Expected) -> dict[str, int]:
    """How many records each output must have."""
    return {"features": sum(len(w) for w in want.features.values()), "alerts": len(want.alerts)}


def _windows(want: Expected, devices: int, records: list[Message]) -> list[str]:
    index = {name.encode(): i for i, name in enumerate(device_ids(devices))}
    got = {start: np.full(w.shape, np.nan, np.float32) for start, w in want.features.items()}
    times = {start: np.zeros(devices, np.int64) for start in want.features}
    problems: list[str] = []
    for record in records:
        try:
            start, figures = features(record.value())
            i = index[record.key()]
            got[start][i] = figures
            times[start][i] += 1
        except (ValueError, KeyError) as exc:
            problems.append(f"features: a record of {record.key()!r} is none of the job's: {exc!r}")
    for start, w in want.features.items():
        if (times[start] != 1).any():
            problems.append(f"features: window {start}: {int((times[start] != 1).sum())} devices not exactly once")
            continue
        for f, name in enumerate(FIGURES):
            a, b = got[start][:, f].astype(np.float64), w[:, f]
            allowed = ULPS * np.spacing(np.abs(b)) if name in ("mean", "std") else np.zeros(b.shape)
            if wrong := int((~(np.abs(a - b) <= allowed)).sum()):
                problems.append(f"features: window {start}: {name} is wrong {wrong} times")
    return problems


def _alerts(want: Expected, records: list[Message]) -> list[str]:
    found: dict[tuple[str, int, str], float] = {}
    problems: list[str] = []
    for record in records:
        try:
            alert = json.loads(record.value())
            device = alert["device"]
            if device.encode() != record.key():
                problems.append(f"alerts: one of {device} has the key {record.key()!r}")
            found[device, int(alert["ts"]), f"S{alert['signal']}"] = float(alert["z"])
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            problems.append(f"alerts: a record of {record.key()!r} cannot be read: {exc!r}")
    if len(found) != len(records):
        problems.append(f"alerts: {len(records)} published, {len(found)} different")
    if missing := want.alerts.keys() - found.keys():
        problems.append(f"alerts: {len(missing)} missing, for example {min(missing)}")
    if extra := found.keys() - want.alerts.keys():
        problems.append(f"alerts: {len(extra)} that should not be, for example {min(extra)}")
    for key in want.alerts.keys() & found.keys():
        z = want.alerts[key][0]
        if not abs(abs(found[key]) - z) <= Z_TOLERANCE * z:
            problems.append(f"alerts: {key} has z = {found[key]}, not {z}")
    return problems


def differences(want: Expected, devices: int, windows: list[Message], alerts: list[Message]) -> list[str]:
    """Every way in which a peer's outputs are not those; empty = verified."""
    return _windows(want, devices, windows) + _alerts(want, alerts)
