"""`fleetwatch autoscaler`. The rule: settings are loaded here, once, and a wrong one is said before it starts."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import click

from telemetry import log as logs
from telemetry import settings as settings_module

_PREFIX = "FLEETWATCH_AUTOSCALER__"
#: Between two glances at whether a signal came.
_GLANCE_S = 0.2


def _override(**given: Any) -> None:
    """Options win over variables and the file, and are refused by the same words."""
    for name, value in given.items():
        if value is not None:
            os.environ[_PREFIX + name.upper()] = str(value)


@click.command()
@click.option("--dry-run", is_flag=True, help="Decide and tell, but change nothing, and contend for no lease.")
@click.option(
    "--once", is_flag=True, help="Look for a few seconds, print partitions, decision and reason, and end."
)
@click.option("--target", metavar="KIND", help="deployment, statefulset, or none: watch and tell, no Kubernetes.")
@click.option("--name", help="Of the workload that is scaled.")
@click.option("--namespace", help="Of the workload; without it, the pod's own or the kubeconfig's.")
@click.option("--port", type=int, help="Of its page; 0 = any free one.")
@click.pass_obj
def autoscaler(
    config: Path | None,
    dry_run: bool,
    once: bool,
    target: str | None,
    name: str | None,
    namespace: str | None,
    port: int | None,
) -> None:
    """Scale the workers of a group by their lag in seconds, on Kubernetes.

    Looks at the group every autoscaler.interval_s, decides how many workers keep every partition's lag below
    autoscaler.lag_slo_s, and sets the replicas of a Deployment or StatefulSet. Why it did so is in its log, in
    Events of the workload (kubectl describe), and on its page: /metrics, /healthz, /readyz, and /desired for
    KEDA's metrics-api scaler (then with --dry-run). Nothing else may set the replicas: no HPA, no ScaledObject,
    no spec.replicas in a manifest that is applied again.

    Two or more may run: the holder of a Lease scales, the others look and decide too, and one of them goes on
    within autoscaler.lease_s. Without figures the last decision holds. Ctrl-C or SIGTERM hands the lease over.

    \b
    Kafka: DESCRIBE on the input topics and the group (`fleetwatch topics apply --acls`, role observer).
    Kubernetes, in the namespace of the workload (the Helm chart makes this Role):
      apps                 deployments/scale  get, patch           only get with --dry-run
      coordination.k8s.io  leases             get, update, create  not with --dry-run
      events.k8s.io        events             create               or no Events are written
      apps                 deployments        get                  or who set the replicas stays unknown
      ""                   pods               list                 or autoscaler.metrics urls or none

    \b
    Examples:
      fleetwatch autoscaler --once --target none
          what the group does now, and how many workers it would need; no Kubernetes
      fleetwatch autoscaler --dry-run --name fleetwatch-worker --namespace fleet
          from a workstation, with its kubeconfig: what it would do, for as long as you watch
      FLEETWATCH_AUTOSCALER__MAX_REPLICAS=12 fleetwatch autoscaler --target statefulset --name worker
          scale the StatefulSet worker up to 12

    Exit codes: 0 ended as told, 69 nothing to see (--once), 70 a defect, 78 wrong settings or no right to scale.
    An absent broker or API server at the start is waited for.
    """
    _override(target=target, name=name, namespace=namespace, port=port, dry_run="true" if dry_run or once else None)
    settings = settings_module.load(config)
    service_settings = settings.service
    if once:
        logs.setup("ERROR", service_settings.log_format)
        from autoscaler import once as page

        page.run(settings)
        return
    logs.setup(service_settings.log_level, service_settings.log_format)
    _serve(settings)


def _serve(settings: settings_module.Settings) -> None:
    from autoscaler.service import Service

    told: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # sets no Event: its lock may be held right here
        del frame
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    service = Service(settings)
    service.start()
    while not told and not service.stop.is_set():
        time.sleep(_GLANCE_S)
    service.end()
