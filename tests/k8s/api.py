"""Kubernetes' HTTP API in plain dicts. The rule: every call has an end, every refusal is an error with its text.

The tests and the process kubelet speak through this and not through the client library that the autoscaler uses:
what is tested does not judge itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Object = dict[str, Any]
JSON, STRATEGIC, MERGE = (
    "application/json",
    "application/strategic-merge-patch+json",
    "application/merge-patch+json",
)
TIMEOUT_S = 10.0
WATCH_S = 60


class ApiError(Exception):
    """The server refused. status : HTTP's code; reason : e.g. NotFound, Conflict."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason = status, reason


#: The server does not answer, or not in time.
Unreachable = urllib3.exceptions.HTTPError


@dataclass(frozen=True)
class Access:
    """Where a server is and who we are to it."""

    server: str
    ca: Path
    token: str

    def write(self, path: Path) -> Path:
        """As a kubeconfig file."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": self.server, "certificate-authority": str(self.ca)}}
            ],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    @classmethod
    def read(cls, path: Path) -> Access:
        """Of a file that `write` made."""
        config = yaml.safe_load(path.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        return cls(cluster["server"], Path(cluster["certificate-authority"]), user["token"])


class Api:
    """One client; threads may share it."""

    def __init__(self, access: Access) -> None:
        self.server = access.server
        self._headers = {"Authorization": f"Bearer {access.token}"}
        self._pool = urllib3.PoolManager(
            maxsize=16, block=False, retries=False, ca_certs=str(access.ca), cert_reqs="CERT_REQUIRED"
        )

    def call(
        self, method: str, path: str, body: Object | None = None, kind: str = JSON, timeout_s: float = TIMEOUT_S
    ) -> Object:
        """One request.

        Raises
        ------
        ApiError : refused. Unreachable : no answer.
        """
        answer = self._pool.request(
            method,
            self.server + path,
            body=None if body is None else json.dumps(body).encode(),
            headers=self._headers | {"Content-Type": kind},
            timeout=timeout_s,
        )
        if answer.status >= 400:
            raise _error(answer.status, answer.data)
        found: Object = json.loads(answer.data) if answer.data[:1] == b"{" else {"text": answer.data.decode()}
        return found

    def get(self, path: str) -> Object:
        return self.call("GET", path)

    def post(self, path: str, body: Object) -> Object:
        return self.call("POST", path, body)

    def patch(self, path: str, body: Object, kind: str = STRATEGIC) -> Object:
        return self.call("PATCH", path, body, kind)

    def delete(self, path: str, body: Object | None = None) -> Object:
        return self.call("DELETE", path, body)

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def watch(self, path: str, version: str, **query: str) -> Iterator[tuple[str, Object]]:
        """(ADDED | MODIFIED | DELETED, object) since a resource version, for a minute.

        Raises
        ------
        ApiError : refused; 410 = list again. Unreachable : no answer, or the connection broke.
        """
        asked = urlencode({"watch": "1", "resourceVersion": version, "timeoutSeconds": str(WATCH_S), **query})
        answer = self._pool.request(
            "GET",
            f"{self.server}{path}?{asked}",
            headers=self._headers,
            timeout=urllib3.Timeout(connect=TIMEOUT_S, read=WATCH_S + TIMEOUT_S),
            preload_content=False,
        )
        try:
            if answer.status >= 400:
                raise _error(answer.status, answer.read())
            yield from _events(answer)
        finally:
            answer.close()

    def await_that(self, path: str, wanted: Callable[[Object], bool], timeout_s: float, what: str) -> Object:
        """Ask until the object is as wanted.

        Raises
        ------
        TimeoutError : it was not; the text holds what there was.
        """
        end, found = time.monotonic() + timeout_s, dict[str, Any]()
        while time.monotonic() < end:
            try:
                found = self.get(path)
            except ApiError as error:
                if error.status != 404:
                    raise
                found = {"status": "not found"}
            else:
                if wanted(found):
                    return found
            time.sleep(0.1)
        raise TimeoutError(
            f"{what} did not come within {timeout_s:g} s; {path}: {json.dumps(found.get('status'))[:2000]}"
        )


def _events(answer: Any) -> Iterator[tuple[str, Object]]:
    rest = b""
    for chunk in answer.stream(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["type"] == "ERROR":
                status = event["object"]
                raise ApiError(status.get("code", 500), status.get("reason", ""), status.get("message", ""))
            yield event["type"], event["object"]


def _error(status: int, data: bytes) -> ApiError:
    try:
        told = json.loads(data)
        return ApiError(status, str(told.get("reason", "")), str(told.get("message", "")))
    except ValueError:
        return ApiError(status, "", data.decode(errors="replace")[:500])
