"""What a decision may do and aims at, as plain numbers. The rule: seconds, replicas and shares; no tree."""

from __future__ import annotations

from dataclasses import dataclass

from telemetry.settings import Settings

#: Name under which replicas are set; a change under another name was made by somebody else.
FIELD_MANAGER = "fleetwatch-autoscaler"


@dataclass(frozen=True, slots=True)
class Limits:
    """See `telemetry.autoscaler_settings`, whose defaults these are.

    capacity_per_s : 0 = not known. replicas_max : 0 = as many as partitions.
    commit_s : offsets are committed so far apart at most, so that much of the lag is no backlog.
    """

    replicas_min: int = 1
    replicas_max: int = 0
    lag_slo_s: float = 30.0
    utilisation: float = 0.70
    utilisation_soft: float = 0.80
    utilisation_max: float = 0.90
    catch_up_s: float = 60.0
    start_s: float = 20.0
    rebalance_s: float = 5.0
    capacity_per_s: float = 0.0
    ladder: bool = True
    down_window_s: float = 300.0
    down_cooldown_s: float = 180.0
    idle_s: float = 600.0
    interval_s: float = 10.0
    commit_s: float = 6.0

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """From the settings."""
        a = settings.autoscaler
        return cls(
            a.min_replicas,
            a.max_replicas,
            a.lag_slo_s,
            a.utilisation,
            a.utilisation_soft,
            a.utilisation_max,
            a.catch_up_s,
            a.start_s,
            a.rebalance_s,
            a.capacity_per_s,
            a.ladder,
            a.down_window_s,
            a.down_cooldown_s,
            a.idle_s,
            a.interval_s,
            2 * settings.processing.commit_interval_ms / 1000 + 1,
        )

    def most(self, partitions: int) -> int:
        """Replicas allowed: more than partitions would be idle."""
        return min(self.replicas_max or partitions, partitions)

    def within(self, replicas: int, partitions: int) -> int:
        """The nearest count allowed. A minimum above the partitions is capped by them."""
        most = self.most(partitions)
        return max(min(self.replicas_min, most), min(most, replicas))
