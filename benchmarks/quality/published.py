"""What others published on these sets, to stand beside ours. The rule: from the benchmarks' own result files.

NAB's are over all 58 files, the servers' over the machines that both have: a guide, not the same experiment.
"""

from __future__ import annotations

#: (detector, standard, reward low FP rate, reward low FN rate, looks ahead)
NAB = (
    ("ARTime", 74.9, 65.1, 80.4, True),
    ("HTM", 70.1, 63.1, 74.3, True),
    ("CAD OSE", 69.9, 67.0, 73.2, True),
    ("Skyline (earthgecko)", 58.2, None, None, False),
    ("KNN-CAD", 58.0, None, None, False),
    ("random cut forest", 51.7, None, None, False),
    ("windowed Gaussian", 39.6, None, None, False),
)
#: (detector, VUS-PR)
SMD = (("TranAD", 0.474), ("PCA", 0.462), ("KMeansAD", 0.399))
ASD = (("PCA, offline", 0.41),)
VEHICLE = (("EWMA z", 0.10),)
#: Share of events whose guilty signal a random choice names first.
RANDOM_TOP1 = {"SMD": 0.19, "vehicle": 0.06}
