"""Golden cases of TINYLORA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "TinyLoraConfig",
    whole=("basic",),
    cases=[
        # seven sites in 4.55 groups, which are 5: the last has three
        Case("basic", config=dict(r=3, u=4, weight_tying=0.35, target_modules=[*QV, "down_proj", "embed_tokens"]), weight_decay=0.1),
        Case("not_stored", "qwen2", dict(r=2, u=5, save_projection=False, projection_seed=7, tinylora_dropout=0.1, bias="tinylora_only", task_type=None, target_modules=["k_proj", "o_proj"], layers_to_transform=1)),
        # five sites in 2.5 groups, which are the even 2
        Case("tied_half", config=dict(r=4, u=3, weight_tying=0.5, save_projection=False, target_modules=["q_proj", "up_proj", "lm_head"])),
        Case("tied_gpt2", "gpt2", dict(r=2, u=1, weight_tying=1.0, bias="all", target_modules=[*GPT2_CONV, "wte"], init_weights="uniform", init_v_bound=0.5), keep_init=True),
        Case("rank_over_width", config=dict(r=40, u=2, save_projection=False, target_modules=["v_proj"], modules_to_save=["norm"])),
        Case("two_adapters", adapters={
            "style": dict(r=2, u=3, target_modules=["q_proj", "down_proj"]),
            "facts": dict(r=3, u=2, weight_tying=0.6, target_modules=["v_proj", "q_proj"]),
        }),
    ],
    # Weights whose leading singular values are far enough apart for 32-bit floats.
    inits={
        "zero": ("llama", dict(r=2, u=7, target_modules=QV, projection_seed=-3)),
        "uniform": ("gpt2", dict(r=3, u=2, init_weights="uniform", weight_tying=0.3, target_modules=["mlp.c_proj", "wte"])),
        "not_stored": ("llama", dict(r=5, u=3, init_weights="uniform", init_v_bound=1.0, save_projection=False, weight_tying=0.75, target_modules=["gate_proj", "q_proj", "k_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "u_zero": ("llama", dict(u=0, target_modules=QV)),
        "tying_negative": ("llama", dict(weight_tying=-0.1, target_modules=QV)),
        "tying_over": ("llama", dict(weight_tying=1.1, target_modules=QV)),
        "target_norm": ("llama", dict(target_modules=["norm"])),
        "bias_unknown": ("qwen2", dict(bias="some", target_modules=QV)),
        "dropout": ("llama", dict(tinylora_dropout=1.5, target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "exclude_modules": ("llama", dict(target_modules=QV, exclude_modules=["v_proj"])),
        "init_unknown": ("llama", dict(init_weights="normal", target_modules=QV)),
        "together_stored": ("llama", dict(target_modules=QV), dict(target_modules=QV, save_projection=False)),
    },
)
