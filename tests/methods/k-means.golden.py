"""Writes k-means.golden.json: clusters that scikit-learn finds from numpy's random numbers.

    $GRAFT_ORACLE_PYTHON tests/methods/k-means.golden.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans

SEED = 123456789


def case(rows: int, columns: int, clusters: int, iterations: int) -> dict:
    torch.manual_seed(rows)
    points = torch.randn(rows, columns).numpy()
    share = np.full(rows, 1 / np.float32(rows), dtype=np.float32)
    chosen = np.random.RandomState(SEED).choice(rows, size=clusters, replace=False, p=share)
    found = KMeans(n_clusters=clusters, init="random", n_init=1, max_iter=iterations, random_state=SEED)
    labels = found.fit_predict(points)
    return {
        "rows": rows, "columns": columns, "clusters": clusters, "iterations": iterations,
        "chosen": chosen.tolist(), "labels": labels.tolist(),
    }  # fmt: skip


SIZES = [(8, 3, 8, 10), (16, 8, 5, 10), (32, 6, 5, 10), (32, 20, 12, 10), (57, 2, 9, 3), (96, 32, 1, 10), (200, 2, 6, 40)]
body = ",\n".join(json.dumps(case(*size), separators=(",", ":")) for size in SIZES)
Path(__file__).with_suffix(".json").write_text(f"[\n{body}\n]\n")
