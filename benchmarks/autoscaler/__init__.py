"""The scaling policy against its peers, simulated. The rule: all see the same traffic in the same world."""
