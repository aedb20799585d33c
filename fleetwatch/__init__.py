"""The composition root: the `fleetwatch` command, the embedded Kafka, the demo. Nothing imports it."""
