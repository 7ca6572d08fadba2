"""Golden cases of GLORA."""

# fmt: off

from __future__ import annotations

from cases import QKVO, QV, Case
from method_cases import Method

METHOD = Method(
    "GloraConfig",
    whole=("basic",),
    cases=[
        # Without biases there is nothing but A and B.
        Case("basic", config=dict(r=4, target_modules=QV), keep_init=True),
        Case("biases", "qwen2", dict(r=3, config_D_E="vector", target_modules=["k_proj", "o_proj"]), weight_decay=0.1),
        Case("vectors", "qwen2", dict(r=2, config_A_B="vector", config_C="vector", bias="glora_only", target_modules=QV)),
        Case("constants", "qwen2", dict(config_A_B="constant", config_C="none", bias="all", target_modules=["k_proj", "down_proj"]), file_dtype="bfloat16"),
        Case("bias_alone", "qwen2", dict(r=2, config_A_B="none", config_D_E="none", target_modules=["v_proj"], modules_to_save=["norm"])),
        Case("weight_alone", config=dict(config_A_B="vector", config_C="none", config_D_E="none", target_modules=r".*\.(o|down)_proj")),
        Case("init_false", "qwen2", dict(r=2, init_weights=False, config_D_E="vector", target_modules=["q_proj", "up_proj"]), keep_init=True),
        Case(
            "two_adapters",
            "qwen2",
            adapters={
                "style": dict(r=4, target_modules=QV),
                "facts": dict(r=2, config_A_B="constant", config_D_E="vector", target_modules=["q_proj", "down_proj"]),
            },
        ),
    ],
    inits={
        "true": ("qwen2", dict(r=3, target_modules=QV)),
        "false": ("qwen2", dict(r=3, init_weights=False, target_modules=QKVO)),
        "vectors": ("qwen2", dict(init_weights=False, config_A_B="vector", config_C="vector", config_D_E="vector", target_modules=QV)),
        "constants": ("qwen2", dict(init_weights=False, config_A_B="constant", target_modules=QV)),
    },
    refused={
        "ab_unknown": ("llama", dict(target_modules=QV, config_A_B="matrix")),
        "c_constant": ("llama", dict(target_modules=QV, config_C="constant")),
        "de_lora": ("llama", dict(target_modules=QV, config_D_E="lora")),
        "rank_negative": ("llama", dict(target_modules=QV, r=-1)),
        "bias_unknown": ("qwen2", dict(target_modules=QV, bias="some")),
        "conv1d": ("gpt2", dict(target_modules=["c_attn"])),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"])),
        "exclude_modules": ("llama", dict(target_modules=QV, exclude_modules=["v_proj"])),
        "unknown_argument": ("llama", dict(target_modules=QV, alpha=4)),
    },
)
