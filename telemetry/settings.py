"""Every setting, in one frozen tree. The rule: it is loaded only by the command line; below, plain values.

Sources, later ones win: defaults, a YAML file (`--config` or FLEETWATCH_CONFIG), environment variables
(``FLEETWATCH_<SECTION>__<KEY>``). Unknown keys are refused, also in variables, where pydantic-settings would
ignore a misspelt section; all problems are reported at once, by name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from telemetry.autoscaler_settings import AutoscalerSettings
from telemetry.errors import SettingsError, nearest
from telemetry.forward_settings import ForwardSettings
from telemetry.kafka_settings import KafkaSettings, Section
from telemetry.schema_settings import SchemaSettings

ENV_PREFIX = "FLEETWATCH_"
#: Variables with our prefix that are not settings of the tree.
ENV_OTHER = {"FLEETWATCH_CONFIG", "FLEETWATCH_CACHE_DIR", "FLEETWATCH_STATE_DIR"}


class TopicSettings(Section):
    """Names and sizes of the topics; see docs/topics.md."""

    prefix: str = Field("telemetry", pattern=r"^[a-z][a-z0-9]*(\.[a-z0-9]+)*$")
    partitions: int = Field(8, ge=1, le=4096, description="Of the inputs, the state and the outputs alike.")
    replication: int = Field(1, ge=1, le=9)
    input_retention_hours: float = Field(24.0, gt=0)
    output_retention_hours: float = Field(168.0, gt=0)


class CatalogSettings(Section):
    """Where signal catalogues are read from."""

    paths: tuple[Path, ...] = Field((), description="Folders or files of a user's own entries, beside ours.")


class ProcessingSettings(Section):
    """The worker's group, its commits and what it refuses."""

    group: str = Field("fleetwatch", pattern=r"^[a-z0-9][a-z0-9._-]{0,127}$")
    guarantee: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="exactly_once: results, state and offsets in one Kafka transaction, for readers of committed "
        "records (isolation.level=read_committed). at_least_once: no transactions; ids let a reader drop repeats.",
    )
    transaction_timeout_s: float = Field(
        10.0, ge=1, le=900, description="The broker ends a transaction that is older: what a dead worker left open."
    )
    commit_interval_ms: int = Field(1000, ge=10, le=60_000)
    commit_records_max: int = Field(200_000, ge=1000, description="Pending outputs that bring a commit forward.")
    session_timeout_s: float = Field(10.0, ge=1, le=300)
    heartbeat_s: float = Field(
        0.5, ge=0.1, le=100, description="So long may others' coming and going stay unnoticed."
    )
    fetch_max_bytes: int = Field(1 << 20, ge=1 << 16, description="Of one partition's share of a fetch.")
    fetch_wait_ms: int = Field(50, ge=1, le=5000)
    fetch_min_bytes: int = Field(1, ge=1)
    check_crcs: bool = Field(True, description="Check each record batch's CRC-32C.")
    devices_max: int = Field(2_000_000, ge=1, description="Devices of one class that a worker holds at most.")
    future_max_s: float = Field(300.0, gt=0, description="Event time may be so far ahead of the worker's clock.")
    past_max_days: float = Field(3650.0, gt=0, description="... and so far behind it.")
    keep_revoked_s: float = Field(
        300.0, ge=0, description="State of a revoked partition is kept so long, in case the partition comes back."
    )
    stall_timeout_s: float = Field(60.0, gt=0, description="Lag without progress for so long is not healthy.")

    @model_validator(mode="after")
    def _transactions_outlast_commits(self) -> ProcessingSettings:
        if self.guarantee == "exactly_once" and self.transaction_timeout_s * 1000 <= self.commit_interval_ms:
            raise ValueError(
                "transaction_timeout_s must be longer than commit_interval_ms: a commit would come too late"
            )
        return self


