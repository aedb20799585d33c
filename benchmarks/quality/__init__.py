"""How well anomalies are found, on public sets, with their own yardsticks. The rule: thresholds come frozen."""
