"""`fleetwatch alerts forward`: a real Kafka, a server that misbehaves, a real Alertmanager."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pki
import pytest
import yaml
from alert_receivers import Webhook, alertmanager, webhook
from alerts_made import ONSET_US, made, publish
from frozen import freeze
from real_worker import environment, wait_for

from fleetwatch.kafka.cluster import EmbeddedKafka
from telemetry import settings as contract
from telemetry.alerts import AlertState, Severity
from telemetry.clients import committed_offsets
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

OPEN, UPDATE, RESOLVED = AlertState.OPEN, AlertState.UPDATE, AlertState.RESOLVED
KEY = "a key of some bytes for tests"


class Bridge:
    """Starts forwarders with settings of this test's own; `start` waits until its partitions are its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self._folder = settings, folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.forward: dict[str, Any] = {"resend_s": 1, "hold_s": 6, "retry_first_s": 0.05, "retry_max_s": 0.5}
        self.extra: dict[str, str] = {}

    @property
    def log(self) -> str:
        """Of the newest one."""
        return self.log_of(len(self.started) - 1)

    def log_of(self, number: int) -> str:
        return (self._folder / f"forward-{number}.log").read_text()

    def command(self, *args: str) -> list[str]:
        sections = {
            "kafka": {"bootstrap": self.settings.kafka.bootstrap, "connect_timeout_s": 3},
            "topics": {"prefix": self.settings.topics.prefix, "partitions": self.settings.topics.partitions},
            "processing": {"group": self.settings.processing.group, "session_timeout_s": 6},
            "forward": self.forward,
        }
        config = self._folder / "settings.yaml"
        config.write_text(yaml.safe_dump(sections))
        return [sys.executable, "-m", "fleetwatch", "--config", str(config), "alerts", "forward", *args]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """One that is expected to end by itself."""
        return subprocess.run(
            self.command(*args),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(**self.extra),
        )

    def start(self, to: str, url: str, *args: str) -> subprocess.Popen[bytes]:
        number = len(self.started)
        with (self._folder / f"forward-{number}.log").open("w") as log:
            command = self.command("--to", to, url, *args)
            self.started.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment(**self.extra)))
        process = self.started[-1]
        wait_for(
            lambda: "forwards partitions" in self.log_of(number) or process.poll() is not None, 60, "the start"
        )
        assert process.poll() is None, self.log_of(number)
        return process

    def committed(self, to: str = "webhook") -> int:
        """Records that the group is done with."""
        name, group = topics(self.settings).alerts.name, f"{self.settings.processing.group}-forward-{to}"
        wanted = [(name, p) for p in range(self.settings.topics.partitions)]
        return sum(offset or 0 for offset in committed_offsets(self.settings, group, wanted).values())

    def stop(self, process: subprocess.Popen[bytes], within_s: float = 15) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(within_s) == 0, self.log


