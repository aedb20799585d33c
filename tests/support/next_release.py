"""The next release of this project, which adds a field to the frames: a copy of the source with that change.

Its producers write the field, its workers know it from the start; nothing else differs. So a roll-out can be
tested with the real programs of two releases.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from real_worker import environment
from schema_versions import BOOT_ID, with_fields

import telemetry
from telemetry import schemas
from telemetry.schemas import check

#: The source that the tests run: the release that is rolled out now.
THIS = Path(telemetry.__file__).parents[1]
PACKAGES = ("autoscaler", "detectors", "fleetwatch", "producers", "streams", "telemetry")
BOOT = 7

#: What follows a frame's values: the end of the array, and in the next release the new field.
_NOW, _NEXT = r'data.tobytes(), b"\x00")', rf'data.tobytes(), b"\x00" + zigzag({BOOT}))'


def schema() -> dict[str, Any]:
    """The frame's schema in the next release."""
    return with_fields([BOOT_ID])


def make(folder: Path) -> Path:
    """Write the next release into a folder; returns it. Compiled kernels come along, they are the same."""
    for package in PACKAGES:
        shutil.copytree(THIS / package, folder / package)
    released = len(schemas.versions("frame"))
    text = json.dumps(schema(), indent=2) + "\n"
    ours = folder / "telemetry" / "schemas"
    (ours / "frame.avsc").write_text(text, encoding="utf-8")
    file = f"frame.{released + 1}.avsc"
    (ours / "history" / file).write_text(text, encoding="utf-8")
    with (ours / "history" / check.LIST).open("a", encoding="utf-8") as listed:
        listed.write(check.entry(text, file) + "\n")
    assert check.problems(ours) == []
    codec = folder / "telemetry" / "codec.py"
    source = codec.read_text(encoding="utf-8")
    assert source.count(_NOW) == 1, "the frame encoder's last line is not what this copy expects to change"
    codec.write_text(source.replace(_NOW, _NEXT), encoding="utf-8")
    return folder


def environment_of(release: Path) -> dict[str, str]:
    """For a process of that release."""
    return environment(PYTHONPATH=str(release))
