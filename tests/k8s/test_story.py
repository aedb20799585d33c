"""Traffic steps up by four, and down again, and the workers follow. The rule: nothing is simulated but the traffic.

A real control plane, the chart by helm, two autoscalers, workers of a fifth of a core each, a real Kafka; then each
feature, score, alert, state row and committed offset is compared with an uninterrupted run's.
"""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from telemetry import clients
from telemetry.offsets import list_offsets
from telemetry.settings import Settings, load
from telemetry.topics import Topics, topics
from tests.chaos.verdict import check
from tests.k8s import chart
from tests.k8s.api import Api, Object
from tests.k8s.chart import CHART, RELEASE, Values
from tests.k8s.control_plane import ControlPlane
from tests.k8s.kubelet.node import Kubelet
from tests.k8s.traffic import SteppedSender, frames

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1500)]

PARTITIONS, DEVICES, SEED = 12, 240, 11
LOW, TIMES = float(os.environ.get("K8S_STORY_RATE", "150")), 4
WORKER_CPU = "200m"
SLO_S = 30.0
LOOK_S = 2.0
WORKER, AUTOSCALER = f"{RELEASE}-fleetwatch-worker", f"{RELEASE}-fleetwatch-autoscaler"


@dataclass
class Row:
    """One line of the table: what was seen at one moment."""

    at_s: float
    arrivals_per_s: float
    lag_s: float
    wanted: float
    ready: int
    code: str
    text: str


@dataclass
class Story:
    """The cluster, the traffic and what has happened."""

    plane: ControlPlane
    node: Kubelet
    namespace: str
    settings: Settings
    sender: SteppedSender
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)
    _sent: tuple[float, int] = (0.0, 0)

    @property
    def api(self) -> Api:
        return self.plane.api

    def pods(self, name: str) -> list[Object]:
        found: list[Object] = self.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [pod for pod in found if pod["metadata"]["name"].startswith(name)]

    def workers(self) -> tuple[int, int]:
        """(wanted, ready)."""
        found = self.api.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{WORKER}")
        return found["spec"].get("replicas", 1), found["status"].get("readyReplicas", 0)

    def leader(self) -> str:
        """The Pod that holds the Lease; "" = none does."""
        lease = self.api.get(
            f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/deployment-{WORKER}-autoscaler"
        )
        return str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]

    def figures(self) -> dict[str, float]:
        """The leader's own, by name and label; empty = its page does not answer."""
        address = next(
            (p["status"].get("podIP") for p in self.pods(AUTOSCALER) if p["metadata"]["name"] == self.leader()),
            None,
        )
        if not address:
            return {}
        try:
            with urllib.request.urlopen(f"http://{address}:6067/metrics", timeout=2) as page:
                text = page.read().decode()
        except OSError:
            return {}
        return {
            f"{sample.name}{''.join(sorted(sample.labels.values()))}": sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def decision(self) -> tuple[str, str]:
        """The newest Event's code and words on the workload."""
        found = self.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
        ours = [
            e
            for e in found
            if e.get("regarding", {}).get("name") == WORKER and "autoscaler" in e.get("reportingController", "")
        ]
        newest = max(ours, key=lambda e: e.get("eventTime") or "", default=None)
        return (newest["reason"], newest.get("note", "")) if newest else ("", "")

    def look(self) -> Row:
        """One more line."""
        now_s, sent = time.monotonic(), self.sender.sent
        arrivals = (sent - self._sent[1]) / max(0.1, now_s - self._sent[0]) if self._sent[0] else float("nan")
        self._sent = now_s, sent
        figures = self.figures()
        lags = [v for k, v in figures.items() if k.startswith("fleetwatch_autoscaler_lag_seconds") and v == v]
        wanted, ready = self.workers()
        code, text = self.decision()
        row = Row(now_s - self.began_s, arrivals, max(lags, default=float("nan")), wanted, ready, code, text)
        shown = text if not self.rows or self.rows[-1].text != text else ""
        self.rows.append(row)
        self.say(
            f"{row.at_s:6.0f} {arrivals:9.0f} {row.lag_s:7.1f} {wanted:4.0f} {ready:4d}  {code:12s} {shown[:160]}"
        )
        assert not self.sender.problems, self.sender.problems
        return row

    def until(self, what: str, wanted: Callable[[Row], bool], seconds: float) -> Row:
        """The first line of which that is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if wanted(row := self.look()):
                return row
            time.sleep(LOOK_S)
        raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.told()}")

    def told(self) -> str:
        """What the Pods said last."""
        lines: list[str] = []
        for pod in self.pods(RELEASE):
            name = pod["metadata"]["name"]
            lines += [f"-- {name}", *self.node.logs(self.namespace, name).splitlines()[-12:]]
        return "\n".join(lines)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Past pytest's capture: the table is what this test is looked at for."""

    def tell(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    return tell


@pytest.fixture
def story(
    control_plane: ControlPlane,
    kubelet: Kubelet,
    kafka_bootstrap: str,
    tmp_path: Path,
    say: Callable[[str], None],
) -> Iterator[Story]:
    if not kubelet.limits_cpu:
        pytest.skip("no control group can be written here: a worker's capacity would not be limited")
    name = f"story{time.time_ns() % 10**8}"
    control_plane.api.post("/api/v1/namespaces", {"metadata": {"name": name}})
    sizes = {"partitions": PARTITIONS, "replication": 1, "prefix": name}
    settings = load(environ={}, kafka={"bootstrap": kafka_bootstrap}, topics=sizes)
    values: Values = {
        "kafka": {"bootstrap": kafka_bootstrap},
        "settings": {
            "topics": sizes,
            "autoscaler": {
                "interval_s": 2.0,
                "stale_s": 20.0,
                "lag_slo_s": SLO_S,
                "catch_up_s": 30.0,
                "down_window_s": 30.0,
                "down_cooldown_s": 15.0,
            },
        },
        "worker": {
            "cacheDir": "",  # the image brings its kernels
            "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": WORKER_CPU}},
        },
        "autoscaling": {"maxReplicas": PARTITIONS},
    }
    path = chart.write(values, tmp_path / "values.yaml")
    more = ("--namespace", name, "--values", str(path), "--wait", "--timeout", "300s")
    control_plane.helm("install", RELEASE, str(CHART), *more, timeout_s=360)
    inputs = tuple(spec.name for spec in topics(settings).inputs)
    sender = SteppedSender(settings, (inputs[0], inputs[1]), frames(SEED, DEVICES, PARTITIONS), LOW)
    try:
        yield Story(control_plane, kubelet, name, settings, sender, say)
    finally:
        sender.close()
        control_plane.api.delete(f"/api/v1/namespaces/{name}")


