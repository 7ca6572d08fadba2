"""Writes types.golden.json: which types PEFT saves a merged model in, by the types of the base's file.

    $GRAFT_ORACLE_PYTHON tests/adapters/merge/types.golden.py
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

CONFIG = dict(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
)
# Types of the weights and of the norms.
CASES = [("float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]


def run(folder: str, weights: str, norms: str, dtype: str | None) -> dict:
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG))
    base.to(getattr(torch, weights)).save_pretrained(folder)
    path = f"{folder}/model.safetensors"
    kind = lambda name: getattr(torch, norms if "norm" in name else weights)
    stored = {name: value.to(kind(name)) for name, value in load_file(path).items()}
    save_file(stored, path, metadata={"format": "pt"})
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, **({"dtype": dtype} if dtype else {}))
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.merge_and_unload().save_pretrained(folder)
    types = Counter(str(value.dtype).removeprefix("torch.") for value in load_file(path).values())
    saved = json.loads(Path(f"{folder}/config.json").read_text())["dtype"]
    return {"weights": weights, "norms": norms, "loaded": dtype, "types": sorted(types), "config": saved}


def main() -> None:
    transformers.logging.set_verbosity_error()
    cases = []
    for weights, norms in CASES:
        for dtype in (None, "bfloat16"):
            with tempfile.TemporaryDirectory() as folder:
                cases.append(run(folder, weights, norms, dtype))
    path = Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
