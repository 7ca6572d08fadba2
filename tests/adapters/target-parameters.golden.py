"""Writes target-parameters.golden.json: LoRAs on parameters, as PEFT makes, trains, merges and saves them.

    $GRAFT_ORACLE_PYTHON tests/adapters/target-parameters.golden.py

Weights of models and adapters are not stored: both sides compute them from their names (`fill`).
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file

SIZES = dict(
    vocab_size=13,
    hidden_size=12,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    pad_token_id=0,
    num_experts_per_tok=2,
)
MIXTRAL = dict(**SIZES, num_local_experts=3)
QWEN = dict(**SIZES, num_experts=5, moe_intermediate_size=5, shared_expert_intermediate_size=4)
GPT2 = dict(vocab_size=13, n_embd=6, n_layer=1, n_head=2, n_positions=8, pad_token_id=0)
BOTH = ["gate_up_proj", "experts.down_proj"]
CASES = {
    "mixtral": (
        "Mixtral",
        {**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": 0.3},
        dict(target_modules=["q_proj"], target_parameters=[*BOTH, "gate.weight"])
        | dict(rank_pattern={"down_proj": 3}, alpha_pattern={r".*\.gate_up_proj": 5}),
    ),
    "mixtral, old names": ("Mixtral", MIXTRAL, dict(target_modules=["w1", "w3", "w2", "v_proj"])),
    "mixtral, by expression": (
        "Mixtral",
        MIXTRAL,
        dict(target_modules=r".*\.(q_proj|experts\.w[13]|gate)"),
    ),
    "qwen2_moe": ("Qwen2Moe", QWEN, dict(target_modules=["gate_proj"], target_parameters=BOTH)),
    "qwen3_moe": (
        "Qwen3Moe",
        QWEN,
        dict(target_parameters=["1.mlp.experts.gate_up_proj"], use_rslora=True)
        | dict(init_lora_weights="gaussian"),
    ),
    "qwen3_moe, all-linear": ("Qwen3Moe", QWEN, dict(target_modules="all-linear")),
    # So many tokens that those of an expert are computed together.
    "qwen3_moe, long": (
        "Qwen3Moe",
        {**QWEN, "num_experts": 17, "norm_topk_prob": True},
        dict(target_modules=[], target_parameters=BOTH),
    ),
    "llama": (
        "Llama",
        SIZES,
        dict(target_modules=[], target_parameters=["embed_tokens.weight", "o_proj.weight"])
        | dict(init_lora_weights=False),
    ),
    "gpt2": ("GPT2", GPT2, dict(target_modules=[], target_parameters=["c_attn.weight"])),
}
BATCH = dict(
    input_ids=[[7, 3, 9, 12, 4], [9, 1, 11, 0, 0]],
    attention_mask=[[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
    labels=[[7, 3, 9, 12, 4], [9, 1, 11, -100, -100]],
)
LONG = [[(5 * i * i + 3 * i + row) % 12 + 1 for i in range(80)] for row in (0, 7)]
RATE, DECAY, STEPS, SEED = 0.02, 0.1, 3, 7


def fill(name: str, size: int) -> list[float]:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return [0.6 * math.sin(1.3 * i + seed) for i in range(size)]


def filled(name: str, shape) -> torch.Tensor:
    return torch.tensor(fill(name, math.prod(shape))).reshape(shape)


def base_of(family: str, settings: dict):
    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    config._experts_implementation = "eager"
    name = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.copy_(filled(parameter, value.shape))
    return model


def batch(name: str = "") -> dict:
    given = BATCH
    if name.endswith("long"):
        given = dict(input_ids=LONG, attention_mask=[[1] * 80] * 2, labels=LONG)
    return {key: torch.tensor(value) for key, value in given.items()}


def numbers(value: torch.Tensor) -> list[float]:
    return [float(f"{x:.6g}") for x in value.detach().flatten().tolist()]


def some(value: torch.Tensor) -> torch.Tensor:
    return value.flatten()[:: max(1, value.numel() // 40)]


@torch.no_grad()
def logits(model, name: str = "") -> list[float]:
    return numbers(model(**batch(name)).logits.flatten()[-130:])


def key_of(name: str) -> str:
    return name.replace(".default", "")


def run(name: str) -> dict:
    family, settings, arguments = CASES[name]
    base = base_of(family, settings)
    torch.manual_seed(SEED)
    config = peft.LoraConfig(r=2, lora_alpha=3, task_type="CAUSAL_LM", **arguments)
    model = peft.get_peft_model(base, config).eval()
    trained = {key_of(n): p for n, p in model.named_parameters() if p.requires_grad}
    begins = {key: numbers(value.flatten()[:3]) for key, value in trained.items()}
    counts = list(model.get_nb_trainable_parameters())
    status = [[layer.name, layer.module_type] for layer in model.get_layer_status()]
    with torch.no_grad():
        for key, value in trained.items():
            value.copy_(filled(key, value.shape))
    given = logits(model, name)
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY)
    losses, gradients = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batch(name)).loss
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradients = {key: numbers(some(value.grad)) for key, value in trained.items()}
        optimizer.step()
    with torch.no_grad():
        for key, value in trained.items():
            value.copy_(filled(key, value.shape))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = json.loads((Path(folder) / "adapter_config.json").read_text())
    return {
        "name": name,
        "base": {**settings, "model_type": base.config.model_type},
        "config": {"r": 2, "lora_alpha": 3, "task_type": "CAUSAL_LM", **arguments},
        "keys": {key: list(value.shape) for key, value in trained.items()},
        "saved": {
            **{field: sorted(saved[field] or []) for field in ("target_modules", "target_parameters")},
            **{field: saved[field] for field in ("rank_pattern", "alpha_pattern")},
        },
        "begins": begins,
        "counts": counts,
        "status": status,
        "logits": given,
        "gradients": gradients,
        "losses": losses,
        "merged": logits(model.merge_and_unload(), name),
    }


def old(family: str, settings: dict, path: str, names: dict) -> dict:
    """An adapter of single experts, as transformers 4 had them, and what PEFT makes of it."""
    base = base_of(family, settings)
    sizes = {"in": base.config.hidden_size, "out": base.model.layers[0].mlp.experts.intermediate_dim}
    shapes = {f"base_model.model.model.layers.{layer}.self_attn.q_proj": (12, 12) for layer in (0, 1)}
    for layer in (0, 1):
        at = f"base_model.model.model.layers.{layer}.{path}"
        count = base.config.num_local_experts
        shapes[f"{at}.gate"] = (sizes["in"], count)
        for expert in range(count):
            for part, (i, o) in names.items():
                shapes[f"{at}.experts.{expert}.{part}"] = (sizes[i], sizes[o])
    keys = {
        f"{module}.lora_{leaf}.weight": [2, i] if leaf == "A" else [o, 2]
        for module, (i, o) in shapes.items()
        for leaf in "AB"
    }
    config = peft.LoraConfig(
        r=2, lora_alpha=3, task_type="CAUSAL_LM", target_modules=["q_proj", "gate", *names]
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tensors = {key: filled(key, shape) for key, shape in keys.items()}
        save_file(tensors, Path(folder) / "adapter_model.safetensors", {"format": "pt"})
        model = peft.PeftModel.from_pretrained(base, folder).eval()
    return {
        "name": family,
        "base": {**settings, "model_type": base.config.model_type},
        "config": {
            "r": 2,
            "lora_alpha": 3,
            "task_type": "CAUSAL_LM",
            "target_modules": ["q_proj", "gate", *names],
        },
        "keys": keys,
        "logits": logits(model),
        "weights": {key: list(value.shape) for key, value in peft.get_peft_model_state_dict(model).items()},
    }


def jittered(settings: dict) -> dict:
    """What Mixtral gives in training, where the router's input is scaled at random."""
    drawn, real = [], torch.Tensor.uniform_

    def uniform(self, low, high):
        share = filled(f"noise {len(drawn)}", self.shape).abs()
        drawn.append(list(self.shape))
        return self.copy_(low + (high - low) * share)

    model = base_of("Mixtral", settings).train()
    torch.Tensor.uniform_ = uniform
    result = logits(model)
    torch.Tensor.uniform_ = real
    return {"base": {**settings, "model_type": "mixtral"}, "drawn": drawn, "logits": result}


def main() -> None:
    wide, back = ("in", "out"), ("out", "in")
    result = {
        "batch": BATCH,
        "long": LONG,
        "rate": RATE,
        "decay": DECAY,
        "seed": SEED,
        "jittered": jittered({**MIXTRAL, "router_jitter_noise": 0.3}),
        "cases": [run(name) for name in CASES],
        "old": [
            old("Mixtral", MIXTRAL, "block_sparse_moe", {"w1": wide, "w3": wide, "w2": back}),
            old("Qwen3Moe", QWEN, "mlp", {"gate_proj": wide, "up_proj": wide, "down_proj": back}),
        ],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result) + "\n")


main()
