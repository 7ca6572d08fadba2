"""Golden cases of DELORA."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "DeloraConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=4, target_modules=QV)),
        Case(
            "patterns",
            config=dict(
                r=3, delora_lambda=5, module_dropout=0.1, target_modules=r".*\.(q|v|down)_proj",
                rank_pattern={"layers.1.self_attn.q_proj": 2}, lambda_pattern={"v_proj": 8.5},
            ),
            weight_decay=0.1,
        ),
        Case("all_linear", "llama_tied", dict(r=2, target_modules="all-linear", exclude_modules=["up_proj"])),
        Case("head_layers", config=dict(r=2, target_modules=["lm_head", "model.layers.0.self_attn.v_proj", "gate_proj"], layers_to_transform=[1])),
        Case("bias_only_qwen2", "qwen2", dict(r=4, bias="delora_only", target_modules=["k_proj", "o_proj"]), file_dtype="bfloat16"),
        Case("bias_all_qwen2", "qwen2", dict(bias="all", modules_to_save=["lm_head"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, target_modules=QV),
                "facts": dict(r=2, delora_lambda=7, init_weights=False, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, delora_lambda=3, target_modules=QV)),
        "false": ("qwen3", dict(r=3, init_weights=False, target_modules=["v_proj", "down_proj"], rank_pattern={"down_proj": 5})),
    },
    refused={
        "rank_zero": ("llama", dict(r=0)),
        "rank_pattern_zero": ("llama", dict(rank_pattern={"q_proj": 0})),
        "target_conv1d": ("gpt2", dict()),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"])),
        "bias_unknown": ("qwen2", dict(bias="some")),
        "layers_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_to_transform=[0])),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "dropout": ("llama", dict(module_dropout=1.5)),
        "lambda_name": ("llama", dict(lambda_=1)),
    },
)
