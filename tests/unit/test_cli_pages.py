"""`fleetwatch catalog`, `fleetwatch settings` and the reference pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fleetwatch import reference
from fleetwatch.catalog_cli import catalog as catalog_command
from fleetwatch.settings_cli import MASK, rows, type_name
from fleetwatch.settings_cli import settings as settings_command
from telemetry import catalog
from telemetry import settings as contract
from telemetry.errors import CatalogError

ENTRY = """
name: boat
version: 1
kind: vehicle
signals:
  - {name: Boat.Speed, unit: km/h, min: 0, max: 90}
"""
SECRETS = {
    "FLEETWATCH_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
    "FLEETWATCH_KAFKA__SASL_USERNAME": "me",
    "FLEETWATCH_KAFKA__SASL_PASSWORD": "hunter2",
}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of ours from outside."""
    import os

    for name in list(os.environ):
        if name.startswith("FLEETWATCH_"):
            monkeypatch.delenv(name)
    return monkeypatch


def test_every_entry_is_listed(clean: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(catalog_command, [], catch_exceptions=False)
    assert result.exit_code == 0
    for key in catalog.load():
        assert key in result.output


def test_an_entry_shows_each_signal_in_the_frames_order(clean: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(catalog_command, ["gpu.node"], catch_exceptions=False)
    entry = catalog.load().latest("gpu.node")
    found = [line.split()[1] for line in result.output.splitlines() if line.split() and line.split()[0].isdigit()]
    assert found == list(entry.columns)


def test_an_unknown_entry_names_the_nearest(clean: pytest.MonkeyPatch) -> None:
    for wrong, said in (("vehicle.evv", "did you mean vehicle.ev"), ("vehicle.ev/99", "did you mean vehicle.ev/1")):
        with pytest.raises(CatalogError, match=said):
            CliRunner().invoke(catalog_command, [wrong], catch_exceptions=False)


def test_a_good_file_is_called_good(tmp_path: Path) -> None:
    (tmp_path / "boat.yaml").write_text(ENTRY)
    for path in (tmp_path, tmp_path / "boat.yaml"):
        result = CliRunner().invoke(catalog_command, ["--check", str(path)], catch_exceptions=False)
        assert result.output == "boat/1: 1 signals, good\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ENTRY.replace("max: 90", "max: -1"), "is not below max"),
        (ENTRY.replace("kind: vehicle", "kind: ship"), "kind"),
        (ENTRY.replace("boat", "vehicle.ev"), "vehicle.ev/1 is defined twice"),
        ("[1, 2", "not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CatalogError, match=said):
        CliRunner().invoke(catalog_command, ["--check", str(tmp_path)], catch_exceptions=False)


def test_all_bad_files_of_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("one.yaml", "two.yaml"):
        (tmp_path / name).write_text("x: 1")
    (tmp_path / "three.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match=r"(?s)one\.yaml.*three\.yaml.*two\.yaml"):
        CliRunner().invoke(catalog_command, ["--check", str(tmp_path)], catch_exceptions=False)


def test_an_empty_folder_is_not_good(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"no \*\.yaml file"):
        CliRunner().invoke(catalog_command, ["--check", str(tmp_path)], catch_exceptions=False)


def test_each_setting_says_where_it_is_from(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    config = tmp_path / "fleet.yaml"
    config.write_text("windows: {size_s: 20}\ntopics: {prefix: mine, partitions: 4}\ndetectors: [{name: ewma}]\n")
    clean.setenv("FLEETWATCH_TOPICS__PREFIX", "yours")
    clean.setenv("FLEETWATCH_KAFKA", '{"connect_timeout_s": 3}')
    found = {row.name: row for row in rows(contract.load(config), config)}
    assert (found["topics.prefix"].value, found["topics.prefix"].source) == ("yours", "FLEETWATCH_TOPICS__PREFIX")
    assert (found["topics.partitions"].value, found["topics.partitions"].source) == (4, str(config))
    assert found["kafka.connect_timeout_s"].value == 3
    assert found["kafka.connect_timeout_s"].source == "FLEETWATCH_KAFKA"
    assert (found["windows.size_s"].value, found["windows.size_s"].default) == (20.0, 10.0)
    assert found["windows.hop_s"].source == "default"
    assert found["detectors"].source == str(config)


def test_every_setting_is_there() -> None:
    tree = contract.load(environ={})
    names = {row.name for row in rows(tree, environ={})}
    assert len(names) > 40
    assert {name.partition(".")[0] for name in names} == set(contract.Settings.model_fields)


@pytest.mark.parametrize("form", ["text", "yaml", "json"])
def test_a_secret_is_never_shown(clean: pytest.MonkeyPatch, form: str) -> None:
    for name, value in SECRETS.items():
        clean.setenv(name, value)
    result = CliRunner().invoke(settings_command, ["--format", form], catch_exceptions=False)
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert (MASK in result.output) is (form != "yaml")


def test_the_yaml_can_be_loaded_again(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("FLEETWATCH_WINDOWS__HOP_S", "5")
    result = CliRunner().invoke(settings_command, ["--format", "yaml"], catch_exceptions=False)
    clean.delenv("FLEETWATCH_WINDOWS__HOP_S")
    config = tmp_path / "again.yaml"
    config.write_text(result.output)
    assert yaml.safe_load(result.output)["windows"]["hop_s"] == 5.0
    assert contract.load(config) == contract.load(windows={"hop_s": 5.0})


def test_the_json_names_each_variable(clean: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(settings_command, ["--format", "json"], catch_exceptions=False)
    listed = {item["name"]: item for item in json.loads(result.output)}
    assert listed["service.port"]["variable"] == "FLEETWATCH_SERVICE__PORT"
    assert listed["kafka.sasl_password"]["type"] == "secret or none"


def test_type_names() -> None:
    assert type_name(Path | None) == "path or none"
    assert type_name(tuple[str, ...]) == "list of text"
    assert type_name(dict[str, int]) == "mapping"


def test_the_pages_in_docs_are_what_the_code_says() -> None:
    assert reference.stale(reference.DOCS) == []


def test_a_stale_page_is_named_and_written_anew(tmp_path: Path) -> None:
    run = CliRunner()
    first = run.invoke(reference.main, ["--folder", str(tmp_path)], catch_exceptions=False)
    assert first.exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(reference.PAGES)
    (tmp_path / "topics.md").write_text("old")
    (tmp_path / "catalog.md").unlink()
    checked = run.invoke(reference.main, ["--check", "--folder", str(tmp_path)])
    assert checked.exit_code == 1
    assert "topics.md is stale" in checked.output
    assert "catalog.md is stale" in checked.output
    assert "configuration.md" not in checked.output
    assert (tmp_path / "topics.md").read_text() == "old"


def test_the_pages_do_not_depend_on_the_machine(clean: pytest.MonkeyPatch) -> None:
    before = {name: write() for name, write in reference.PAGES.items()}
    clean.setenv("FLEETWATCH_TOPICS__PREFIX", "elsewhere")
    clean.setenv("FLEETWATCH_KAFKA__BOOTSTRAP", "example:1234")
    assert {name: write() for name, write in reference.PAGES.items()} == before
