"""`make quality`: every labelled set that is there, the table, the charts. The rule: no figure without its run."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import click

from benchmarks.quality import evaluate, report
from telemetry import settings as settings_module

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FILES = {
    "NAB": ("nab.tar.xz",),
    "SMD": ("smd.npz", "smd_interpretation.json"),
    "ASD": ("asd.npz", "asd_interpretation.json"),
    "vehicle": ("carobd_train.npz", "carobd_inj.npz", "carobd_inj_events.json"),
}


def _below(threshold: float) -> float:
    """Three digits, rounded down: the score that it was set at stays above it."""
    return math.floor(1000 * threshold) / 1000


def _run(name: str, folder: Path, frozen: dict[str, dict[str, float]]) -> evaluate.SetResult:
    settings = settings_module.load(environ={})

    def tell(what: str) -> None:
        if click.get_text_stream("stderr").isatty():
            click.echo(f"\r\033[K{what}", nl=False, err=True)

    started = time.monotonic()
    if name == "NAB":
        result = evaluate.run_nab(settings, folder, frozen.get("NAB", {}), tell)
    elif name == "vehicle":
        result = evaluate.run_vehicle(settings, folder, frozen.get("vehicle", {}).get("threshold"), tell)
    else:
        result = evaluate.run_servers(settings, folder, name.lower(), tell)
    tell("")
    click.echo(f"{result.name}: {time.monotonic() - started:.0f} s, {result.ns_per_value:.0f} ns a value")
    for key, value in result.figures.items():
        click.echo(f"  {key:45s} {value:8.3f}")
    return result


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=ROOT.parent / "shared" / "data",
    help="Where nab.tar.xz, smd.npz, asd.npz and carobd_*.npz are. [default: ../shared/data beside the project]",
)
@click.option(
    "--only", multiple=True, type=click.Choice(list(FILES)), help="Run these sets alone; nothing is written."
)
@click.option(
    "--freeze", is_flag=True, help="Keep this run's thresholds as the frozen ones: on development data only."
)
@click.option("--page", type=click.Path(path_type=Path), default=ROOT / "docs" / "detection-quality.md")
def main(folder: Path, only: tuple[str, ...], freeze: bool, page: Path) -> None:
    """Score every labelled set through the worker's engine and write docs/detection-quality.md with its charts."""
    kept = HERE / "frozen.json"
    frozen = json.loads(kept.read_text(encoding="utf-8"))
    wanted = only or tuple(FILES)
    missing = [name for name in wanted if not all((folder / file).exists() for file in FILES[name])]
    if len(missing) == len(wanted):
        raise click.UsageError(
            f"{folder}: none of the sets is there; say where with --data (make quality DATA=...)"
        )
    evaluate.compile_all(settings_module.load(environ={}))
    results = [_run(name, folder, frozen) for name in wanted if name not in missing]
    if freeze:
        for result in results:
            if result.name == "NAB":
                frozen["NAB"] = {
                    key.removesuffix(", threshold"): _below(value)
                    for key, value in result.figures.items()
                    if key.endswith(", threshold")
                }
            elif "threshold" in result.figures:
                frozen["vehicle"] = {"threshold": _below(result.figures["threshold"])}
        kept.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")
        click.echo(f"{kept.relative_to(ROOT)}: thresholds frozen")
    if not only:
        page.write_text(report.page(results, missing, page.parent / "img" / "quality"), encoding="utf-8")
        click.echo(f"wrote {page}")


if __name__ == "__main__":
    main()
