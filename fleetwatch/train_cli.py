"""`fleetwatch train`: a class's relations, from healthy devices. The rule: the same seed, the same model."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from detectors.covariance_fit import fit_prior
from detectors.relations_fit import fit
from producers.fleet import make_fleet
from streams.core.enrolment import declared_by
from streams.core.watch import WatchStage
from telemetry import catalog as catalogs
from telemetry import settings as settings_module
from telemetry.catalog import Catalog
from telemetry.codec import decode_frame

#: Event time at which training runs begin: fixed, so that the same seed gives the same model.
START_US = 1_780_000_000_000_000


def healthy_rows(entry: Catalog, frames: dict[bytes, list[NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """What detectors see of each device, float32 (rows, watched)."""
    found = []
    for parts in frames.values():
        watch = WatchStage(entry)
        watch.reserve(1)
        rows = np.concatenate(parts)
        found.append(watch.select(np.zeros(len(rows), np.int32), rows))
    return found


def cohorts_of(devices: Sequence[Mapping[str, Any]], by: Sequence[str]) -> list[tuple[dict[str, str], list[bytes]]]:
    """Each combination of what devices declare under these keys, and the ids of those who declare it.

    devices : records of the schema "device".

    Raises
    ------
    UsageError : no device declares one of the keys.
    """
    said = {d["device_id"].encode(): declared_by(d) for d in devices}
    for key in by:
        if not any(key in each for each in said.values()):
            known = sorted({name for each in said.values() for name in each})
            raise click.UsageError(f"--by {key}: no device declares it; they declare {', '.join(known)}")
    found: dict[tuple[str, ...], list[bytes]] = defaultdict(list)
    for device, each in said.items():
        found[tuple(each.get(key, "") for key in by)].append(device)
    return [(dict(zip(by, values, strict=True)), ids) for values, ids in sorted(found.items())] if by else []


@click.command()
@click.argument("name", metavar="CLASS")
@click.option("--count", default=120, show_default=True, type=click.IntRange(5), help="Healthy devices.")
@click.option("--minutes", default=40.0, show_default=True, help="Event time of the run.")
@click.option("--seed", default=99, show_default=True, help="Not the one that the model is tried on.")
@click.option(
    "--by", multiple=True, metavar="KEY", help="Also learn each cohort of devices that declare the same KEY."
)
@click.option(
    "--detector",
    type=click.Choice(["relations", "covariance"]),
    default="relations",
    show_default=True,
    help="Whose model: relations judge by it; a device's covariance starts from it.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: <class>-<version>.relations.json or .priors.json",
)
@click.pass_obj
def train(
    config: Path | None,
    name: str,
    count: int,
    minutes: float,
    seed: int,
    by: tuple[str, ...],
    detector: str,
    output: Path | None,
) -> None:
    """Learn how the signals of CLASS hang together, from a simulated healthy fleet.

    The model is what the `relations` detector judges by, or what devices that are new to the `covariance` detector
    start from: put the file beside the catalogue entry, in a folder of the setting catalog.paths.

    \b
    Example:
      fleetwatch train vehicle.ev --count 120 --minutes 40
      fleetwatch train vehicle.ev --by model --by firmware
    """
    known = catalogs.load(settings_module.load(config).catalog.paths)
    entry = known.latest(name)
    fleet = make_fleet(entry.key, count, known, seed=seed, start_us=START_US, gap_rate_per_hour=0.0)
    parts = cohorts_of(fleet.devices(), by)
    frames: dict[bytes, list[NDArray[np.float32]]] = defaultdict(list)
    steps = max(1, round(minutes * 60e6 / fleet.frame_period_us))
    with click.progressbar(
        range(steps), label=f"{count} x {entry.key}", file=click.get_text_stream("stderr")
    ) as bar:
        for _ in bar:
            for out in fleet.step():
                frames[out.key].append(decode_frame(out.value, len(entry.signals)).values)
    columns = tuple(entry.columns[i] for i in entry.monitored)
    learn: Callable[..., dict[str, Any]] = fit if detector == "relations" else fit_prior
    rows = dict(zip(frames, healthy_rows(entry, frames), strict=True))
    try:
        learnt = learn(columns, list(rows.values()))
        cohorts = [
            {"match": match} | learn(columns, [rows[key] for key in keys if key in rows]) for match, keys in parts
        ]
    except ValueError as exc:
        raise click.UsageError(f"{exc}; ask for more --minutes or a larger --count") from exc
    model: dict[str, Any] = {"catalog": entry.key, "source": f"simulated, seed {seed}"}
    if detector == "relations":
        model |= learnt | ({"cohorts": cohorts} if cohorts else {})
    else:
        model |= {"columns": list(columns), "priors": [{"match": {}} | learnt, *cohorts]}
    kind = "relations" if detector == "relations" else "priors"
    path = output or Path(entry.key.replace("/", "-") + f".{kind}.json")
    path.write_text(json.dumps(model, separators=(",", ":")) + "\n", encoding="utf-8")
    total = sum(len(each) for each in rows.values())
    click.echo(f"{path}: {len(rows)} devices, {total} rows, {len(columns)} signals")
    for match, keys in parts:
        known_rows = [len(rows[key]) for key in keys if key in rows]
        click.echo(f"  {match}: {len(known_rows)} devices, {sum(known_rows)} rows")
