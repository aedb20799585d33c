"""The locked set: every package pinned and hashed, nothing from elsewhere, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(text: str) -> list[tuple[Requirement, list[str]]]:
    """(requirement, its hashes) of every entry.

    Raises
    ------
    ValueError : an entry is not ``name==version`` with hashes.
    """
    joined = re.sub(
        r"\\\n\s*", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    )
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        words, *options = re.split(r"\s+(?=--)", line)
        if words.startswith("-") or "@" in words or not all(HASH.fullmatch(option) for option in options):
            raise ValueError(f"not a package of the index with SHA-256 hashes: {line[:100]}")
        requirement = Requirement(words)
        if (
            not options
            or [s.operator for s in requirement.specifier] != ["=="]
            or "*" in str(requirement.specifier)
        ):
            raise ValueError(f"not pinned and hashed: {line[:100]}")
        found.append((requirement, options))
    return found


def pinned(lock: Path) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for requirement, _ in entries(lock.read_text()):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(r) for r in (*project["project"]["dependencies"], *project["dependency-groups"]["dev"])]


def test_there_is_a_lock() -> None:
    assert "dev.lock" in [lock.name for lock in LOCKS]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_package_is_pinned_and_hashed(lock: Path) -> None:
    assert len(entries(lock.read_text())) > 30


@pytest.mark.parametrize("requirement", wanted(), ids=lambda r: r.name)
def test_what_the_project_asks_for_is_locked_as_asked(requirement: Requirement) -> None:
    found = pinned(ROOT / "requirements" / "dev.lock").get(canonicalize_name(requirement.name))
    assert found, f"{requirement.name} is not in dev.lock: run `make lock`"
    for each in found:
        (specifier,) = each.specifier
        assert requirement.specifier.contains(specifier.version, prereleases=True), f"{each}: run `make lock`"


def test_every_other_lock_is_a_part_of_the_whole() -> None:
    whole = {str(r) for group in pinned(ROOT / "requirements" / "dev.lock").values() for r in group}
    for lock in LOCKS:
        versions = {f"{r.name}{r.specifier}" for group in pinned(lock).values() for r in group}
        assert versions <= {f"{Requirement(r).name}{Requirement(r).specifier}" for r in whole}, lock.name


HASHED = " --hash=sha256:" + "0" * 64


@pytest.mark.parametrize(
    "line",
    [
        "click==8.1.8",
        "click>=8" + HASHED,
        "click==8.*" + HASHED,
        "click==8.1.8 --hash=md5:" + "0" * 32,
        "click @ https://example.org/click.whl" + HASHED,
        "-e .",
        "--index-url https://example.org/simple",
        "git+https://example.org/click" + HASHED,
    ],
)
def test_what_is_not_pinned_hashed_or_of_the_index_is_found(line: str) -> None:
    with pytest.raises(ValueError):
        entries(line)
