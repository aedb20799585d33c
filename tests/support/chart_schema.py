"""The chart's schema of `settings`, from the product's own. The rule: what the chart sets itself is refused there.

``python tests/support/chart_schema.py`` writes it into helm/fleetwatch/values.schema.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from telemetry import acls
from telemetry.settings import Settings

SCHEMA = Path(__file__).resolve().parents[2] / "helm" / "fleetwatch" / "values.schema.json"
#: Sections whose values are the chart's to make: kafka.*, and what a pod is called and listens on.
OWN_SECTIONS = frozenset({"kafka", "service"})
#: Settings that the chart makes of other values, as variables, which win over the file.
OWN = {
    "autoscaler": frozenset(
        {
            "target", "name", "namespace", "dry_run", "min_replicas", "max_replicas", "metrics_port", "lease",
            "host", "port",
        }
    ),
    "forward": frozenset({"host", "hmac_key_file", "ca"}),
}  # fmt: skip


def roles() -> tuple[str, ...]:
    """Of `topics apply --acls`."""
    return tuple(acls.ROLES)


def _secret(field: dict[str, Any]) -> bool:
    return any(part.get("writeOnly") for part in (field, *field.get("anyOf", ())))


def _plain(node: Any, definitions: dict[str, Any]) -> Any:
    """Without titles and defaults, which are the product's to say, and with each reference put in."""
    if isinstance(node, list):
        return [_plain(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _plain(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "properties" in node:
        kept = {name: field for name, field in node["properties"].items() if not _secret(field)}
        node = node | {"properties": kept}
    return {
        key: {name: _plain(field, definitions) for name, field in value.items()}
        if key == "properties"
        else _plain(value, definitions)
        for key, value in node.items()
        if key not in ("title", "default")
    }


def settings_schema() -> dict[str, Any]:
    """Of the value `settings`."""
    whole = Settings.model_json_schema()
    sections = {}
    for name, field in whole["properties"].items():
        if name in OWN_SECTIONS:
            continue
        section = _plain(field, whole["$defs"])
        for own in OWN.get(name, ()):
            del section["properties"][own]
        sections[name] = section
    return {
        "description": "Settings of the product; see docs/configuration.md.",
        "type": "object",
        "additionalProperties": False,
        "properties": sections,
    }


def written() -> dict[str, Any]:
    """The whole schema with this part as it should be."""
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema["properties"]["settings"] = settings_schema()
    return schema


if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(written(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
