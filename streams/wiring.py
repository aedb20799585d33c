"""Settings to the core's plain values. The rule: below this module nothing knows a settings object's shape."""

from __future__ import annotations

import math
from typing import Any

from detectors.calibration import TailCalibration
from detectors.cohorts import Enrolling
from detectors.protocol import Detector
from detectors.registry import make_detector, parameters_of, rate_of
from streams.core.alert_policy import PolicySpec
from streams.core.core import Core, DetectorFactory
from streams.core.drifting import DriftSpec
from streams.core.lineup import WINDOW_COLUMNS, EngineSpec, Lineup
from streams.core.windows import WindowSpec
from telemetry import catalog
from telemetry.catalog import Catalog, Signal
from telemetry.errors import SettingsError
from telemetry.schemas.reading import learner
from telemetry.settings import DetectorSettings, Settings
from telemetry.topics import topics


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


#: Of the false-alarm budget.
MONTH_US = 30 * 86_400_000_000
#: A policy's times are at least so many of the class's rows, whatever the settings say in seconds.
CONFIRM_ROWS, RESOLVE_ROWS, COOLDOWN_ROWS = 32, 12, 24
#: Rows of a calibration's window, and windows of its stretch, at most.
WINDOW_ROWS_MAX, WINDOWS_MAX = 512, 64
#: Stretches that a detector's own law is worth (`TailCalibration`): rules are right by declaration, relations by
#: training, novelty by the public series that its law was fitted to. Nothing is known of the others'.
TRUST = {"rules": 1e6, "novelty": 500.0, "relations": 100.0, "covariance": 300.0}


def budget_surprise(budget: float, period_us: float) -> float:
    """The calibrated surprise at which a device of this period raises `budget` false alarms in 30 days."""
    return max(math.log10(MONTH_US / period_us / budget), 0.5)


def policy_spec(settings: Settings, entry: Catalog | None = None) -> PolicySpec:
    """The alert policy, in microseconds. entry : whose rows it judges; None = those of a class of fast ones."""
    a = settings.alerts
    period_us = entry.period_ms * 1000 if entry else 0.0
    opens = a.open_surprise or budget_surprise(a.budget, period_us or 1e6)
    confirm_us = max(_us(a.confirm_s), CONFIRM_ROWS * period_us)
    return PolicySpec(
        open_surprise=opens,
        close_surprise=min(a.close_surprise or opens / 2, opens),
        open_rows=a.open_rows,
        confirm_us=round(confirm_us),
        resolve_us=round(max(_us(a.resolve_s), RESOLVE_ROWS * period_us)),
        update_us=_us(a.update_s),
        cooldown_us=round(max(_us(a.cooldown_s), COOLDOWN_ROWS * period_us if a.cooldown_s else 0)),
        warmup_us=_us(a.warmup_s),
        major_surprise=a.major_surprise,
        critical_surprise=a.critical_surprise,
        frames=a.mode == "frames",
    )


def engine_spec(settings: Settings, partitions: int = 0) -> EngineSpec:
    """What the core does for every class. partitions : see `EngineSpec`."""
    w, o, f = settings.windows, settings.outputs, settings.drift
    return EngineSpec(
        windows=WindowSpec(_us(w.size_s), _us(w.hop_s), _us(w.grace_s), w.features, w.hist_bins),
        policy=policy_spec(settings),
        features=o.features,
        scores_min_surprise=o.scores_min_surprise if o.scores else None,
        late=o.late,
        devices_max=settings.processing.devices_max,
        partitions=partitions,
        drift=DriftSpec(f.delta, f.devices_max, _us(f.idle_s)) if f.enabled else None,
    )


def _range(signal: Signal) -> tuple[float | None, float | None]:
    """The declared range of what detectors see: of a counter, its increase."""
    return (0.0, None) if signal.nature == "counter" else (signal.min, signal.max)


def _declarations(entry: Catalog) -> dict[str, Any]:
    """What `rules` judge by: of levels alone, for what detectors see of a counter is not what is declared of it."""
    signals = [entry.signals[i] for i in entry.monitored]
    levels = [signal if signal.nature == "level" else None for signal in signals]
    return {
        "limits": [(s.min, s.max) if s else (None, None) for s in levels],
        "rates": [s.rate_max if s else None for s in levels],
        "stuck_after_s": [s.stuck_after_s if s else None for s in levels],
        "period_us": round(entry.period_ms * 1000),
    }


def _params(
    wanted: DetectorSettings, entry: Catalog, relations: dict[str, Any] | None, priors: dict[str, Any] | None
) -> dict[str, Any]:
    """The settings' parameters, and what the catalogue knows: trained relations, declarations."""
    params: dict[str, Any] = {}
    if wanted.name == "relations" and relations is not None:
        params |= {"model": relations, "limits": [_range(entry.signals[i]) for i in entry.monitored]}
    if wanted.name == "rules":
        params |= _declarations(entry)
    if wanted.name == "covariance" and priors is not None:
        if list(priors.get("columns", ())) != [entry.columns[i] for i in entry.monitored]:
            raise ValueError("the priors were fitted to other columns")
        params["priors"] = priors.get("priors", ())
    return params | wanted.params


