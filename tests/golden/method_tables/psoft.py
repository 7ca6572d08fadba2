"""Golden cases of PSOFT."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "PsoftConfig",
    whole=("exact",),
    cases=[
        Case("exact", config=dict(r=5, psoft_alpha=7, target_modules=QV)),
        Case("large", "qwen2", dict(r=12, psoft_dropout=0.1, target_modules=["k_proj", "o_proj"]), weight_decay=0.1),
        Case("default_targets_split", config=dict(r=8, psoft_alpha=3, ab_svd_init="pissa_init", psoft_mag_a=False)),
        Case("random_start", config=dict(r=4, psoft_svd="lowrank", psoft_svd_lowrank_niter=2, random_seed=11, psoft_mag_b=False, target_modules=["down_proj", "up_proj"])),
        Case("any_matrix", config=dict(r=3, psoft_orth=False, psoft_mag_a=False, psoft_mag_b=False, target_modules=r".*1.*(gate|q)_proj"), keep_init=True),
        Case("series", config=dict(r=6, use_cayley_neumann=True, num_cayley_neumann_terms=6, cayley_neumann_eps=0.4, target_modules=["q_proj", "up_proj"], exclude_modules=["layers.0.mlp.up_proj"])),
        Case("short_series", config=dict(r=4, use_cayley_neumann=True, num_cayley_neumann_terms=2, target_modules=["v_proj"], layers_to_transform=[0], modules_to_save=["lm_head"])),
        Case("random_init_head", "llama_tied", dict(r=4, init_weights=False, ab_svd_init="pissa_init", psoft_svd="lowrank", target_modules=["lm_head"]), keep_init=True),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=3, psoft_alpha=4, target_modules=QV),
                "facts": dict(r=4, psoft_orth=False, target_modules=["q_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, target_modules=QV)),
        "false": ("llama", dict(r=5, init_weights=False, psoft_svd="lowrank", target_modules=["v_proj", "down_proj"])),
        "false_any": ("llama", dict(r=4, init_weights=False, psoft_orth=False, target_modules=QV)),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "rank_large": ("llama", dict(r=17, target_modules=QV)),
        "init_unknown": ("llama", dict(r=4, ab_svd_init="lora", target_modules=QV)),
        "svd_unknown": ("llama", dict(r=4, psoft_svd="fast", target_modules=QV)),
        "terms_zero": ("llama", dict(r=4, use_cayley_neumann=True, num_cayley_neumann_terms=0, target_modules=QV)),
        "terms_unused": ("llama", dict(r=4, num_cayley_neumann_terms=0, cayley_neumann_eps=2.0, target_modules=QV)),
        "eps": ("llama", dict(r=4, use_cayley_neumann=True, cayley_neumann_eps=1.0, target_modules=QV)),
        "layers_with_regex": ("llama", dict(r=4, target_modules=r".*q_proj", layers_to_transform=[0])),
        "layers_pattern_alone": ("llama", dict(r=4, target_modules=QV, layers_pattern="layers")),
        "conv1d": ("gpt2", dict(r=4)),
        "target_embedding": ("llama", dict(r=4, target_modules=["embed_tokens", "q_proj"])),
        "bias": ("llama", dict(r=4, bias="all", target_modules=QV)),
    },
)
