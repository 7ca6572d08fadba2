"""Golden cases of DEFT."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "DeftConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=4, target_modules=QV)),
        Case("qr", "llama_tied", dict(r=3, decomposition_method="qr", alpha=2, target_modules=["lm_head", "o_proj", "k_proj"], exclude_modules=["layers.0.self_attn.k_proj"])),
        Case("para", config=dict(r=2, para=True, alpha=4, target_modules="all-linear", init_weights=False), weight_decay=0.1),
        Case("para_qr_gpt2", "gpt2", dict(r=3, para=True, decomposition_method="qr", bias="deft_only", target_modules=["c_attn", "c_proj"])),
        Case("conv1d", "gpt2", dict(r=4, alpha=0, deft_dropout=0.1, bias="all", fan_in_fan_out=True), file_dtype="bfloat16"),
        # as many columns as rows, and a rank that is cut down to that
        Case("square_qwen2", "qwen2", dict(r=40, decomposition_method="qr", alpha=6, fan_in_fan_out=True, target_modules=["k_proj"], layers_to_transform=1, layers_pattern="layers", modules_to_save=["lm_head"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, target_modules=QV),
                "facts": dict(r=2, decomposition_method="qr", init_weights=False, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "relu": ("llama", dict(r=4, target_modules=QV)),
        "qr": ("gpt2", dict(r=5, decomposition_method="qr", alpha=2, fan_in_fan_out=True)),
        "false": ("llama", dict(r=3, init_weights=False, init_scale=0.5, target_modules=["v_proj", "down_proj"])),
        "para": ("llama", dict(r=3, para=True, target_modules=QV)),
    },
    refused={
        "rank_zero": ("llama", dict(r=0)),
        "decomposition": ("llama", dict(decomposition_method="svd")),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"])),
        "bias_unknown": ("qwen2", dict(bias="some")),
        "layers_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_to_transform=[0])),
        "layers_pattern_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_pattern="layers")),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "dropout": ("llama", dict(deft_dropout=1.5)),
    },
)
