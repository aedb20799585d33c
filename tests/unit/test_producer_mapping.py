"""Mappings: the shipped ones fit the catalogue; wrong ones and unknown recordings get a message that helps."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from producers import mapping
from producers.mapping import RecordingError
from telemetry import catalog
from telemetry.errors import CatalogError

MINIMAL = """
name: mine
catalog: vehicle.can
time: {column: t}
signals: {Vehicle.Speed: v}
"""


def test_shipped_mappings_fit_their_catalogue_entries() -> None:
    catalogs = catalog.load()
    ours = mapping.shipped()
    assert {"carobd", "comma2k19", "drive"} <= set(ours)
    for one in ours.values():
        entry = one.entry(catalogs)
        assert set(one.signals) == set(entry.columns)
        if one.grid:
            assert one.grid.period_ms == entry.period_ms


def test_carobd_has_all_27_parameters() -> None:
    carobd = mapping.shipped()["carobd"]
    assert len(carobd.columns) == 27
    assert carobd.clean(["ENGINE_RPM ()", " THROTTLE () "]) == ["ENGINE_RPM", "THROTTLE"]


def test_the_sample_ships_with_its_notice_and_is_detected() -> None:
    samples = resources.files("producers").joinpath("samples")
    text = samples.joinpath("drive.csv").read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert "MIT License" in samples.joinpath("NOTICE.md").read_text(encoding="utf-8")
    assert mapping.detect(text.splitlines()[0].split(","), "drive.csv").name == "drive"


def test_a_recording_that_fits_none_names_the_nearest() -> None:
    header = ["time", "ENGINE_RPM ()", "VEHICLE_SPEED ()", "x"]
    with pytest.raises(RecordingError, match=r"nearest is carobd with 2 of 27 columns.*ENGINE_RUN_TINE") as caught:
        mapping.detect(header, "trip.csv")
    assert "trip.csv" in str(caught.value)


def test_unknown_mapping_names_the_nearest() -> None:
    with pytest.raises(RecordingError, match="did you mean carobd"):
        mapping.named("carobt")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    mine = mapping.named(str(path))
    assert mine.signals["Vehicle.Speed"].column == "v"
    assert mine.entry(catalog.load()).name == "vehicle.can"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML"),
        (MINIMAL + "colour: red", "colour"),
        (MINIMAL.replace("time: {column: t}", ""), "time"),
        (MINIMAL.replace("{column: t}", "{column: t, unit: h}"), "time.unit"),
        (MINIMAL.replace("Vehicle.Speed: v", "Vehicle.Speed: {column: v, time: t2}"), "grid"),
    ],
)
def test_wrong_mappings_name_the_field(text: str, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        mapping.parse(text, "mine.yaml")


def test_a_missing_mapping_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"none\.yaml"):
        mapping.named(str(tmp_path / "none.yaml"))


def test_a_signal_that_the_entry_lacks() -> None:
    wrong = mapping.parse(MINIMAL.replace("Vehicle.Speed", "Vehicle.Sped"), "x")
    with pytest.raises(CatalogError, match=r"did you mean Vehicle\.Speed"):
        wrong.entry(catalog.load())


@pytest.mark.parametrize(
    ("column", "expected"), [("v", ("v", None)), ("v[3]", ("v", 3)), ("v[x]", ("v[x]", None)), ("v[", ("v[", None))]
)
def test_split_index(column: str, expected: tuple[str, int | None]) -> None:
    assert mapping.split_index(column) == expected
