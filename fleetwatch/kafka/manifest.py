"""The committed list of jars that make the embedded Kafka. The rule: what is not on it is never run.

`kafka-<version>.sha256` holds one jar a line: SHA-256, file name, size in bytes, group:artifact:version, in
class path order. A new Kafka version gets a new file with ``python -m fleetwatch.kafka.manifest VERSION``.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

KAFKA_VERSION = "4.2.0"
SCALA_VERSION = "2.13"
#: Kafka's own dependencies hold only slf4j's API; without a binding the broker writes no log.
SLF4J_BINDING = "org.slf4j:slf4j-simple:1.7.36"


@dataclass(frozen=True)
class Jar:
    """One line of the manifest."""

    sha256: str
    name: str
    size: int
    coordinate: str

    @property
    def repository_path(self) -> str:
        """Where a Maven repository keeps it, relative to the repository's root."""
        group, artifact, version = self.coordinate.split(":")
        return f"{group.replace('.', '/')}/{artifact}/{version}/{self.name}"


def parse(text: str) -> tuple[Jar, ...]:
    """Read a manifest.

    Raises
    ------
    ValueError : a line that is not SHA-256, name, size, coordinate; the message says which.
    """
    jars: list[Jar] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 4 or len(fields[0]) != 64 or not fields[2].isdigit() or fields[3].count(":") != 2:
            raise ValueError(f"manifest line {number} is not 'sha256 name size group:artifact:version': {line!r}")
        jars.append(Jar(fields[0], fields[1], int(fields[2]), fields[3]))
    if not jars:
        raise ValueError("the manifest names no jar")
    return tuple(jars)


def load(version: str = KAFKA_VERSION) -> tuple[Jar, ...]:
    """The manifest that ships with this package."""
    return parse((Path(__file__).parent / f"kafka-{version}.sha256").read_text(encoding="ascii"))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resolve(version: str) -> tuple[Jar, ...]:
    """Resolve Kafka's poms, fetch every jar and check it against the SHA-1 that the repository publishes.

    For maintainers; slow (some two hundred requests). Users fetch the listed jars directly.

    Raises
    ------
    RuntimeError : a jar that does not match its published checksum.
    """
    from jgo.maven import MavenContext
    from jgo.util import http

    jars: list[Jar] = []
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder), local_repos=[], timeout=60)
        wanted = [f"org.apache.kafka:kafka_{SCALA_VERSION}:{version}", SLF4J_BINDING]
        inputs, others = context.resolver.resolve([context.create_dependency(each) for each in wanted])
        for dependency in [*inputs, *others]:
            artifact = dependency.artifact
            path = artifact.resolve()
            jar = Jar(
                sha256_of(path),
                artifact.filename,
                path.stat().st_size,
                f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}",
            )
            (repository,) = context.remote_repos.values()
            published = http.get(f"{repository}/{jar.repository_path}.sha1", timeout=60)
            published.raise_for_status()
            actual = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
            if published.text.split()[0] != actual:
                raise RuntimeError(f"{jar.coordinate} does not match its published checksum")
            jars.append(jar)
    return tuple(jars)


def render(jars: tuple[Jar, ...]) -> str:
    """The manifest's text; `parse` reads it back."""
    head = "# The jars of the embedded Kafka, in class path order: SHA-256, file, bytes, coordinate.\n"
    return head + "".join(f"{jar.sha256}  {jar.name}  {jar.size}  {jar.coordinate}\n" for jar in jars)


if __name__ == "__main__":
    sys.stdout.write(render(resolve(sys.argv[1] if len(sys.argv) > 1 else KAFKA_VERSION)))
