"""The signal catalogue: which signals a class of devices has, in which order, with units, ranges and rates.

The rule: a frame names its catalogue entry (``vehicle.ev/1``), and an entry never changes once devices use it;
a changed list is a new version. Entries are YAML files: ours in `telemetry/catalogs`, a user's own in the
folders of the setting `catalog.paths`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from telemetry.errors import CatalogError, nearest

#: A frame's bytes are capped at 64 KiB, so a step can hold no more signals than this.
SIGNALS_MAX = 4096


class Signal(BaseModel):
    """One signal of a class of devices.

    Parameters
    ----------
    name : COVESA VSS path for vehicles (``Vehicle.Speed``), DCGM field name in dotted form for GPU nodes.
    unit : the unit of the values in a frame, for people.
    min, max : declared range: values outside are impossible, not merely rare.
    rate_max : largest possible absolute rate of change, units a second; none = not declared.
    stuck_after_s : a healthy device's value changes at least this often while it is in use; none = may stand
        still for ever.
    nature : level: has a normal value. counter: only ever grows, until it is reset; detectors look at its
        increase. position: has no normal value (position, heading, charge); detectors leave it alone.
    description : for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_.]{0,127}$")
    unit: str = ""
    min: float | None = None
    max: float | None = None
    rate_max: float | None = Field(default=None, gt=0)
    stuck_after_s: float | None = Field(default=None, gt=0)
    nature: Literal["level", "counter", "position"] = "level"
    description: str = ""

    @model_validator(mode="after")
    def _range(self) -> Signal:
        if self.min is not None and self.max is not None and not self.min < self.max:
            raise ValueError(f"{self.name}: min {self.min} is not below max {self.max}")
        return self


class Catalog(BaseModel):
    """One version of one class's signal list; `key` is what frames carry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$", max_length=48)
    version: int = Field(ge=1, le=9999)
    kind: Literal["vehicle", "device"]
    description: str = ""
    period_ms: float = Field(default=500, gt=0, description="Usual time from one step to the next.")
    steps_per_frame: int = Field(default=5, ge=1, description="Usual number of steps in a frame.")
    signals: tuple[Signal, ...] = Field(min_length=1, max_length=SIGNALS_MAX)

    @field_validator("signals")
    @classmethod
    def _unique(cls, signals: tuple[Signal, ...]) -> tuple[Signal, ...]:
        seen: set[str] = set()
        for signal in signals:
            if signal.name in seen:
                raise ValueError(f"signal {signal.name} occurs twice")
            seen.add(signal.name)
        return signals

    @property
    def key(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(signal.name for signal in self.signals)

    @property
    def monitored(self) -> tuple[int, ...]:
        """Indices of the signals that detectors look at."""
        return tuple(i for i, signal in enumerate(self.signals) if signal.nature != "position")

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(signal.unit for signal in self.signals)

    def column(self, name: str) -> int:
        """Index of a signal.

        Raises
        ------
        CatalogError : there is no such signal; the message names the nearest.
        """
        try:
            return self.columns.index(name)
        except ValueError:
            raise CatalogError(f"{self.key} has no signal {name}{nearest(name, self.columns)}") from None

    def limits(self) -> NDArray[np.float64]:
        """float64 (d, 2): declared min and max, -inf and inf where there is none."""
        return np.array(
            [(-np.inf if s.min is None else s.min, np.inf if s.max is None else s.max) for s in self.signals],
            np.float64,
        ).reshape(-1, 2)


class CatalogSet(Mapping[str, Catalog]):
    """All known entries by key (``vehicle.ev/1``); `latest` finds the newest version of a class."""

    def __init__(self, catalogs: Iterable[Catalog]) -> None:
        self._by_key: dict[str, Catalog] = {}
        for catalog in catalogs:
            if catalog.key in self._by_key and self._by_key[catalog.key] != catalog:
                raise CatalogError(f"catalogue entry {catalog.key} is defined twice, differently")
            self._by_key[catalog.key] = catalog

    def __getitem__(self, key: str) -> Catalog:
        try:
            return self._by_key[key]
        except KeyError:
            raise CatalogError(f"unknown catalogue entry {key}{nearest(key, self._by_key)}") from None

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._by_key))

    def __len__(self) -> int:
        return len(self._by_key)

    def latest(self, name: str) -> Catalog:
        """The newest version of a class, for example ``vehicle.ev``.

        Raises
        ------
        CatalogError : no such class; the message names the nearest.
        """
        versions = [c for c in self._by_key.values() if c.name == name]
        if not versions:
            names = {c.name for c in self._by_key.values()}
            raise CatalogError(f"unknown device class {name}{nearest(name, names)}")
        return max(versions, key=lambda c: c.version)


def relations_model(key: str, paths: Iterable[Path] = ()) -> dict[str, Any] | None:
    """The trained relations of an entry's signals (`fleetwatch train`), or None.

    Read from ``<key with - for />.relations.json`` in a user's folders first, then beside our entries.

    Raises
    ------
    CatalogError : the file is not a JSON object.
    """
    return _trained(key.replace("/", "-") + ".relations.json", paths)


def priors_model(key: str, paths: Iterable[Path] = ()) -> dict[str, Any] | None:
    """What healthy devices look like to `covariance` (`fleetwatch train --detector covariance`), or None.

    Looked for as `relations_model` is, under ``<key with - for />.priors.json``: "columns", and "priors" by cohort.

    Raises
    ------
    CatalogError : the file is not a JSON object.
    """
    return _trained(key.replace("/", "-") + ".priors.json", paths)


def _trained(name: str, paths: Iterable[Path]) -> dict[str, Any] | None:
    for path in paths:
        file = (path if path.is_dir() else path.parent) / name
        if file.exists():
            return _json(file.read_text(encoding="utf-8"), str(file))
    ours = resources.files("telemetry").joinpath("catalogs").joinpath(name)
    return _json(ours.read_text(encoding="utf-8"), name) if ours.is_file() else None


def _json(text: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as exc:
        raise CatalogError(f"{source}: not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise CatalogError(f"{source}: expected an object, as `fleetwatch train` writes it")
    return data


def parse(text: str, source: str) -> Catalog:
    """One catalogue entry from YAML.

    Raises
    ------
    CatalogError : not YAML, or not a valid entry; the message names the source and each wrong field.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise CatalogError(f"{source}: not YAML: {exc}") from exc
    if not isinstance(data, dict):
        raise CatalogError(f"{source}: expected a mapping with name, version, kind and signals")
    try:
        return Catalog.model_validate(data)
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'entry'}: {e['msg']}" for e in exc.errors()]
        raise CatalogError(f"{source}: " + "; ".join(lines)) from exc


@cache
def _ours() -> tuple[Catalog, ...]:
    """Read once a process: a worker asks three times at its start, and each time takes a tenth of a second."""
    files = sorted(resources.files("telemetry").joinpath("catalogs").iterdir(), key=lambda item: item.name)
    return tuple(parse(i.read_text(encoding="utf-8"), i.name) for i in files if i.name.endswith(".yaml"))


def load(paths: Iterable[Path] = ()) -> CatalogSet:
    """Our entries and those of a user's folders or files (``*.yaml``).

    Raises
    ------
    CatalogError : a path does not exist, or an entry in it is wrong.
    """
    entries = list(_ours())
    for path in paths:
        if not path.exists():
            raise CatalogError(f"catalogue path {path} does not exist")
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        entries.extend(parse(file.read_text(encoding="utf-8"), str(file)) for file in files)
    return CatalogSet(entries)
