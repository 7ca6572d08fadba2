"""Golden cases of OSF."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "OSFConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(effective_rank=12, target_modules=QV)),
        # more features on either side, shares of ranks, and a module of which all stays
        Case(
            "default_targets",
            config=dict(effective_rank=0.75, rank_pattern={"(q|o)_proj": 20, r"layers\.1\.self": 100, "proj$": 0.4}, target_svd_config={"lin0.weight": 8}),
            weight_decay=0.1,
        ),
        Case("biases_qwen2", "qwen2", dict(target_modules=r".*[kv]_proj", modules_to_save=["lm_head"]), file_dtype="bfloat16"),
        Case("head", "llama_tied", dict(effective_rank=3.7, target_modules=["lm_head", "down_proj"])),
    ],
    inits={
        "true": ("llama", dict(effective_rank=0.4, target_modules=["k_proj"])),
        "false": ("llama", dict(effective_rank=4, init_weights=False, target_modules=["v_proj", "down_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(effective_rank=0)),
        "rank_negative": ("llama", dict(effective_rank=-3)),
        "rank_pattern_zero": ("llama", dict(rank_pattern={"q_proj": 0.01})),
        "target_conv1d": ("gpt2", dict()),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens", "q_proj"])),
        "bias": ("llama", dict(bias="all")),
        "layers": ("llama", dict(layers_to_transform=[0])),
    },
)