def test_workers_follow_the_traffic_and_nothing_is_lost_or_doubled(story: Story) -> None:
    story.say("\n  time  arrivals  lag, s want  has  decision")
    story.sender.start()
    story.until("one worker carries the usual traffic", lambda r: r.at_s > 45 and r.lag_s < 5 and r.ready >= 1, 180)
    usual = story.rows[-1].wanted
    story.sender.rate = LOW * TIMES
    story.until("more workers", lambda r: r.wanted > usual and r.ready > usual, 180)
    met = story.until(
        "the lag below the SLO, all workers there", lambda r: r.lag_s < SLO_S and r.ready == r.wanted, 300
    )
    most = met.wanted
    calm_s = time.monotonic() + 20
    story.until("it stays there", lambda r: time.monotonic() > calm_s and r.lag_s < SLO_S, 120)
    follow_s = kill_the_leader(story)
    story.sender.rate = LOW
    story.until("fewer workers again", lambda r: r.wanted < most and r.ready == r.wanted, 300)
    story.until("as few as before", lambda r: r.wanted <= usual + 1 and r.ready == r.wanted, 300)
    story.sender.finish(60)
    assert not story.sender.problems
    await_all_committed(story)
    story.say(f"leader killed, followed after {follow_s:.1f} s; {story.sender.sent} records sent")
    assert follow_s < 20
    verify(story)


def kill_the_leader(story: Story) -> float:
    """Seconds until the other one leads."""
    before = story.leader()
    pids = story.node.pids(story.namespace)[before]
    killed_s = time.monotonic()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    while story.leader() in ("", before):
        assert time.monotonic() - killed_s < 60, f"nobody follows {before}\n{story.told()}"
        time.sleep(0.2)
    return time.monotonic() - killed_s


def await_all_committed(story: Story, seconds: float = 180) -> None:
    """Until the group's offsets are at the ends of the inputs."""
    from confluent_kafka import ConsumerGroupTopicPartitions
    from confluent_kafka.admin import OffsetSpec

    admin, group = clients.admin(story.settings), story.settings.processing.group
    sizes = {spec.name: PARTITIONS for spec in topics(story.settings).inputs}
    end = time.monotonic() + seconds
    while True:
        ends = list_offsets(admin, sizes, OffsetSpec.latest(), 10)
        answer = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(10)
        done = {(t.topic, t.partition): t.offset for t in answer.topic_partitions}
        left = {at: last - done.get(at, 0) for at, last in ends.items() if last > done.get(at, 0)}
        if not left:
            return
        assert time.monotonic() < end, f"records wait: {left}\n{story.told()}"
        time.sleep(1)


def verify(story: Story) -> None:
    """Every result against an uninterrupted run's."""
    names: Topics = topics(story.settings)
    verdict = check(
        story.settings, names, clients.admin(story.settings), story.sender.digests, story.say, exactly_once=True
    )
    assert verdict.problems == []
    assert verdict.inputs == story.sender.sent
    assert verdict.wrong == 0, {kind: vars(found) for kind, found in verdict.topics.items()}
    assert verdict.topics["features"].expected > 0
    assert verdict.topics["alerts"].expected > 0
