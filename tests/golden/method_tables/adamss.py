"""Golden cases of ADAMSS."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "AdamssConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=8, target_modules=QV), weight_decay=0.1),
        Case("default_targets_bias", "qwen2", dict(r=9, num_subspaces=3, subspace_rank=2, random_seed=5)),
        Case("dynamic_rank", config=dict(r=12, num_subspaces=4, subspace_rank=3, use_dynamic_rank=True, svd_threshold=0.4, target_modules=["down_proj", "gate_proj"], modules_to_save=["lm_head"])),
        # more rank than some clusters have rows
        Case("small_clusters", config=dict(r=6, num_subspaces=12, subspace_rank=4, target_modules=["v_proj"], layers_to_transform=[1], layers_pattern="layers")),
        Case("random_init", config=dict(r=5, init_weights=None, target_modules=["q_proj"]), keep_init=True),
        Case("asa", config=dict(r=8, use_asa=True, asa_target_subspaces=3, init_warmup=0, final_warmup=2, mask_interval=1, target_modules=["o_proj"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=8, target_modules=QV),
                "facts": dict(r=6, num_subspaces=2, subspace_rank=2, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=8, target_modules=QV)),
        "false": ("qwen2", dict(r=6, init_weights=None, subspace_rank=2, num_subspaces=3, use_dynamic_rank=True, target_modules=["k_proj", "up_proj"])),
    },
    refused={
        "init_unknown": ("llama", dict(init_weights="random", target_modules=QV)),
        "interval_zero": ("llama", dict(use_asa=True, mask_interval=0, target_modules=QV)),
        "interval_unused": ("llama", dict(mask_interval=0, target_modules=QV)),
        "warmup": ("llama", dict(use_asa=True, init_warmup=5, final_warmup=5, target_modules=QV)),
        "target_zero": ("llama", dict(use_asa=True, asa_target_subspaces=0, target_modules=QV)),
        "exponent_zero": ("llama", dict(use_asa=True, asa_schedule_exponent=0.0, target_modules=QV)),
        "conv1d": ("gpt2", dict()),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens", "q_proj"])),
        "exclude_modules": ("llama", dict(target_modules=QV, exclude_modules=["v_proj"])),
    },
)
