"""Nothing that comes from a topic or a file is ever run: a gate over the sources, and a canary in every input."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import part

from producers import control, mapping, recordings
from streams.core.effects import Effects
from streams.core.state import Restored, load
from streams.wiring import detector_factory, make_core
from telemetry import catalog, codec, schemas
from telemetry import settings as settings_module
from telemetry.alerts import Alert
from telemetry.errors import FleetwatchError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("producers", "streams", "detectors", "telemetry", "autoscaler", "fleetwatch")
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "marshal",
    "shelve",
    "joblib",
    "code",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
#: Methods that run or build what they read, by the names under which libraries have them.
METHODS = {
    "unsafe_load",
    "unsafe_load_all",
    "full_load",
    "full_load_all",
    "read_pickle",
    "to_pickle",
    "load_module",
}
#: What reads is safe_load; what writes reads nothing.
YAML_SAFE = {"safe_load", "safe_dump", "dump", "SafeDumper", "Node", "YAMLError", "MarkedYAMLError"}


def _false(call: ast.Call, name: str) -> bool:
    return any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is False for k in call.keywords
    )


def _call(node: ast.Call) -> str | None:
    match node.func:
        case ast.Name(id=name) if name in BUILTINS:
            return f"{name}()"
        case ast.Attribute(value=ast.Name(id="os"), attr="system" | "popen"):
            return "a shell"
        case ast.Attribute(attr=name) if name in METHODS:
            return f".{name}()"
        case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load") if not _false(node, "allow_pickle"):
            return "np.load() without allow_pickle=False"
    if any(k.arg == "shell" for k in node.keywords):
        return "a shell"
    return None


def dangers(source: str) -> list[str]:
    """What in a source runs or unpickles what it is given: ``line: what``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what: str | None = None
        match node:
            case ast.Import(names=names):
                what = next((n.name for n in names if n.name.partition(".")[0] in MODULES), None)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                what = module
            case ast.ImportFrom(module="yaml"):
                what = "yaml's names are used as yaml.safe_load"
            case ast.Attribute(value=ast.Name(id="yaml"), attr=name) if name not in YAML_SAFE:
                what = f"yaml.{name}"
            case ast.Constant(value=str(text)) if text.lower() in ("pickle", "raw|pickle", "zlib|pickle"):
                what = "a serializer by the name of pickle"
            case ast.Call():
                what = _call(node)
        if what:
            found.append(f"{getattr(node, 'lineno', 0)}: {what}")
    return found


def test_no_source_runs_what_it_reads() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 80
    found = [f"{file.relative_to(ROOT)}:{danger}" for file in files for danger in dangers(file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "import marshal",
        "import shelve",
        "def f(x):\n    return eval(x)",
        "exec('1')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "from yaml import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "app.topic('x', value_serializer='pickle')",
        "subprocess.run(line, shell=True)",
        "os.system(line)",
    ],
)
def test_the_gate_finds(source: str) -> None:
    assert dangers(source)


def test_the_gate_lets_pass() -> None:
    harmless = "import yaml\nre.compile('x')\nyaml.safe_load(t)\nnp.load(p, allow_pickle=False)\nmodel.eval_all()"
    assert dangers(harmless) == []


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    """One that sings: it is proven first that unpickling it does touch its file."""
    made = Canary(tmp_path / "sang")
    pickle.loads(pickle.dumps(made))
    assert made.path.exists()
    made.path.unlink()
    return made


def yaml_bombs(path: Path) -> list[str]:
    return [
        f"!!python/object/apply:os.system ['touch {path}']",
        f"kafka: !!python/object/apply:os.system ['touch {path}']",
        f"signals: !!python/object/new:os.system ['touch {path}']",
        f"!!python/object/apply:subprocess.Popen [[touch, {path}]]",
    ]


def test_records_and_state_rows_are_not_unpickled(canary: Canary) -> None:
    settings = settings_module.load(environ={})
    core = make_core(settings)
    payloads = [pickle.dumps(canary, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    framed = [schemas.header("frame") + payload for payload in payloads]
    values = [*payloads, *framed]
    effects = Effects()
    core.process(
        core.topics[0],
        0,
        [part([(payload, value) for payload in payloads[:1] for value in values])],
        0,
        1_760_000_000_000_000,
        effects,
    )
    assert len(effects.dead) == len(values)
    found = Restored()

    load(core, [*payloads, *(schemas.header("state_row") + p for p in payloads)], {0, 1}, found)
    assert found.rows == 0
    assert sum(found.set_aside.values()) == 2 * len(payloads)

    assert not canary.path.exists()


@pytest.mark.parametrize("name", ["frame", "window_features", "score", "state_row"])
def test_messages_are_not_unpickled(canary: Canary, name: str) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        payload = pickle.dumps(canary, protocol)
        for data in (payload, schemas.header(name) + payload):
            with pytest.raises(ValueError):
                codec.decode(name, data)
        with pytest.raises(ValueError):
            Alert.from_message(payload, [("ce_type", payload), ("content-type", b"application/x-python-pickle")])
    assert not canary.path.exists()


def test_settings_catalogues_and_mappings_run_nothing(canary: Canary, tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    readers: tuple[Callable[[], object], ...] = (
        lambda: settings_module.load(file, environ={}),
        lambda: catalog.load([file]),
        lambda: mapping.parse(file.read_text(), "hostile"),
    )
    for text in yaml_bombs(canary.path):
        file.write_text(text)
        for read in readers:
            with pytest.raises(FleetwatchError):
                read()
    assert not canary.path.exists()


def test_a_model_of_relations_is_data(canary: Canary, tmp_path: Path) -> None:
    settings = settings_module.load(environ={}, catalog={"paths": [str(tmp_path)]})
    entry = catalog.load()["vehicle.ev/1"]
    file = tmp_path / "vehicle.ev-1.relations.json"
    for content in (
        pickle.dumps(canary),
        b'{"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["touch %s"]}]}' % bytes(canary.path),
        b"[" * 100_000,
    ):
        file.write_bytes(content)
        with pytest.raises((FleetwatchError, UnicodeDecodeError, RecursionError)):
            detector_factory(settings)(entry)
    assert not canary.path.exists()


def _npz(path: Path, arrays: dict[str, Any]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            raw = io.BytesIO()
            np.lib.format.write_array(raw, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", raw.getvalue())


def test_a_recording_of_objects_is_refused(canary: Canary, tmp_path: Path) -> None:
    path = tmp_path / "drive.npz"
    objects = np.empty(2, object)
    objects[:] = [canary, canary]
    _npz(path, {"time": objects, "speed": np.zeros(2)})
    assert set(recordings._npz_header(path)) == {"time", "speed"}
    with pytest.raises(FleetwatchError, match="time cannot be read: Object arrays cannot be loaded"):
        recordings._npz_columns(path, ("time", "speed"))
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(canary))
    with pytest.raises((FleetwatchError, ValueError)):
        recordings._npz_header(tmp_path / "raw.npz")
    assert not canary.path.exists()


def test_an_order_is_data(canary: Canary) -> None:
    for value in (pickle.dumps(canary), json.dumps({"order": {"py/object": "os.system"}}).encode()):
        assert control._parse(value) is None
    assert not canary.path.exists()
