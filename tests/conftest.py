"""Fixtures for every test. The rule: where a broker is involved it is a real one."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from fleetwatch import kernelcache
from fleetwatch.kafka.cluster import EmbeddedKafka

kernelcache.use()  # before a test imports a kernel

# the same examples on every machine; HYPOTHESIS_PROFILE=search looks for new ones
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000, derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def kafka_bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real Kafka: FLEETWATCH_KAFKA__BOOTSTRAP, or the embedded one for this session."""
    if given := os.environ.get("FLEETWATCH_KAFKA__BOOTSTRAP"):
        yield given
        return
    folder: Path = tmp_path_factory.mktemp("kafka")
    kafka = EmbeddedKafka(folder, brokers=1, port=0)
    try:
        yield kafka.start()
    finally:
        kafka.stop()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix that no other test uses, for `topics.prefix`: lower case, without a dot at its end."""
    return "t" + uuid.uuid4().hex[:8]
