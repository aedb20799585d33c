"""What the demo reads while it runs: truth, workers' pages, offsets. The rule: no group joined, no commit."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from fleetwatch.alert_feed import Received
from fleetwatch.demo_children import Child, DemoError
from fleetwatch.demo_score import Injected
from fleetwatch.scrape import Page, parse
from telemetry import codec
from telemetry.clients import admin, committed_offsets, consumer
from telemetry.settings import Settings
from telemetry.topics import TopicSpec, topics

_PAGE_TIMEOUT_S = 1.0
_EVIDENCE_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 30.0
_ABSENT = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.GROUP_ID_NOT_FOUND)
#: More alerts than this are not looked up for their latency.
EVIDENCE_MAX = 1000
_LAG_SERIES = re.compile(r"^fleetwatch_lag_records\{", re.MULTILINE)


class TruthFeed:
    """Follows the truth topic from its beginning."""

    def __init__(self, settings: Settings) -> None:
        self.faults: dict[str, Injected] = {}
        self._consumer = consumer(settings, f"{settings.processing.group}-truth")
        spec = topics(settings).truth
        self._consumer.assign([TopicPartition(spec.name, p, OFFSET_BEGINNING) for p in range(spec.partitions)])

    def read(self, timeout_s: float) -> list[Injected]:
        """Faults that began, told within `timeout_s`."""
        news = []
        for message in self._consumer.consume(100, timeout_s):
            if message.error() is not None:
                raise DemoError(f"reading the truth topic: {message.error().str()}")
            record = codec.decode("truth", message.value())
            if record["fault_id"] in self.faults:  # its end
                continue
            fault = Injected(
                record["kind"],
                record["device_id"],
                record["onset"],
                message.timestamp()[1],
                frozenset(record["signals"]),
            )
            self.faults[record["fault_id"]] = fault
            news.append(fault)
        return news

    def close(self) -> None:
        self._consumer.close()


class WorkerWatch:
    """One worker's page; keeps the last figures, so that those of a killed worker still count."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.page = Page()
        self.partitions = 0

    def _get(self, path: str) -> str | None:
        base = self.child.metrics_base()
        if base is None or not base.startswith("http://"):
            return None
        try:
            with urllib.request.urlopen(base + path, timeout=_PAGE_TIMEOUT_S) as answer:  # noqa: S310
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, OSError, http.client.HTTPException):
            return None  # not yet there, or no longer: the caller asks again or looks at the process

    def scrape(self) -> bool:
        """Take the figures now; False where the page does not answer."""
        text = self._get("/metrics")
        if text is None:
            return False
        self.page = parse(text)
        self.partitions = len(_LAG_SERIES.findall(text))
        return True

    def ready(self) -> bool:
        """It holds partitions and their state."""
        return self._get("/readyz") is not None

    def total(self, name: str) -> int:
        """A counter's value, labels summed."""
        return int(self.page.totals.get(f"fleetwatch_{name}_total", 0))


class Cluster:
    """The demo's topics as the brokers see them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = admin(settings)
        self.topics = topics(settings)

    def ends(self, spec: TopicSpec) -> dict[int, int]:
        """The end offset of each partition."""
        wanted = {TopicPartition(spec.name, p): OffsetSpec.latest() for p in range(spec.partitions)}
        futures = self._admin.list_offsets(wanted, request_timeout=self._settings.kafka.connect_timeout_s)
        return {tp.partition: future.result().offset for tp, future in futures.items()}

    def sent(self, spec: TopicSpec) -> int:
        """Frames in an input."""
        return sum(self.ends(spec).values())

    def processed(self) -> int:
        """Frames of the inputs that the workers have committed."""
        at = [(s.name, p) for s in self.topics.inputs for p in range(s.partitions)]
        committed = committed_offsets(self._settings, self._settings.processing.group, at)
        return sum(offset or 0 for offset in committed.values())

    def records(self, spec: TopicSpec) -> list[Any]:
        """All records of a topic up to its present end.

        Raises
        ------
        DemoError : it cannot be read.
        """
        found, left = [], set(range(spec.partitions))
        client = consumer(self._settings, f"{self._settings.processing.group}-count", enable_partition_eof=True)
        try:
            client.assign([TopicPartition(spec.name, p, OFFSET_BEGINNING) for p in left])
            deadline_s = time.monotonic() + _READ_TIMEOUT_S
            while left:
                for message in client.consume(1000, 0.5):
                    error = message.error()
                    if error is None:
                        found.append(message)
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (the client's own name for it)
                        left.discard(message.partition())
                    else:
                        raise DemoError(f"reading {spec.name}: {error.str()}")
                if time.monotonic() > deadline_s:
                    raise DemoError(f"reading {spec.name} took more than {_READ_TIMEOUT_S:.0f} s")
        finally:
            client.close()
        return found

    def _await_empty(self, group: str) -> None:
        """A worker that did not come to leave its group is a member until its session ends."""
        deadline_s = time.monotonic() + 2 * self._settings.processing.session_timeout_s
        while time.monotonic() < deadline_s:
            found = self._admin.describe_consumer_groups([group], request_timeout=10)[group]
            try:
                if not found.result().members:
                    return
            except KafkaException as exc:
                if exc.args[0].code() in _ABSENT:
                    return
                raise
            time.sleep(0.3)

    def remove(self) -> None:
        """Delete the demo's topics and group from a cluster that stays.

        Raises
        ------
        DemoError : the cluster refuses; the message says what was left there.
        """
        names = [spec.name for spec in self.topics.all()]
        group = self._settings.processing.group
        self._await_empty(group)
        futures = {
            **self._admin.delete_topics(names, operation_timeout=10),
            **self._admin.delete_consumer_groups([group], request_timeout=10),
        }
        problems = []
        for name, future in futures.items():
            try:
                future.result()
            except KafkaException as exc:
                if exc.args[0].code() not in _ABSENT:
                    problems.append(f"{name}: {exc.args[0].str()}")
        if problems:
            raise DemoError("not removed from the cluster: " + "; ".join(problems))


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one alert event: when its newest frame was sent (clock, ms); seconds until the broker had the alert."""

    sent_ms: int
    seconds: float


def latencies(settings: Settings, alerts: Sequence[Received]) -> list[Latency]:
    """How long each alert event took.

    At most `EVIDENCE_MAX` alerts, the newest, are looked up.
    """
    found = []
    client = consumer(
        settings, f"{settings.processing.group}-evidence", fetch_wait_max_ms=10, fetch_queue_backoff_ms=10
    )
    try:
        for received in alerts[-EVIDENCE_MAX:]:
            alert = received.alert
            client.assign([TopicPartition(alert.topic, alert.partition, alert.offset_last)])
            sent_ms = _record_time(client, alert.offset_last, f"{alert.topic}[{alert.partition}]")
            found.append(Latency(sent_ms, (received.arrived_ms - sent_ms) / 1e3))
    finally:
        client.close()
    return found


def _record_time(client: Any, offset: int, where: str) -> int:
    deadline_s = time.monotonic() + _EVIDENCE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for message in client.consume(1, 0.5):
            if message.error() is None and message.offset() == offset:
                stamp: int = message.timestamp()[1]
                return stamp
    raise DemoError(f"the frame that an alert names, {where} offset {offset}, could not be read")


def totals(watches: Iterable[WorkerWatch], name: str) -> int:
    """A counter over all workers, the killed ones up to their last page."""
    return sum(watch.total(name) for watch in watches)
