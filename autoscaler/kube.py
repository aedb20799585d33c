"""The Kubernetes API as the autoscaler calls it. The rule: every call has a time-out, every refusal a remedy."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoscaler.workload import WorkloadError
from telemetry.errors import SettingsError
from telemetry.log import printable

log = logging.getLogger("fleetwatch.autoscaler")

#: A call that takes longer has failed.
CALL_S = 3.0
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeError(WorkloadError):
    """The API server did not do what was asked."""


class AwayError(KubeError):
    """No answer, or none that counts: another try may have one."""


class ConflictError(KubeError):
    """Another was faster: read again before the next try."""


class MissingError(KubeError):
    """There is no such object."""


class DeniedError(KubeError):
    """The right is lacking, or the login is not accepted."""


@dataclass(frozen=True, slots=True)
class Kube:
    """The groups of the API that are called, and where."""

    apps: Any
    core: Any
    coordination: Any
    events: Any
    authorization: Any
    namespace: str
    server: str


@dataclass(frozen=True, slots=True)
class Right:
    """What a Role has to allow. name : of the one object; "" = of any. loss : what is not done without it."""

    verb: str
    group: str
    resource: str
    name: str = ""
    loss: str = ""

    def __str__(self) -> str:
        named = f" (resourceNames: {self.name})" if self.name else ""
        return f'{self.verb} {self.resource} of apiGroup "{self.group}"{named}'


def _words(exc: Any) -> str:
    """The API server's own words, where it gave any."""
    try:
        message = json.loads(exc.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = exc.reason
    return printable(str(message))


def _refusal(exc: Any, what: str) -> KubeError:
    said = _words(exc)
    if exc.status == 401:
        return DeniedError(f"{what}: the API server does not accept our login: {said}")
    if exc.status == 403:
        return DeniedError(f"{what}: the right is lacking: {said}")
    if exc.status == 404:
        return MissingError(f"{what}: there is no such object: {said}")
    if exc.status == 409:
        return ConflictError(f"{what}: it was changed meanwhile: {said}")
    if not exc.status or exc.status == 429 or exc.status >= 500:
        return AwayError(f"{what}: the API server cannot answer now ({exc.status or 'TLS'}): {said}")
    return KubeError(f"{what}: refused ({exc.status}): {said}")


def call(function: Callable[..., Any], *args: Any, what: str, timeout_s: float = CALL_S, **kwargs: Any) -> Any:
    """`function` of the client, with a time-out. what : in words, to begin a message with.

    Raises
    ------
    KubeError : of the kind that says what may be done.
    """
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import HTTPError

    try:
        return function(*args, _request_timeout=timeout_s, **kwargs)
    except ApiException as exc:
        raise _refusal(exc, what) from exc
    except (HTTPError, OSError, ConfigException) as exc:
        raise AwayError(f"{what}: the API server does not answer: {printable(_cause(exc))}") from exc


def _cause(exc: BaseException) -> str:
    """Without the wrapping of retries that were none."""
    reason = getattr(exc, "reason", None)
    return str(reason if isinstance(reason, BaseException) else exc) or type(exc).__name__


def _login(configuration: Any) -> str:
    """Loads address and login; returns the namespace that goes with them."""
    from kubernetes import config

    if os.environ.get("KUBERNETES_SERVICE_HOST") and (_ACCOUNT / "token").exists():
        config.load_incluster_config(client_configuration=configuration)
        return (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
    file = os.environ.get("KUBECONFIG") or "~/.kube/config"  # the library looked when it was imported
    config.load_kube_config(file, client_configuration=configuration, persist_config=False)
    _, active = config.list_kube_config_contexts(file)
    return str(active["context"].get("namespace") or "default")


def connect(namespace: str = "") -> Kube:
    """As the pod's ServiceAccount, or as the kubeconfig says (variable KUBECONFIG). No call is made yet.

    Raises
    ------
    SettingsError : there is neither, or it cannot be used.
    """
    import yaml
    from kubernetes import client
    from kubernetes.config.config_exception import ConfigException

    configuration = client.Configuration()
    try:
        own = _login(configuration)
    except (ConfigException, OSError, yaml.YAMLError, KeyError, TypeError) as exc:
        raise SettingsError(
            f"no way to a Kubernetes API: {printable(str(exc))}\n"
            "  In a pod, mount a ServiceAccount's token; elsewhere set KUBECONFIG to a file that `kubectl` can use."
            "\n  To watch and decide without Kubernetes: autoscaler.target none (--target none)."
        ) from exc
    configuration.retries = 0  # urllib3 would try four times, each with the time-out
    api = client.ApiClient(configuration)
    return Kube(
        apps=client.AppsV1Api(api),
        core=client.CoreV1Api(api),
        coordination=client.CoordinationV1Api(api),
        events=client.EventsV1Api(api),
        authorization=client.AuthorizationV1Api(api),
        namespace=namespace or own,
        server=str(configuration.host),
    )


def lacking(kube: Kube, rights: Iterable[Right]) -> list[Right]:
    """Those that this login does not have in the namespace, by the API server's own word.

    Raises
    ------
    KubeError : it does not tell.
    """
    from kubernetes import client

    found = []
    for right in rights:
        resource, _, subresource = right.resource.partition("/")
        attributes = client.V1ResourceAttributes(
            namespace=kube.namespace,
            verb=right.verb,
            group=right.group,
            resource=resource,
            subresource=subresource or None,
            name=right.name or None,
        )
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        answer = call(
            kube.authorization.create_self_subject_access_review, review, what="asking what this login may do"
        )
        if not answer.status.allowed:
            found.append(right)
    return found
