"""Writes lapack-svd.golden.json: singular vectors as torch.linalg.svd gives them on a CPU.

    $GRAFT_ORACLE_PYTHON tests/methods/lapack-svd.golden.py

Of each pair, products with a fixed vector, which have the pair's sign. The matrices are random numbers
after torch.manual_seed, whose columns shrink.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

# rows, columns, how much a column is smaller than the one before
SIZES = [
    (1, 4, 1), (5, 1, 1), (3, 2, 1), (7, 11, 1), (24, 9, 1), (26, 26, 1), (40, 60, 1), (59, 40, 1),
    (60, 40, 0.8), (30, 100, 1), (52, 52, 0.9), (81, 64, 1), (110, 107, 1),
]  # fmt: skip


def products(rows: torch.Tensor) -> list[float]:
    return [round(x, 5) for x in (rows @ torch.arange(1.0, rows.shape[1] + 1).sin()).tolist()]


def case(rows: int, columns: int, shrink: float) -> dict:
    torch.manual_seed(rows)
    matrix = torch.randn(rows, columns) * shrink ** torch.arange(columns)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return {"rows": rows, "columns": columns, "shrink": shrink, "u": products(u.T), "v": products(vh)}


torch.set_num_threads(1)
body = ",\n".join(json.dumps(case(*size), separators=(",", ":")) for size in SIZES)
Path(__file__).with_suffix(".json").write_text(f"[\n{body}\n]\n")