@pytest.fixture
def bridge(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[Bridge]:
    settings = contract.load(
        environ={},
        kafka={"bootstrap": kafka_bootstrap},
        topics={"prefix": topic_prefix, "partitions": 3},
        processing={"group": topic_prefix},
    )
    ensure(settings, (topics(settings).alerts,))
    bridge = Bridge(settings, tmp_path)
    try:
        yield bridge
    finally:
        for process in bridge.started:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def story(devices: int, updates: int = 1) -> list[Any]:
    """Open, updates, resolved of each device, as they would come: one step of all devices after the other."""
    names = [f"gpu-{number}" for number in range(devices)]
    steps = [OPEN, *[UPDATE] * updates, RESOLVED]
    return [made(name, state, span_s=3 + 60 * step) for step, state in enumerate(steps) for name in names]


def in_order(receiver: Webhook) -> None:
    """Each device's events first came in the order of their time."""
    seen: dict[str, list[str]] = {}
    for got in receiver.taken:
        times = seen.setdefault(got.json["subject"], [])
        if got.json["time"] not in times:
            times.append(got.json["time"])
    for device, times in seen.items():
        assert times == sorted(times), device


# -- webhook --------------------------------------------------------------------------------------------------


def test_a_webhook_gets_each_event_once_as_a_signed_cloudevent(bridge: Bridge, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY + "\n")
    bridge.forward["hmac_key_file"] = str(key)
    told = [*story(5), made("gerät \ud7ff\x1b[31m/..", OPEN)]
    with webhook() as receiver:
        process = bridge.start("webhook", receiver.url)
        publish(bridge.settings, [*told, told[0], b"\x1b[31m no alert"])
        wait_for(lambda: len(receiver.taken) >= len(told), 30, "delivery")
        wait_for(lambda: bridge.committed() == len(told) + 2, 15, "the commit")
        bridge.stop(process)
    assert receiver.ids() == {alert.event_id: 1 for alert in told}
    assert {g.json["id"]: g.json["data"] for g in receiver.got} == {a.event_id: a.to_data() for a in told}
    in_order(receiver)
    for got in receiver.got:
        assert got.path == "/hook?token=secret"
        assert got.headers["Content-Type"] == "application/cloudevents+json; charset=utf-8"
        assert got.json["specversion"] == "1.0"
        stamp = got.headers["X-Fleetwatch-Timestamp"]
        wanted = hmac.new(KEY.encode(), stamp.encode() + b"." + got.body, hashlib.sha256).hexdigest()
        assert got.headers["X-Fleetwatch-Signature"] == f"sha256={wanted}"
        assert abs(float(stamp) - got.at_s) < 5
        assert got.headers["Idempotency-Key"].isascii()
    assert "is no alert and is passed over" in bridge.log
    assert "secret" not in bridge.log
    assert "\x1b" not in bridge.log


def test_a_flaky_receiver_gets_everything_in_each_devices_order(bridge: Bridge) -> None:
    answers = [500, 200, "reset", 204, "hang", 202, 429, 200, 503, 408, "reset", 201, 425, 500, 200, 200]
    bridge.forward |= {"timeout_s": 0.5, "connections": 3, "queue_max": 10}
    told = story(20)
    with webhook(lambda number, _body: answers[number % len(answers)]) as receiver:
        process = bridge.start("webhook", receiver.url)
        publish(bridge.settings, told)
        wait_for(lambda: len(receiver.ids()) == len(told), 90, "delivery of all")
        wait_for(lambda: bridge.committed() == len(told), 15, "the commit")
        bridge.stop(process)
    assert set(receiver.ids().values()) == {1}  # what was answered with 2xx is not sent again
    assert len(receiver.got) > 1.5 * len(told)
    in_order(receiver)
    assert "answers 500: as told" in bridge.log
    assert "\x1b" not in bridge.log
    assert "no answer within 0.5 s" in bridge.log


def test_an_answer_that_drips_in_is_cut_off(bridge: Bridge) -> None:
    import socket
    import threading

    bridge.forward["timeout_s"] = 0.6
    begun: list[float] = []
    cut: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                begun.append(time.monotonic())
                try:
                    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.1)
                except OSError:
                    cut.append(time.monotonic())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        bridge.start("webhook", f"http://127.0.0.1:{server.getsockname()[1]}/")
        publish(bridge.settings, [made("gpu-1")])
        thread.join(20)
        assert cut, "never cut off"
        assert 0.4 < cut[0] - begun[0] < 2.5
        assert bridge.committed() == 0


def test_offsets_are_committed_only_after_a_2xx_and_kill_9_loses_nothing(bridge: Bridge) -> None:
    told = story(8)
    bad = {"on": True}

    def how(_number: int, body: bytes) -> int:
        return 503 if bad["on"] and b'"gpu-3"' in body else 200

    with webhook(how) as receiver:
        bridge.forward["connections"] = 8
        process = bridge.start("webhook", receiver.url)
        publish(bridge.settings, told)
        lanes = 24 - 3
        wait_for(lambda: len(receiver.ids()) >= lanes - 9, 30, "what can be delivered")
        time.sleep(2.5)  # longer than a commit takes
        stuck = bridge.committed()
        assert stuck < len(told)
        delivered = set(receiver.ids())
        process.kill()
        process.wait(10)
        bad["on"] = False
        process = bridge.start("webhook", receiver.url)
        wait_for(lambda: len(receiver.ids()) == len(told), 45, "the rest")
        wait_for(lambda: bridge.committed() == len(told), 15, "the commit")
        bridge.stop(process)
    assert set(receiver.ids()) == {alert.event_id for alert in told}
    assert any(count > 1 for count in receiver.ids().values())  # at least once, and this is why
    assert delivered < set(receiver.ids())
    in_order(receiver)


