"""Writes targets-of-keys.golden.json: what PEFT adapts by the keys of a state dict.

    $GRAFT_ORACLE_PYTHON tests/adapters/plan/targets-of-keys.golden.py
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "golden"))

import peft

from bases import load_base

# Base, config, and the keys of which module and leaf.
LAYER = "model.layers.{}."
CASES = [
    ("llama", "LoraConfig", dict(r=2), [LAYER.format(0) + "self_attn.k_proj.lora_A.weight", LAYER.format(1) + "mlp.up_proj.lora_B.weight", "lm_head.weight"]),
    ("llama", "LoraConfig", dict(r=2, use_dora=True, target_modules=["q_proj"], exclude_modules=["k_proj"], layers_to_transform=[1]), [LAYER.format(0) + "self_attn.k_proj.lora_magnitude_vector", "_orig_mod.model.embed_tokens.lora_embedding_A"]),
    ("qwen2", "OFTConfig", dict(oft_block_size=4, target_modules=["nope"]), [LAYER.format(1) + "self_attn.o_proj.oft_R.weight"]),
]
REFUSED = [
    ("llama", "LoraConfig", dict(target_parameters=["q_proj.weight"]), ["model.layers.0.self_attn.q_proj.lora_A.weight"]),
    ("llama", "LoraConfig", dict(), ["q_proj.lora_A.weight"]),
]


def adapted(kind: str, name: str, settings: dict, keys: list[str]) -> list[str]:
    base = load_base(Path(__file__).resolve().parents[2] / "golden" / "base" / kind)
    config = getattr(peft, name)(**copy.deepcopy(settings))
    model = peft.inject_adapter_in_model(config, base, state_dict=dict.fromkeys(keys))
    return sorted(peft.get_peft_model_state_dict(model))


def main() -> None:
    warnings.simplefilter("ignore")
    cases = []
    for kind, name, settings, keys in CASES:
        peft_type = getattr(peft, name)().peft_type.value
        cases.append({
            "kind": kind, "config": {"peft_type": peft_type, **settings}, "keys": keys,
            "adapted": adapted(kind, name, settings, keys),
        })
    refused = []
    for kind, name, settings, keys in REFUSED:
        try:
            adapted(kind, name, settings, keys)
        except ValueError:
            peft_type = getattr(peft, name)().peft_type.value
            refused.append({"kind": kind, "config": {"peft_type": peft_type, **settings}, "keys": keys})
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps({"cases": cases, "refused": refused}, indent=1) + "\n")


main()
