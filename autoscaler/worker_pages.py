"""Workers' own figures from their metrics pages. The rule: one that does not answer is left out, and told.

Between two pages that answered one after the other lie a worker's records and the time that its loop was busy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from autoscaler.observation import WorkerLoad
from autoscaler.workload import WorkloadError
from telemetry.page import PageError, fetch

Key = tuple[str, int]
BUSY = "fleetwatch_busy_seconds_total"
RECORDS = "fleetwatch_records_total"
LAG = "fleetwatch_lag_records"
START = "process_start_time_seconds"
TIMEOUT_S = 1.0
PAGE_BYTES_MAX = 4 << 20
THREADS = 16
#: Looks in a row without an answer until it is told: one may fall into a restart.
TOLD_AFTER = 2
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class PageFigures:
    """One page. records, busy_s : counters; start_s : of the process; NaN = not there. lag : its partitions."""

    at_s: float
    records: float
    busy_s: float
    start_s: float
    lag: Mapping[Key, float]


@dataclass(frozen=True, slots=True)
class PagesLook:
    """loads : of the workers that answered twice. waiting : records by their owners' pages; see `Positions.add`."""

    loads: tuple[WorkerLoad, ...] = ()
    waiting: Mapping[Key, float] | None = None
    problems: tuple[str, ...] = ()


def parse(text: str, at_s: float) -> PageFigures:
    """A worker's page in the Prometheus text format; other series on it are not read.

    Raises
    ------
    ValueError : not that format, or not a worker's page.
    """
    wanted = (BUSY, RECORDS, LAG, START)
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    found = dict.fromkeys((BUSY, RECORDS, START), math.nan)
    lag: dict[Key, float] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == LAG:
                lag[sample.labels["topic"], int(sample.labels["partition"])] = float(sample.value)
            elif sample.name in found:
                found[sample.name] = float(sample.value)
    if math.isnan(found[RECORDS]):
        raise ValueError(f"not a worker's page: it has no {RECORDS}")
    return PageFigures(at_s, found[RECORDS], found[BUSY], found[START], lag)


def load_between(name: str, before: PageFigures, after: PageFigures) -> WorkerLoad | None:
    """None = a counter went back, the process is another one, no time has passed, or a page says too little."""
    span_s = after.at_s - before.at_s
    records, busy_s = after.records - before.records, after.busy_s - before.busy_s
    another = after.start_s != before.start_s and not math.isnan(before.start_s) and not math.isnan(after.start_s)
    if another or not span_s > 0 or not records >= 0 or not busy_s >= 0:
        return None
    partitions = tuple(sorted({number for _, number in after.lag}))
    return WorkerLoad(name, partitions, records / span_s, min(busy_s / span_s, 1.0))


class WorkerPages:
    """Reads all pages at once, again and again.

    addresses : gives name -> URL of every worker, anew for each look; may raise WorkloadError.
    """

    def __init__(
        self, addresses: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._addresses = addresses
        self._clock = clock
        self._before: dict[str, tuple[str, PageFigures]] = {}
        self._silent: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")

    def close(self) -> None:
        """Ends the threads; each within the pages' time-out."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, url: str) -> PageFigures | str:
        try:
            text = fetch(url, TIMEOUT_S, PAGE_BYTES_MAX)
            return parse(text, self._clock())
        except (PageError, ValueError, KeyError) as exc:
            return f"no label {exc}" if isinstance(exc, KeyError) else str(exc)

    def read(self) -> PagesLook:
        """One look at every page; takes as long as the slowest, sixteen at a time."""
        try:
            urls = dict(self._addresses())
        except WorkloadError as exc:
            self._before, self._silent = {}, {}
            return PagesLook(problems=(f"workers' pages are not read: {exc}",))
        loads: list[WorkerLoad] = []
        waiting: dict[Key, float] = {}
        reasons: dict[str, str] = {}
        old = 0
        before, self._before = self._before, {}
        for (name, url), page in zip(urls.items(), self._pool.map(self._read, urls.values()), strict=True):
            if isinstance(page, str):
                reasons[name] = page
                continue
            self._before[name] = (url, page)
            old += math.isnan(page.busy_s)
            for key, waits in page.lag.items():
                waiting[key] = max(waits, waiting.get(key, 0.0))
            url_before, seen = before.get(name, ("", page))
            if url_before == url and (load := load_between(name, seen, page)) is not None:
                loads.append(load)
        self._silent = {name: self._silent.get(name, 0) + 1 for name in reasons}
        lasting = {name: text for name, text in reasons.items() if self._silent[name] >= TOLD_AFTER}
        return PagesLook(tuple(loads), waiting, tuple(_problems(lasting, len(urls), old)))


def _problems(reasons: Mapping[str, str], pages: int, old: int) -> Iterable[str]:
    if reasons:
        named = "; ".join(f"{name}: {text}" for name, text in sorted(reasons.items())[:_NAMED_MAX])
        more = f"; and {len(reasons) - _NAMED_MAX} more" if len(reasons) > _NAMED_MAX else ""
        yield f"{len(reasons)} of {pages} workers' pages give no figures ({named}{more}): their load is not known"
    if old:
        yield f"{old} of {pages} workers' pages have no {BUSY}: workers of an earlier release, load not known"
