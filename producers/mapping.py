"""How a recording's columns become a catalogue's signals. The rule: a mapping is data (YAML), never code.

Ours are in `producers/mappings`; a user's own is a file given with `--mapping`.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from telemetry.catalog import Catalog, CatalogSet
from telemetry.errors import FleetwatchError, nearest

#: A recording fits a mapping that is not named if it has the time column and this share of the others.
FIT_MIN = 0.5
TICKS_PER_S = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class RecordingError(FleetwatchError):
    """A recording or its mapping cannot be used; the message names file, line or field."""

    exit_code = 65  # EX_DATAERR


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimeSpec(Section):
    """The recording's own time.

    Parameters
    ----------
    column : its name.
    unit : of numbers: s, ms, us, ns. iso = text as in ISO 8601, UTC unless it says otherwise.
    tie_ms : resolution of the recording's clock: rows with the same reading are spread evenly over it; 0 = they
        keep their time.
    """

    column: str
    unit: Literal["s", "ms", "us", "ns", "iso"] = "s"
    tie_ms: float = Field(default=0.0, ge=0)


class GridSpec(Section):
    """Resampling to regular steps by each signal's last value.

    Parameters
    ----------
    period_ms : of the grid.
    hold_ms : a value older than this is missing.
    """

    period_ms: float = Field(gt=0)
    hold_ms: float = Field(default=1000.0, gt=0)


class Source(Section):
    """Where a signal's values are.

    Parameters
    ----------
    column : name in the header; ``name[2]`` for a column of a two-dimensional array.
    scale, offset : signal = column * scale + offset.
    time : another time column for this signal, in the unit of the mapping's time (NPZ only).
    """

    column: str
    scale: float = 1.0
    offset: float = 0.0
    time: str | None = None


class Mapping(Section):
    """One kind of recording.

    Parameters
    ----------
    catalog : device class (``vehicle.obd``: newest version) or entry (``vehicle.obd/1``).
    device : pattern of the device's id; ``{stem}`` is the file's name without suffix, ``{VIN}`` that column.
    delimiter : of CSV files.
    strip : endings that are taken off the header's names.
    missing : cells that mean "no value", compared without regard to case and surrounding blanks.
    grid : none = the recording's own rows, irregular, one step a frame.
    signals : signal of the catalogue -> where it is; signals not named are missing.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    description: str = ""
    catalog: str
    device: str = "{stem}"
    time: TimeSpec
    grid: GridSpec | None = None
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    strip: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "nan", "na", "null", "none", "-")
    signals: dict[str, Source] = Field(min_length=1)

    @field_validator("signals", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """``Vehicle.Speed: SPEED`` stands for ``Vehicle.Speed: {column: SPEED}``."""
        if isinstance(value, dict):
            return {k: {"column": v} if isinstance(v, str) else v for k, v in value.items()}
        return value

    @field_validator("missing")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(token.strip().lower() for token in value)

    @model_validator(mode="after")
    def _needs_grid(self) -> Mapping:
        if self.grid is None and any(source.time for source in self.signals.values()):
            raise ValueError("signals with a time of their own need a grid")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hold values, without index and without doubles."""
        return tuple(dict.fromkeys(split_index(source.column)[0] for source in self.signals.values()))

    @property
    def device_columns(self) -> tuple[str, ...]:
        """Columns that the device's id is made of."""
        fields = (field for _, field, _, _ in string.Formatter().parse(self.device) if field)
        return tuple(field for field in fields if field != "stem")

    def clean(self, header: Iterable[str]) -> list[str]:
        """A header's names without blanks and without the endings of `strip`."""
        names = []
        for name in header:
            name = name.strip()
            for ending in self.strip:
                name = name.removesuffix(ending)
            names.append(name.strip())
        return names

    def entry(self, catalogs: CatalogSet) -> Catalog:
        """The catalogue entry, after checking that it has all the mapping's signals.

        Raises
        ------
        CatalogError : unknown entry or signal; the message names the nearest.
        """
        catalog = catalogs[self.catalog] if "/" in self.catalog else catalogs.latest(self.catalog)
        for signal in self.signals:
            catalog.column(signal)
        return catalog


def split_index(column: str) -> tuple[str, int | None]:
    """``wheel[2]`` -> (wheel, 2); a name without index -> (name, None)."""
    name, bracket, rest = column.partition("[")
    if bracket and rest.endswith("]") and rest[:-1].isdigit():
        return name, int(rest[:-1])
    return column, None


def parse(text: str, source: str) -> Mapping:
    """A mapping from YAML.

    Raises
    ------
    RecordingError : not YAML, or not a valid mapping; the message names the source and each wrong field.
    """
    try:
        data = yaml.safe_load(text)
        return Mapping.model_validate(data)
    except yaml.YAMLError as exc:
        raise RecordingError(f"mapping {source}: not YAML: {exc}") from exc
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'mapping'}: {e['msg']}" for e in exc.errors()]
        raise RecordingError(f"mapping {source}: " + "; ".join(lines)) from exc


def shipped() -> dict[str, Mapping]:
    """Our mappings, by name."""
    files = sorted(resources.files("producers").joinpath("mappings").iterdir(), key=lambda item: item.name)
    found = [parse(f.read_text(encoding="utf-8"), f.name) for f in files if f.name.endswith(".yaml")]
    return {mapping.name: mapping for mapping in found}


def named(name: str) -> Mapping:
    """A shipped mapping by name, or a file's.

    Raises
    ------
    RecordingError : neither; the message names the nearest.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as exc:
            raise RecordingError(f"mapping {path}: {exc}") from exc
    ours = shipped()
    if name not in ours:
        raise RecordingError(f"no mapping {name}{nearest(name, ours)} (or give a .yaml file)")
    return ours[name]


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a header fits a mapping. share: found columns of those wanted, 0 without the time column."""

    mapping: Mapping
    found: int
    missing: tuple[str, ...]
    share: float


def fit(mapping: Mapping, header: Sequence[str]) -> Fit:
    names = set(mapping.clean(header))
    wanted = mapping.columns
    missing = tuple(column for column in wanted if column not in names)
    needed = {mapping.time.column, *mapping.device_columns}
    found = len(wanted) - len(missing)
    return Fit(mapping, found, missing, found / len(wanted) if needed <= names else 0.0)


def detect(header: Sequence[str], source: str) -> Mapping:
    """The shipped mapping that fits best.

    Raises
    ------
    RecordingError : none fits; the message names the recording's columns and the nearest mapping.
    """
    fits = sorted((fit(mapping, header) for mapping in shipped().values()), key=lambda f: (f.share, f.found))
    best = fits[-1]
    if best.share >= FIT_MIN:
        return best.mapping
    columns = ", ".join(repr(name) for name in list(header)[:12]) + (", ..." if len(header) > 12 else "")
    near = max(fits, key=lambda f: f.found)
    lacks = [] if near.mapping.time.column in near.mapping.clean(header) else [near.mapping.time.column]
    lacks += near.missing
    raise RecordingError(
        f"{source}: no shipped mapping fits its columns ({columns}). The nearest is {near.mapping.name} with "
        f"{near.found} of {len(near.mapping.columns)} columns; it also wants {', '.join(lacks[:6])}"
        f"{', ...' if len(lacks) > 6 else ''}. Write a mapping (docs/producers.md) and give it with --mapping."
    )
