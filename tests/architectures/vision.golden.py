"""Writes vision.golden.json: what models of transformers that see give, alone and with a LoRA of PEFT.

    $GRAFT_ORACLE_PYTHON tests/architectures/vision.golden.py

Neither weights nor pixels are stored: both sides compute them from their names (`fill`).
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors import safe_open

VIT = dict(
    hidden_size=9,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=7,
    image_size=[6, 9],
    patch_size=[2, 3],
    num_channels=2,
    layer_norm_eps=1e-3,
)
TEXT = dict(
    vocab_size=13,
    hidden_size=10,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=6,
    projection_dim=5,
    bos_token_id=1,
    eos_token_id=9,
    pad_token_id=0,
)
VISION = dict(
    hidden_size=12,
    intermediate_size=6,
    num_hidden_layers=1,
    num_attention_heads=3,
    image_size=8,
    patch_size=3,
    num_channels=3,
    projection_dim=5,
    layer_norm_eps=1e-3,
)
CLIP = dict(text_config=TEXT, vision_config=VISION, projection_dim=5)
LEGACY = {**CLIP, "text_config": {**TEXT, "eos_token_id": 2}}
IDS = [[1, 7, 9, 3, 11], [1, 4, 12, 9, 5]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
WORDS = {"input_ids": IDS, "attention_mask": MASK}
# Class, config, and a batch, in which pixels are given by their shape.
CASES = [
    (
        "ViTForImageClassification",
        {**VIT, "num_labels": 3},
        {"pixel_values": [2, 2, 6, 9], "labels": [2, 0]},
    ),
    (
        "ViTForImageClassification",
        {**VIT, "num_labels": 3, "problem_type": "multi_label_classification"},
        {"pixel_values": [2, 2, 6, 9], "labels": [[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]},
    ),
    (
        "ViTModel",
        {
            **VIT,
            "image_size": 7,
            "patch_size": 3,
            "qkv_bias": False,
            "pooler_output_size": 5,
            "pooler_act": "relu",
            "hidden_act": "gelu_new",
        },
        {"pixel_values": [1, 2, 7, 7]},
    ),
    ("CLIPModel", CLIP, {**WORDS, "pixel_values": [3, 3, 8, 8]}),
    ("CLIPModel", LEGACY, {**WORDS, "pixel_values": [2, 3, 8, 8]}),
    ("CLIPTextModel", TEXT, WORDS),
    ("CLIPTextModelWithProjection", {**TEXT, "hidden_act": "gelu"}, WORDS),
    ("CLIPVisionModel", VISION, {"pixel_values": [2, 3, 8, 8]}),
    ("CLIPVisionModelWithProjection", VISION, {"pixel_values": [2, 3, 8, 8]}),
]
OUTPUTS = (
    "logits",
    "last_hidden_state",
    "pooler_output",
    "text_embeds",
    "image_embeds",
    "logits_per_image",
    "logits_per_text",
)
# Linear layers, the convolution of patches, and a table of positions where it is one.
TARGETS = r".*(q_proj|v_proj|out_proj|o_proj|fc1|projection|patch_embedding|position_embedding)"
PREFIX = "base_model.model."
SEEDS = 97


def fill(name: str, size: int) -> list[float]:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % SEEDS
    largest = 0.1 if name.endswith("bias") else 0.9
    return [largest * math.sin(0.7 * i * i + seed) for i in range(size)]


def filled(name: str, shape) -> torch.Tensor:
    return torch.tensor(fill(name, math.prod(shape))).reshape(shape)


def inputs_of(batch: dict) -> dict:
    return {
        key: filled("pixels", value) if key == "pixel_values" else torch.tensor(value)
        for key, value in batch.items()
    }


def rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{x:.6g}") for x in values.detach().flatten().tolist()]


def numbers(result: dict) -> dict:
    return {
        key: {"shape": list(result[key].shape), "values": rounded(result[key])}
        for key in OUTPUTS
        if result.get(key) is not None
    }


def adapted(base: torch.nn.Module, task: str | None, inputs: dict, learns: bool) -> dict:
    config = peft.LoraConfig(task_type=task, r=2, lora_alpha=3, target_modules=TARGETS)
    model = peft.get_peft_model(base, config).eval()
    state = {k: filled(k, v.shape) for k, v in peft.get_peft_model_state_dict(model).items()}
    assert not peft.set_peft_model_state_dict(model, state).unexpected_keys
    with torch.no_grad():
        result = {
            "keys": {k: list(v.shape) for k, v in state.items()},
            "adapted": numbers(model(**inputs)),
            "merged": numbers(copy.deepcopy(model).merge_and_unload()(**inputs)),
        }
    if not learns:
        return result
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2, weight_decay=0.1)
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        if step == 0:
            result["gradients"] = {
                name: {"shape": list(p.shape), "values": rounded(p.grad)}
                for name, p in trained.items()
            }
        optimizer.step()
        losses.append(loss.item())
    return {**result, "losses": losses}


def run(name: str, settings: dict, batch: dict) -> dict:
    family = name.split("For")[0].removesuffix("WithProjection").removesuffix("Model")
    config = getattr(transformers, f"{family}Config")(**copy.deepcopy(settings))
    model = getattr(transformers, name)(config).eval()
    inputs = inputs_of(batch)
    pairs = name == "CLIPModel" and len(batch["input_ids"]) == batch["pixel_values"][0]
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.copy_(filled(parameter, value.shape))
        outputs = numbers(model(**inputs))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(f"{folder}/model.safetensors", "pt") as file:
            saved = sorted(file.keys())
    if pairs:
        inputs["return_loss"] = True
    # PEFT's model for features passes on what models that see do not take.
    task = "SEQ_CLS" if "Classification" in name else None
    return {
        "config": {**settings, "model_type": config.model_type, "architectures": [name]},
        "parameters": [parameter for parameter, _ in model.named_parameters()],
        "saved": saved,
        "batch": batch,
        "outputs": outputs,
        **adapted(model, task, inputs, "labels" in batch or pairs),
    }


def main() -> None:
    cases = [run(*case) for case in CASES]
    body = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path(__file__).with_suffix(".json").write_text(f"[\n{body}\n]\n")


main()
