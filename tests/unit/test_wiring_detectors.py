"""Which detectors a class gets from the settings, over which columns, and which of them may open alerts."""

import json

import pytest
from detector_models import fitted

from streams.wiring import detector_factory, make_core
from telemetry import catalog, settings
from telemetry.errors import CatalogError, SettingsError

BOAT = """
name: boat
version: 1
kind: vehicle
signals:
  - {name: Boat.Speed, min: 0, max: 90}
  - {name: Boat.Heading, nature: position}
  - {name: Boat.Bumps, nature: counter, min: 0, max: 1000}
  - {name: Boat.Heat, max: 120}
"""
WATCHED = ("Boat.Speed", "Boat.Bumps", "Boat.Heat")
ALL = [{"name": "relations"}, {"name": "rules"}, {"name": "robust", "alerts": "fallback"}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "boat.yaml").write_text(BOAT, encoding="utf-8")
    return tmp_path


def train(folder, columns=WATCHED, key="boat-1"):
    (folder / f"{key}.relations.json").write_text(json.dumps(fitted(columns)), encoding="utf-8")


def lineup(folder, detectors, key="boat/1"):
    wanted = settings.load(environ={}, detectors=detectors, catalog={"paths": [str(folder)]})
    return detector_factory(wanted)(catalog.load(wanted.catalog.paths)[key])


def names(detectors):
    return [d.spec.name for d in detectors]


def test_relations_run_only_where_a_model_is_and_fallbacks_alert_only_where_none_is(folder):
    without = lineup(folder, ALL)
    assert names(without.sample) == ["rules", "robust"]
    assert without.alerting == 2
    train(folder)
    with_model = lineup(folder, ALL)
    assert names(with_model.sample) == ["relations", "rules", "robust"]
    assert with_model.alerting == 2


def test_those_that_alert_stand_first_in_the_order_of_the_settings(folder):
    train(folder)
    made = lineup(folder, [{"name": "robust", "alerts": "never"}, {"name": "rules"}, {"name": "relations"}])
    assert names(made.sample) == ["rules", "relations", "robust"]
    assert made.alerting == 2


def test_a_fallback_alerts_where_relations_are_not_asked_for_though_a_model_is_there(folder):
    train(folder)
    robust = {"name": "robust", "alerts": "fallback"}
    assert lineup(folder, [robust]).alerting == 1
    assert lineup(folder, [{"name": "relations", "classes": ["vehicle.ev"]}, robust]).alerting == 1
    assert lineup(folder, [{"name": "relations", "classes": ["boat"]}, robust]).alerting == 1
    assert names(lineup(folder, [{"name": "relations"}, robust]).sample) == ["relations", "robust"]


def test_a_model_among_the_parameters_is_a_model(folder):
    own = {"name": "relations", "params": {"model": fitted(WATCHED)}}
    made = lineup(folder, [own, {"name": "robust", "alerts": "fallback"}])
    assert names(made.sample) == ["relations", "robust"]
    assert made.alerting == 1


def test_detectors_of_rows_see_the_watched_columns_and_those_of_windows_see_all(folder):
    train(folder)
    made = lineup(folder, [*ALL, {"name": "river", "alerts": "never"}])
    assert {d.spec.columns for d in made.sample} == {WATCHED}
    assert made.window[0].spec.columns == tuple(
        f"{s}.{f}" for f in ("mean", "std") for s in ("Boat.Speed", "Boat.Heading", "Boat.Bumps", "Boat.Heat")
    )


def test_rules_know_what_is_declared_of_levels_and_not_of_counters(folder):
    text = BOAT.replace("max: 90", "max: 90, rate_max: 5, stuck_after_s: 20").replace(
        "max: 1000", "max: 1000, rate_max: 2, stuck_after_s: 60"
    )
    (folder / "boat.yaml").write_text(text.replace("kind: vehicle", "kind: vehicle\nperiod_ms: 250"))
    made = lineup(folder, [{"name": "rules"}])
    params = made.sample[0].spec.params
    assert params["limits"] == [[0.0, 90.0], [None, None], [None, 120.0]]
    assert params["rates"] == [5.0, None, None]
    assert params["stuck_after_s"] == [20.0, None, None]
    assert params["period_us"] == 250_000
    mine = lineup(folder, [{"name": "rules", "params": {"limits": [[1, 2]] * 3}}])
    assert mine.sample[0].spec.params["limits"] == [[1, 2]] * 3


