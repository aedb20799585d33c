"""`python -m fleetwatch` is the `fleetwatch` command."""

from fleetwatch.cli import main

main()
