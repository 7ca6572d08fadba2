"""Golden cases of FROD."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

QUIET = dict(progressbar=False)

METHOD = Method(
    "FrodConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(target_modules=QV, **QUIET), weight_decay=0.1),
        Case("default_targets", config=dict(sparse_rate=0.2, projection_prng_key=7, regularization_alpha=0.05, **QUIET)),
        Case("conv1d", "gpt2", dict(fan_in_fan_out=True, frod_dropout=0.1, target_modules=GPT2_CONV, **QUIET)),
        Case("bias_qwen2", "qwen2", dict(bias="frod_only", sparse_rate=0.05, target_modules=["k_proj", "down_proj"], **QUIET)),
        Case("diagonal", config=dict(sparse_rate=0.0, target_modules=["up_proj", "o_proj"], layers_to_transform=[1], modules_to_save=["lm_head"], **QUIET)),
        # Fewer rows than columns, and none of a kind beside them.
        Case("wide", config=dict(sparse_rate=0.5, target_modules=["k_proj"], layers_to_transform=1, layers_pattern=["layers"], **QUIET)),
        Case(
            "two_adapters",
            adapters={
                "style": dict(target_modules=QV, **QUIET),
                "facts": dict(target_modules=["q_proj", "o_proj"], **QUIET),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(target_modules=QV, projection_prng_key=3, **QUIET)),
        "false": ("gpt2", dict(init_weights=False, sparse_rate=0.03, target_modules=["c_attn", "c_fc"], **QUIET)),
    },
    refused={
        "not_stored": ("llama", dict(save_projection=False, target_modules=QV, **QUIET)),
        "rate_large": ("llama", dict(sparse_rate=1.5, target_modules=QV, **QUIET)),
        "rate_negative": ("llama", dict(sparse_rate=-0.1, target_modules=QV, **QUIET)),
        "bias_unknown": ("qwen2", dict(bias="some", target_modules=QV, **QUIET)),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers", **QUIET)),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens", "q_proj"], **QUIET)),
        "exclude_modules": ("llama", dict(target_modules=QV, exclude_modules=["v_proj"], **QUIET)),
        "together_key": ("llama", dict(target_modules=QV, **QUIET), dict(target_modules=QV, projection_prng_key=1, **QUIET)),
        "together_stored": ("llama", dict(target_modules=QV, **QUIET), dict(target_modules=QV, save_projection=False, **QUIET)),
    },
)
