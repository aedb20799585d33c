"""A real schema registry for tests: Apicurio Registry, which has Confluent's API under /apis/ccompat/v7.

Fetched once from the Maven repository into the user's cache, as Kafka's jars are, and only with its known SHA-256.
It runs on the JVM that the embedded Kafka runs on, and keeps its schemas in memory.
"""

from __future__ import annotations

import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fleetwatch.kafka import artifacts
from fleetwatch.kafka.jvm import JVM_OPTIONS
from fleetwatch.kafka.manifest import Jar
from fleetwatch.kafka.network import free_ports
from fleetwatch.kafka.paths import cache_dir, locked
from fleetwatch.kafka.progress import silent

VERSION = "3.3.3"
ARCHIVE = Jar(
    "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63",
    f"apicurio-registry-app-{VERSION}-all.tar.gz",
    158_577_952,
    f"io.apicurio:apicurio-registry-app:{VERSION}",
)
API = "/apis/ccompat/v7"
#: Python before 3.11.4 has no filters; the archive is known by its hash either way.
SAFELY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
START_S = 90


def program() -> Path:
    """The folder of the unpacked program."""
    root = cache_dir() / f"apicurio-registry-{VERSION}"
    with locked(cache_dir() / f"apicurio-registry-{VERSION}.lock"):
        if not (root / "quarkus-run.jar").is_file():
            root.mkdir(parents=True, exist_ok=True)
            artifacts._download(root, [ARCHIVE], silent)
            with tarfile.open(root / ARCHIVE.name) as archive:
                archive.extractall(root, **SAFELY)
            (root / ARCHIVE.name).unlink()
    return root


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/subjects", timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Its address while it runs; the log is in `folder`."""
    root = program()
    ports = free_ports(1)[0]
    options = {
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": ports.client,
        "quarkus.management.host": "127.0.0.1",
        "quarkus.management.port": ports.controller,
    }
    command = [str(artifacts.java()), "-Xmx256m", *JVM_OPTIONS, *(f"-D{k}={v}" for k, v in options.items())]
    log = folder / "registry.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "-jar", str(root / "quarkus-run.jar")], stdout=output, stderr=output, cwd=folder
        )
    url = f"http://127.0.0.1:{ports.client}{API}"
    try:
        end = time.monotonic() + START_S
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < end, f"no registry within {START_S} s: {log.read_text()[-2000:]}"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
