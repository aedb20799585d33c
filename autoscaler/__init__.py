"""Scaling workers from lag in seconds: collect, decide, apply. Of ours it may import `telemetry` only."""
