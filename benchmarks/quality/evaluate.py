"""Each labelled set through the worker's own engine, row by row. The rule: a threshold is never fitted to what it
is judged on, unless the figure's name says "best"."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import data, nab_score
from benchmarks.quality.vus_pr import auc_pr, event_recall, threshold_at, vus_pr
from fleetwatch import score
from fleetwatch.score_entry import entry_of
from streams.core.rows import RowScorer, RowScores
from telemetry.settings import Settings

#: Rows of an hour of driving.
HOUR_ROWS = 7200


@dataclass(slots=True)
class Scored:
    """A series and what it was told. cpu_s : of scoring it, training not counted."""

    series: data.Series
    told: RowScores
    cpu_s: float


@dataclass(slots=True)
class SetResult:
    """One set's figures by name, and by series for the appendix; scored : for plots."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    by_series: dict[str, dict[str, float]] = field(default_factory=dict)
    scored: list[Scored] = field(default_factory=list)
    ns_per_value: float = float("nan")


def scorer(settings: Settings, columns: Sequence[str], period_us: float) -> RowScorer:
    """As `fleetwatch score` makes it for a file with these columns."""
    return score.scorer(settings, entry_of(columns, period_us / 1e6))


def compile_all(settings: Settings) -> None:
    """Run a few hundred rows of one and of several signals, so that no figure has a compilation in it."""
    rng = np.random.default_rng(1)
    for d in (1, 3):
        one = scorer(settings, [f"s{i}" for i in range(d)], 1e6)
        rows = rng.normal(size=(400, d)).astype(np.float32)
        rows[300:] += 100.0
        rows[390, 0] = np.nan
        one.score(data.times(400, 1_000_000), rows)


def _timed(one: RowScorer, series: data.Series) -> Scored:
    started = time.process_time()
    told = one.score(series.ts_us, series.values)
    return Scored(series, told, time.process_time() - started)


def _ns_per_value(scored: Sequence[Scored]) -> float:
    values = sum(each.series.values.size for each in scored)
    return 1e9 * sum(each.cpu_s for each in scored) / max(values, 1)


def _top1(scored: Sequence[Scored]) -> float:
    """The share of events whose strangest row names a guilty signal first."""
    hits = tries = 0
    for each in scored:
        for event in each.series.events:
            if event.guilty and event.start < len(each.told.score):
                row = event.start + int(np.argmax(each.told.score[event.start : event.end]))
                hits += int(each.told.column[row, 0]) in event.guilty
                tries += 1
    return hits / tries if tries else float("nan")


def run_nab(settings: Settings, folder: Path, frozen: dict[str, float], tell: Callable[[str], None]) -> SetResult:
    """One threshold a profile for all files: the best, and a frozen one."""
    result = SetResult("NAB")
    for series in data.nab(folder):
        tell(f"NAB {series.name}")
        period_us = float(np.median(np.diff(series.ts_us[:100])))
        result.scored.append(_timed(scorer(settings, series.columns, max(period_us, 1.0)), series))
    scores: dict[str, NDArray[np.floating]] = {each.series.name: each.told.score for each in result.scored}
    labels = {each.series.name: each.series.nab for each in result.scored if each.series.nab is not None}
    for profile in nab_score.PROFILES:
        best = nab_score.best(scores, labels, profile)
        result.figures[f"{profile}, best threshold"] = best.score
        result.figures[f"{profile}, threshold"] = best.threshold
        if profile in frozen:
            result.figures[f"{profile}, frozen"] = nab_score.at(scores, labels, frozen[profile], profile).score
    result.figures["standard, leave one file out"] = nab_score.leave_one_out(scores, labels)
    for key in labels:
        alone = nab_score.at(scores, labels, result.figures["standard, threshold"], keys=[key])
        result.by_series[key] = {
            "windows": alone.windows, "found": alone.found, "hits": alone.hits, "false": alone.false,
        }  # fmt: skip
    result.ns_per_value = _ns_per_value(result.scored)
    return result


