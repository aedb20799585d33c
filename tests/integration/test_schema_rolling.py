"""A frame schema rolls out over real producers and workers, in either order, and no frame is lost on the way."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import next_release
import pytest
from batches import part
from real_worker import committed, read_all, wait_for
from schema_versions import header_of

from streams.core.effects import Effects
from streams.wiring import make_core
from telemetry import clients, schemas
from telemetry import settings as settings_module
from telemetry.schemas.announce import topic as announced_topic
from telemetry.topics import ensure, topics

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PARTITIONS = 4
#: Devices of each fleet; one at least in every partition is likely, and what counts is their sum.
COUNT = 6
SPEED = 6
RUN_S = 60

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a command of a release; all are ended at the end, their output is kept."""
    with ExitStack() as ended:

        def begin(release: Path, config: Path, *command: str) -> subprocess.Popen:
            log = ended.enter_context(
                (tmp_path / f"{command[0]}-{release.name}-{time.monotonic_ns()}.log").open("w")
            )
            process = subprocess.Popen(
                [sys.executable, "-m", "fleetwatch", "--config", str(config), *command],
                stdout=log,
                stderr=log,
                env=next_release.environment_of(release),
                cwd=tmp_path,
            )
            ended.callback(process.wait, 10)
            ended.callback(process.kill)
            return process

        yield begin


@pytest.mark.parametrize("order", ["producers first", "workers first"])
def test_a_new_field_rolls_out(order, kafka_bootstrap, topic_prefix, start, tmp_path):
    sections = {
        "kafka": {"bootstrap": kafka_bootstrap},
        "topics": {"prefix": topic_prefix, "partitions": PARTITIONS},
        "processing": {"group": f"{topic_prefix}-g", "session_timeout_s": 6, "commit_interval_ms": 300},
        "detectors": [{"name": "ewma"}],
        "windows": {"size_s": 2, "hop_s": 2, "grace_s": 0},
        "outputs": {"scores": False},
    }
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps(sections))
    settings = settings_module.load(config, environ={})
    ensure(settings)
    names = topics(settings)
    old, new = next_release.THIS, next_release.make(tmp_path / "next")
    base_s = time.time() - 4 * 3600

    def fleet(release: Path, kind: str, hours: int) -> subprocess.Popen:
        at = datetime.fromtimestamp(base_s + hours * 3600, UTC).isoformat()
        options = f"--class {kind} --count {COUNT} --speed {SPEED} --seconds {RUN_S} --start {at}"
        steady = "--clock-offset-max 0 --gap-rate 0"
        return start(release, config, "simulate", "devices", *options.split(), *steady.split())

    def done(process: subprocess.Popen) -> None:
        assert process.wait(90) == 0

    def upgrade_workers(worker: subprocess.Popen) -> subprocess.Popen:
        newer = start(new, config, "worker", "--port", "0")
        wait_for(lambda: members(settings) == 2, 120, "the new worker's joining")
        wait_for(lambda: members(settings, "STABLE") == 2, 30, "the rebalance")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
        return newer

    worker = start(old, config, "worker", "--port", "0")
    before = fleet(old, "sensor.pump", 0)
    wait_for(lambda: committed(settings, names.device.name) > 0, 150, "the first frame")
    if order == "workers first":
        worker = upgrade_workers(worker)
    upgraded = fleet(new, "gpu.node", 0)
    done(before)
    after = fleet(new, "sensor.pump", 1)  # the same devices, upgraded
    if order == "producers first":
        done(upgraded)
        worker = upgrade_workers(worker)
    done(upgraded)
    done(after)

    sent = read_all(settings, names.device.name)
    wait_for(lambda: committed(settings, names.device.name) == len(sent), 60, "the last frame")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    versions = Counter(message.value()[:10] for message in sent)
    assert set(versions) == {schemas.header("frame"), header_of(next_release.schema())}
    assert min(versions.values()) > 50
    announced = {m.key() for m in read_all(settings, announced_topic(settings).name)}
    assert announced == {header_of(next_release.schema()).hex().encode()}

    assert read_all(settings, names.dlq.name) == []
    assert read_all(settings, names.late.name) == []
    expected = in_one_go(settings, tmp_path, sent)
    got = sorted(message.value() for message in read_all(settings, names.features.name))
    assert len(expected) > 2 * COUNT * RUN_S // 2
    assert got == expected  # every frame is in them, each window once


def members(settings: settings_module.Settings, state: str | None = None) -> int:
    """Workers in the group; 0 if it is not in that state."""
    group = settings.processing.group
    client = clients.admin(settings)
    found = client.describe_consumer_groups([group])[group].result(10)
    return len(found.members) if state in (None, found.state.name) else 0


def in_one_go(settings: settings_module.Settings, folder: Path, sent: list) -> list[bytes]:
    """The features of the same frames, from a core that knew both schemas all along."""
    accepted = folder / "accepted.avsc"
    accepted.write_text(json.dumps(next_release.schema()))
    sections = settings.model_dump(mode="json", exclude_unset=True) | {"schemas": {"accept": [str(accepted)]}}
    core, effects = make_core(settings_module.load(environ={}, **sections)), Effects()
    name = topics(settings).device.name
    for partition in range(PARTITIONS):
        records = [(m.key(), m.value()) for m in sent if m.partition() == partition]
        if records:
            core.process(name, partition, [part(records)], 0, time.time_ns() // 1000, effects)
    assert effects.dead == []
    return sorted(message["value"] for message in effects.features)
