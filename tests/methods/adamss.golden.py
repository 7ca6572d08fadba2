"""Writes adamss.golden.json: a training of PEFT that leaves subspaces as they are, step by step.

    $GRAFT_ORACLE_PYTHON tests/methods/adamss.golden.py
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
os.chdir(GOLDEN)
sys.path.insert(0, str(GOLDEN))

from bases import load_base, right_padded_batch

import torch
from peft import AdamssConfig, get_peft_model

CONFIG = dict(
    r=8, num_subspaces=4, subspace_rank=2, target_modules=["q_proj", "down_proj"], use_asa=True,
    asa_target_subspaces=5, init_warmup=1, final_warmup=7, mask_interval=2, asa_schedule_exponent=2.0,
    asa_importance_beta=0.7, asa_uncertainty_beta=0.6,
)  # fmt: skip
STEPS = 10

torch.set_num_threads(1)
torch.manual_seed(3)
model = get_peft_model(load_base("base/llama"), AdamssConfig(task_type="CAUSAL_LM", **CONFIG)).eval()
parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.1)
losses, trained = [], []
for step in range(STEPS):
    loss = model(**right_padded_batch()).loss
    loss.backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()
    losses.append(loss.item())
    trained.append(sum(p.requires_grad for name, p in parameters.items() if "adamss_A" in name))
result = {"config": {"peft_type": "ADAMSS", **CONFIG}, "losses": losses, "trained": trained}
(Path(__file__).resolve().with_suffix(".json")).write_text(json.dumps(result) + "\n")
