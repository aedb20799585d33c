"""Signal names and figures as a person says them. The rule: no two signals of a catalogue entry read the same."""

from __future__ import annotations

import math
import re
from functools import lru_cache

#: Parts of a path that say where a signal hangs in the tree, not what it is.
_CONTAINERS = frozenset(
    {"vehicle", "powertrain", "chassis", "axle", "exterior", "cabin", "obd", "dcgm", "fi", "dev", "prof", "hvac"}
)
_PLACES = {"row1": "front", "row2": "rear", "left": "left", "middle": "middle", "right": "right"}
#: Whole parts whose letters would say nothing to most people.
_PARTS = {
    "map": "manifold pressure",
    "maf": "air mass flow",
    "tps": "throttle position",
    "eop": "oil pressure",
    "rms": "RMS",
}
_WORDS = {
    "tire": "tyre",
    "util": "utilisation",
    "temp": "temperature",
    "mem": "memory",
    "sm": "SM",
    "fb": "framebuffer memory",
    "vol": "since boot",
    "sbe": "single-bit errors",
    "dbe": "double-bit errors",
    "gpu": "GPU",
    "cpu": "CPU",
    "ecc": "ECC",
    "xid": "XID",
    "crc": "CRC",
    "pcie": "PCIe",
    "rx": "received",
    "tx": "sent",
    "nvlink": "NVLink",
    "evap": "EVAP",
    "mil": "warning lamp on",
    "dtc": "trouble codes",
}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=[0-9])")
_PARTS_SAID = 3


def _words(part: str) -> list[str]:
    if part.lower() in _PARTS:
        return [_PARTS[part.lower()]]
    words = _CAMEL.sub(" ", part).replace("_", " ").lower().split()
    if len(words) > 1 and words[0] in {"current", "is"}:  # CurrentVoltage, IsCharging: VSS's, not ours
        words = words[1:]
    return [_WORDS.get(word, word) for word in words]


@lru_cache(maxsize=4096)
def humanise(name: str) -> str:
    """A signal's name in words: where it sits, then the last parts of the path; acronyms keep their capitals."""
    parts = [part for part in name.split(".") if part]
    places = [_PLACES[part.lower()] for part in parts if part.lower() in _PLACES]
    rest = [part for part in parts if part.lower() not in _PLACES and part.lower() not in _CONTAINERS]
    if "Tire" in rest and "Wheel" in rest:  # a tyre is on a wheel
        rest.remove("Wheel")
    if len(rest) > 1 and rest[-1] == "Current" and rest[-2].startswith("StateOf"):
        rest.pop()
    said: list[str] = list(places)
    for word in (word for part in rest[-_PARTS_SAID:] for word in _words(part)):
        if not said or said[-1] != word:
            said.append(word)
    return " ".join(said) or name.lower()


def magnitude(observed: float, expected: float) -> int:
    """Decimal places that give the larger figure three significant digits and still show their difference."""
    largest, delta = max(abs(observed), abs(expected)), abs(observed - expected)
    places = 2 - math.floor(math.log10(largest)) if largest else 0
    if delta:
        places = max(places, -math.floor(math.log10(delta)))
    return min(max(places, 0), 6)


def figure(value: float, unit: str = "", places: int | None = None) -> str:
    """A figure and its unit: `places` decimals, or three significant digits; a percent sign stands close."""
    if not math.isfinite(value):
        text = "missing" if math.isnan(value) else "infinite" if value > 0 else "minus infinite"
    elif value and not 1e-6 <= abs(value) < 1e15:
        text = f"{value:.3g}"
    elif places is not None:
        text = f"{value:,.{places}f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if not math.isfinite(value):
        return text
    symbol = "°C" if unit == "degC" else "°" if unit == "deg" else unit
    return f"{text}{symbol}" if symbol in ("%", "°") else f"{text} {symbol}".rstrip()
