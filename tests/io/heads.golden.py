"""Writes heads.golden.json: what transformers gives for checkpoints whose tied weights are stored apart.

    $GRAFT_ORACLE_PYTHON tests/io/heads.golden.py

The weights are not stored: both sides compute them from their names (`fill`). Of the alias of a tied
weight, a checkpoint holds values of its `own`, the `same` as its source, or it holds `only` the alias, or
`none` of it.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

LLAMA = dict(
    vocab_size=11, hidden_size=6, intermediate_size=5, num_hidden_layers=1, num_attention_heads=1
)
GPT2 = dict(vocab_size=11, n_embd=6, n_layer=1, n_head=1, n_positions=8)
T5 = dict(vocab_size=11, d_model=6, d_kv=3, d_ff=5, num_layers=1, num_heads=1)
T5 |= dict(tie_word_embeddings=True, decoder_start_token_id=0)
T5_UNTIED = {**T5, "tie_word_embeddings": False}
T5_ALIASES = ["lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
FAMILIES = [
    ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}, "model.embed_tokens.weight", ["lm_head.weight"]),
    ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": False}, "model.embed_tokens.weight", ["lm_head.weight"]),
    ("GPT2LMHeadModel", GPT2, "transformer.wte.weight", ["lm_head.weight"]),
    ("GPT2LMHeadModel", {**GPT2, "tie_word_embeddings": False}, "transformer.wte.weight", ["lm_head.weight"]),
    ("T5ForConditionalGeneration", T5, "shared.weight", T5_ALIASES),
    ("T5ForConditionalGeneration", T5_UNTIED, "shared.weight", T5_ALIASES),
    ("T5ForConditionalGeneration", {**T5_UNTIED, "scale_decoder_outputs": True}, "shared.weight", T5_ALIASES[:1]),
    ("T5ForConditionalGeneration", {**T5, "scale_decoder_outputs": False}, "shared.weight", T5_ALIASES[:1]),
]


def fill(name: str, shape: torch.Size) -> torch.Tensor:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return torch.tensor([0.6 * math.sin(1.3 * i + seed) for i in range(shape.numel())]).reshape(shape)


@torch.no_grad()
def run(name: str, settings: dict, source: str, alias: str, how: str) -> dict | None:
    family = name.split("For")[0].removesuffix("LMHeadModel")
    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    with tempfile.TemporaryDirectory() as folder:
        getattr(transformers, name)(config).save_pretrained(folder)
        path = f"{folder}/model.safetensors"
        shapes = {key: value.shape for key, value in load_file(path).items()}
        values = {key: key for key in shapes}
        values[alias] = source if how == "same" else alias
        shapes[alias] = shapes[source]
        if how == "none":
            del values[alias]
        if how == "only":
            del values[source]
        stored = {key: fill(value, shapes[key]) for key, value in values.items()}
        save_file(stored, path, metadata={"format": "pt"})
        model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"]:
        return None
    inputs = {"input_ids": [[7, 3, 9]]}
    if family == "T5":
        inputs["decoder_input_ids"] = [[0, 5]]
    logits = model(**{key: torch.tensor(value) for key, value in inputs.items()}).logits
    label = "" if settings.get("tie_word_embeddings", True) else ", untied"
    if "scale_decoder_outputs" in settings:
        label += ", scaled" if settings["scale_decoder_outputs"] else ", not scaled"
    tied = model.get_parameter(alias) is model.get_parameter(source)
    return {
        "name": f"{name}{label}: {how} {alias}",
        "config": {**settings, "model_type": config.model_type, "architectures": [name]},
        "how": how,
        "source": source,
        "alias": alias,
        "tied": tied,
        "inputs": inputs,
        "logits": [float(f"{x:.6g}") for x in logits.flatten().tolist()],
    }


def main() -> None:
    transformers.logging.set_verbosity_error()
    cases = [
        run(name, settings, source, alias, how)
        for name, settings, source, aliases in FAMILIES
        for alias in aliases
        for how in ("own", "same", "only", "none")
    ]
    path = Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases if case) + "\n]\n")


main()
