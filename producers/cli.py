"""The producing commands: simulate, inject, replay, load. The rule: the last line says what was acknowledged."""

from __future__ import annotations

import secrets
from importlib import resources
from pathlib import Path
from typing import Literal

import click

from producers import loadgen, mapping
from producers import replay as replaying
from producers.control import Listener, send_order
from producers.driver import Progress, Status, StatusCollector, Stop, default_start_us, serve_metrics, settle
from producers.faults import KINDS, parse_inject
from producers.fleet import make_fleet
from producers.options import METRICS, SEED, SPEED, START, DeviceIdType, DurationType, now_us
from producers.pacing import Pacer
from producers.playing import Player
from producers.recordings import Recording
from producers.simulation import Simulation, describe
from producers.sink import KafkaSink
from telemetry import catalog as catalogs_of
from telemetry import log
from telemetry import settings as settings_of
from telemetry.clients import admin, cluster_metadata, require_broker
from telemetry.errors import CatalogError
from telemetry.schemas.writing import frame_header
from telemetry.settings import Settings
from telemetry.topics import ensure, topics

SETTLE_S = 30.0
#: Recordings that are named before a replay.
ANNOUNCED_MAX = 5


def _settings(ctx: click.Context) -> Settings:
    settings = settings_of.load(ctx.obj)
    log.setup(settings.service.log_level, settings.service.log_format)
    return settings


