"""Golden cases of SHIRA."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "ShiraConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=3, target_modules=QV)),
        Case("seeds", "qwen2", dict(r=1, random_seed=2**33 + 1, target_modules=["k_proj", "o_proj", "up_proj", "down_proj", "lm_head"]), weight_decay=0.1),
        Case("head_tied", "llama_tied", dict(r=2, random_seed=-4, fan_in_fan_out=True, target_modules=r".*(lm_head|q_proj)", init_weights=False, modules_to_save=["norm"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=2, random_seed=0, target_modules=QV),
                "facts": dict(r=1, random_seed=1, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=5, random_seed=11, target_modules=QV)),
        "false": ("qwen3", dict(r=2, init_weights=False, target_modules=["v_proj", "down_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0)),
        "rank_large": ("llama", dict(r=17)),
        "rank_default": ("llama", dict()),
        "mask_unknown": ("llama", dict(r=2, mask_type="largest")),
        "bias": ("qwen2", dict(r=2, bias="all")),
        "conv1d": ("gpt2", dict(r=2)),
        "target_embedding": ("llama", dict(r=2, target_modules=["embed_tokens"])),
        "exclude_modules": ("llama", dict(r=2, exclude_modules=["v_proj"])),
        "layers": ("llama", dict(r=2, layers_to_transform=[0])),
    },
)
