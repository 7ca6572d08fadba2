"""Golden cases of GRALORA."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "GraloraConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=4, alpha=6, target_modules=QV)),
        Case("hybrid_k4", config=dict(r=8, hybrid_r=3, alpha=5, gralora_k=4, gralora_dropout=0.1, target_modules=["k_proj", "gate_proj"]), weight_decay=0.1),
        Case("k1", "llama_tied", dict(r=3, gralora_k=1, target_modules=["lm_head", "o_proj"])),
        Case("all_linear_gpt2", "gpt2", dict(r=2, hybrid_r=1, alpha=3, bias="gralora_only", target_modules="all-linear")),
        Case("conv1d", "gpt2", dict(r=4, bias="all", fan_in_fan_out=True, modules_to_save=["lm_head"]), file_dtype="bfloat16"),
        Case("layers_with_regex", "qwen2", dict(r=2, hybrid_r=2, fan_in_fan_out=True, target_modules=r".*v_proj", layers_to_transform=[1])),
        Case("layers_pattern_alone", config=dict(target_modules=["v_proj"], layers_pattern="layers")),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, target_modules=QV),
                "facts": dict(r=8, hybrid_r=2, gralora_k=4, init_weights=False, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, target_modules=QV)),
        "hybrid": ("gpt2", dict(r=4, hybrid_r=3, gralora_k=4)),
        "false": ("llama", dict(r=4, hybrid_r=2, init_weights=False, target_modules=["v_proj", "down_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0)),
        "k_zero": ("llama", dict(gralora_k=0)),
        "k_of_rank": ("llama", dict(r=4, gralora_k=3)),
        "k_of_features": ("llama", dict(r=5, gralora_k=5)),
        "hybrid_negative": ("llama", dict(hybrid_r=-1)),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"])),
        "bias_unknown": ("qwen2", dict(bias="some")),
        "exclude_modules": ("llama", dict(exclude_modules=["v_proj"])),
        "dropout": ("llama", dict(gralora_dropout=1.5)),
    },
)
