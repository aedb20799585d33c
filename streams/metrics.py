"""The worker's Prometheus metrics. The rule: read from the core's counters when scraped; never a device label."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.busy import WaitTimer

COUNTERS = {
    "frames": "Frames accepted.",
    "samples": "Values in accepted frames.",
    "duplicates": "Frames that a device sent twice.",
    "replayed": "Frames read again after a restart that the state had seen already.",
    "out_of_order": "Frames whose event time ran backwards within their device.",
    "reboots": "Devices whose sequence began anew.",
    "missing_frames": "Frames that a device numbered but that never came.",
    "non_finite": "Infinite values, taken as missing.",
    "clock_steps": "Devices whose clock was set back.",
    "late_rows": "Rows too late for their window.",
    "windows": "Windows closed.",
}
#: A device whose newest row is older does not report.
REPORTING_S = 60.0


class WorkerMetrics(Collector):
    """Registers itself; `watch` says which worker to read."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._worker: Any = None
        self._app: Any = None
        self._busy: WaitTimer | None = None
        self._latency = Histogram(
            "fleetwatch_alert_latency_seconds",
            "From a frame's time, by its device's clock or by the broker's record timestamp, to its alert.",
            ["clock"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
            registry=registry,
        )
        self._batch = Histogram(
            "fleetwatch_batch_records",
            "Records that came with one fetch of one partition.",
            buckets=(1, 10, 100, 1_000, 3_000, 10_000, 30_000, 100_000),
            registry=registry,
        )
        registry.register(self)

    def observe_batch(self, records: int) -> None:
        """Once a fetched batch, never once a record."""
        self._batch.observe(records)

    def observe_latency(self, clock: str, seconds: float) -> None:
        """clock : device or broker. A device's clock may be ahead: that counts as 0."""
        self._latency.labels(clock).observe(max(0.0, seconds))

    def watch(self, worker: Any, app: Any, busy: WaitTimer | None = None) -> None:
        """The worker and the Faust app whose figures these are. busy : of its loop; None = not known, not shown."""
        self._worker, self._app, self._busy = worker, app, busy

    def _lag(self) -> dict[tuple[str, int], int]:
        consumer = getattr(self._app, "consumer", None)
        if self._worker is None or consumer is None:
            return {}
        ends = {}
        for topic, partition in list(self._worker.applied):
            from faust.types import TP

            ends[topic, partition] = consumer.highwater(TP(topic, partition))
        lag: dict[tuple[str, int], int] = self._worker.lag(ends)
        return lag

    def _lag_seconds(self) -> dict[tuple[str, int], float]:
        """0 where nothing waits."""
        found = {}
        for at, waiting in self._lag().items():
            newest_ms = self._worker.newest_ts_ms.get(at)
            found[at] = time.time() - newest_ms / 1000 if waiting and newest_ms else 0.0
        return found

    def _fleet(self) -> Iterator[Metric]:
        """Of the devices of the partitions that are ours now: parked ones are another worker's to count."""
        frames = CounterMetricFamily("fleetwatch_class_frames", "Frames accepted, by class.", labels=["catalog"])
        reporting = GaugeMetricFamily(
            "fleetwatch_devices_reporting",
            "Devices with a row of the last minute, by their own clocks.",
            labels=["catalog"],
        )
        alerts = GaugeMetricFamily("fleetwatch_alerts_open", "Alerts that are open.", labels=["severity", "kind"])
        if self._worker:
            core = self._worker.core
            owners = {core.owner(*at) for at in list(self._worker.applied)}
            for key, count in core.frames_by_class().items():
                frames.add_metric([key], count)
            for key, count in core.devices_reporting(owners, int((time.time() - REPORTING_S) * 1e6)).items():
                reporting.add_metric([key], count)
            for labels, count in core.alerts_open(owners).items():
                alerts.add_metric(labels, count)
        yield from (frames, reporting, alerts)

    def collect(self) -> Iterator[Metric]:
        worker = self._worker
        totals = worker.core.counters() if worker else dict.fromkeys(COUNTERS, 0)
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"fleetwatch_{name}", text, value=totals[name])
        dead = CounterMetricFamily("fleetwatch_dead_letters", "Refused records.", labels=["reason"])
        lag = GaugeMetricFamily("fleetwatch_lag_records", "Records that wait.", labels=["topic", "partition"])
        devices = GaugeMetricFamily("fleetwatch_devices", "Devices held.", labels=["catalog"])
        if worker:
            for reason, count in worker.core.refused.items():
                dead.add_metric([reason.code], count)
            for (topic, partition), waiting in self._lag().items():
                lag.add_metric([topic, str(partition)], waiting)
            for key, held in worker.core.devices_held().items():
                devices.add_metric([key], held)
        lag_s = GaugeMetricFamily(
            "fleetwatch_lag_seconds",
            "Age of the newest record processed while others wait.",
            labels=["topic", "partition"],
        )
        if worker:
            for (topic, partition), seconds in self._lag_seconds().items():
                lag_s.add_metric([topic, str(partition)], seconds)
        drift = CounterMetricFamily(
            "fleetwatch_drift", "Changes in the mean of a detector's scores of a device.", labels=["detector"]
        )
        if worker:
            for detector, count in _drifts(worker.core).items():
                drift.add_metric([detector], count)
        yield from (dead, lag, lag_s, devices, drift)
        yield from self._fleet()
        figures = {
            "fleetwatch_records": ("Records fetched, refused ones included.", worker.records if worker else 0),
            "fleetwatch_batches": ("Fetched batches processed.", worker.batches if worker else 0),
            "fleetwatch_alerts": ("Alert events published.", worker.alerts if worker else 0),
            "fleetwatch_rebalances": ("Rebalances completed.", worker.rebalances if worker else 0),
            "fleetwatch_checkpoints": ("Checkpoints.", worker.checkpoints.totals.checkpoints if worker else 0),
            "fleetwatch_checkpoint_seconds": (
                "Wall time in checkpoints.",
                worker.checkpoints.totals.seconds if worker else 0,
            ),
            "fleetwatch_commit_seconds": (
                "Of these in sending offsets and committing transactions.",
                worker.checkpoints.totals.commit_seconds if worker else 0,
            ),
            "fleetwatch_checkpoints_lost": (
                "Checkpoints that failed; their work was done again.",
                worker.checkpoints.totals.lost if worker else 0,
            ),
            "fleetwatch_recoveries": (
                "Times that the worker went on from its last checkpoint.",
                worker.recoveries if worker else 0,
            ),
            "fleetwatch_restored_records": (
                "Changelog records read to restore state.",
                worker.changelog.restored if worker else 0,
            ),
            "fleetwatch_state_rows": ("Changelog rows written.", worker.checkpoints.totals.rows if worker else 0),
        }
        for name, (text, value) in figures.items():
            yield CounterMetricFamily(name, text, value=value)
        if self._busy is not None or worker is None:
            yield CounterMetricFamily(
                "fleetwatch_busy_seconds",
                "Time in which the event loop did not wait for something to do; by time passed: 1 = saturated.",
                value=self._busy.busy_s if self._busy else 0.0,
            )
        done, total = (worker.changelog.done, worker.changelog.total) if worker else (0, 0)
        yield GaugeMetricFamily(
            "fleetwatch_restore_ratio",
            "Share of the restore under way that is done; 1 = none is.",
            value=done / total if total else 1.0,
        )
        cpu_s = time.process_time()
        yield GaugeMetricFamily(
            "fleetwatch_cpu_ns_per_sample",
            "CPU time of the process since its start by samples processed; NaN = none yet.",
            value=cpu_s * 1e9 / totals["samples"] if totals["samples"] else float("nan"),
        )
        yield GaugeMetricFamily(
            "fleetwatch_state_bytes",
            "Memory of the devices' state.",
            value=worker.core.state_nbytes() if worker else 0,
        )


def _drifts(core: Any) -> Counter[str]:
    """Over all classes; a detector that runs and saw none counts 0."""
    totals: Counter[str] = Counter()
    for engine in list(core.engines.values()):
        totals.update({d.spec.name: engine.drift.counts[d.spec.name] for d in engine.detectors})
    return totals
