"""The JVM that runs a broker, and the class archive for its fast start. The rule: one class path, in one order.

A JVM 25 stores loaded and linked classes, method profiles and heap objects of a training run in one file
(`-XX:AOTCacheOutput`, JEP 514). It holds for exactly this JVM and these jar files at these paths: the name says
so, and the JVM ignores the archive where it does not fit.
"""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fleetwatch.kafka import artifacts, config
from fleetwatch.kafka.manifest import KAFKA_VERSION
from fleetwatch.kafka.network import answers, free_ports
from fleetwatch.kafka.paths import cache_dir, locked
from fleetwatch.kafka.progress import Progress, Step
from telemetry.errors import FleetwatchError

#: C1 only and a single-threaded collector: a third of the start's CPU, and the cores stay free for the workers.
JVM_OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError")
LOGGING = ("showDateTime=true", "dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "defaultLogLevel=info")
FORMAT_TIMEOUT_S = 120
TRAINING_TIMEOUT_S = 180


class KafkaStartError(FleetwatchError):
    """A broker or its storage could not be brought up; the message ends with its last log lines."""

    exit_code = 70


@dataclass(frozen=True)
class Runtime:
    """What is needed to run Kafka: the jars, and the archive where there is one."""

    class_path: tuple[Path, ...]
    archive: Path | None

    def command(self, heap_mb: int, main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """The command line of a Kafka main class."""
        # the JVM warns of single adapters that it cannot take from the archive; it makes them itself
        archive = (f"-XX:AOTCache={self.archive}", "-Xlog:aot*=error") if self.archive else ()
        return [
            str(artifacts.java()),
            f"-Xmx{heap_mb}m",
            *JVM_OPTIONS,
            *archive,
            *options,
            *(f"-Dorg.slf4j.simpleLogger.{each}" for each in LOGGING),
            "-Djava.awt.headless=true",
            "-cp",
            os.pathsep.join(map(str, self.class_path)),
            main,
            *arguments,
        ]

    def broker_command(self, properties: Path, heap_mb: int, options: tuple[str, ...] = ()) -> list[str]:
        # a JVM that dies writes its report beside the broker's log
        report = f"-XX:ErrorFile={properties.parent}/hs_err_%p.log"
        return self.command(heap_mb, "kafka.Kafka", str(properties), options=(report, *options))

    def format_storage(self, properties: Path, cluster_id: str) -> None:
        """Prepare a broker's data folder; a folder that is formatted already is left alone.

        Raises
        ------
        KafkaStartError : with what the tool said.
        """
        command = self.command(
            128,
            "kafka.tools.StorageTool",
            *("format", "--ignore-formatted", "-t", cluster_id, "-c", str(properties)),
        )
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=FORMAT_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise KafkaStartError(f"formatting the storage of {properties} took over {FORMAT_TIMEOUT_S} s") from exc
        if done.returncode != 0:
            said = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise KafkaStartError(f"cannot format Kafka's storage (exit {done.returncode}):\n{said}")


def archive_path(class_path: tuple[Path, ...]) -> Path:
    key = hashlib.sha256(
        "\n".join(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in class_path).encode()
    ).hexdigest()
    name = f"kafka-{KAFKA_VERSION}-jdk-{artifacts.java_version()}-{platform.machine()}-{key[:12]}.aot"
    return cache_dir() / name


def prepare(progress: Progress) -> Runtime:
    """Jars and class archive, made where they are missing.

    Raises
    ------
    ArtifactUnavailableError, ChecksumError : see `fleetwatch.kafka.artifacts.class_path`.
    """
    class_path = tuple(artifacts.class_path(progress))
    archive = archive_path(class_path)
    with locked(cache_dir() / f"kafka-{KAFKA_VERSION}-archive.lock"):
        if not archive.exists():
            _train(Runtime(class_path, None), archive, progress)
    return Runtime(class_path, archive if archive.exists() else None)


def _train(runtime: Runtime, archive: Path, progress: Progress) -> None:
    """Run a throwaway broker once and keep the classes that it loaded. Without an archive all works, slower."""
    progress(Step("making a class archive, for fast starts (once)"))
    started_s = time.monotonic()
    for old in archive.parent.glob(f"{archive.stem.rpartition('-')[0]}-*.aot*"):
        old.unlink()  # of the same JVM and version, made for jars that have been replaced
    part = archive.with_suffix(".aot.part")
    with tempfile.TemporaryDirectory(prefix="fleetwatch-kafka-") as name:
        folder = Path(name)
        properties = folder / "server.properties"
        (ports,) = free_ports(1)
        properties.write_text(config.render(config.properties(0, (ports,), folder / "data")), encoding="utf-8")
        runtime.format_storage(properties, "fleetwatch-training-00")
        command = runtime.broker_command(properties, 512, (f"-XX:AOTCacheOutput={part}",))
        log = folder / "broker.log"
        deadline_s = started_s + TRAINING_TIMEOUT_S
        with log.open("wb") as output:
            broker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while broker.poll() is None and not answers(ports.client) and time.monotonic() < deadline_s:
                time.sleep(0.05)
            broker.send_signal(signal.SIGTERM)
            broker.wait(max(1.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # told below, by the missing archive
        finally:
            if broker.poll() is None:
                broker.kill()
                broker.wait()
        if part.exists() and broker.returncode == 128 + signal.SIGTERM:
            part.replace(archive)
            progress(Step(f"class archive made in {time.monotonic() - started_s:.1f} s"))
        else:
            part.unlink(missing_ok=True)
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            reason = lines[-1] if lines else f"exit {broker.returncode}"
            progress(Step(f"no class archive could be made; starts will be slower ({reason})"))
