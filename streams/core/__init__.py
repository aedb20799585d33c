"""The pure core: decode, devices, detectors, windows, alerts. No Faust, asyncio, Kafka client or clock in it."""