def test_kill_9_again_and_again_while_events_come(bridge: Bridge) -> None:
    told = story(30, updates=2)
    with webhook(lambda number, _body: 200 if number % 3 else 500) as receiver:
        process = bridge.start("webhook", receiver.url)
        for part in range(4):
            publish(bridge.settings, told[part * 30 : part * 30 + 30])
            wait_for(lambda wanted=part * 30 + 7: len(receiver.ids()) >= wanted, 40, "some deliveries")
            process.kill()
            process.wait(10)
            process = bridge.start("webhook", receiver.url)
        wait_for(lambda: len(receiver.ids()) == len(told), 60, "all")
        wait_for(lambda: bridge.committed() == len(told), 15, "the commit")
        bridge.stop(process)
    in_order(receiver)


def test_retry_after_is_kept_to_by_all_connections(bridge: Bridge) -> None:
    with webhook(lambda number, _body: (429, {"Retry-After": "3"}) if number == 0 else 200) as receiver:
        process = bridge.start("webhook", receiver.url)
        publish(bridge.settings, [made("gpu-1")])
        wait_for(lambda: len(receiver.got) == 1, 20, "the first attempt")
        publish(bridge.settings, [made(f"gpu-{number}") for number in range(2, 9)])
        wait_for(lambda: len(receiver.ids()) == 8, 30, "delivery")
        bridge.stop(process)
    assert receiver.got[1].at_s - receiver.got[0].at_s >= 2.9
    assert "asks to wait 3 s" in bridge.log


def test_what_is_refused_for_good_blocks_nothing(bridge: Bridge) -> None:
    def how(_number: int, body: bytes) -> Any:
        device = json.loads(body)["subject"]
        return {"gpu-0": 400, "gpu-1": 410, "gpu-2": (302, {"Location": "http://127.0.0.1:1/"})}.get(device, 200)

    told = story(6)
    with webhook(how) as receiver:
        process = bridge.start("webhook", receiver.url, "--metrics-port", "0")
        publish(bridge.settings, told)
        wait_for(lambda: bridge.committed() == len(told), 30, "the commit")
        found = re.search(r"http://127\.0\.0\.1:\d+", bridge.log.partition("; ")[2])
        assert found
        page = urllib.request.urlopen(f"{found.group()}/metrics", timeout=5).read().decode()
        health = json.load(urllib.request.urlopen(f"{found.group()}/healthz", timeout=5))
        bridge.stop(process)
    assert len(receiver.got) == len(told)  # once each
    assert len(receiver.ids()) == 9
    assert 'fleetwatch_forward_events_total{outcome="refused"} 9.0' in page
    assert 'fleetwatch_forward_events_total{outcome="delivered"} 9.0' in page
    assert 'fleetwatch_forward_attempts_total{answer="302"} 3.0' in page
    assert health["status"] == "ok"
    assert health["queued"] == 0
    assert bridge.log.count("for good") == 3  # once a kind
    assert "redirects are not followed" in bridge.log


def test_a_slow_receiver_makes_reading_wait(bridge: Bridge) -> None:
    bridge.forward |= {"queue_max": 5, "connections": 2}
    gate = {"open": False}

    def how(_number: int, _body: bytes) -> int:
        return 200 if gate["open"] else 503

    told = story(20)
    with webhook(how) as receiver:
        process = bridge.start("webhook", receiver.url, "--metrics-port", "0")
        publish(bridge.settings, told)
        url = re.search(r"http://127\.0\.0\.1:\d+/metrics", bridge.log.partition("; ")[2])
        assert url

        def page() -> str:
            return urllib.request.urlopen(url.group(), timeout=5).read().decode()

        wait_for(lambda: "fleetwatch_forward_paused 1.0" in page(), 20, "the pause")
        time.sleep(1.5)
        queued = re.search(r"fleetwatch_forward_queued_events (\d+)", page())
        assert queued
        assert 5 <= int(queued.group(1)) <= 6
        gate["open"] = True
        wait_for(lambda: len(receiver.ids()) == len(told), 30, "all")
        wait_for(lambda: "fleetwatch_forward_paused 0.0" in page(), 20, "the end of the pause")
        bridge.stop(process)
    in_order(receiver)


def test_min_severity_since_and_a_group_of_its_own(bridge: Bridge) -> None:
    publish(bridge.settings, [made("old", OPEN, Severity.CRITICAL)])
    with webhook() as late, webhook() as all_of_it:
        bridge.start("webhook", late.url, "--min-severity", "major")
        bridge.start("webhook", all_of_it.url, "--group", f"{bridge.settings.topics.prefix}-b", "--since", "1h")
        publish(bridge.settings, [made("new", OPEN, Severity.MINOR), made("new-2", OPEN, Severity.MAJOR)])
        wait_for(lambda: len(all_of_it.ids()) == 3, 30, "delivery to one")
        wait_for(lambda: len(late.ids()) == 1, 30, "delivery to the other")
        wait_for(lambda: bridge.committed() == 3, 15, "the commit of what is filtered too")
    assert {g.json["subject"] for g in late.got} == {"new-2"}