def detector_factory(settings: Settings, explain_from: float | None = None) -> DetectorFactory:
    """Makes each class's detectors as the settings list them.

    explain_from : columns are named from this surprise on, where the settings do not say; None = as each detector
    has it. `relations` runs only where a trained model is found; a detector whose alerts are a fallback alerts only
    where `relations` does not run. What it makes raises SettingsError for a name, a parameter or a model that is
    wrong.
    """

    calibrate = settings.alerts.open_surprise is None

    def make(entry: Catalog) -> Lineup:
        watched = tuple(entry.columns[i] for i in entry.monitored)
        relations = catalog.relations_model(entry.key, settings.catalog.paths)
        priors = catalog.priors_model(entry.key, settings.catalog.paths)
        wants = _wanted(settings, entry, len(watched), relations is not None)
        related = any(w.name == "relations" for w in wants)
        alerting: list[tuple[Detector, int]] = []
        silent: list[tuple[Detector, int]] = []
        window: list[Detector] = []
        for wanted in wants:
            try:
                if rate_of(wanted.name) == "window":
                    columns = tuple(f"{signal}.{f}" for f in WINDOW_COLUMNS for signal in entry.columns)
                    window.append(make_detector(wanted.name, columns, wanted.params))
                    continue
                params = _params(wanted, entry, relations, priors)
                if explain_from is not None and "explain_from" in parameters_of(wanted.name):
                    params.setdefault("explain_from", explain_from)
                detector = make_detector(wanted.name, watched, params)
            except (TypeError, ValueError) as exc:
                raise SettingsError(f"detector {wanted.name} of {entry.key}: {exc}") from exc
            alerts = wanted.alerts == "always" or (wanted.alerts == "fallback" and not related)
            (alerting if alerts else silent).append((detector, wanted.open_rows or settings.alerts.open_rows))
        sample = [*alerting, *silent]
        rows = tuple(n for _, n in sample)
        policy = policy_spec(settings, entry)
        tries = max(1, sum(detector.spec.name != "rules" for detector, _ in alerting))  # rules hold in health
        return Lineup(
            tuple(detector for detector, _ in sample),
            tuple(window),
            len(alerting),
            tuple(_calibration(policy, entry, d.spec.name, n, tries) for d, n in sample) if calibrate else (),
            rows,
            policy,
        )

    return make


def _calibration(policy: PolicySpec, entry: Catalog, name: str, open_rows: int, tries: int) -> TailCalibration:
    """As the alert policy counts: strange rows within the time to confirm, one alert until the next may open."""
    rows = max(round(policy.confirm_us / (entry.period_ms * 1000)), 1)
    windows = max(math.ceil((policy.resolve_us + policy.cooldown_us) / max(policy.confirm_us, 1)), 1)
    return TailCalibration(
        confirm_rows=open_rows,
        window_rows=min(max(rows, open_rows), WINDOW_ROWS_MAX),
        windows=min(windows, WINDOWS_MAX),
        trust=TRUST.get(name, 0.0),
        tries=tries,
    )


def _wanted(settings: Settings, entry: Catalog, watched: int, model: bool) -> list[DetectorSettings]:
    """The detectors that run for a class. model : whether there are trained relations of it."""
    wants = [w for w in settings.detectors if not w.classes or entry.name in w.classes]
    wants = [w for w in wants if w.signals_min <= watched <= w.signals_max]
    if not model:
        wants = [w for w in wants if w.name != "relations" or "model" in w.params]
    related = any(w.name == "relations" for w in wants)
    return [w for w in wants if watched and not (related and w.runs == "fallback")]


def make_core(settings: Settings, *, partitions: int = 0) -> Core:
    """The worker's core. partitions : of its topics; 0 = frames may be on any, as those of a file are.

    Raises
    ------
    SettingsError : a detector's name or a parameter is wrong for any class: now, not at the class's first frame.
    """
    catalogs = catalog.load(settings.catalog.paths)
    factory = detector_factory(settings)
    lineups = [factory(entry) for entry in catalogs.values()]
    inputs = topics(settings).inputs
    core = Core(
        catalogs,
        engine_spec(settings, partitions),
        factory,
        [spec.name for spec in inputs],
        ["vehicle", "device"],
        future_max_us=_us(settings.processing.future_max_s),
        past_max_us=_us(settings.processing.past_max_days * 86_400),
        learner=learner(settings),
    )
    core.knows_cohorts = any(isinstance(d, Enrolling) and d.cohorts for made in lineups for d in made.sample)
    return core
