"""Who may do what, as data. The rule: a role has what its work needs, and nothing that only might be useful.

Topics name their writers and readers in `telemetry.topics`; here are the groups and transactions, and how all of it
becomes a cluster's access control lists. Nothing is ever taken away: what a principal has beyond its role is told.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from telemetry.clients import admin, cluster_metadata
from telemetry.errors import AccessError, BrokerUnavailableError, TopicError
from telemetry.log import printable
from telemetry.passing import PASSING
from telemetry.settings import Settings
from telemetry.topics import TopicSpec, topics

#: role -> whose it is
ROLES = {
    "producer": "Gateways, simulators and replays: what sends frames.",
    "worker": "`fleetwatch worker`.",
    "subscriber": "`fleetwatch alerts`, and programs that act on alerts.",
    "forwarder": "`fleetwatch alerts forward`.",
    "observer": "Autoscaler, `fleetwatch topics list`; with subscriber: `fleetwatch top`. No records.",
    "replayer": "`fleetwatch dlq`: reads dead letters and sends them in again.",
}
Resource = Literal["topic", "group", "transactional id"]
Operation = Literal["READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"]
_TYPES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional id": ResourceType.TRANSACTIONAL_ID,
}
_TIMEOUT_S = 20.0
_PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission. prefixed : `name` is how the resource's name begins; then `example` is one such name."""

    resource: Resource
    name: str
    operation: Operation
    why: str
    prefixed: bool = False
    example: str = ""

    def binding(self, principal: str) -> AclBinding:
        """From any host: which hosts reach the brokers is the network's to say."""
        pattern = ResourcePatternType.PREFIXED if self.prefixed else ResourcePatternType.LITERAL
        return AclBinding(
            _TYPES[self.resource],
            self.name,
            pattern,
            principal,
            "*",
            AclOperation[self.operation],
            AclPermissionType.ALLOW,
        )


def _topic_grants(specs: Iterable[TopicSpec], role: str) -> list[Grant]:
    found: list[Grant] = []
    for spec in specs:
        if role in spec.readers:
            found.append(Grant("topic", spec.name, "READ", spec.doc))
        if role in spec.writers:
            found.append(Grant("topic", spec.name, "WRITE", spec.doc))
    return found


def roles(settings: Settings) -> dict[str, tuple[Grant, ...]]:
    """Every role's grants under the settings' names. READ and WRITE imply DESCRIBE, as Kafka has it."""
    prefix, group = settings.topics.prefix, settings.processing.group
    specs = topics(settings).all()
    any_topic = topics(settings).vehicle.name
    schema_group = Grant("group", "fleetwatch.schemas", "DESCRIBE", "Who reads schemas; joins no group.")
    own: dict[str, tuple[Grant, ...]] = {
        "producer": (
            schema_group,
            Grant("group", "fleetwatch-control-", "DESCRIBE", "Who takes orders; joins no group.", prefixed=True),
        ),
        "worker": (
            schema_group,
            Grant("group", group, "READ", "The group that shares the partitions, and its offsets."),
            Grant("group", f"{group}-restore", "DESCRIBE", "Who restores state; joins no group."),
            Grant("transactional id", f"{group}-", "WRITE", "One transaction a commit.", prefixed=True),
            Grant("transactional id", f"{group}-", "DESCRIBE", "Finding its coordinator.", prefixed=True),
        ),
        "subscriber": (
            Grant("group", f"{group}-spectator", "DESCRIBE", "`fleetwatch alerts`; joins no group."),
            Grant("group", f"{group}-subscriber-", "READ", "Groups of programs of your own.", prefixed=True),
        ),
        "forwarder": (Grant("group", f"{group}-forward-", "READ", "One group for each receiver.", prefixed=True),),
        "observer": (
            Grant("topic", f"{prefix}.", "DESCRIBE", "Ends of partitions: rates and lag.", True, any_topic),
            Grant("topic", f"{prefix}.", "DESCRIBE_CONFIGS", "Whether topics are as expected.", True, any_topic),
            Grant("group", group, "DESCRIBE", "Committed offsets and members."),
        ),
        "replayer": (
            schema_group,
            Grant("group", f"{group}-spectator", "DESCRIBE", "Who reads dead letters; joins no group."),
        ),
    }
    return {role: (*_topic_grants(specs, role), *own[role]) for role in ROLES}


def bindings(settings: Settings, principals: Mapping[str, Sequence[str]]) -> list[tuple[str, Grant, AclBinding]]:
    """(role, grant, the cluster's form of it) of every principal. principals : role -> ``User:name`` ..."""
    known = roles(settings)
    return [
        (role, grant, grant.binding(principal))
        for role, named in principals.items()
        for principal in named
        for grant in known[role]
    ]


@dataclass(frozen=True, slots=True)
class Applied:
    """created : new on the cluster. present : how many were there. beyond : what these principals also have."""

    created: tuple[AclBinding, ...]
    present: int
    beyond: tuple[AclBinding, ...]


def words(binding: AclBinding) -> str:
    """One line: User:w WRITE topic telemetry.alerts, or ``fleetwatch-*`` for a prefix."""
    star = "*" if binding.resource_pattern_type == ResourcePatternType.PREFIXED else ""
    kind = binding.restype.name.lower().replace("_", " ")
    host = "" if binding.host == "*" else f" from {binding.host}"
    deny = "" if binding.permission_type == AclPermissionType.ALLOW else "DENY "
    return printable(f"{binding.principal} {deny}{binding.operation.name} {kind} {binding.name}{star}{host}")