def test_two_share_the_partitions_and_one_leaves(bridge: Bridge) -> None:
    told = story(30, updates=2)
    with webhook() as receiver:
        first = bridge.start("webhook", receiver.url)
        publish(bridge.settings, told[:60])
        second = bridge.start("webhook", receiver.url)
        publish(bridge.settings, told[60:90])
        wait_for(lambda: len(receiver.ids()) == 90, 30, "delivery")
        bridge.stop(first)
        publish(bridge.settings, told[90:])
        wait_for(lambda: len(receiver.ids()) == 120, 40, "delivery by the other")
        wait_for(lambda: bridge.committed() == 120, 15, "the commit")
        bridge.stop(second)
    in_order(receiver)


def test_a_stop_sends_what_is_in_hand(bridge: Bridge) -> None:
    gate = {"open": False}
    with webhook(lambda _n, _body: 200 if gate["open"] else 503) as receiver:
        process = bridge.start("webhook", receiver.url)
        publish(bridge.settings, story(4))
        wait_for(lambda: len(receiver.got) > 4, 20, "attempts")
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        gate["open"] = True
        assert process.wait(15) == 0
        assert len(receiver.ids()) == 12
        assert bridge.committed() == 12
        assert "not taken" not in bridge.log


def test_a_stop_ends_in_time_when_nothing_is_taken(bridge: Bridge) -> None:
    bridge.forward["drain_s"] = 1
    with webhook(lambda _n, _body: "hang") as receiver:
        process = bridge.start("webhook", receiver.url)
        publish(bridge.settings, story(2))
        wait_for(lambda: len(receiver.got) >= 1, 20, "an attempt")
        begun = time.monotonic()
        bridge.stop(process)
        assert time.monotonic() - begun < 8
    assert "6 events were not taken by http://127.0.0.1:" in bridge.log
    assert bridge.committed() == 0


# -- TLS ------------------------------------------------------------------------------------------------------


def test_only_a_certificate_of_a_known_authority_is_spoken_to(bridge: Bridge, tmp_path: Path) -> None:
    authority, stranger = pki.Authority(tmp_path / "ours"), pki.Authority(tmp_path / "theirs", "stranger")
    pair = authority.issue("receiver", hosts=("localhost",))
    with webhook(certificate=pair) as receiver:
        bridge.forward["ca"] = str(stranger.path)
        process = bridge.start("webhook", receiver.url.replace("127.0.0.1", "localhost"))
        publish(bridge.settings, [made("gpu-1")])
        wait_for(lambda: "certificate is not accepted" in bridge.log, 20, "the refusal")
        process.kill()
        bridge.forward["ca"] = str(authority.path)
        process = bridge.start("webhook", receiver.url)  # 127.0.0.1 is not in the certificate
        wait_for(lambda: "certificate is not accepted" in bridge.log, 20, "the refusal of another name")
        assert receiver.got == []
        process.kill()
        process = bridge.start("webhook", receiver.url.replace("127.0.0.1", "localhost"))
        wait_for(lambda: len(receiver.ids()) == 1, 20, "delivery")
        bridge.stop(process)


# -- Alertmanager ---------------------------------------------------------------------------------------------


def shown(alerts: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(a["labels"]["device"], a["labels"]["severity"]): a for a in alerts}


