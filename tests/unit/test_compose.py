"""docker-compose.yml, the image and what they mount, as far as reading can tell; `make compose-test` runs them."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from fleetwatch.cli import cli
from fleetwatch.health_cli import page_of
from fleetwatch.kafka.manifest import KAFKA_VERSION
from telemetry import settings
from telemetry.errors import SettingsError

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("fleetwatch:")}
every_service = pytest.mark.parametrize("name", SERVICES)
every_role = pytest.mark.parametrize("name", OURS)


@every_service
def test_every_service_is_bounded_restarted_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert float(service["cpus"]) > 0 and re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["pids_limit"] > 0 and service["logging"]["options"]["max-size"]
    assert service["restart"] == "on-failure:10", "without end would hide a wrong setting"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]


@every_service
def test_ports_are_on_loopback_and_can_be_moved(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT:-\d+\}:\d+", port)


@every_service
def test_images_are_pinned_to_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert name in OURS or re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", image), image


def test_the_broker_is_of_the_version_that_all_tests_run_against() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_the_core_needs_no_profile_and_nothing_of_one() -> None:
    core = {name for name, service in SERVICES.items() if not service.get("profiles")}
    assert core == {
        *("kafka", "topics", "worker", "alerts"),
        *("vehicles-past", "devices-past", "vehicles", "devices"),
    }
    for name in core:
        assert set(SERVICES[name].get("depends_on", {})) <= core, name


@every_role
def test_roles_write_nowhere_but_to_tmp(name: str) -> None:
    assert OURS[name]["read_only"] is True
    assert [each.partition(":")[0] for each in OURS[name]["tmpfs"]] == ["/tmp"]


@every_role
def test_variables_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(key.startswith("FLEETWATCH_") for key in OURS[name]["environment"])
    for key, value in OURS[name]["environment"].items():
        monkeypatch.setenv(key, value)
    assert settings.load(None).kafka.bootstrap == "kafka:19092"


@every_role
def test_commands_are_ours(name: str) -> None:
    """--help right behind a command's words makes click look at them, and at nothing that runs."""
    words = OURS[name]["command"]
    shown = CliRunner().invoke(cli, [*words, "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output, shown.output


@every_role
def test_health_is_asked_where_the_role_answers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in OURS[name]["environment"].items():
        monkeypatch.setenv(key, value)
    asked = OURS[name]["healthcheck"]["test"][1:]
    page = page_of(["python", "fleetwatch", *OURS[name]["command"]], None)
    assert asked == ["fleetwatch", "health", *([page] if page else [])]


def test_a_worker_is_not_bound_to_one_container() -> None:
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["worker"])
    assert int(SERVICES["worker"]["environment"]["FLEETWATCH_TOPICS__PARTITIONS"]) >= 3


@every_service
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        if isinstance(volume, dict):
            assert (ROOT / volume["source"]).exists() and volume["read_only"] is True
        else:
            assert volume.partition(":")[0] in COMPOSE["volumes"]


def test_the_rules_are_the_charts() -> None:
    script = ROOT / "compose" / "prometheus" / "rules.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lag_slo_s = runpy.run_path(str(script))["LAG_SLO_S"]
    assert lag_slo_s == settings.load(None).autoscaler.lag_slo_s


def test_every_alert_has_its_page() -> None:
    headings = {line.lstrip("# ").lower() for line in (ROOT / "docs/runbooks.md").read_text().splitlines()}
    groups = yaml.safe_load((ROOT / "compose/prometheus/rules.yml").read_text())["groups"]
    urls = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert len(urls) > 20
    for url in urls:
        page, _, anchor = url.partition("#")
        assert page == "docs/runbooks.md" and anchor in headings, url


def test_the_image_copies_what_the_context_lets_through() -> None:
    allowed = {
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    copied: set[str] = set()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= {word.replace("pe[m]", "pem") for word in line.split()[1:-1]}
    covered = {word for word in copied if any(word == each or word.startswith(f"{each}/") for each in allowed)}
    assert copied == covered
    assert {each for each in allowed if not (ROOT / each).exists()} <= {"requirements/ca.pem"}


def test_what_builds_the_image_is_locked_as_the_rest() -> None:
    whole = (ROOT / "requirements/dev.lock").read_text()
    pins = re.findall(r"^(\S+==\S+)", (ROOT / "requirements/build.txt").read_text(), re.MULTILINE)
    assert any(pin.startswith("hatchling==") for pin in pins)
    for pin in pins:
        assert re.search(rf"^{re.escape(pin)}\s", whole, re.MULTILINE), f"{pin}: run `make lock`"


def test_what_the_image_needs_is_locked_without_what_tests_need() -> None:
    text = (ROOT / "requirements/runtime.lock").read_text()
    for name in ("faust-streaming", "numba", "confluent-kafka", "kubernetes"):
        assert re.search(rf"^{name}==", text, re.MULTILINE)
    for name in ("pytest", "mypy", "ruff", "matplotlib", "hypothesis"):
        assert not re.search(rf"^{name}==", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (["worker"], "http://127.0.0.1:6066/healthz"),
        (["worker", "--port", "7001"], "http://127.0.0.1:7001/healthz"),
        (["--config", "x.yaml", "worker", "--port=7002"], "http://127.0.0.1:7002/healthz"),
        (["autoscaler"], "http://127.0.0.1:6067/healthz"),
        (["alerts", "forward", "--to", "webhook", "http://x", "--metrics-port", "1"], "http://127.0.0.1:1/healthz"),
        (["simulate", "vehicles", "--metrics-port", "2"], "http://127.0.0.1:2/metrics"),
        (["alerts", "--follow"], None),
        (["topics", "apply"], None),
    ],
)
def test_the_page_follows_from_the_command_line(words: list[str], page: str | None) -> None:
    assert page_of(["/opt/python", "/opt/fleetwatch", *words], None) == page


def test_a_port_that_is_chosen_at_the_start_is_not_guessed() -> None:
    with pytest.raises(SettingsError, match="chosen at its start"):
        page_of(["fleetwatch", "worker", "--port", "0"], None)