def _list_faults(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Eager option: print the fault kinds and leave."""
    del param
    if not value or ctx.resilient_parsing:
        return
    for kind in sorted(KINDS.values(), key=lambda k: k.name):
        click.echo(f"{kind.name}  ({', '.join(sorted(kind.variants))})")
        click.echo(f"    {kind.doc}")
        click.echo(f"    usual size {kind.magnitude:g} {kind.unit}; look at: {kind.observable}")
    ctx.exit(0)


@click.command()
@click.argument("kind", type=click.Choice(["vehicles", "devices"]))
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@click.option(
    "--class",
    "class_name",
    help="Device class: vehicle.ev (default of vehicles), vehicle.ice, gpu.node (default of devices), sensor.pump; "
    "or one version of it, as in vehicle.ev/1.",
)
@click.option(
    "--rate", type=click.FloatRange(0.001, 1000), help="Steps a second of each device. Default: the catalogue's."
)
@click.option(
    "--seconds", type=DurationType(), help="Event time to simulate: 90, 90s, 10m, 2h. Default: until Ctrl-C."
)
@SPEED
@SEED
@START
@click.option(
    "--inject",
    "faults",
    multiple=True,
    metavar="KIND@T[:DEVICE]",
    help="Inject a fault T after the start, for example tyre_leak@30s or gpu_slow@2m:gpu-000003; *SIZE and "
    "+DURATION may follow. May be given often.",
)
@click.option(
    "--gap-rate",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Losses of connection an hour and device; what a device stored meanwhile is sent later.",
)
@click.option(
    "--clock-offset-max",
    type=click.FloatRange(0, 3600),
    default=0.5,
    show_default=True,
    help="Each device's clock is off by up to so many seconds.",
)
@click.option("--run-id", type=DeviceIdType(), help="Name of this run for `fleetwatch inject --run`.")
@METRICS
@click.option(
    "--list-faults", is_flag=True, is_eager=True, expose_value=False, callback=_list_faults, help="Show them."
)
@click.pass_context
def simulate(
    ctx: click.Context,
    kind: Literal["vehicles", "devices"],
    count: int,
    class_name: str | None,
    rate: float | None,
    seconds: float | None,
    speed: float,
    seed: int,
    start_us: int | None,
    faults: tuple[str, ...],
    gap_rate: float,
    clock_offset_max: float,
    run_id: str | None,
    metrics_port: int | None,
) -> None:
    """Drive a simulated fleet of KIND: vehicles or devices.

    Cars drive, batteries empty, GPUs compute, pumps pump; faults change what physics says they change, and each
    is written to the truth topic. Ctrl-C stops, sends what is left and counts; twice aborts.

    \b
    Examples:
      fleetwatch simulate vehicles --count 200
      fleetwatch simulate devices --class sensor.pump --count 20 --seconds 10m
      fleetwatch simulate vehicles --speed 10 --seconds 1h --inject tyre_leak@5m
      fleetwatch simulate devices --inject gpu_thermal_throttling@30s:gpu-000002
      fleetwatch simulate vehicles --list-faults
    """
    settings = _settings(ctx)
    specs = [parse_inject(text) for text in faults]
    catalogs = catalogs_of.load(settings.catalog.paths)
    start_us = default_start_us(now_us(), speed, seconds) if start_us is None else start_us
    fleet = make_fleet(
        class_name or kind,
        count,
        catalogs,
        seed=seed,
        start_us=start_us,
        gap_rate_per_hour=gap_rate,
        clock_offset_max_s=clock_offset_max,
        period_us=None if rate is None else round(1e6 / rate),
    )
    if fleet.catalog.kind != kind.removesuffix("s"):
        raise CatalogError(f"{fleet.catalog.key} is a {fleet.catalog.kind}: say `simulate {fleet.catalog.kind}s`")
    names = topics(settings)
    require_broker(settings)
    ensure(settings)
    fleet.write_with(frame_header(settings))
    run_id = run_id or f"{kind}-{secrets.token_hex(3)}"
    frames, side, pacer, status = KafkaSink(settings), KafkaSink(settings), Pacer(speed), Status()
    progress = Progress(status, frames, pacer)
    if metrics_port:
        serve_metrics(metrics_port, StatusCollector(status, frames, pacer))
    listener = Listener(settings, run_id)
    run = Simulation(
        fleet,
        names,
        frames,
        side,
        listener,
        pacer=pacer,
        status=status,
        progress=progress,
        end_us=None if seconds is None else start_us + round(seconds * 1e6),
    )
    progress.say(
        f"run {run_id}: {count:,} x {fleet.catalog.key}, {len(fleet.catalog.signals)} signals, a frame every "
        f"{fleet.frame_period_us / 1e6:g} s, to {settings.kafka.bootstrap}; Ctrl-C stops"
    )
    with Stop().installed() as stopped:
        for spec in specs:
            run.order(spec)
        run.declare()
        run.run(stopped)
        progress.end()
        listener.close()
        settle(status, frames, side, SETTLE_S)


@click.command()
@click.argument("order", metavar="KIND[@T][:DEVICE]")
@click.option("--run", "run_id", help="Only this run; see the first line that `simulate` prints. Default: all.")
@click.option("--wait", type=DurationType(), default="10s", show_default=True, help="For an answer.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_faults, help="The kinds.")
@click.pass_context
def inject(ctx: click.Context, order: str, run_id: str | None, wait: float) -> None:
    """Inject a fault into running simulations, and say on which device.

    T is event time from now (30s, 2m); without it the fault begins at once. Without DEVICE each simulation whose
    class can have the fault chooses one. *SIZE and +DURATION may follow.

    \b
    Examples:
      fleetwatch inject --list
      fleetwatch inject tyre_leak
      fleetwatch inject battery_cell_drift:veh-000012
      fleetwatch inject gpu_slow@30s+2m --run devices-3f2a1c
    """
    settings = _settings(ctx)
    parse_inject(order)
    require_broker(settings)
    for answer in send_order(settings, order, run_id, wait):
        click.echo(f"injected into run {answer['run']}: {describe(answer['injected'])}")


def _announce(recordings: list[Recording], progress: Progress) -> None:
    for recording in recordings[:ANNOUNCED_MAX]:
        lacks = f"; not in it: {', '.join(recording.fit.missing)}" if recording.fit.missing else ""
        whose = recording.device_id or "devices by column"
        progress.say(f"{recording.path.name}: {recording.mapping.name} -> {recording.catalog.key}, {whose}{lacks}")
    if len(recordings) > ANNOUNCED_MAX:
        progress.say(f"... and {len(recordings) - ANNOUNCED_MAX} more recordings")


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--sample", is_flag=True, help="Replay the shipped sample: a minute of a real drive.")
@click.option(
    "--mapping",
    "mapping_name",
    help="Shipped mapping (carobd, comma2k19, drive) or a YAML file of your own. Default: the one that fits.",
)
@click.option("--device", type=DeviceIdType(), help="Device id for all rows. Default: the mapping's pattern.")
@SPEED
@click.option("--loop", "loops", type=click.IntRange(1), default=1, show_default=True, help="Play so many times.")
@START
@click.option(
    "--bad-rows",
    type=click.Choice(["dlq", "skip", "fail"]),
    default="dlq",
    show_default=True,
    help="Malformed rows: to the dead letters, only counted, or end with an error.",
)
@METRICS
@click.pass_context
def replay(
    ctx: click.Context,
    files: tuple[Path, ...],
    sample: bool,
    mapping_name: str | None,
    device: str | None,
    speed: float,
    loops: int,
    start_us: int | None,
    bad_rows: Literal["dlq", "skip", "fail"],
    metrics_port: int | None,
) -> None:
    """Replay recordings (FILES: CSV, Parquet, NPZ) as telemetry.

    A mapping says which column is which signal; it is found by the columns unless you name one. Each file is a
    device of its own unless the mapping or --device says otherwise; devices play side by side.

    \b
    Examples:
      fleetwatch replay --sample
      fleetwatch replay trips/*.csv
      fleetwatch replay drive.parquet --mapping my-logger.yaml --device car-7 --speed 10
      fleetwatch replay trip.csv --speed 0 --bad-rows fail
    """
    if sample == bool(files):
        raise click.UsageError("give FILES, or --sample", ctx)
    settings = _settings(ctx)
    catalogs = catalogs_of.load(settings.catalog.paths)
    if sample:
        files = (Path(str(resources.files("producers").joinpath("samples", "drive.csv"))),)
    chosen = mapping.named(mapping_name) if mapping_name else None
    recordings = [Recording(path, catalogs, chosen, device) for path in files]
    require_broker(settings)
    ensure(settings)
    header = frame_header(settings)
    start_us = default_start_us(now_us(), speed, None) if start_us is None else start_us
    frames, side, pacer, status = KafkaSink(settings), KafkaSink(settings), Pacer(speed), Status()
    progress = Progress(status, frames, pacer)
    if metrics_port:
        serve_metrics(metrics_port, StatusCollector(status, frames, pacer))
    _announce(recordings, progress)
    player = Player(
        topics(settings),
        frames,
        side,
        start_us=start_us,
        pacer=pacer,
        status=status,
        progress=progress,
        bad_rows=bad_rows,
    )
    with Stop().installed() as stopped:
        try:
            player.run(replaying.timeline(recordings, start_us=start_us, loops=loops, header=header), stopped)
        finally:
            progress.end()
            settle(status, frames, side, SETTLE_S)


@click.command()
@click.option("--class", "class_name", default="bench.frames", show_default=True, help="Catalogue class or entry.")
@click.option("--devices", type=click.IntRange(1, 9_999_999), default=10_000, show_default=True)
@click.option("--frames", "total", type=click.IntRange(1), default=2_000_000, show_default=True, help="In all.")
@click.option("--rate", type=click.FloatRange(0), default=0.0, help="Frames a second in all; 0 = full speed.")
@SEED
@START
@click.option(
    "--spike-rate",
    type=click.FloatRange(0, 1),
    default=0.0002,
    show_default=True,
    help="Share of frames with a spike of twelve sigma on one value.",
)
@METRICS
@click.pass_context
def load(
    ctx: click.Context,
    class_name: str,
    devices: int,
    total: int,
    rate: float,
    seed: int,
    start_us: int | None,
    spike_rate: float,
    metrics_port: int | None,
) -> None:
    """Write frames at full speed, for benchmarks.

    All devices send one frame a round, with growing sequence numbers and times. The values are waves with noise,
    drawn before the clock starts. The last lines say frames a second, by the clock and by CPU time.

    \b
    Examples:
      fleetwatch load
      fleetwatch load --class bench.single --frames 1000000
      fleetwatch load --class vehicle.ev --devices 2000 --rate 50000
    """
    settings = _settings(ctx)
    catalogs = catalogs_of.load(settings.catalog.paths)
    entry = catalogs[class_name] if "/" in class_name else catalogs.latest(class_name)
    names = topics(settings)
    spec = names.vehicle if entry.kind == "vehicle" else names.device
    require_broker(settings)
    ensure(settings)
    partitions = len(cluster_metadata(admin(settings), settings).topics[spec.name].partitions)
    rounds = -(-total // devices)
    frame_s = entry.period_ms * entry.steps_per_frame / 1000
    start_us = now_us() - round(rounds * frame_s * 1e6) if start_us is None else start_us
    generator = loadgen.LoadGenerator(
        entry,
        devices,
        partitions,
        start_us=start_us,
        seed=seed,
        spike_rate=spike_rate,
        header=frame_header(settings),
    )
    frames, pacer, status = KafkaSink(settings, reports="failures"), Pacer(1.0 if rate else 0.0), Status()
    progress = Progress(status, frames, pacer)
    if metrics_port:
        serve_metrics(metrics_port, StatusCollector(status, frames, pacer))

    def each(count: int, event_us: int) -> None:
        status.frames += count
        status.samples += count * generator.samples_per_frame
        status.event_us = event_us
        progress.tick()

    with Stop().installed() as stopped:
        took = loadgen.run(
            generator, frames, spec.name, total=total, rate=rate, pacer=pacer, stopped=stopped, each=each
        )
        progress.end()
        settle(status, frames, None, SETTLE_S)
    click.echo(
        f"{status.frames / took.wall_s:,.0f} frames/s by the clock ({took.wall_s:.2f} s), "
        f"{status.frames / took.cpu_s:,.0f} frames per CPU second ({took.cpu_s:.2f} s)"
    )
