"""Figures of workers from their Prometheus pages. The rule: a page that does not answer is a row, not an error."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from telemetry.lag import Rate
from telemetry.page import PageError, fetch

SAMPLES = "fleetwatch_samples_total"
FRAMES = "fleetwatch_frames_total"
CPU = ("fleetwatch_process_cpu_seconds_total", "process_cpu_seconds_total")
LATENCY = "fleetwatch_alert_latency_seconds"
RSS = "process_resident_memory_bytes"
_TIMEOUT_S = 1.0
_PAGE_BYTES_MAX = 4 << 20


@dataclass(slots=True)
class Page:
    """One scrape: totals by sample name, labels summed; buckets of the latency histogram by upper bound, s."""

    totals: dict[str, float] = field(default_factory=dict)
    latency: dict[float, float] = field(default_factory=dict)


def parse(text: str) -> Page:
    """A page in the Prometheus text format.

    Raises
    ------
    ValueError : not that format.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    latency: defaultdict[float, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
            if sample.name == f"{LATENCY}_bucket" and sample.labels.get("clock", "broker") == "broker":
                latency[float(sample.labels["le"])] += sample.value
    return Page(dict(totals), dict(latency))


def quantile(buckets: dict[float, float], q: float) -> float:
    """The q-quantile, s, of a cumulative histogram, interpolated within its bucket; NaN = nothing counted.

    In the last bucket, which has no upper bound, it is the largest bound there is (as Prometheus does it).
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return math.nan
    rank = q * buckets[bounds[-1]]
    below_bound, below_count = 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below_count:
            if math.isinf(bound):
                return below_bound
            return below_bound + (bound - below_bound) * (rank - below_count) / (count - below_count)
        below_bound, below_count = bound, count
    return below_bound


@dataclass(frozen=True, slots=True)
class WorkerFigures:
    """What a worker's page says. NaN = it does not say. problem : why there are no figures, or empty."""

    url: str
    problem: str = ""
    frames_per_s: float = math.nan
    samples_per_s: float = math.nan
    cpu_share: float = math.nan
    ns_per_sample: float = math.nan
    latency_p50_s: float = math.nan
    latency_p99_s: float = math.nan
    rss_bytes: float = math.nan


class WorkerPage:
    """Scrapes one URL again and again, and knows the rates between."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._rates = {name: Rate() for name in (FRAMES, SAMPLES, *CPU)}

    def scrape(self, now_s: float) -> WorkerFigures:
        """The figures now; rates since the scrapes of the last ten seconds, or since the start for the first."""
        try:
            page = parse(fetch(self.url, _TIMEOUT_S, _PAGE_BYTES_MAX))
        except (PageError, ValueError) as exc:
            return WorkerFigures(self.url, problem=str(exc) or type(exc).__name__)
        for name, rate in self._rates.items():
            if name in page.totals:
                rate.add(now_s, page.totals[name])
        cpu = next((name for name in CPU if name in page.totals), CPU[0])
        samples, cpu_s = self._rates[SAMPLES].growth, self._rates[cpu].growth
        if not samples:
            samples, cpu_s = page.totals.get(SAMPLES, 0.0), page.totals.get(cpu, math.nan)
        return WorkerFigures(
            self.url,
            frames_per_s=self._rates[FRAMES].per_s,
            samples_per_s=self._rates[SAMPLES].per_s,
            cpu_share=self._rates[cpu].per_s,
            ns_per_sample=cpu_s / samples * 1e9 if samples else math.nan,
            latency_p50_s=quantile(page.latency, 0.5),
            latency_p99_s=quantile(page.latency, 0.99),
            rss_bytes=page.totals.get(RSS, math.nan),
        )
