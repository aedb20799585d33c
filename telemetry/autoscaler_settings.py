"""When and how workers are scaled. The rule: a limit that cannot be kept is refused here, not met by surprise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from telemetry.kafka_settings import Section


class AutoscalerSettings(Section):
    """What `fleetwatch autoscaler` watches, what it may do, and what it aims at; see docs/autoscaling.md."""

    target: Literal["deployment", "statefulset", "none"] = Field(
        "deployment", description="What is scaled; none = nothing: decisions are told and published only."
    )
    name: str = Field("fleetwatch-worker", pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")
    namespace: str = Field("", description="Of the target; empty = the one that this process runs in.")
    dry_run: bool = Field(False, description="Decide and tell, but never change the target.")
    min_replicas: int = Field(1, ge=0, description="0 = none while there is nothing to do; one record wakes them.")
    max_replicas: int = Field(0, ge=0, description="0 = as many as there are partitions, which no setting exceeds.")
    lag_slo_s: float = Field(30.0, gt=0, description="Every partition's lag stays below this.")
    utilisation: float = Field(0.70, gt=0, lt=1, description="Of a worker's capacity, that the busiest may use.")
    utilisation_soft: float = Field(
        0.80, gt=0, lt=1, description="... if the next count of replicas that helps costs half as much again."
    )
    utilisation_max: float = Field(0.90, gt=0, le=1, description="Above this replicas are added at once.")
    catch_up_s: float = Field(60.0, gt=0, description="A backlog is to be worked off within this time.")
    start_s: float = Field(
        20.0, ge=0, description="From a new replica to a member of the group, until it has been measured."
    )
    rebalance_s: float = Field(
        5.0, ge=0, description="Records that come in during so long are worked off after a rebalance."
    )
    capacity_per_s: float = Field(
        0.0, ge=0, description="Records that a worker processes, until it has been measured; 0 = not known."
    )
    ladder: bool = Field(True, description="Only counts of replicas that lower the busiest one's partitions.")
    down_window_s: float = Field(300.0, gt=0, description="Scale down to the most needed in so long.")
    down_cooldown_s: float = Field(180.0, ge=0, description="Between two scale-downs, at least.")
    idle_s: float = Field(600.0, gt=0, description="Without a record for so long: down to 0, where allowed.")
    interval_s: float = Field(10.0, ge=0.5, le=300, description="Between two decisions.")
    stale_s: float = Field(
        60.0, gt=0, description="Figures older than this are not decided upon: the last decision holds."
    )
    metrics: Literal["pods", "urls", "none"] = Field(
        "pods", description="Where workers' own figures are read: of the target's pods, of `metrics_urls`, nowhere."
    )
    metrics_port: int = Field(6066, ge=1, le=65535, description="Of the pods' pages.")
    metrics_urls: tuple[str, ...] = ()
    lease: str = Field("", description="The Lease whose holder scales; empty = named after the target.")
    lease_s: float = Field(10.0, ge=3, le=600, description="A leader that is gone is followed after this time.")
    host: str = Field("127.0.0.1", description="Of its own page: /metrics, /healthz, /readyz, /desired.")
    port: int = Field(6067, ge=0, le=65535, description="0 = any free port.")

    @model_validator(mode="after")
    def _ordered(self) -> AutoscalerSettings:
        if 0 < self.max_replicas < self.min_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        if not self.utilisation <= self.utilisation_soft <= self.utilisation_max:
            raise ValueError("must be ordered: utilisation <= utilisation_soft <= utilisation_max")
        if self.stale_s < 2 * self.interval_s:
            raise ValueError(f"stale_s {self.stale_s:g} must be two intervals ({self.interval_s:g} s) or more")
        return self
