"""The chaos run in short, on loopback: killed workers, a zombie, a killed broker; and the checker itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def chaos(tmp_path: Path, *options: str) -> tuple[int, dict, str]:
    """Exit code, figures and output of a run."""
    figures, said = tmp_path / "figures.json", tmp_path / "said"
    env = {k: v for k, v in os.environ.items() if not k.startswith("FLEETWATCH_")} | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.chaos", "run", "--loopback", "--json", str(figures), *options]
    with said.open("w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=ROOT, check=False)
    text = said.read_text()
    return done.returncode, json.loads(figures.read_text()) if figures.exists() else {}, text


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_doubled_or_changed(tmp_path):
    faults = "worker-kill,zombie,broker-kill"
    code, figures, said = chaos(tmp_path, "--seed", "11", "--kills", "4", "--broker-kills", "1", "--faults", faults)
    assert code == 0, said
    assert figures["guarantee"] == "exactly_once"
    assert figures["worker_kills"] >= 4
    assert figures["faults"]["zombie"] >= 1
    assert figures["broker_kills"] >= 1
    assert figures["aborted"] > 0
    for kind in ("features", "scores", "alerts", "late", "dlq", "state"):
        found = figures["topics"][kind]
        assert found["expected"] > 0, kind
        wrong = ("missing", "duplicate", "different", "unexpected", "misordered")
        assert [found[name] for name in wrong] == [0] * 5, said
    assert not list(tmp_path.glob("fleetwatch-chaos-*"))
