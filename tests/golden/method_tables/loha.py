"""Golden cases of LOHA."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "LoHaConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=4, alpha=10, target_modules=QV), keep_init=True),
        Case("default", "qwen2", dict(), weight_decay=0.1),
        Case(
            "patterns",
            config=dict(
                r=3,
                alpha=5,
                target_modules=r".*\.(o|gate|down)_proj",
                rank_pattern={"layers.1.self_attn.o_proj": 2, "down_proj": 5},
                alpha_pattern={r"layers\.\d\.mlp\.gate_proj": 7},
                use_effective_conv2d=True,
            ),
        ),
        Case("layers", "qwen2", dict(r=2, alpha=3, target_modules=["k_proj", "o_proj"], layers_to_transform=[1], layers_pattern="layers", exclude_modules=["self_attn.o_proj"]), file_dtype="bfloat16"),
        Case("head", "llama_tied", dict(r=2, target_modules=["lm_head", "up_proj"], init_weights=False, modules_to_save=["norm"]), keep_init=True),
        # what training drops of the delta
        Case("noise", config=dict(r=2, alpha=6, rank_dropout=0.3, module_dropout=0.4, target_modules=["q_proj", "v_proj", "o_proj"]), noise=True),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, alpha=8, target_modules=QV),
                "facts": dict(r=2, alpha=6, target_modules=["q_proj", "down_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, target_modules=QV, rank_pattern={"v_proj": 3})),
        "false": ("llama", dict(r=3, init_weights=False, target_modules=["v_proj", "down_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "rank_pattern_zero": ("llama", dict(target_modules=QV, rank_pattern={"q_proj": 0})),
        "conv1d": ("gpt2", dict(target_modules=["c_attn"])),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"])),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "bias": ("llama", dict(target_modules=QV, bias="all")),
        "unknown_argument": ("llama", dict(target_modules=QV, lora_alpha=4)),
    },
)
