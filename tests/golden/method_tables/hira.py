"""Golden cases of HIRA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "HiraConfig",
    whole=("basic", "gpt2"),
    cases=[
        Case("basic", config=dict(r=4, hira_dropout=0.1, target_modules=QV), keep_init=True),
        Case("gpt2", "gpt2", dict(r=3, fan_in_fan_out=True, target_modules=GPT2_CONV), weight_decay=0.1),
        # PEFT gives a new layer r, whatever the pattern says.
        Case("pattern", "qwen2", dict(r=3, target_modules=["k_proj", "o_proj"], rank_pattern={"k_proj": 2}, layers_to_transform=[1], layers_pattern="layers"), file_dtype="bfloat16"),
        Case("embedding", config=dict(r=2, target_modules=["embed_tokens", "lm_head", "down_proj"], init_weights=None, exclude_modules=r".*layers\.0.*"), keep_init=True),
        Case("positions_gpt2", "gpt2", dict(r=2, target_modules=["wpe", "wte"], init_weights=False), keep_init=True),
        Case("gaussian", "llama_tied", dict(r=3, target_modules=r".*\.(q|up)_proj|lm_head", init_weights="gaussian", modules_to_save=["norm"]), keep_init=True),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, target_modules=QV),
                # The first adapter has wrapped q_proj, which is why the pattern counts.
                "facts": dict(r=2, target_modules=["q_proj", "down_proj"], rank_pattern={"q_proj": 3, "down_proj": 5}),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=3, target_modules=["embed_tokens", *QV])),
        "false": ("llama", dict(r=1, init_weights=False, target_modules=["v_proj", "down_proj", "embed_tokens"])),
        "none": ("llama", dict(r=2, init_weights=None, target_modules=["v_proj", "embed_tokens"])),
        "gaussian_gpt2": ("gpt2", dict(r=5, init_weights="gaussian", target_modules=["c_attn", "wpe"], fan_in_fan_out=True)),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "target_norm": ("llama", dict(target_modules=["norm"])),
        "layers_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_to_transform=[0])),
        "layers_pattern_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_pattern="layers")),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "init_unknown": ("llama", dict(target_modules=QV, init_weights="zeros")),
        "dropout": ("llama", dict(target_modules=QV, hira_dropout=1.5)),
        "bias": ("llama", dict(target_modules=QV, bias="all")),
        "unknown_argument": ("llama", dict(target_modules=QV, alpha=4)),
    },
)