def test_a_class_of_positions_alone_has_no_detectors(folder):
    text = "name: star\nversion: 1\nkind: device\nsignals:\n  - {name: Star.Height, nature: position}\n"
    (folder / "star.yaml").write_text(text, encoding="utf-8")
    made = lineup(folder, ALL, "star/1")
    assert (made.sample, made.window, made.alerting) == ((), (), 0)


def test_an_unknown_detector_or_parameter_names_the_nearest(folder):
    with pytest.raises(SettingsError, match=r"unknown detector 'relatoins': did you mean 'relations'"):
        lineup(folder, [{"name": "relatoins"}])
    with pytest.raises(SettingsError, match=r"'mising_share': did you mean 'missing_share'"):
        lineup(folder, [{"name": "rules", "params": {"mising_share": 0.2}}])
    with pytest.raises(SettingsError, match=r"detector rules of boat/1: .*limits"):
        lineup(folder, [{"name": "rules", "params": {"limits": [[0, 1]]}}])
    with pytest.raises(SettingsError, match=r"detector rules of boat/1: "):
        lineup(folder, [{"name": "rules", "params": {"limits": 7}}])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"name": "rulez"}, r"unknown detector 'rulez': did you mean 'rules'"),
        (
            {"name": "rules", "classes": ["boat"], "params": {"known_rows": 0}},
            r"detector rules of boat/1: known_rows",
        ),
    ],
)
def test_a_core_refuses_a_wrong_detector_before_any_frame(folder, wanted, message):
    wrong = settings.load(environ={}, detectors=[wanted], catalog={"paths": [str(folder)]})
    with pytest.raises(SettingsError, match=message):
        make_core(wrong)


def test_a_model_of_other_signals_is_refused(folder):
    train(folder, ("Boat.Speed", "Boat.Heat", "Boat.Bumps"))
    with pytest.raises(SettingsError, match="fitted to other columns"):
        lineup(folder, ALL)


# -- where a model is found -------------------------------------------------------------------------------------


def test_a_class_without_a_model_has_none(folder):
    assert catalog.relations_model("boat/1", [folder]) is None
    assert catalog.relations_model("boat/1") is None


def test_a_model_lies_beside_the_entry_whether_the_path_is_the_folder_or_the_file(folder):
    train(folder)
    want = fitted(WATCHED)
    assert catalog.relations_model("boat/1", [folder]) == want
    assert catalog.relations_model("boat/1", [folder / "boat.yaml"]) == want
    assert catalog.relations_model("boat/2", [folder]) is None


def test_a_users_model_wins_over_ours_and_the_first_folder_over_the_second(folder, tmp_path):
    assert catalog.relations_model("vehicle.ev/1", [folder])["catalog"] == "vehicle.ev/1"
    second = tmp_path / "second"
    second.mkdir()
    (second / "vehicle.ev-1.relations.json").write_text('{"mine": 2}', encoding="utf-8")
    assert catalog.relations_model("vehicle.ev/1", [folder, second]) == {"mine": 2}
    (folder / "vehicle.ev-1.relations.json").write_text('{"mine": 1}', encoding="utf-8")
    assert catalog.relations_model("vehicle.ev/1", [folder, second]) == {"mine": 1}


@pytest.mark.parametrize("text", ["{", "", "[1, 2]", "7", "null"])
def test_a_file_that_is_no_model_is_named(folder, text):
    (folder / "boat-1.relations.json").write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError, match=r"boat-1\.relations\.json: "):
        catalog.relations_model("boat/1", [folder])


@pytest.mark.parametrize("key", ["vehicle.ev/1", "vehicle.ice/1", "gpu.node/1", "sensor.pump/1"])
def test_our_models_are_of_our_entries_watched_signals(key):
    entry = catalog.load()[key]
    model = catalog.relations_model(key)
    assert model["columns"] == [entry.columns[i] for i in entry.monitored]
    made = detector_factory(settings.load(environ={}))(entry)
    assert "relations" in names(made.sample)
