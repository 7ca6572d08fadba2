"""Golden cases of PEANUT."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "PeanutConfig",
    whole=("deep", "two_adapters"),
    cases=[
        Case("default_targets", config=dict(r=3)),
        Case("deep", config=dict(r=4, depth=2, act_fn="silu", scaling=0.7, target_modules=QV), weight_decay=0.1),
        Case("one_deep_qwen2", "qwen2", dict(r=3, depth=1, act_fn="gelu_new", scaling=1.5, target_modules=["k_proj", "down_proj"])),
        Case("bounded", config=dict(r=4, depth=1, act_fn="tanh", target_modules=["o_proj", "up_proj"], exclude_modules=["layers.0.mlp.up_proj"])),
        Case("smooth", config=dict(r=2, act_fn="mish", target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers", modules_to_save=["lm_head"])),
        Case("curved", config=dict(r=3, depth=1, act_fn="xielu", init_weights=False, target_modules=["v_proj"]), keep_init=True),
        Case("head_tied", "llama_tied", dict(r=3, act_fn="laplace", target_modules=["lm_head", "q_proj"])),
        # The second reads the weight without the first.
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=3, act_fn="gelu", target_modules=QV),
                "facts": dict(r=4, depth=1, act_fn="sigmoid", scaling=0.5, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, depth=2, target_modules=QV)),
        "false": ("llama", dict(r=5, depth=1, init_weights=False, target_modules=["v_proj", "down_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "depth_negative": ("llama", dict(depth=-1, target_modules=QV)),
        "activation_unknown": ("llama", dict(act_fn="step", target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "conv1d": ("gpt2", dict(r=4)),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens", "q_proj"])),
        "bias": ("llama", dict(bias="all", target_modules=QV)),
    },
)
