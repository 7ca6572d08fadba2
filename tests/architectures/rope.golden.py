"""Writes rope.golden.json: logits and tokens beyond the length that a model was trained on.

    $GRAFT_ORACLE_PYTHON tests/architectures/rope.golden.py

The weights are not stored: both sides compute them from their names (`fill`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import transformers

CONFIG = dict(
    vocab_size=13,
    hidden_size=8,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=1,
    max_position_embeddings=12,
    rope_theta=100.0,
    eos_token_id=None,
    bos_token_id=None,
)
SHORT, LONG = [1, 1.1, 1.2, 1.3], [1.5, 2, 3, 4.5]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "default": {"rope_scaling": None},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "linear in the newer spelling": {
        "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 50.0}
    },
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "dynamic, whose original length does not count": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 6}
    },
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "yarn from an original length": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 6}
    },
    "yarn from an original length outside": {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 3},
        "original_max_position_embeddings": 6,
    },
    "yarn without a factor": {
        "rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 6}
    },
    "yarn with all settings": {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 6,
            "beta_fast": 3,
            "beta_slow": 0,
            "mscale": 0.7,
            "mscale_all_dim": 0.4,
            "truncate": False,
        }
    },
    "llama3": {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 6}},
    "llama3 without an original length": {"rope_scaling": LLAMA3},
    "longrope": {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 6}},
    "longrope from an original length outside": {
        "rope_scaling": {**LONGROPE, "factor": 3.0},
        "original_max_position_embeddings": 6,
    },
    "longrope without an original length": {
        "rope_scaling": {**LONGROPE, "factor": 3.0, "attention_factor": 1.2}
    },
}
IDS = [(5 * i * i + 3 * i) % 12 + 1 for i in range(23)]
PROMPT = 4
NEW = 16


def fill(name: str, size: int) -> list[float]:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return [math.sin(0.7 * i * i + seed) for i in range(size)]


@torch.no_grad()
def run(name: str, settings: dict) -> dict:
    settings = {**CONFIG, **settings, "model_type": "llama"}

    def model() -> torch.nn.Module:  # anew: dynamic scaling remembers the longest length
        config = transformers.LlamaConfig.from_dict(json.loads(json.dumps(settings)))
        config._attn_implementation = "eager"
        made = transformers.LlamaForCausalLM(config).eval()
        for parameter, value in made.named_parameters():
            value.copy_(torch.tensor(fill(parameter, value.numel())).reshape(value.shape))
        return made

    logits = model()(input_ids=torch.tensor([IDS])).logits[0]
    short = model()(input_ids=torch.tensor([IDS[:PROMPT]])).logits[0]
    positions = torch.tensor([[*range(10), *range(13)]])
    batch = dict(input_ids=torch.tensor([IDS]), attention_mask=torch.ones_like(positions))
    placed = model()(**batch, position_ids=positions).logits[0]
    options = dict(max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    options |= dict(return_dict_in_generate=True, output_logits=True)
    written = model().generate(torch.tensor([IDS[:PROMPT]]), **options)
    rows = {"short": short, "long": logits, "placed": placed, "written": written.logits[-1]}
    return {
        "name": name,
        "config": settings,
        "tokens": written.sequences[0, PROMPT:].tolist(),
        **{
            key: [float(f"{x:.6g}") for x in values[-1].tolist()]
            for key, values in rows.items()
        },
    }


def main() -> None:
    transformers.logging.set_verbosity_error()
    cases = [run(name, settings) for name, settings in CASES.items()]
    path = Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
