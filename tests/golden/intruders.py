"""Writes intruders/: what the real PEFT's reduce_intruder_dimension makes of adapters.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only intruders [--out DIR] [--seed N]

`intruders/intruders.json` lists the cases; `intruders/<name>/` holds the adapter as PEFT saves it, and
`expected.safetensors` has `product.<module>`, what B·A is afterwards, `input_ids`, and `logits` with
the new adapter.
"""

# fmt: off

from __future__ import annotations

from run_case import bases_beside, logits_of, make_config, save_without_card, shift_trainable, write_json  # first

import os
import shutil
from pathlib import Path

import torch
from peft import get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import save_file

from bases import VOCAB, load_base

# Base, arguments of LoraConfig, and of the function.
CASES = {
    "default": ("llama", dict(r=4, lora_alpha=9, target_modules=["q_proj", "down_proj", "up_proj"]), {}),
    "strict": ("qwen2", dict(r=3, lora_alpha=40, use_rslora=True, target_modules=["v_proj", "o_proj"], rank_pattern={"v_proj": 2}), dict(top_k=4, threshold_epsilon=0.7, mitigation_lambda=0.2)),
    "none": ("llama", dict(r=2, lora_alpha=1, target_modules=["k_proj"]), dict(top_k=2, threshold_epsilon=0.05)),
}


def run_case(name: str, root: Path, seed: int) -> dict:
    kind, config, options = CASES[name]
    torch.manual_seed(seed)
    model = get_peft_model(load_base(f"base/{kind}"), make_config("LoraConfig", config)).eval()
    shift_trainable(model, seed + 1)
    save_without_card(model, root / name)
    lines: list[str] = []
    reduce_intruder_dimension(model, logging_sink=lines.append, **options)
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(seed + 2))
    expected = {"input_ids": ids, "logits": logits_of(model, ids)}
    prefix = "base_model.model."
    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            b, a = layer.lora_B["intruder_reduced"].weight, layer.lora_A["intruder_reduced"].weight
            expected[f"product.{path.removeprefix(prefix)}"] = (b @ a).detach()
    save_file({key: value.contiguous() for key, value in expected.items()}, root / name / "expected.safetensors")
    counts = {
        line.split(": ")[0].removeprefix(prefix): int(line.split(": ")[2]) if line.count(": ") == 2 else 0
        for line in lines
        if ": " in line
    }
    return {"name": name, "kind": kind, "options": options, "intruders": counts}


def write(out: Path, seed: int) -> None:
    """Writes out/intruders/; everything in it depends on the seed alone."""
    torch.set_num_threads(1)
    root = (out / "intruders").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(bases_beside(out))
    try:
        write_json([run_case(name, root, seed + 10 * i) for i, name in enumerate(CASES)], root / "intruders.json")
    finally:
        os.chdir(before)
