"""The operators' own definitions of their objects, for strict checks. The rule: what is installed has a known hash.

KEDA's and the Prometheus operator's Go modules carry theirs; Strimzi's generator, from its Maven artefacts, writes
them from its classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from fleetwatch.kafka.artifacts import java
from fleetwatch.kafka.paths import cache_dir, locked
from tests.k8s.build import BuildError

#: Go module -> its hash as go.sum has it, folder, files.
MODULES = {
    "github.com/kedacore/keda/v2@v2.21.0": (
        "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps=",
        "config/crd/bases",
        ("keda.sh_scaledobjects.yaml", "keda.sh_triggerauthentications.yaml"),
    ),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
        "example/prometheus-operator-crd",
        (
            "monitoring.coreos.com_podmonitors.yaml",
            "monitoring.coreos.com_servicemonitors.yaml",
            "monitoring.coreos.com_prometheusrules.yaml",
        ),
    ),
}
STRIMZI = "1.2.0"
STRIMZI_MODEL = "io.strimzi.api.kafka.model"
#: Class -> SHA-256 of the definition that its generator writes.
STRIMZI_KINDS = {
    "kafka.Kafka": "f80ec1e42574be119a83a6cc0e429130a71330fd2f437737609a14fbefdb14ad",
    "nodepool.KafkaNodePool": "71767e99fe04323e4acc4eecf79894b6fb2534b4f0e57d410377fcc8b44870bc",
    "topic.KafkaTopic": "6c29551b7ac809e720558696810c6639a9253e81d64029200b332c99eda1b810",
}


def definitions() -> Path:
    """A folder of CustomResourceDefinitions, for `kubectl apply -f`; fetched once.

    Raises
    ------
    BuildError : a source cannot be reached, or brings something else than it did.
    """
    key = hashlib.sha256(repr((MODULES, STRIMZI, STRIMZI_KINDS)).encode()).hexdigest()[:16]
    target = cache_dir() / f"k8s-crds-{key}"
    if not target.exists():
        with locked(target.with_suffix(".lock")):
            if not target.exists():
                _fetch(target)
    return target


def _fetch(target: Path) -> None:
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for module, (known, folder, names) in MODULES.items():
            source = _module(module, known) / folder
            for name in names:
                shutil.copyfile(source / name, part / name)
        _strimzi(part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _module(module: str, known: str) -> Path:
    go = shutil.which("go")
    if go is None:
        raise BuildError(f"go is not on PATH; {module} is fetched with it")
    command = [go, "mod", "download", "-json", module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"GOFLAGS": ""})
    found = json.loads(done.stdout or "{}")
    if "Dir" not in found:
        raise BuildError(f"{module} cannot be fetched: {found.get('Error') or done.stderr.strip()}")
    if found["Sum"] != known:
        raise BuildError(f"{module} has the hash {found['Sum']}, expected {known}")
    return Path(found["Dir"])


def _strimzi(target: Path) -> None:
    import jgo

    folder = target / "jars"
    jgo.build(f"io.strimzi:crd-generator:{STRIMZI}+io.strimzi:api:{STRIMZI}", cache_dir=folder)
    jars = sorted(str(jar) for jar in folder.rglob("*.jar"))
    wanted = {kind: target / f"strimzi.{kind}.yaml" for kind in STRIMZI_KINDS}
    arguments = [f"{STRIMZI_MODEL}.{kind}={path}" for kind, path in wanted.items()]
    generator = "io.strimzi.crdgenerator.CrdGenerator"
    done = subprocess.run(
        [java(), "-cp", os.pathsep.join(jars), generator, "--yaml", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    for kind, path in wanted.items():
        if not path.exists():
            raise BuildError(f"Strimzi's generator wrote nothing for {kind}: {done.stderr.strip()[-1000:]}")
        if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != STRIMZI_KINDS[kind]:
            raise BuildError(f"Strimzi's definition of {kind} has the SHA-256 {digest}, not the known one")
    shutil.rmtree(folder)
