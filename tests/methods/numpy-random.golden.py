"""Writes numpy-random.golden.json: numbers of numpy's default generator.

    $GRAFT_ORACLE_PYTHON tests/methods/numpy-random.golden.py
"""

import json
from pathlib import Path

import numpy as np

# Population and size; above 10000, where more than a fiftieth is chosen, the end of a permutation.
CHOICES = [(7, 3), (1, 1), (5, 5), (257, 200), (10_000, 300), (10_001, 200), (10_001, 201), (20_000, 19_999)]

cases = []
for seed in (0, 42, 2**32 - 1, 2**32, 2**50 + 3):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**32, 5, dtype=np.uint32).tolist()
    choices = [rng.choice(n, size, replace=False).tolist() for n, size in CHOICES]
    shuffled = np.arange(70_001)
    rng.shuffle(shuffled)
    cases.append({
        "seed": seed,
        "words": words,
        # The first and the last, and a sum in which places count.
        "choices": [
            {"population": n, "size": size, "first": c[:3], "last": c[-3:], "sum": sum(i * x for i, x in enumerate(c))}
            for (n, size), c in zip(CHOICES, choices)
        ],
        "shuffled": {
            "size": len(shuffled),
            "first": shuffled[:5].tolist(),
            "sum": int((shuffled * np.arange(len(shuffled))).sum()),
        },
        "next": rng.integers(0, 2**32, 1, dtype=np.uint32).tolist(),
    })

path = Path(__file__).with_suffix(".json")
body = ",\n".join(json.dumps(case) for case in cases)
path.write_text(f'{{"numpy": "{np.__version__}", "cases": [\n{body}\n]}}\n')
