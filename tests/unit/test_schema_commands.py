"""`fleetwatch schemas list` and `check`, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from schema_versions import BOOT_ID, header_of, with_fields

from fleetwatch.cli import main
from telemetry import schemas


def run(*args: str) -> int:
    try:
        main(["schemas", *args])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def write(path: Path, schema: dict) -> str:
    path.write_text(json.dumps(schema))
    return str(path)


def test_list_shows_every_released_version(capsys):
    assert run("list") == 0
    out = capsys.readouterr().out
    for name in schemas.NAMES:
        for version in schemas.versions(name):
            assert version.header.hex() in out
            assert f"version {version.number}" in out


def test_list_shows_the_files_that_the_settings_accept(capsys, tmp_path, monkeypatch):
    schema = with_fields([BOOT_ID])
    file = write(tmp_path / "next.avsc", schema)
    monkeypatch.setenv("FLEETWATCH_SCHEMAS__ACCEPT", json.dumps([file]))
    assert run("list") == 0
    assert header_of(schema).hex() in capsys.readouterr().out


def test_check_passes_as_things_stand_and_for_a_compatible_file(capsys, tmp_path):
    assert run("check") == 0
    assert "each reads what the others write" in capsys.readouterr().out
    assert run("check", write(tmp_path / "next.avsc", with_fields([BOOT_ID]))) == 0
    assert "reads and is read by every version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (with_fields([{"name": "boot_id", "type": "long"}]), "frame: does not read version 1: Frame.boot_id"),
        (with_fields([]) | {"name": "Other"}, "io.fleetwatch.telemetry.Other is not a record of ours; known: "),
        (with_fields([{"name": "next", "type": "Frame", "default": 0}]), "by name"),
    ],
)
def test_check_says_why_not_and_ends_with_65(capsys, tmp_path, schema, message):
    assert run("check", write(tmp_path / "next.avsc", schema)) == 65
    assert message in capsys.readouterr().err


def test_register_needs_somewhere_to_register(capsys):
    assert run("register", "--no-topic") == 78
    assert "schemas.registry_url" in capsys.readouterr().err
