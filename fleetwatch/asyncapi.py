"""The AsyncAPI 3.0 document of the topics. The rule: a fact stands in the contract, and is read there.

`docs/asyncapi.yaml` is that of the default settings, written and checked by `python -m fleetwatch.reference`;
``python -m fleetwatch.asyncapi`` prints that of the settings in force: your prefix, partitions and broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

import click
import yaml

from fleetwatch.asyncapi_examples import EXAMPLES
from fleetwatch.asyncapi_schemas import Node, all_schemas, ref, schema_of, text_of
from telemetry import acls, schemas
from telemetry import settings as contract
from telemetry.alerts import CONTENT_TYPE
from telemetry.kafka_settings import KafkaSettings
from telemetry.settings import Settings
from telemetry.topics import Topics, TopicSpec, topics

BINDING_VERSION = "0.5.0"
AVRO = "avro/binary"
JSON = "application/json"
OPAQUE = "application/octet-stream"
WIDTH = 112

_NOTE = "# Written by `python -m fleetwatch.reference`; do not edit.\n"
_ABOUT = """Every topic of Fleetwatch: who writes it, who reads it, keys, headers, schemas. Names and figures are
those of the settings that it was written with (`topics.prefix`, `topics.partitions`).

Operations are those of the system's roles, which are also what access control lists are made of: a program of
yours that acts on alerts is a `subscriber`, a gateway that sends frames is a `producer`.

