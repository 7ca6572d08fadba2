"""Golden cases of UNILORA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "UniLoraConfig",
    whole=("basic",),
    cases=[
        # which element is taken: drawn again, or stored
        Case("basic", config=dict(r=3, theta_d_length=11, target_modules=[*QV, "down_proj"]), weight_decay=0.1),
        Case("stored", "qwen2", dict(r=1, theta_d_length=31, proj_seed=2**33 + 5, save_indices=True, unilora_dropout=0.1, bias="unilora_only", task_type=None, target_modules=["k_proj", "o_proj"], layers_to_transform=1)),
        # 352 elements for 500 places: some are not taken
        Case("sparse", "gpt2", dict(r=1, theta_d_length=500, proj_seed=0, bias="all", fan_in_fan_out=True, target_modules=["attn.c_proj", "mlp.c_fc"])),
        Case("head", config=dict(r=2, theta_d_length=2, init_theta_d_bound=0.5, target_modules=["lm_head", "q_proj"], modules_to_save=["norm"])),
        Case("init_false", "gpt2", dict(r=4, theta_d_length=64, init_weights=False, target_modules=GPT2_CONV), keep_init=True),
        Case("two_adapters", adapters={
            "style": dict(r=2, theta_d_length=5, target_modules=["q_proj", "down_proj"]),
            "facts": dict(r=1, theta_d_length=9, proj_seed=3, save_indices=True, target_modules=["v_proj", "q_proj"]),
        }),
    ],
    inits={
        "true": ("llama", dict(r=3, theta_d_length=12, target_modules=QV)),
        "stored": ("gpt2", dict(r=2, theta_d_length=300, init_weights=False, save_indices=True, target_modules=["attn.c_proj", "c_fc"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "length_zero": ("llama", dict(theta_d_length=0, target_modules=QV)),
        "seed_negative": ("llama", dict(proj_seed=-1, target_modules=QV)),
        "bound_zero": ("llama", dict(init_theta_d_bound=0.0, target_modules=QV)),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens", "q_proj"])),
        "bias_unknown": ("qwen2", dict(bias="some", target_modules=QV)),
        "dropout": ("llama", dict(unilora_dropout=1.5, target_modules=QV)),
        "layers_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_to_transform=[1])),
        "pattern_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_pattern="layers")),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "exclude_modules": ("llama", dict(target_modules=QV, exclude_modules=["v_proj"])),
    },
)
