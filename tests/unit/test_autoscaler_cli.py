"""`fleetwatch autoscaler`: what it refuses, and what it says then; no broker and no cluster needed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from autoscaler.limits import Limits
from autoscaler.service import Decider, lease_name, settings_digest
from fleetwatch.cli import main
from telemetry import settings as settings_module
from telemetry.errors import SettingsError
from telemetry.settings import Settings

#: Nobody listens there.
NO_BROKER = "127.0.0.1:9"


@dataclass(frozen=True)
class Done:
    """How the command ended."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """Runs it as a user would, with none of our variables and without a kubeconfig."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._home, self._capsys = home, capsys

    def __call__(self, *arguments: str, **variables: str) -> Done:
        kept = {n: t for n, t in os.environ.items() if not n.startswith(("FLEETWATCH_", "KUBE"))}
        kept |= {"HOME": str(self._home), "FLEETWATCH_KAFKA__BOOTSTRAP": NO_BROKER}
        kept |= {"FLEETWATCH_KAFKA__CONNECT_TIMEOUT_S": "1", **variables}
        code = 0
        with mock.patch.dict(os.environ, kept, clear=True):
            try:
                main(["autoscaler", *arguments])
            except SystemExit as exc:
                code = int(exc.code or 0)
        said = self._capsys.readouterr()
        return Done(code, said.out, said.err)


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield Command(tmp_path, capsys)
    logging.root.handlers[:] = handlers  # the command sets up logging for a process of its own
    logging.root.setLevel(level)


def test_help_names_the_rights_and_shows_examples(command: Command) -> None:
    done = command("--help")
    assert done.returncode == 0
    for word in ("deployments/scale", "get, patch", "leases", "--once --target none", "78"):
        assert word in done.stdout
    assert done.stdout.count("fleetwatch autoscaler --") >= 3


def test_every_wrong_limit_is_refused_by_one_message(command: Command) -> None:
    done = command(
        FLEETWATCH_AUTOSCALER__MIN_REPLICAS="5",
        FLEETWATCH_AUTOSCALER__MAX_REPLICAS="3",
        FLEETWATCH_PROCESSING__COMMIT_INTERVAL_MS="no",
    )
    assert done.returncode == 78
    assert "min_replicas 5 is above max_replicas 3" in done.stderr
    assert "processing.commit_interval_ms" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "daemonset"), "autoscaler.target"),
        (("--name", "Not A Name"), "autoscaler.name"),
        (("--port", "70000"), "autoscaler.port"),
    ],
)
def test_a_wrong_option_is_refused_as_the_setting_is(
    command: Command, arguments: tuple[str, str], said: str
) -> None:
    done = command(*arguments)
    assert done.returncode == 78
    assert said in done.stderr


def test_without_a_way_to_kubernetes_it_says_what_to_do(command: Command) -> None:
    done = command("--dry-run")
    assert done.returncode == 78
    assert "KUBECONFIG" in done.stderr
    assert "--target none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["", "{", "current-context: x\n", "- 1\n"])
def test_a_kubeconfig_that_is_none_is_a_wrong_setting(command: Command, tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    done = command(KUBECONFIG=str(file))
    assert done.returncode == 78
    assert "no way to a Kubernetes API" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_look_without_a_broker_ends_with_its_address(command: Command) -> None:
    done = command("--once", "--target", "none")
    assert done.returncode == 69
    assert NO_BROKER in done.stderr
    assert done.stdout == ""


def loaded(**autoscaler: object) -> Settings:
    return settings_module.load(environ={}, autoscaler=autoscaler)


def test_two_releases_that_scale_one_target_share_a_lease() -> None:
    assert lease_name(loaded(name="worker", port=1)) == lease_name(loaded(name="worker", port=2))
    assert lease_name(loaded(name="worker")) == "deployment-worker-autoscaler"
    assert lease_name(loaded(name="worker", target="statefulset")) == "statefulset-worker-autoscaler"
    assert lease_name(loaded(lease="mine")) == "mine"
    long = [lease_name(loaded(name="a" * 250 + end)) for end in "bc"]
    assert long[0] != long[1]
    assert all(len(name) <= 253 for name in long)


def test_settings_by_which_nobody_scales_otherwise_do_not_differ() -> None:
    same = loaded(port=0, host="0.0.0.0", lease_s=20, namespace="x", dry_run=True)
    assert settings_digest(same) == settings_digest(loaded())
    for other in (loaded(max_replicas=9), loaded(lag_slo_s=20), loaded(name="w"), loaded(interval_s=5)):
        assert settings_digest(other) != settings_digest(loaded())
    group = settings_module.load(environ={}, processing={"group": "another"})
    assert settings_digest(group) != settings_digest(loaded())


def test_limits_that_contradict_each_other_are_no_settings() -> None:
    with pytest.raises(SettingsError, match="min_replicas"):
        loaded(min_replicas=4, max_replicas=3)
    assert Decider(Limits.of(loaded(min_replicas=4, max_replicas=4)))
