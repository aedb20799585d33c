"""Scaling workers from consumer lag: not built yet. It may import `telemetry` and nothing else of ours."""