def test_a_real_alertmanager_fires_is_told_again_and_resolves(bridge: Bridge, tmp_path: Path) -> None:
    bridge.forward["generator_url"] = "https://dash.example.org/d/fleet?device={device}&class={class}"
    with webhook() as pager, alertmanager(tmp_path, pager.url) as real:
        process = bridge.start("alertmanager", real.url)
        publish(bridge.settings, [made("gpu-1"), made("veh 2/ü", severity=Severity.MAJOR, kind="relation")])
        wait_for(lambda: len(real.alerts()) == 2, 20, "firing")
        one = shown(real.alerts())["gpu-1", "minor"]
        assert one["labels"] == {
            "alertname": "FleetwatchShift",
            "source": "fleetwatch",
            "device": "gpu-1",
            "device_class": "gpu.node",
            "kind": "shift",
            "signal": "DCGM.FI.DEV.GPU_TEMP",
            "severity": "minor",
        }
        assert one["annotations"]["summary"].startswith("GPU temperature is 21 °C above")
        assert one["status"]["state"] == "active"
        assert one["generatorURL"] == "https://dash.example.org/d/fleet?device=gpu-1&class=gpu.node"
        assert _epoch(one["startsAt"]) == pytest.approx(ONSET_US / 1e6, abs=0.002)
        before = one["endsAt"]
        wait_for(lambda: shown(real.alerts())["gpu-1", "minor"]["endsAt"] > before, 15, "being told again")
        time.sleep(7)  # longer than hold_s
        assert len(real.alerts()) == 2
        # worse: another set of labels, the old one ends
        publish(bridge.settings, [made("gpu-1", UPDATE, Severity.CRITICAL, span_s=20, kind="spike")])
        wait_for(lambda: ("gpu-1", "critical") in shown(real.alerts()), 15, "the critical one")
        wait_for(lambda: ("gpu-1", "minor") not in shown(real.alerts()), 5, "the end of the minor one")
        assert shown(real.alerts())["gpu-1", "critical"]["labels"]["kind"] == "shift"
        publish(bridge.settings, [made("gpu-1", RESOLVED, Severity.CRITICAL, span_s=25)])
        wait_for(lambda: set(shown(real.alerts())) == {("veh 2/ü", "major")}, 15, "resolved")
        assert real.count("alertmanager_alerts_invalid_total") == 0
        bridge.stop(process)
        wait_for(lambda: real.alerts() == [], 20, "the end of what nobody tells of any more")
        wait_for(lambda: "resolved" in _told_of(pager, "gpu-1"), 15, "the pager's end")
    assert _told_of(pager, "gpu-1")[0] == "firing"


