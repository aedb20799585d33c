"""Scaling workers from consumer lag: nothing is here yet. It may import `telemetry` and no other package of ours."""