Avro records are in single-object encoding: `C3 01`, the 8 bytes of the CRC-64-AVRO fingerprint of the writer's
schema, little-endian, then the record. With a schema registry, frames may begin with Confluent's header instead.
Examples of Avro records are shown decoded; `x-records` has each example's key and, where it is not JSON, its
value as it is on the topic, in hex.
"""

#: `TopicSpec.value` -> the messages that a topic of it carries
VALUES: Mapping[str, tuple[str, ...]] = {
    **{schemas.raw(name)["name"]: (name,) for name in schemas.NAMES},
    "JSON, CloudEvents": ("alert",),
    "as it was": ("dead_letter",),
    "JSON": ("order", "answer"),
    "Avro schema, JSON": ("announcement",),
}
#: `TopicSpec.key` -> the schema of the key
KEYS: Mapping[str, str] = {
    "device id": "device_id",
    "as it was": "any_key",
    "run": "run",
    "header, hex": "schema_header",
}
#: Messages whose values are not Avro -> (content type, title, what they are)
_OTHERS: Mapping[str, tuple[str, str, str]] = {
    "alert": (
        CONTENT_TYPE,
        "Alert",
        "One event in the life of an alert: CloudEvents 1.0, Kafka protocol binding, binary mode.",
    ),
    "dead_letter": (OPAQUE, "DeadLetter", "A refused record, byte for byte; its headers say where it was and why."),
    "order": (JSON, "Order", "Asks running simulations to inject a fault."),
    "answer": (JSON, "Answer", "What a simulation did about an order."),
    "announcement": (JSON, "Announcement", "An Avro schema that records are, or will be, written with."),
}
_HEADERS: Mapping[str, str] = {
    "frame": "frame_headers",
    "alert": "alert_headers",
    "dead_letter": "dead_letter_headers",
}


# ---------------------------------------------------------------- messages, channels, operations


def _message(name: str, key: Node) -> Node:
    if name in _OTHERS:
        content_type, title, about = _OTHERS[name]
    else:
        content_type, title, about = AVRO, schemas.raw(name)["name"], schemas.raw(name)["doc"]
    found: Node = {"name": name, "title": title, "summary": about, "contentType": content_type}
    if name in _HEADERS:
        found["headers"] = schema_of(_HEADERS[name])
    binding: Node = {"key": key}
    if name not in _OTHERS:
        binding |= {"schemaIdLocation": "payload", "schemaIdPayloadEncoding": "avro-single-object"}
    examples = EXAMPLES[name]()
    shown, records = [], {}
    for example in examples:
        parts: Node = {"name": example.name}
        if example.headers:
            parts["headers"] = dict(example.headers)
        if example.payload is not None:
            parts["payload"] = example.payload
        shown.append(parts)
        records[example.name] = {"key": example.key.decode()}
        if content_type != JSON:
            records[example.name]["value"] = example.value.hex()
    return {
        **found,
        "payload": schema_of(name),
        "bindings": {"kafka": {**binding, "bindingVersion": BINDING_VERSION}},
        "examples": shown,
        "x-records": records,
    }


def _messages(names: Topics, known: Node) -> Node:
    # keys are not references: by the binding's own schema a reference is two things at once
    return {
        message: _message(message, known[KEYS[spec.key]]) for spec in names.all() for message in VALUES[spec.value]
    }


def _config(name: str, value: str) -> Any:
    """A topic's setting as the binding types it."""
    if name == "cleanup.policy":
        return value.split(",")
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _channel(spec: TopicSpec, settings: Settings) -> Node:
    return {
        "address": spec.name,
        "summary": spec.doc,
        "messages": {message: ref("components", "messages", message) for message in VALUES[spec.value]},
        "bindings": {
            "kafka": {
                "topic": spec.name,
                "partitions": spec.partitions,
                "replicas": settings.topics.replication,
                "topicConfiguration": {name: _config(name, value) for name, value in spec.config},
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _group(grants: tuple[acls.Grant, ...]) -> Node | None:
    """The schema of a role's consumer group; None = it joins none."""
    for grant in grants:
        if grant.resource == "group" and grant.operation == "READ":
            name = grant.name.replace(".", "\\.")
            return (
                text_of(grant.why, pattern=f"^{name}.+$")
                if grant.prefixed
                else text_of(grant.why, const=grant.name)
            )
    return None


def _operation(
    channel: str, spec: TopicSpec, role: str, action: Literal["send", "receive"], group: Node | None
) -> Node:
    found: Node = {"action": action, "channel": ref("channels", channel), "summary": spec.doc}
    if action == "send" and spec.key == "device id":
        found["description"] = "Partition = murmur2 of the key, as Java's default; librdkafka: `murmur2_random`."
    if action == "receive" and "worker" in spec.writers:
        found["description"] = "Read with `isolation.level=read_committed`: workers write in transactions."
    found["tags"] = [{"name": role}]
    if group:
        found["bindings"] = {"kafka": {"groupId": group, "bindingVersion": BINDING_VERSION}}
    found["messages"] = [ref("channels", channel, "messages", message) for message in VALUES[spec.value]]
    return found


def _operations(names: Topics, settings: Settings) -> Node:
    roles, found = acls.roles(settings), {}
    for channel in names.__slots__:
        spec: TopicSpec = getattr(names, channel)
        for role in spec.writers:
            found[f"{role}_sends_{channel}"] = _operation(channel, spec, role, "send", None)
        for role in spec.readers:
            # a worker's group is for the inputs; all else it reads from the beginning, without a group
            joins = role != "worker" or spec in names.inputs
            group = _group(roles[role]) if joins else None
            found[f"{role}_receives_{channel}"] = _operation(channel, spec, role, "receive", group)
    return found


# ---------------------------------------------------------------- the document


_SCHEMES: Mapping[str, tuple[str, str]] = {
    "PLAIN": ("plain", "By name and password, which TLS keeps secret."),
    "SCRAM-SHA-256": ("scramSha256", "By name and password."),
    "SCRAM-SHA-512": ("scramSha512", "By name and password."),
    "mTLS": ("X509", "By client certificate, where the brokers ask for one."),
}


def _server(protocol: str, host: str, port: str) -> Node:
    """How a cluster of one `kafka.security_protocol` is reached."""
    schemes: list[str] = []
    if protocol.startswith("SASL"):
        mechanisms = get_args(KafkaSettings.model_fields["sasl_mechanism"].annotation)
        # the settings refuse a password in clear
        schemes = [m for m in mechanisms if m != "PLAIN" or protocol == "SASL_SSL"]
    elif protocol == "SSL":
        schemes = ["mTLS"]
    found: Node = {
        "host": "{host}:{port}",
        "protocol": "kafka-secure" if protocol.endswith("SSL") else "kafka",
        "description": f"Brokers with `security.protocol={protocol}`.",
        "variables": {
            "host": {"default": host, "description": "Any broker of the cluster."},
            "port": {"default": port, "description": "Of its listener."},
        },
    }
    if schemes:
        found["security"] = [ref("components", "securitySchemes", scheme) for scheme in schemes]
    return found


def document(settings: Settings) -> Node:
    """The document as plain data. Nothing of the machine gets into it but what the settings say."""
    names = topics(settings)
    host, _, port = settings.kafka.bootstrap.split(",")[0].strip().rpartition(":")
    protocols = get_args(KafkaSettings.model_fields["security_protocol"].annotation)
    carried = {message for spec in names.all() for message in VALUES[spec.value]}
    known = all_schemas(name for name in schemas.NAMES if name in carried and name not in _OTHERS)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fleetwatch",
            "version": metadata.version("fleetwatch"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": role, "description": whose} for role, whose in acls.ROLES.items()],
        },
        "defaultContentType": AVRO,
        "servers": {protocol.lower(): _server(protocol, host, port) for protocol in protocols},
        "channels": {name: _channel(getattr(names, name), settings) for name in names.__slots__},
        "operations": _operations(names, settings),
        "components": {
            "messages": _messages(names, known),
            "schemas": known,
            "securitySchemes": {name: {"type": kind, "description": t} for name, (kind, t) in _SCHEMES.items()},
        },
    }


class _Dumper(yaml.SafeDumper):
    """References and lists of scalars on one line, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _mapping(dumper: yaml.SafeDumper, data: Node) -> yaml.Node:
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=list(data) == ["$ref"])


def _list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(each, dict | list) for each in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


def _string(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(dict, _mapping)
_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _string)


def page(settings: Settings) -> str:
    """The document as YAML, with the note that it is written by a program."""
    text: str = yaml.dump(document(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return _NOTE + text


@click.command()
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings, as of `fleetwatch`.")
def main(config: Path | None) -> None:
    """Print the AsyncAPI document of the settings in force."""
    click.echo(page(contract.load(config)), nl=False)


if __name__ == "__main__":
    main()
