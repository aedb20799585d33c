"""The common job in other stream processors, beside ours. The rule: no figure without its outputs verified."""