class WindowSettings(Section):
    """Event-time windows: tumbling (hop equals size) or hopping (size is a multiple of hop)."""

    size_s: float = Field(10.0, gt=0)
    hop_s: float = Field(10.0, gt=0)
    grace_s: float = Field(2.0, ge=0, description="How far a device's data may be out of order.")
    features: tuple[
        Literal["count", "mean", "std", "min", "max", "last", "slope", "roc_max", "missing", "hist"], ...
    ] = ("count", "mean", "std", "min", "max", "last", "slope", "roc_max", "missing", "hist")
    hist_bins: int = Field(16, ge=2, le=64)

    @model_validator(mode="after")
    def _multiple(self) -> WindowSettings:
        ratio = self.size_s / self.hop_s
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1 - 1e-9:
            raise ValueError(f"size_s {self.size_s} is not a multiple of hop_s {self.hop_s}")
        if ratio > 64:
            raise ValueError(f"size_s / hop_s is {ratio:.0f}; at most 64 panes a window")
        return self


class DetectorSettings(Section):
    """One detector to run, by its registered name."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)
    classes: tuple[str, ...] = Field((), description="Device classes that it runs for; empty = all.")
    runs: Literal["always", "fallback"] = Field(
        "always", description="fallback = only in classes without trained relations."
    )
    signals_min: int = Field(1, ge=1, description="Runs in classes of so many watched signals or more.")
    signals_max: int = Field(4096, ge=1, description="... or fewer.")
    alerts: Literal["always", "fallback", "never"] = Field(
        "always", description="Whether it opens alerts; fallback = only in classes without trained relations."
    )
    open_rows: int | None = Field(
        None, ge=1, le=64, description="Strange rows that open an alert; none = as alerts.open_rows says."
    )


class AlertSettings(Section):
    """When an anomaly becomes an alert, and when it is over."""

    mode: Literal["episodes", "frames"] = Field(
        "episodes",
        description="episodes: open, update, resolved. frames: one alert a frame over the threshold.",
    )
    budget: float = Field(
        0.1,
        gt=0,
        le=100_000,
        description="False alarms that are put up with, per device and 30 days: sets the threshold, by tails "
        "that are fitted on each device.",
    )
    open_surprise: float | None = Field(
        None,
        gt=0,
        description="A threshold of your own on the detectors' own surprises (-log10 p) instead of the budget: "
        "nothing is calibrated then.",
    )
    close_surprise: float | None = Field(
        None, gt=0, description="Below this a row counts towards resolving; none = half of what opens."
    )
    open_rows: int = Field(5, ge=1, description="Rows over open_surprise, within confirm_s, that open an alert.")
    confirm_s: float = Field(30.0, gt=0)
    resolve_s: float = Field(60.0, gt=0, description="Event time below close_surprise that resolves it.")
    update_s: float = Field(60.0, gt=0, description="Event time between updates of an open alert, at least.")
    cooldown_s: float = Field(120.0, ge=0, description="After resolving: no new alert of the device so long.")
    warmup_s: float = Field(120.0, ge=0, description="No alert in a device's first so many seconds.")
    major_surprise: float = 15.0
    critical_surprise: float = 40.0

    @model_validator(mode="after")
    def _hysteresis(self) -> AlertSettings:
        if self.close_surprise and self.open_surprise and self.close_surprise > self.open_surprise:
            raise ValueError("close_surprise must not be above open_surprise (hysteresis)")
        return self


class DriftSettings(Section):
    """Whether detectors' scores are watched for drift, a signal in metrics and the log; see decision 0017."""

    enabled: bool = Field(True, description="Needs outputs.scores.")
    delta: float = Field(
        0.002, gt=0, lt=1, description="Chance at which two means differ by accident (ADWIN); lower = fewer drifts."
    )
    devices_max: int = Field(1024, ge=1, le=65536, description="Devices of one class that are watched at most.")
    idle_s: float = Field(3600.0, ge=0, description="Event time without a window that frees a device's place.")


class OutputSettings(Section):
    """What the worker publishes besides alerts and dead letters."""

    features: bool = True
    scores: bool = True
    scores_min_surprise: float = Field(0.0, description="Scores of windows below this are not published.")
    late: bool = Field(True, description="Frames with late rows go to the late topic as they were.")


