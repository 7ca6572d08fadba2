"""Writes resize-token-embeddings.golden.json: what transformers and PEFT give for other vocabularies.

    $GRAFT_ORACLE_PYTHON tests/io/resize-token-embeddings.golden.py

The weights are not stored: both sides compute them from their names (`fill`).
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

LLAMA = dict(
    vocab_size=11, hidden_size=6, intermediate_size=5, num_hidden_layers=1, num_attention_heads=1
)
GPT2 = dict(vocab_size=11, n_embd=6, n_layer=1, n_head=1, n_positions=8)
T5 = dict(vocab_size=11, d_model=6, d_kv=3, d_ff=5, num_layers=1, num_heads=1)
T5 |= dict(tie_word_embeddings=True, decoder_start_token_id=0)
BERT = dict(
    vocab_size=11, hidden_size=6, intermediate_size=5, num_hidden_layers=1, num_attention_heads=1
)
FAMILIES = [
    ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": False}),
    ("GPT2LMHeadModel", GPT2),
    ("T5ForConditionalGeneration", T5),
    ("BertForSequenceClassification", BERT),
]
SIZES = [(14, None), (12, 8), (7, None), (None, 4)]
EMBEDDINGS = dict(modules_to_save=["embed_tokens", "lm_head"])
ADAPTERS = [
    (False, dict(target_modules=["q_proj"], **EMBEDDINGS)),
    (False, dict(target_modules=["q_proj"])),
    (False, dict(target_modules=["q_proj", "embed_tokens", "lm_head"])),
    (False, dict(target_modules=["q_proj"], trainable_token_indices=[3, 13])),
    (True, dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    (True, dict(target_modules=["q_proj", "embed_tokens"])),
    (True, dict(target_modules=["q_proj"], trainable_token_indices=[3, 13])),
    (False, dict(peft_type="TRAINABLE_TOKENS", token_indices=[3, 13])),
]


def fill(name: str, shape: torch.Size) -> torch.Tensor:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return torch.tensor([0.6 * math.sin(1.3 * i + seed) for i in range(shape.numel())]).reshape(shape)


def base(name: str, settings: dict) -> torch.nn.Module:
    family = name.split("For")[0].removesuffix("LMHeadModel")
    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    model = getattr(transformers, name)(config).eval()
    for key, parameter in model.named_parameters():
        parameter.data = fill(key, parameter.shape)
    model.tie_weights()
    return model


def rounded(x: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in x.flatten().tolist()]


@torch.no_grad()
def resized(name: str, settings: dict, size: int | None, multiple: int | None) -> dict:
    model = base(name, settings)
    model.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    inputs = {"input_ids": [[5, 3, (size or 11) - 1]]}
    if name.startswith("T5"):
        inputs["decoder_input_ids"] = [[0, 5]]
    logits = model(**{key: torch.tensor(value) for key, value in inputs.items()}).logits
    return {
        "name": f"{name}, {'' if model.config.tie_word_embeddings else 'un'}tied: {size} by {multiple}",
        "config": {**settings, "model_type": model.config.model_type, "architectures": [name]},
        "size": size or 11,
        "multiple": multiple or 1,
        "vocabulary": model.config.vocab_size,
        "shapes": sorted([list(p.shape) for p in model.parameters() if model.config.vocab_size in p.shape]),
        "inputs": inputs,
        "logits": rounded(logits),
    }


@torch.no_grad()
def adapted(tied: bool, settings: dict) -> dict:
    def larger() -> torch.nn.Module:
        model = base("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": tied})
        model.resize_token_embeddings(14)
        return model

    with tempfile.TemporaryDirectory() as folder:
        fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", **settings}
        if fields["peft_type"] == "LORA":
            fields["r"] = 2
        model = peft.get_peft_model(larger(), peft.get_peft_config(fields))
        model.save_pretrained(folder, save_embedding_layers=True)
        path = f"{folder}/adapter_model.safetensors"
        # What is tied has one name.
        names = {
            key: key.replace("lm_head", "model.embed_tokens") if tied else key for key in load_file(path)
        }
        stored = {key: fill(names[key], value.shape) for key, value in load_file(path).items()}
        save_file(stored, path, metadata={"format": "pt"})
        model = peft.PeftModel.from_pretrained(larger(), folder).eval()
        config = json.loads(Path(folder, "adapter_config.json").read_text())
    inputs = {"input_ids": [[5, 13, 3, 11]]}
    return {
        "name": f"{'' if tied else 'un'}tied: {settings}",
        "tied": tied,
        "config": config,
        "tensors": {key: [names[key], list(value.shape)] for key, value in stored.items()},
        "inputs": inputs,
        "logits": rounded(model(input_ids=torch.tensor(inputs["input_ids"])).logits),
    }


def main() -> None:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    golden = {
        "models": [resized(*family, *size) for family in FAMILIES for size in SIZES],
        "adapters": [adapted(*case) for case in ADAPTERS],
    }
    lines = {
        key: "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"
        for key, cases in golden.items()
    }
    text = ",\n".join(f'"{key}": {cases}' for key, cases in lines.items())
    Path(__file__).with_suffix(".json").write_text("{\n" + text + "\n}\n")


main()