def compare(
    settings: Settings, principals: Mapping[str, Sequence[str]], client: AdminClient | None = None
) -> Applied:
    """What `apply` would do.

    Raises
    ------
    AccessError : we may not see the lists. TopicError : the cluster has none. BrokerUnavailableError : no answer.
    """
    client = client or admin(settings)
    cluster_metadata(client, settings)
    wanted = {binding: None for _, _, binding in bindings(settings, principals)}
    there: set[AclBinding] = set()
    for principal in sorted({binding.principal for binding in wanted}):
        there |= set(_described(client, principal))
    created = tuple(binding for binding in wanted if binding not in there)
    beyond = tuple(sorted(there - set(wanted), key=words))
    return Applied(created, len(wanted) - len(created), beyond)


def apply(settings: Settings, principals: Mapping[str, Sequence[str]]) -> Applied:
    """Create what is missing; a second time changes nothing.

    Raises
    ------
    AccessError, TopicError, BrokerUnavailableError : as `compare`, or the lists may not be changed.
    """
    client = admin(settings)
    found = compare(settings, principals, client)
    if found.created:
        for future in client.create_acls(list(found.created), request_timeout=_TIMEOUT_S).values():
            try:
                future.result(_TIMEOUT_S)
            except KafkaException as exc:
                raise _explained(exc, "change") from exc
    return found


def lacking(settings: Settings, role: str) -> list[Grant]:
    """What this login lacks of a role's grants on topics and groups, asked of the cluster itself.

    Transactions are not asked for: Kafka tells of them only when one is begun. A topic that does not exist lacks
    nothing: that is `telemetry.topics.ensure`'s to say.

    Raises
    ------
    SettingsError, BrokerUnavailableError : as `telemetry.clients.cluster_metadata`, or no answer.
    """
    client = admin(settings)
    cluster_metadata(client, settings)
    grants = [grant for grant in roles(settings)[role] if grant.resource != "transactional id"]
    names: dict[str, list[str]] = {"topic": [], "group": []}
    for grant in grants:
        names[grant.resource].append(grant.example or grant.name)
    allowed = _all_allowed(client, names["topic"], names["group"])
    return [
        grant
        for grant in grants
        if (found := allowed[grant.resource, grant.example or grant.name]) is not None
        and grant.operation not in found
    ]


def _all_allowed(
    client: AdminClient, topic_names: Iterable[str], group_names: Iterable[str]
) -> dict[tuple[str, str], set[str] | None]:
    """`_allowed` by (kind, name). A new cluster's coordinators are still being made: it is asked again."""
    options: dict[str, Any] = {"include_authorized_operations": True, "request_timeout": _TIMEOUT_S}
    named, groups = TopicCollection(sorted(set(topic_names))), sorted(set(group_names))
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        asked = {("topic", n): f for n, f in client.describe_topics(named, **options).items()}
        asked |= {("group", n): f for n, f in client.describe_consumer_groups(groups, **options).items()}
        try:
            return {at: _allowed(future) for at, future in asked.items()}
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() not in PASSING or time.monotonic() > deadline:
                said = f"asking what this login may do: {error.name()}: {printable(error.str())}"
                raise BrokerUnavailableError(said) from exc
            time.sleep(_PAUSE_S)


def _allowed(future: Any) -> set[str] | None:
    """The operations that a description says are allowed; None = there is no such resource."""
    try:
        return {operation.name for operation in future.result(_TIMEOUT_S).authorized_operations or ()}
    except KafkaException as exc:
        code = exc.args[0].code()
        if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED):
            return set()
        if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        raise


def require(settings: Settings, role: str) -> None:
    """Before a process begins its work: whether its login may do all of it.

    Raises
    ------
    AccessError : names everything that is lacking. Else as `lacking`.
    """
    if missing := lacking(settings, role):
        who = settings.kafka.sasl_username or settings.kafka.ssl_certificate or "this client"
        what = ", ".join(f"{g.operation} {g.resource} {g.name}{'*' if g.prefixed else ''}" for g in missing)
        raise AccessError(
            f"{who} may not do the work of a {role}; lacking: {what}. An administrator runs `fleetwatch topics "
            f"apply --acls --principal {role}=User:NAME`"
        )


def _described(client: AdminClient, principal: str) -> list[AclBinding]:
    """All that the cluster's lists say of a principal by name."""
    every = AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        principal,
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    try:
        found: list[AclBinding] = client.describe_acls(every, request_timeout=_TIMEOUT_S).result(_TIMEOUT_S)
    except KafkaException as exc:
        raise _explained(exc, "see") from exc
    return found


def _explained(exc: KafkaException, what: str) -> Exception:
    error = exc.args[0]
    if error.code() == KafkaError.SECURITY_DISABLED:
        return TopicError(
            "the brokers have no authoriser, so there are no access control lists to apply: set "
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer on each"
        )
    if error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
        return AccessError(
            f"this login may not {what} access control lists: use one of the brokers' super.users, or one that has "
            "DESCRIBE and ALTER on the cluster"
        )
    return BrokerUnavailableError(f"access control lists: {printable(error.str())}")