def _epoch(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _told_of(pager: Webhook, device: str) -> list[str]:
    return [a["status"] for g in pager.got for a in g.json["alerts"] if a["labels"]["device"] == device]


def test_after_kill_9_what_is_open_is_known_from_kafka(bridge: Bridge, tmp_path: Path) -> None:
    with webhook() as pager, alertmanager(tmp_path, pager.url) as real:
        process = bridge.start("alertmanager", real.url)
        publish(bridge.settings, [made("gpu-1"), made("gpu-2"), made("gpu-3")])
        publish(
            bridge.settings, [made("gpu-2", RESOLVED, span_s=10), made("gpu-1", UPDATE, span_s=20, kind="spike")]
        )
        wait_for(lambda: {d for d, _ in shown(real.alerts())} == {"gpu-1", "gpu-3"}, 20, "firing")
        wait_for(lambda: bridge.committed("alertmanager") == 5, 15, "the commit")
        process.kill()
        process.wait(10)
        wait_for(lambda: real.alerts() == [], 20, "nothing, as nobody says them again")
        process = bridge.start("alertmanager", real.url)
        wait_for(lambda: {d for d, _ in shown(real.alerts())} == {"gpu-1", "gpu-3"}, 20, "firing again")
        assert shown(real.alerts())["gpu-1", "minor"]["labels"]["kind"] == "shift"  # as it began
        publish(bridge.settings, [made("gpu-1", RESOLVED, span_s=25), made("gpu-3", RESOLVED, span_s=25)])
        wait_for(lambda: real.alerts() == [], 15, "resolved")
        bridge.stop(process)
    assert bridge.committed("alertmanager") == 7


def test_a_silent_alert_is_ended(bridge: Bridge, tmp_path: Path) -> None:
    bridge.forward |= {"silent_s": 14, "hold_s": 300}
    with webhook() as pager, alertmanager(tmp_path, pager.url) as real:
        process = bridge.start("alertmanager", real.url, "--metrics-port", "0")
        publish(bridge.settings, [made("gone")])
        wait_for(lambda: len(real.alerts()) == 1, 20, "firing")
        wait_for(lambda: real.alerts() == [], 40, "its end")
        wait_for(lambda: _told_of(pager, "gone")[-1:] == ["resolved"], 15, "the pager's end")
        bridge.stop(process)
    assert "no longer said to Alertmanager: 1, as there was no event for forward.silent_s" in bridge.log


def test_alertmanager_that_is_away_gets_all_once_it_is_back(bridge: Bridge, tmp_path: Path) -> None:
    with webhook(lambda _n, _body: 503) as away:
        port = away.port
        process = bridge.start("alertmanager", f"http://127.0.0.1:{port}/")
        publish(bridge.settings, [made("gpu-1"), made("gpu-2"), made("gpu-2", RESOLVED, span_s=9)])
        wait_for(lambda: len(away.got) > 3, 20, "attempts")
        assert {g.path for g in away.got} == {"/api/v2/alerts"}
        time.sleep(7)  # what was made before is out of date by hold_s
    with webhook(port=port) as back:
        wait_for(lambda: bridge.committed("alertmanager") == 3, 30, "the commit")
        first = {a["labels"]["device"]: a for g in reversed(back.got) for a in g.json}
        assert _epoch(first["gpu-1"]["endsAt"]) > time.time() - 5  # of the attempt, not of the event
        bridge.stop(process)


def test_a_broker_that_is_away_resolves_nothing(bridge: Bridge, tmp_path: Path) -> None:
    kafka = EmbeddedKafka(tmp_path / "kafka", brokers=1, port=0)
    try:
        bridge.settings = bridge.settings.model_copy(
            update={"kafka": bridge.settings.kafka.model_copy(update={"bootstrap": kafka.start()})}
        )
        broker = kafka.process(0)
        assert broker is not None
        ensure(bridge.settings, (topics(bridge.settings).alerts,))
        with webhook() as receiver:
            process = bridge.start("alertmanager", f"http://127.0.0.1:{receiver.port}", "--metrics-port", "0")
            publish(bridge.settings, [made("gpu-1"), made("gpu-2")])
            wait_for(lambda: bridge.committed("alertmanager") == 2, 30, "the commit")
            freeze(broker)
            wait_for(lambda: "cut off from the group" in bridge.log, 40, "the end of the session")
            before = len(receiver.taken)
            time.sleep(4)
            said = receiver.taken[before:]
            assert {a["labels"]["device"] for g in said for a in g.json} == {"gpu-1", "gpu-2"}
            assert all(_epoch(a["endsAt"]) > time.time() - 5 for g in said for a in g.json)
            broker.resume()
            wait_for(lambda: bridge.log.count("forwards partitions") == 2, 40, "its return")
            publish(bridge.settings, [made("gpu-1", RESOLVED, span_s=20)])
            wait_for(lambda: bridge.committed("alertmanager") == 3, 30, "the commit")
            freeze(broker)
            begun = time.monotonic()
            bridge.stop(process, 25)
            assert time.monotonic() - begun < 20
            broker.resume()
        ended = [a for g in receiver.taken for a in g.json if _epoch(a["endsAt"]) <= g.at_s]
        assert [a["labels"]["device"] for a in ended] == ["gpu-1"]
    finally:
        kafka.stop()


# -- wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--to", "webhook", "http://example.org/hook"), "host example.org is not in forward.allowed_hosts"),
        (("--to", "webhook", "http://127.0.0.1.example.org/"), "is not in forward.allowed_hosts"),
        (("--to", "webhook", "ftp://127.0.0.1/"), "is not a URL such as"),
        (("--to", "webhook", "http://me:you@127.0.0.1/"), "a login in the URL"),
        (("--to", "alertmanager", "http://127.0.0.1:9093/?x=1"), "has no query"),
    ],
)
def test_where_it_may_not_send_is_said(bridge: Bridge, args: tuple[str, ...], said: str) -> None:
    result = bridge.run(*args)
    assert result.returncode == 78
    assert said in result.stderr
    assert "me:you" not in result.stderr
    assert len(result.stderr.splitlines()) < 4


def test_a_broker_that_is_away_and_a_topic_that_is_missing(bridge: Bridge) -> None:
    bridge.extra = {"FLEETWATCH_KAFKA__BOOTSTRAP": "127.0.0.1:1"}
    result = bridge.run("--to", "webhook", "http://127.0.0.1:1/")
    assert result.returncode == 69
    assert "no Kafka broker answers at 127.0.0.1:1" in result.stderr
    bridge.extra = {"FLEETWATCH_TOPICS__PREFIX": "nowhere"}
    result = bridge.run("--to", "webhook", "http://127.0.0.1:1/")
    assert result.returncode == 78
    assert "topic nowhere.alerts does not exist" in result.stderr


def test_a_port_that_is_taken_is_said(bridge: Bridge) -> None:
    with webhook() as taken:
        result = bridge.run("--to", "webhook", taken.url, "--metrics-port", str(taken.port))
    assert result.returncode == 78
    assert f"--metrics-port {taken.port}: cannot listen" in result.stderr
