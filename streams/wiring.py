"""Settings to the core's plain values. The rule: below this module nothing knows a settings object's shape."""

from __future__ import annotations

from typing import Any

from detectors.protocol import Detector
from detectors.registry import make_detector, rate_of
from streams.core.alert_policy import PolicySpec
from streams.core.core import Core, DetectorFactory
from streams.core.engine import WINDOW_COLUMNS, EngineSpec, Lineup
from streams.core.windows import WindowSpec
from telemetry import catalog
from telemetry.catalog import Catalog, Signal
from telemetry.errors import SettingsError
from telemetry.schemas.reading import learner
from telemetry.settings import DetectorSettings, Settings
from telemetry.topics import topics


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def policy_spec(settings: Settings) -> PolicySpec:
    """The alert policy, in microseconds."""
    a = settings.alerts
    return PolicySpec(
        open_surprise=a.open_surprise,
        close_surprise=a.close_surprise,
        open_rows=a.open_rows,
        confirm_us=_us(a.confirm_s),
        resolve_us=_us(a.resolve_s),
        update_us=_us(a.update_s),
        cooldown_us=_us(a.cooldown_s),
        warmup_us=_us(a.warmup_s),
        major_surprise=a.major_surprise,
        critical_surprise=a.critical_surprise,
        frames=a.mode == "frames",
    )


def engine_spec(settings: Settings, partitions: int = 0) -> EngineSpec:
    """What the core does for every class. partitions : see `EngineSpec`."""
    w, o = settings.windows, settings.outputs
    return EngineSpec(
        windows=WindowSpec(_us(w.size_s), _us(w.hop_s), _us(w.grace_s), w.features, w.hist_bins),
        policy=policy_spec(settings),
        features=o.features,
        scores_min_surprise=o.scores_min_surprise if o.scores else None,
        late=o.late,
        devices_max=settings.processing.devices_max,
        partitions=partitions,
    )


def _range(signal: Signal) -> tuple[float | None, float | None]:
    """The declared range of what detectors see: of a counter, its increase."""
    return (0.0, None) if signal.nature == "counter" else (signal.min, signal.max)


def _params(wanted: DetectorSettings, entry: Catalog, relations: dict[str, Any] | None) -> dict[str, Any]:
    """The settings' parameters, and what the catalogue knows: trained relations, declared ranges."""
    params: dict[str, Any] = {}
    declared = [_range(entry.signals[i]) for i in entry.monitored]
    if wanted.name == "relations" and relations is not None:
        params |= {"model": relations, "limits": declared}
    if wanted.name == "rules":
        levels = [entry.signals[i].nature == "level" for i in entry.monitored]
        params["limits"] = [d if level else (None, None) for d, level in zip(declared, levels, strict=True)]
    return params | wanted.params


def detector_factory(settings: Settings) -> DetectorFactory:
    """Makes each class's detectors as the settings list them.

    `relations` runs only where a trained model is found; a detector whose alerts are a fallback alerts only where
    `relations` does not run. What it makes raises SettingsError for a name, a parameter or a model that is wrong.
    """

    def make(entry: Catalog) -> Lineup:
        watched = tuple(entry.columns[i] for i in entry.monitored)
        relations = catalog.relations_model(entry.key, settings.catalog.paths)
        wants = [w for w in settings.detectors if not w.classes or entry.name in w.classes]
        if relations is None:
            wants = [w for w in wants if w.name != "relations" or "model" in w.params]
        related = any(w.name == "relations" for w in wants)
        alerting: list[Detector] = []
        silent: list[Detector] = []
        window: list[Detector] = []
        for wanted in wants if watched else ():
            try:
                if rate_of(wanted.name) == "window":
                    columns = tuple(f"{signal}.{f}" for f in WINDOW_COLUMNS for signal in entry.columns)
                    window.append(make_detector(wanted.name, columns, wanted.params))
                    continue
                detector = make_detector(wanted.name, watched, _params(wanted, entry, relations))
            except (TypeError, ValueError) as exc:
                raise SettingsError(f"detector {wanted.name} of {entry.key}: {exc}") from exc
            alerts = wanted.alerts == "always" or (wanted.alerts == "fallback" and not related)
            (alerting if alerts else silent).append(detector)
        return Lineup((*alerting, *silent), tuple(window), len(alerting))

    return make


def make_core(settings: Settings, *, partitions: int = 0) -> Core:
    """The worker's core. partitions : of its topics; 0 = frames may be on any, as those of a file are.

    Raises
    ------
    SettingsError : a detector's name or a parameter is wrong for any class: now, not at the class's first frame.
    """
    catalogs = catalog.load(settings.catalog.paths)
    factory = detector_factory(settings)
    for entry in catalogs.values():
        factory(entry)
    inputs = topics(settings).inputs
    return Core(
        catalogs,
        engine_spec(settings, partitions),
        factory,
        [spec.name for spec in inputs],
        ["vehicle", "device"],
        future_max_us=_us(settings.processing.future_max_s),
        past_max_us=_us(settings.processing.past_max_days * 86_400),
        learner=learner(settings),
    )