class ServiceSettings(Section):
    """How a process shows itself: one port for metrics, health and Faust's page."""

    host: str = "127.0.0.1"
    port: int = Field(6066, ge=0, le=65535, description="0 = any free port.")
    name: str = Field("", description="Of this process, in logs and dead letters; empty = host and pid.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "text", "json"] = "auto"


class Settings(BaseSettings):
    """The tree. Frozen; build it with `load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    catalog: CatalogSettings = CatalogSettings()
    processing: ProcessingSettings = ProcessingSettings()
    windows: WindowSettings = WindowSettings()
    detectors: tuple[DetectorSettings, ...] = (
        DetectorSettings(name="rules"),
        DetectorSettings(name="relations"),
        DetectorSettings(name="covariance", runs="fallback", signals_min=2),
        DetectorSettings(name="novelty", signals_max=1, open_rows=1),
        DetectorSettings(name="river", alerts="never"),
    )
    alerts: AlertSettings = AlertSettings()
    drift: DriftSettings = DriftSettings()
    outputs: OutputSettings = OutputSettings()
    schemas: SchemaSettings = SchemaSettings()
    service: ServiceSettings = ServiceSettings()
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    forward: ForwardSettings = ForwardSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings  # a variable beats the file


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Variables with our prefix that name no setting; pydantic-settings ignores these silently."""
    problems = []
    for name in sorted(environ):
        if not name.upper().startswith(ENV_PREFIX) or name.upper() in ENV_OTHER:
            continue
        section, _, key = name.upper().removeprefix(ENV_PREFIX).lower().partition("__")
        field = Settings.model_fields.get(section)
        if field is None:
            problems.append(f"{name}: no section {section!r}{nearest(section, Settings.model_fields)}")
            continue
        model = field.annotation
        if key and isinstance(model, type) and issubclass(model, BaseModel):
            first = key.partition("__")[0]
            if first not in model.model_fields:
                problems.append(f"{name}: no setting {section}.{first}{nearest(first, model.model_fields)}")
    return problems


def _read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        return {}, [f"{path}: {exc.strerror or exc}"]
    except yaml.MarkedYAMLError as exc:  # its own text quotes the file
        where = f", line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        return {}, [f"{path}{where}: not YAML: {exc.problem}"]
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        return {}, [f"{path}: not YAML: {type(exc).__name__}"]
    if data is None:
        return {}, []
    if not isinstance(data, dict):
        return {}, [f"{path}: expected sections ({', '.join(Settings.model_fields)})"]
    return {str(key): value for key, value in data.items()}, _secrets_in(path, data)


def _secrets_in(path: Path, data: Mapping[str, Any]) -> list[str]:
    """Secrets written into a settings file, which is shown, copied and committed."""
    found = []
    for section, field in Settings.model_fields.items():
        model, given = field.annotation, data.get(section)
        if not (isinstance(model, type) and issubclass(model, BaseModel) and isinstance(given, dict)):
            continue
        for name, inner in model.model_fields.items():
            if given.get(name) is not None and SecretStr in (inner.annotation, *get_args(inner.annotation)):
                found.append(
                    f"{section}.{name}: a secret does not belong into {path}: put it into the variable "
                    f"{ENV_PREFIX}{section.upper()}__{name.upper()}, or name its file in {section}.{name}_file"
                )
    return found


def load(config: Path | None = None, environ: Mapping[str, str] | None = None, **sections: Any) -> Settings:
    """The settings from file, environment and `sections` (which stand in for the file, as in tests).

    Raises
    ------
    SettingsError : lists every problem of every source, by name.
    """
    environ = os.environ if environ is None else environ
    if config is None and (named := environ.get("FLEETWATCH_CONFIG")):
        config = Path(named)
    data, problems = _read_file(config) if config else ({}, [])
    data |= sections
    problems += _unknown_variables(environ)
    settings: Settings | None = None
    try:
        settings = Settings(**data)
    except ValidationError as exc:
        for error in exc.errors():
            where = ".".join(str(part) for part in error["loc"]) or "settings"
            problems.append(f"{where}: {error['msg']}")
    except ValueError as exc:  # a variable that should be JSON and is not
        problems.append(str(exc))
    if problems or settings is None:
        raise SettingsError("wrong settings:\n  " + "\n  ".join(problems))
    return settings
