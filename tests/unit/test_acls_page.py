"""docs/security.md has the roles as the code has them."""

from __future__ import annotations

import re
from pathlib import Path

from telemetry import acls
from telemetry import settings as settings_module

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def table() -> list[str]:
    """The rows that the page must hold, in this order."""
    rows = ["| role | may | on | why |", "|---|---|---|---|"]
    rows += [
        f"| {role} | {g.operation} | {g.resource} `{g.name}{'*' if g.prefixed else ''}` | {g.why} |"
        for role, grants in acls.roles(settings_module.load(environ={})).items()
        for g in grants
    ]
    return rows


def test_the_page_has_every_permission_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    written = re.search(r"test_acls_page\.py compares -->\n((?:\|.*\n)+)", text)
    assert written is not None
    assert written.group(1).splitlines() == table(), "write the rows of this test's table() into the page"


def test_the_page_names_only_settings_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    known = set(settings_module.KafkaSettings.model_fields)
    named = set(re.findall(r"`kafka\.(\w+)", text)) | set(re.findall(r"\b((?:ssl|sasl)_\w+)", text))
    assert named
    assert named <= known
