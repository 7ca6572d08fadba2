"""Golden cases of FOURIERFT."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "FourierFTConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(n_frequency=20, scaling=3.5, target_modules=QV)),
        # as many frequencies as all waves together, and more
        Case("defaults_small", config=dict(n_frequency=500, init_weights=True, random_loc_seed=0)),
        Case("default_gpt2", "gpt2", dict(random_loc_seed=-5)),
        Case(
            "pattern",
            config=dict(
                n_frequency=9, scaling=40.0, random_loc_seed=2**35 + 3, target_modules=r".*\.(q|v|up|down)_proj",
                n_frequency_pattern={"layers.1.self_attn.q_proj": 3, "v_proj|up_proj": 77, "(down)_proj": 88},
            ),
            weight_decay=0.1,
        ),
        Case("all_linear_gpt2", "gpt2", dict(n_frequency=30, scaling=20.0, target_modules=GPT2_CONV, bias="all"), file_dtype="bfloat16"),
        Case("bias_layers", "qwen2", dict(n_frequency=60, scaling=10.0, bias="fourier_only", target_modules=["lm_head", "k_proj", "o_proj"], layers_to_transform=[1], exclude_modules=["o_proj"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(n_frequency=20, scaling=5.0, target_modules=QV),
                "facts": dict(n_frequency=20, scaling=7.0, random_loc_seed=1, target_modules=["q_proj", "o_proj"], modules_to_save=["lm_head"]),
            },
        ),
    ],
    inits={
        "false": ("llama", dict(n_frequency=23, target_modules=QV)),
        "true": ("qwen3", dict(n_frequency=5, init_weights=True, target_modules=["v_proj", "down_proj"], n_frequency_pattern={"down_proj": 17})),
    },
    refused={
        "none": ("llama", dict(n_frequency=0)),
        "too_many": ("llama", dict(n_frequency=1025)),
        "too_many_by_pattern": ("llama", dict(n_frequency=5, n_frequency_pattern={"v_proj": 513})),
        "bias_unknown": ("qwen2", dict(n_frequency=5, bias="fourier")),
        "seed_none": ("llama", dict(n_frequency=5, random_loc_seed=None)),
        "target_embedding": ("llama", dict(n_frequency=5, target_modules=["embed_tokens"])),
        "layers_with_regex": ("llama", dict(n_frequency=5, target_modules=r".*q_proj", layers_to_transform=[0])),
        "pattern_with_regex": ("llama", dict(n_frequency=5, target_modules=r".*q_proj", layers_pattern="layers")),
        "layers_pattern_alone": ("llama", dict(n_frequency=5, target_modules=QV, layers_pattern="layers")),
    },
)