def run_servers(settings: Settings, folder: Path, name: str, tell: Callable[[str], None]) -> SetResult:
    """Each machine cold (its test rows alone) and warm (training rows first)."""
    result = SetResult(name.upper())
    period_us = data.PERIOD_US[name]
    for series in data.servers(folder, name):
        figures: dict[str, float] = {}
        for start in ("cold", "warm"):
            tell(f"{result.name} {series.name} {start}")
            one = scorer(settings, series.columns, period_us)
            for rows in series.train if start == "warm" else ():
                one.score(data.times(len(rows), period_us), rows)
            scored = _timed(one, series)
            if start == "warm":
                result.scored.append(scored)
            figures[f"VUS-PR {start}"] = vus_pr(series.label, scored.told.score, series.window)
            figures[f"AUC-PR {start}"] = auc_pr(series.label, scored.told.score)
            figures[f"named first {start}"] = _top1([scored])
        result.by_series[series.name] = figures
    for key in next(iter(result.by_series.values()), {}):
        result.figures[key] = float(np.nanmean([f[key] for f in result.by_series.values()]))
    result.figures["named first, all events, warm"] = _top1(result.scored)
    result.ns_per_value = _ns_per_value(result.scored)
    return result


def run_vehicle(settings: Settings, folder: Path, frozen: float | None, tell: Callable[[str], None]) -> SetResult:
    """Trained on the clean trips, each faulty trip from there; the threshold is that of one false alarm an hour on
    the second half of the clean trips, each scored before it was learnt."""
    result = SetResult("Vehicle faults")
    clean, trips = data.vehicle(folder)
    period_us = data.PERIOD_US["vehicle"]
    one = scorer(settings, trips[0].columns, period_us)
    at_us, healthy = data.EPOCH_US, []
    for i, rows in enumerate(clean):
        tell(f"vehicle, clean trip {i + 1} of {len(clean)}")
        healthy.append(one.score(data.times(len(rows), period_us, at_us), rows).score)
        at_us += (len(rows) + HOUR_ROWS) * period_us
    threshold = threshold_at(healthy[len(healthy) // 2 :], HOUR_ROWS)
    for series in trips:
        tell(f"vehicle, {series.name}")
        later = data.Series(
            series.name, series.columns, series.ts_us + at_us - series.ts_us[0], series.values, series.label,
            series.window, series.events,
        )  # fmt: skip
        result.scored.append(_timed(copy.deepcopy(one), later))
    label = np.concatenate([s.series.label for s in result.scored])
    score = np.concatenate([s.told.score for s in result.scored])
    result.figures["AUC-PR"] = auc_pr(label, score)
    result.figures["base rate"] = float(label.mean())
    result.figures["VUS-PR"] = float(
        np.mean(
            [vus_pr(s.series.label, s.told.score, s.series.window) for s in result.scored if s.series.label.any()]
        )
    )
    spans = [[(e.start, e.end - 1) for e in s.series.events] for s in result.scored]
    scores = [s.told.score for s in result.scored]
    for name, level in (("", threshold), (" at the frozen threshold", frozen)):
        if level is not None:
            recall, false = event_recall(scores, spans, level, HOUR_ROWS)
            result.figures[f"event recall{name}"] = recall
            result.figures[f"false alarms an hour{name}"] = false
    result.figures["threshold"] = threshold
    result.figures["named first"] = _top1(result.scored)
    for kind in sorted({e.kind for s in result.scored for e in s.series.events}):
        events = [(s, e) for s in result.scored for e in s.series.events if e.kind == kind]
        found = sum(bool((s.told.score[e.start : e.end] >= threshold).any()) for s, e in events)
        result.by_series[kind] = {"events": len(events), "found": found}
    result.ns_per_value = _ns_per_value(result.scored)
    return result
