"""Jars enter the cache verified, or not at all. The repository here is a real HTTP server, a user's mirror."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fleetwatch.kafka import artifacts, manifest
from fleetwatch.kafka.artifacts import ArtifactUnavailableError, CacheError, ChecksumError
from fleetwatch.kafka.manifest import Jar
from fleetwatch.kafka.network import free_ports

CONTENT = {"alpha": b"first jar" * 1000, "beta": b"second jar" * 5000}
JARS = tuple(
    Jar(hashlib.sha256(data).hexdigest(), f"{name}-1.0.jar", len(data), f"org.example:{name}:1.0")
    for name, data in CONTENT.items()
)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_request(self, *args):
        del args

    log_error = log_request


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """Folder of a Maven repository that is served; nothing else can be reached."""
    folder = tmp_path / "repository"
    for jar, data in zip(JARS, CONTENT.values(), strict=True):
        path = folder / jar.repository_path
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    settings = tmp_path / "jgo.conf"
    settings.write_text(f"[repositories]\nmirror = http://127.0.0.1:{server.server_port}\n", encoding="utf-8")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
    monkeypatch.setenv("FLEETWATCH_CACHE_DIR", str(tmp_path / "cache"))
    _close_the_outside(monkeypatch)
    monkeypatch.setattr(artifacts, "load", lambda: JARS)
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def _close_the_outside(monkeypatch):
    (ports,) = free_ports(1)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{ports.client}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


def _left_in_cache():
    return sorted(path.name for path in artifacts.jar_folder().iterdir())


def test_jars_come_in_class_path_order_and_are_told(repository):
    steps = []
    paths = artifacts.class_path(steps.append)
    assert [path.name for path in paths] == ["alpha-1.0.jar", "beta-1.0.jar"]
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    told = [step.text for step in steps if step.final]
    assert any("2/2" in text for text in told)
    assert max(step.size_bytes for step in steps) == sum(jar.size for jar in JARS)


def test_a_full_cache_needs_no_repository(repository):
    first = artifacts.class_path()
    (repository / JARS[0].repository_path).unlink()
    steps = []
    assert artifacts.class_path(steps.append) == first
    assert steps == []


@pytest.mark.parametrize("change", ["same size", "longer", "shorter"])
def test_a_tampered_jar_never_enters_the_cache(repository, change):
    path = repository / JARS[1].repository_path
    data = path.read_bytes()
    path.write_bytes({"same size": b"X" + data[1:], "longer": data + b"X", "shorter": data[:-1]}[change])
    with pytest.raises(ChecksumError, match=r"org\.example:beta:1\.0") as caught:
        artifacts.class_path()
    assert caught.value.exit_code == 65
    assert "beta-1.0.jar" not in _left_in_cache()
    assert not any(".part" in name for name in _left_in_cache())


def test_a_jar_damaged_in_the_cache_is_fetched_again(repository):
    path = artifacts.class_path()[0]
    path.write_bytes(b"Z" * len(path.read_bytes()))
    assert artifacts.class_path()[0].read_bytes() == CONTENT["alpha"]


def test_without_a_repository_the_message_says_what_and_what_to_do(repository, monkeypatch):
    monkeypatch.setenv("JGO_CONFIG_FILE", str(repository / "absent.conf"))
    with pytest.raises(ArtifactUnavailableError) as caught:
        artifacts.class_path()
    message = str(caught.value)
    assert caught.value.exit_code == 69
    assert "org.example:" in message
    assert "Maven repository" in message
    assert "FLEETWATCH_KAFKA__BOOTSTRAP" in message
    assert "HTTPS_PROXY" in message


def test_what_was_fetched_before_a_failure_is_kept(repository):
    gone = repository / JARS[1].repository_path
    gone.unlink()
    with pytest.raises(ArtifactUnavailableError, match=r"org\.example:beta"):
        artifacts.class_path()
    assert _left_in_cache() == ["alpha-1.0.jar"]
    gone.write_bytes(CONTENT["beta"])
    steps = []
    artifacts.class_path(steps.append)
    assert any("1/1 beta-1.0.jar" in step.text for step in steps)


def test_two_at_once_fetch_once(repository):
    counts = []

    def run():
        steps = []
        artifacts.class_path(steps.append)
        counts.append(len(steps))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts)[0] == 0 < sorted(counts)[1]


def test_a_cache_that_cannot_be_written_is_named(repository, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("FLEETWATCH_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="FLEETWATCH_CACHE_DIR"):
        artifacts.class_path()


def test_the_shipped_manifest_holds_kafka_its_clients_and_a_log_binding():
    jars = manifest.load()
    coordinates = {jar.coordinate for jar in jars}
    assert {
        f"org.apache.kafka:kafka_2.13:{manifest.KAFKA_VERSION}",
        f"org.apache.kafka:kafka-clients:{manifest.KAFKA_VERSION}",
        manifest.SLF4J_BINDING,
    } <= coordinates
    assert len({jar.name for jar in jars}) == len(jars)
    for jar in jars:
        _, artifact, version = jar.coordinate.split(":")
        assert jar.name == f"{artifact}-{version}.jar"


def test_a_manifest_reads_back_as_written():
    assert manifest.parse(manifest.render(JARS)) == JARS


@pytest.mark.parametrize(
    "line", ["", "abc  a.jar  3  g:a:1", f"{'0' * 64}  a.jar  x  g:a:1", f"{'0' * 64}  a.jar  3  g:a"]
)
def test_a_bad_manifest_line_is_refused(line):
    with pytest.raises(ValueError, match="manifest"):
        manifest.parse(line + "\n")
