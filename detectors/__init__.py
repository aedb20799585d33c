"""Online anomaly detectors over blocks of rows. Imports none of Fleetwatch's other packages."""
