"""Whether the schemas may be released as they stand. The rule: every version reads what every other one wrote.

So producers and workers can be upgraded in either order, and old records stay readable. `fleetwatch schemas check`
and `make check` run this.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from typing import Any

from telemetry import schemas
from telemetry.schemas import SchemaRefusedError, Version, compat, plan

#: Name -> the JSON schemas beside the Avro ones.
JSON_NAMES = ("alert",)
LIST = "released.txt"
_JSON_FILE = re.compile(r"(?P<name>[a-z_]+)\.(?P<number>[1-9][0-9]*)\.schema\.json")


def without_docs(schema: Any) -> Any:
    """A copy without what only people read: such changes need no new version."""
    words = ("doc", "description", "title")
    if isinstance(schema, dict):
        # a JSON schema's property may be called `title`: only words are words
        return {k: without_docs(v) for k, v in schema.items() if not (k in words and isinstance(v, str))}
    if isinstance(schema, list):
        return [without_docs(each) for each in schema]
    return copy.copy(schema)


def entry(text: str, file: str) -> str:
    """The line of `released.txt` for a released file: fingerprint, SHA-256 of its text, file name."""
    avro = file.endswith(".avsc")
    rabin = schemas.rabin_of(json.loads(text)).hex() if avro else "-" * 16
    return f"{rabin}  {hashlib.sha256(text.encode()).hexdigest()}  {file}"


def unrecorded(history: Traversable) -> Iterator[str]:
    """Released files that were edited, removed or not entered in the list."""
    listed = {
        line.split()[2]: line
        for line in history.joinpath(LIST).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    }
    there = {e.name: e for e in history.iterdir() if e.name.endswith((".avsc", ".schema.json"))}
    for name in sorted(listed.keys() - there.keys()):
        yield f"history/{name}: was released and is gone"
    for name, file in sorted(there.items()):
        line = entry(file.read_text(encoding="utf-8"), name)
        if name not in listed:
            yield f"history/{name}: not in history/{LIST}; when it is released, add the line\n    {line}"
        elif listed[name] != line:
            yield f"history/{name}: was released and has been changed; put it back and write a new version"


def candidate_problems(name: str, schema: dict[str, Any], released: tuple[Version, ...]) -> Iterator[str]:
    """Why a schema cannot be the next version of `name`: against every released one, in both directions."""
    for problem in schemas.lint(schema):
        yield f"{name}: {problem}"
        return
    for version in released:
        for problem in compat.problems(schema, version.schema):
            yield f"{name}: does not read version {version.number}: {problem}"
        for problem in compat.problems(version.schema, schema):
            yield f"{name}: is not read by version {version.number}: {problem}"
    if name == "frame":
        try:
            plan.plan_of(schema)
        except SchemaRefusedError as exc:
            yield f"{name}: {exc}"
    same = [v for v in released if v.rabin == schemas.rabin_of(schema)]
    for version in same:
        if without_docs(version.schema) != without_docs(schema):
            yield (
                f"{name}: differs from version {version.number} only in what the fingerprint leaves out (defaults, "
                "logical types, aliases): readers could not tell them apart"
            )


def newest_problems(folder: Traversable, name: str) -> Iterator[str]:
    """Whether `<name>.avsc` is a released version, or may become one, and then what is to be done."""
    text = folder.joinpath(f"{name}.avsc").read_text(encoding="utf-8")
    try:
        released = schemas.versions_in(folder.joinpath("history"), name)
        schema = schemas.parse(text, f"{name}.avsc")
    except SchemaRefusedError as exc:
        yield str(exc)
        return
    if [version.number for version in released] != list(range(1, len(released) + 1)):
        yield f"{name}: its versions are not numbered 1, 2, 3, ..."
        return
    found = list(candidate_problems(name, schema, released))
    yield from found
    if not found and (not released or released[-1].rabin != schemas.rabin_of(schema)):
        yield _to_release(name, len(released) + 1, text, f"{name}.{len(released) + 1}.avsc", f"{name}.avsc")


def _to_release(name: str, number: int, text: str, file: str, source: str) -> str:
    return (
        f"{name}: compatible, but not released. To release it as version {number}: copy {source} to "
        f"history/{file}, add its golden bytes to tests/golden, and to history/{LIST} the line\n"
        f"    {entry(text, file)}"
    )


def json_problems(folder: Traversable, name: str) -> Iterator[str]:
    """The same for a JSON schema: its consumers are not ours."""
    files = {
        int(match["number"]): each
        for each in folder.joinpath("history").iterdir()
        if (match := _JSON_FILE.fullmatch(each.name)) and match["name"] == name
    }
    text = folder.joinpath(f"{name}.schema.json").read_text(encoding="utf-8")
    newest = json.loads(text)
    found = [
        f"{name} (JSON): consumers of version {number}: {problem}"
        for number, file in sorted(files.items())
        for problem in compat.json_problems(newest, json.loads(file.read_text(encoding="utf-8")))
    ]
    yield from found
    last = max(files)
    if not found and without_docs(newest) != without_docs(json.loads(files[last].read_text(encoding="utf-8"))):
        file = f"{name}.{last + 1}.schema.json"
        yield _to_release(f"{name} (JSON)", last + 1, text, file, f"{name}.schema.json")


def problems(folder: Traversable | None = None) -> list[str]:
    """Everything that stands against a release; empty = nothing. folder : of the schemas, ours if not given."""
    folder = schemas.folder() if folder is None else folder
    found = list(unrecorded(folder.joinpath("history")))
    for name in schemas.NAMES:
        found += newest_problems(folder, name)
    for name in JSON_NAMES:
        found += json_problems(folder, name)
    return found
