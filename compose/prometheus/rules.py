"""The chart's rules, for the compose file. The rule: none is written here.

`python compose/prometheus/rules.py [--check]` fills in what templates/prometheusrule.yaml does.
docs/runbooks.md has a section for each alert.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
CHART = HERE.parents[1] / "helm" / "fleetwatch"
TARGET = HERE / "rules.yml"
#: Not leader.yaml: the autoscaler of the compose file decides and tells, but scales nothing and holds no Lease.
FILES = ("worker.yaml", "autoscaler.yaml", "forwarder.yaml")
HEAD = "# Written by `python compose/prometheus/rules.py` from helm/fleetwatch/rules; do not edit.\n"
LAG_SLO_S = 30


def rules() -> str:
    """The text of rules.yml."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]
    budget = (100 - values["prometheusRule"]["lagObjectivePercent"]) / 100
    filled = {
        "$selector": 'namespace="compose",app_kubernetes_io_instance="fleetwatch"',
        "$lag_slo_s": str(LAG_SLO_S),
        "$lag_budget": f"{budget:g}",
    }
    groups: list[dict[str, Any]] = []
    for name in FILES:
        text = (CHART / "rules" / name).read_text()
        for mark, value in filled.items():
            text = text.replace(mark, value)
        groups += yaml.safe_load(text)["groups"]
    for group in groups:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = f"{values['runbookBase']}#{rule['alert'].lower()}"
    return HEAD + yaml.safe_dump({"groups": groups}, sort_keys=False, width=110, allow_unicode=True)


def main() -> None:
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(rules())
    elif not TARGET.exists() or TARGET.read_text() != rules():
        sys.exit(f"{TARGET.name} is not what the chart's rules are now: run `python compose/prometheus/rules.py`")


if __name__ == "__main__":
    main()
