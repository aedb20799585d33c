"""Scan the locked set for known vulnerabilities. The rule: a scan that was not made never passes for a clean one.

``python .ci/audit.py LOCK ...``: exit 0 nothing known, 1 vulnerabilities found, 75 not scanned (no tool, no
database). The lists name every package with its hashes, so nothing is resolved, and only advisories are asked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

TOOL = "pip-audit==2.10.1"
HOME = Path(__file__).resolve().parents[1] / ".cache" / "audit"
EXIT_NOT_SCANNED = 75  # EX_TEMPFAIL


def tool() -> Path:
    """The scanner, in an environment of its own: its dependencies are none of ours.

    Raises
    ------
    subprocess.CalledProcessError : it cannot be installed.
    """
    found = HOME / "bin" / "pip-audit"
    if not found.exists():
        venv.create(HOME, with_pip=True)
        pip = [str(HOME / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TOOL]
        subprocess.run(pip, check=True)
    return found


def scan(lock: str) -> int:
    """Scan one list; prints what is known. Returns the exit code."""
    command = [str(tool()), "--disable-pip", "--require-hashes", "-r", lock, "-s", "osv", "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"{lock}: NOT SCANNED, the database of vulnerabilities does not answer: {reason[:300]}")
        return EXIT_NOT_SCANNED
    known = [(p["name"], p["version"], v) for p in packages for v in p.get("vulns", ())]
    skipped = [p for p in packages if "skip_reason" in p]
    for name, version, vulnerability in known:
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{lock}: {name} {version}: {vulnerability['id']}, mended in {mended}")
    for package in skipped:
        print(f"{lock}: {package['name']} NOT SCANNED: {package['skip_reason']}")
    print(f"{lock}: {len(packages) - len(skipped)} packages scanned, {len(known)} known vulnerabilities")
    return 1 if known else EXIT_NOT_SCANNED if skipped else 0


def main() -> int:
    """Scan every list that is named."""
    try:
        codes = [scan(lock) for lock in sys.argv[1:]]
    except subprocess.CalledProcessError as exc:
        print(f"NOT SCANNED: {TOOL} cannot be installed ({exc})")
        return EXIT_NOT_SCANNED
    return 1 if 1 in codes else max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
