"""Writes torch-random.golden.json: numbers of torch's CPU generator.

    $GRAFT_ORACLE_PYTHON tests/methods/torch-random.golden.py
"""

import json
from pathlib import Path

import torch

cases = []
for seed in (0, 1234, 2**40 + 7, -3):
    torch.manual_seed(seed)
    steps = [
        {"call": "uniform", "size": 5, "values": torch.rand(5)},
        {"call": "uniform", "size": 100003, "last": 2, "values": torch.rand(100003)[-2:]},
        {"call": "uniform", "size": 7, "low": -0.0417, "high": 0.0125,
         "values": torch.empty(7).uniform_(-0.0417, 0.0125)},
        {"call": "normal", "size": 15, "values": torch.randn(15)},
        {"call": "normal", "size": 16, "values": torch.randn(16)},
        {"call": "normal", "size": 4, "mean": 0.5, "std": 0.3,
         "values": torch.empty(4).normal_(0.5, 0.3)},
        {"call": "normal", "size": 41, "mean": -1, "std": 0.125,
         "values": torch.empty(41).normal_(-1, 0.125)},
        {"call": "bernoulli", "size": 9, "probability": 0.3,
         "values": torch.bernoulli(torch.full((9,), 0.3))},
        {"call": "bernoulli", "size": 1001, "last": 40, "probability": 0.85,
         "values": torch.bernoulli(torch.full((1001,), 0.85))[-40:]},
        {"call": "gamma", "size": 9, "values": torch._standard_gamma(torch.arange(1, 10) / 2)},
        {"call": "permutation", "size": 12, "values": torch.randperm(12)},
        {"call": "uniform", "size": 1, "values": torch.rand(1)},
    ]
    cases.append({"seed": seed, "steps": [{**s, "values": s["values"].tolist()} for s in steps]})

path = Path(__file__).with_suffix(".json")
path.write_text(json.dumps({"torch": torch.__version__, "cases": cases}, indent=2) + "\n")
