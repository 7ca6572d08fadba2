"""Golden cases of LOKR."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "LoKrConfig",
    whole=("basic",),
    cases=[
        # whole factors, and products
        Case("basic", config=dict(r=4, alpha=10, target_modules=QV), keep_init=True),
        Case("default", "qwen2", dict(), weight_decay=0.1),
        Case(
            "products",
            config=dict(
                r=1,
                alpha=3,
                decompose_both=True,
                target_modules=r".*\.(o|gate|down)_proj",
                rank_pattern={"layers.1.self_attn.o_proj": 2, "down_proj": 3},
                alpha_pattern={r"layers\.\d\.mlp\.gate_proj": 7},
                use_effective_conv2d=True,
            ),
        ),
        Case("factor", "qwen2", dict(r=2, alpha=3, decompose_factor=4, decompose_both=True, target_modules=["k_proj", "o_proj", "up_proj"], layers_to_transform=[1], layers_pattern="layers"), file_dtype="bfloat16"),
        Case("factor_not_dividing", config=dict(r=2, alpha=5, decompose_factor=5, target_modules=["q_proj", "down_proj"], exclude_modules=r".*0\.mlp.*", init_weights=False), keep_init=True),
        Case("head_lycoris", "llama_tied", dict(r=2, alpha=4, target_modules=["lm_head", "v_proj"], init_weights="lycoris", modules_to_save=["norm"]), keep_init=True),
        # what training drops of the delta
        Case("noise", config=dict(r=2, alpha=6, rank_dropout=0.3, module_dropout=0.4, target_modules=["q_proj", "v_proj", "o_proj"]), noise=True),
        Case("noise_scaled", config=dict(r=2, alpha=6, rank_dropout=0.4, rank_dropout_scale=True, target_modules=["v_proj", "o_proj"]), noise=True),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, alpha=8, target_modules=QV),
                "facts": dict(r=1, alpha=2, decompose_both=True, target_modules=["q_proj", "down_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=1, decompose_both=True, target_modules=QV, rank_pattern={"v_proj": 3})),
        "false": ("llama", dict(r=1, init_weights=False, target_modules=["v_proj", "down_proj"])),
        "lycoris": ("llama", dict(r=2, init_weights="lycoris", decompose_both=True, decompose_factor=8, target_modules=["v_proj", "down_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "rank_pattern_zero": ("llama", dict(target_modules=QV, rank_pattern={"q_proj": 0})),
        "conv1d": ("gpt2", dict(target_modules=["c_attn"])),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"])),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "bias": ("llama", dict(target_modules=QV, bias="all")),
        "unknown_argument": ("llama", dict(target_modules=QV, factor=4)),
        "init_unknown": ("llama", dict(target_modules=QV, init_weights="zeros")),
    },
)
