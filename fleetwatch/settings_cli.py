"""`fleetwatch settings`: every setting, its default, its value, and from where. The rule: secrets are masked."""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from rich.table import Table

from fleetwatch.pages import load_settings, page_console, quiet_end
from telemetry.settings import ENV_PREFIX, Settings

MASK = "********"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. default, value : plain data, secrets masked."""

    name: str
    type: str
    default: Any
    value: Any
    source: str
    description: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.name.upper().replace(".", "__")


def plain(value: Any) -> Any:
    """As YAML and JSON can hold it; secrets masked."""
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return value


def without_secrets(model: BaseModel) -> dict[str, Any]:
    """As `plain`, for a file that can be loaded again: a masked secret would be taken for the secret."""
    kept: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            kept[name] = without_secrets(value)
        elif SecretStr not in (field.annotation, *typing.get_args(field.annotation)):
            kept[name] = plain(value)
    return kept


def type_name(annotation: Any) -> str:
    """A type as a person reads it: int, text, one of a, b, list of ..."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (typing.Union, types.UnionType):
        names = [type_name(arg) for arg in args if arg is not type(None)]
        return " or ".join(names) + (" or none" if type(None) in args else "")
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    if origin is dict:
        return "mapping"
    words = {str: "text", float: "number", int: "integer", bool: "true or false", Path: "path", SecretStr: "secret"}
    if annotation in words:
        return words[annotation]
    return str(getattr(annotation, "__name__", annotation)).removesuffix("Settings").lower()


def limits(field: FieldInfo) -> str:
    """The bounds of a number, for example ``>= 1, <= 4096``; empty = none."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return ", ".join(found)


def _given(data: Mapping[str, Any], name: str) -> bool:
    node: Any = data
    for part in name.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for section, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for key, inner in model.model_fields.items():
                yield f"{section}.{key}", inner
        else:
            yield section, field


def rows(settings: Settings, config: Path | None = None, environ: Mapping[str, str] | None = None) -> list[Row]:
    """Every setting. config, environ : what `settings` were loaded from; they say where a value is from."""
    environ = os.environ if environ is None else environ
    if config is None and (named := environ.get(f"{ENV_PREFIX}CONFIG")):
        config = Path(named)
    in_file = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config else {}
    variables = {name.upper() for name in environ}
    found = []
    for name, field in _fields():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        default = field.get_default(call_default_factory=True)
        row = Row(
            name,
            type_name(field.annotation) + (f", {bounds}" if (bounds := limits(field)) else ""),
            plain(default),
            plain(value),
            "default",
            field.description or "",
        )
        section = f"{ENV_PREFIX}{name.partition('.')[0].upper()}"
        holders = [v for v in variables if v in (row.variable, section) or v.startswith(f"{row.variable}__")]
        if holders:
            row = _from(row, max(holders, key=len))
        elif config and _given(in_file, name):
            row = _from(row, str(config))
        found.append(row)
    return found


def _from(row: Row, source: str) -> Row:
    return Row(row.name, row.type, row.default, row.value, source, row.description)


def shown(value: Any) -> str:
    """A value in one cell."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        if value and all(isinstance(item, dict) and "name" in item for item in value):
            return ", ".join(str(item["name"]) for item in value)
        return ", ".join(map(str, value)) or "none"
    return str(value) if value != "" else "empty"


def _table(found: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("setting", "type", "default", "value", "from"):
        table.add_column(name, overflow="fold")
    for row in found:
        table.add_row(
            row.name,
            row.type,
            shown(row.default),
            shown(row.value),
            row.source,
            style="" if row.source == "default" else "bold",
        )
    return table


@click.command()
@click.option("--format", "form", type=click.Choice(["text", "yaml", "json"]), default="text", show_default=True)
@click.pass_context
def settings(ctx: click.Context, form: Literal["text", "yaml", "json"]) -> None:
    """Show every setting, its default and its value.

    As yaml, the output is a file for --config (without secrets: they belong into variables). A variable
    FLEETWATCH_<SECTION>__<KEY> wins over the file.
    """
    tree = load_settings(ctx)
    with quiet_end():
        if form == "text":
            page_console().print(_table(rows(tree, ctx.obj)))
        elif form == "yaml":
            click.echo(yaml.safe_dump(without_secrets(tree), sort_keys=False, allow_unicode=True), nl=False)
        else:
            listed = [
                {
                    "name": row.name,
                    "variable": row.variable,
                    "type": row.type,
                    "default": row.default,
                    "value": row.value,
                    "from": row.source,
                    "description": row.description,
                }
                for row in rows(tree, ctx.obj)
            ]
            click.echo(json.dumps(listed, ensure_ascii=False, indent=2))
