"""Golden cases of MISS."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "MissConfig",
    whole=("basic", "bat"),
    cases=[
        Case("basic", config=dict(r=8, target_modules=QV)),
        # ranks that do not divide the features
        Case("odd_rank", config=dict(r=5, miss_dropout=0.1, target_modules="all-linear", exclude_modules=["q_proj"]), weight_decay=0.1),
        Case("mini", "llama_tied", dict(r=6, mini_r=4, init_weights="mini", target_modules=["k_proj", "up_proj"], exclude_modules=["model.layers.0.mlp.up_proj"])),
        Case("bat", config=dict(r=4, init_weights="bat", miss_dropout=0.1, target_modules=["q_proj", "k_proj", "down_proj"])),
        Case("bias_only_qwen2", "qwen2", dict(r=4, init_weights="bat", bias="MiSS_only", target_modules=["k_proj", "o_proj"])),
        Case("bias_all_qwen2", "qwen2", dict(r=3, bias="all", layers_to_transform=[1], layers_pattern="layers"), file_dtype="bfloat16"),
        Case("save_head", config=dict(r=2, target_modules=r".*1.self_attn.[qv]_proj", modules_to_save=["lm_head"])),
        Case("layers_pattern_alone", config=dict(r=32, mini_r=2, target_modules=["v_proj"], layers_pattern="layers")),
        Case(
            "two_adapters",
            adapters={"style": dict(r=4, target_modules=QV), "facts": dict(r=3, target_modules=["q_proj", "o_proj"])},
        ),
        # The second one changes what the first one made of the weight.
        Case(
            "two_adapters_bat",
            adapters={
                "style": dict(r=4, init_weights="bat", target_modules=QV),
                "facts": dict(r=8, init_weights="bat", target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=8, target_modules=QV)),
        "false": ("llama", dict(r=5, init_weights=False, target_modules=["v_proj", "down_proj"])),
        "bat": ("llama", dict(r=4, init_weights="bat", target_modules=QV)),
        "mini": ("llama", dict(r=4, mini_r=4, init_weights="mini", target_modules=QV)),
    },
    refused={
        "rank_default_too_large": ("llama", dict(target_modules=QV)),
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "bat_blocks": ("llama", dict(r=5, init_weights="bat", target_modules=QV)),
        "mini_rows": ("llama", dict(r=4, mini_r=5, init_weights="mini", target_modules=QV)),
        "target_conv1d": ("gpt2", dict(r=4)),
        "target_embedding": ("llama", dict(r=4, target_modules=["embed_tokens"])),
        "bias_unknown": ("qwen2", dict(r=4, bias="some")),
        "layers_with_regex": ("llama", dict(r=4, target_modules=r".*q_proj", layers_to_transform=[0])),
        "layers_pattern_with_regex": ("llama", dict(r=4, target_modules=r".*q_proj", layers_pattern="layers")),
        "dropout": ("llama", dict(r=4, miss_dropout=1.5)),
        "init_unknown": ("llama", dict(r=4, init_weights="bats")),
    },
)
