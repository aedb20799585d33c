"""`fleetwatch train`: the file that it writes is the model that the worker loads."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from detectors.protocol import Block, Scores
from detectors.registry import make_detector
from fleetwatch.cli import main
from fleetwatch.train_cli import healthy_rows, train
from streams.wiring import detector_factory
from telemetry import catalog, settings
from telemetry.errors import CatalogError, SettingsError

KEY = "sensor.pump/1"


def trained(path, *more):
    arguments = ["sensor.pump", "--count", "5", "--minutes", "7", "-o", str(path), *more]
    return CliRunner().invoke(train, arguments, catch_exceptions=False)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    result = trained(folder / "sensor.pump-1.relations.json")
    assert result.exit_code == 0, result.output
    return folder / "sensor.pump-1.relations.json", result


def test_the_model_has_the_watched_columns_and_says_where_it_is_from(model_file):
    path, result = model_file
    model = json.loads(path.read_text(encoding="utf-8"))
    entry = catalog.load()[KEY]
    assert model["columns"] == [entry.columns[i] for i in entry.monitored]
    assert (model["catalog"], model["devices"], model["source"]) == (KEY, 5, "simulated, seed 99")
    assert f"5 devices, {model['rows']} rows, {len(model['columns'])} signals" in result.output
    assert str(path) in result.output


def test_the_worker_loads_it_and_scores_by_it(model_file):
    path, _ = model_file
    wanted = settings.load(environ={}, catalog={"paths": [str(path.parent)]}, detectors=[{"name": "relations"}])
    entry = catalog.load(wanted.catalog.paths)[KEY]
    found = detector_factory(wanted)(entry).sample[0]
    model = json.loads(path.read_text(encoding="utf-8"))
    assert found.spec.params["model"] == model
    assert model != catalog.relations_model(KEY)
    detector = make_detector("relations", tuple(model["columns"]), {"model": model})
    detector.reserve(1)
    rows = np.tile(np.array(model["mean"], np.float32), (200, 1))
    rows[150:, 0] += 20 * np.float32(model["scale"][0])
    out = Scores.empty(200)
    detector.update(Block(np.zeros(200, np.int32), np.arange(200), rows), out)
    assert out.surprise[149] == 0.0
    assert out.surprise[199] > 8.0


def test_the_same_seed_gives_the_same_model_and_another_another(model_file, tmp_path):
    path, _ = model_file
    trained(tmp_path / "again.json")
    trained(tmp_path / "other.json", "--seed", "7")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert (tmp_path / "other.json").read_bytes() != path.read_bytes()


def test_without_output_the_file_has_the_name_that_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(train, ["sensor.pump", "--count", "5", "--minutes", "7"], catch_exceptions=False)
    assert result.exit_code == 0
    assert catalog.relations_model(KEY, [tmp_path])["catalog"] == KEY


def test_too_little_time_is_an_error_that_says_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "sensor.pump", "--count", "5", "--minutes", "0.1", "-o", str(tmp_path / "m.json")])
    assert ended.value.code == 2
    assert "at least 5 devices with 360 rows are needed, not 0; ask for more --minutes" in capsys.readouterr().err
    assert not (tmp_path / "m.json").exists()


def test_too_few_devices_and_unknown_classes_are_refused(tmp_path):
    result = CliRunner().invoke(train, ["sensor.pump", "--count", "4"])
    assert result.exit_code == 2
    assert "--count" in result.output
    with pytest.raises(CatalogError, match=r"unknown device class sensor\.pmp; did you mean sensor\.pump"):
        CliRunner().invoke(train, ["sensor.pmp"], catch_exceptions=False)


def test_rows_are_what_detectors_see():
    entry = catalog.load()["gpu.node/1"]
    ecc = entry.columns.index("DCGM.FI.DEV.ECC_SBE_VOL_TOTAL")
    values = np.zeros((4, len(entry.signals)), np.float32)
    values[:, ecc] = [5, 5, 8, 1]
    (rows,) = healthy_rows(entry, {b"gpu-1": [values[:2], values[2:]]})
    seen = rows[:, list(entry.monitored).index(ecc)]
    np.testing.assert_array_equal(seen, np.array([np.nan, 0, 3, np.nan], np.float32))


def test_cohorts_are_learnt_by_what_devices_declare(tmp_path):
    path = tmp_path / "sensor.pump-1.relations.json"
    result = trained(path, "--count", "24", "--by", "model")
    assert result.exit_code == 0, result.output
    model = json.loads(path.read_text(encoding="utf-8"))
    matches = [cohort["match"] for cohort in model["cohorts"]]
    assert len(matches) > 1
    assert all(set(match) == {"model"} for match in matches)
    assert sum(cohort["devices"] for cohort in model["cohorts"]) == model["devices"] == 24
    detector = make_detector("relations", tuple(model["columns"]), {"model": model})
    assert list(detector.cohorts) == matches


def test_a_key_that_nobody_declares_is_refused_with_those_that_are(tmp_path):
    result = CliRunner().invoke(train, ["sensor.pump", "--count", "5", "--minutes", "1", "--by", "colour"])
    assert result.exit_code == 2
    assert "no device declares it; they declare class, firmware, model, simulated" in result.output


def test_the_covariance_starts_from_priors_by_cohort(tmp_path):
    path = tmp_path / "sensor.pump-1.priors.json"
    result = trained(path, "--count", "24", "--by", "model", "--detector", "covariance")
    assert result.exit_code == 0, result.output
    model = json.loads(path.read_text(encoding="utf-8"))
    entry = catalog.load()[KEY]
    assert model["columns"] == [entry.columns[i] for i in entry.monitored]
    matches = [prior["match"] for prior in model["priors"]]
    assert matches[0] == {}
    assert len(matches) > 2
    wanted = settings.load(environ={}, catalog={"paths": [str(tmp_path)]}, detectors=[{"name": "covariance"}])
    found = detector_factory(wanted)(entry).sample[0]
    assert list(found.cohorts) == matches
    rows = np.tile(np.array(model["priors"][1]["mean"][: len(model["columns"])], np.float32), (40, 1))
    told = {}
    for cohort in (-1, 1):
        found.reserve(1)
        found.forget(np.zeros(1, np.int32))
        found.enrol(np.zeros(1, np.int32), np.array([cohort], np.int16))
        out = Scores.empty(40)
        found.update(Block(np.zeros(40, np.int32), np.arange(40), rows), out)
        told[cohort] = int(np.isfinite(out.surprise).sum())
    assert told[-1] == 0, "60 rows are needed where nothing is known"
    assert told[1] >= 15, "and 20 with a prior"


def test_priors_for_other_columns_are_refused(tmp_path):
    (tmp_path / "sensor.pump-1.priors.json").write_text('{"columns": ["a"], "priors": []}')
    wanted = settings.load(environ={}, catalog={"paths": [str(tmp_path)]}, detectors=[{"name": "covariance"}])
    with pytest.raises(SettingsError, match=r"covariance of sensor\.pump/1: .*fitted to other columns"):
        detector_factory(wanted)(catalog.load()[KEY])
