"""Golden cases of WAVEFT."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "WaveFTConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(n_frequency=20, scaling=3.5, target_modules=QV)),
        # filters of all families, longer than weights too, and more coefficients than are added one by one
        Case("default_gpt2", "gpt2", dict(n_frequency=90, random_loc_seed=-5, wavelet_family="db10", init_weights=False), weight_decay=0.1),
        Case("symlet", config=dict(n_frequency=200, scaling=4.0, wavelet_family="sym9", random_loc_seed=3, target_modules=["k_proj", "up_proj"]), file_dtype="bfloat16"),
        # PEFT's filter of this name is another one than that of the coiflet
        Case("coiflet", "qwen2", dict(n_frequency=60, wavelet_family="coif4", scaling=9.0, bias="waveft_only", target_modules=["k_proj", "o_proj", "lm_head"])),
        Case(
            "direct_pattern",
            config=dict(
                n_frequency=9, scaling=2.0, use_idwt=False, wavelet_family="db38", random_loc_seed=2**35 + 3, target_modules=r".*\.(q|v|up|down)_proj",
                n_frequency_pattern={"layers.1.self_attn.q_proj": 3, "v_proj|up_proj": 77, "(down)_proj": 88},
            ),
        ),
        Case("proportional_gpt2", "gpt2", dict(n_frequency=31, scaling=20.0, proportional_parameters=True, n_frequency_pattern={"c_fc": 5}, target_modules=GPT2_CONV, bias="all", exclude_modules=["h.1.mlp.c_fc"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(n_frequency=20, scaling=5.0, target_modules=QV),
                "facts": dict(n_frequency=20, scaling=7.0, wavelet_family="sym4", target_modules=["q_proj", "o_proj"], layers_to_transform=[1]),
            },
        ),
    ],
    inits={
        "false": ("llama", dict(n_frequency=23, init_weights=False, target_modules=QV)),
        "false_small": ("llama", dict(n_frequency=7, init_weights=False, target_modules=["k_proj"])),
        "true": ("qwen3", dict(n_frequency=17, proportional_parameters=True, target_modules=["v_proj", "down_proj", "q_proj"])),
    },
    refused={
        "none": ("llama", dict(n_frequency=0)),
        "too_many": ("llama", dict(n_frequency=1025)),
        "too_many_by_pattern": ("llama", dict(n_frequency=5, n_frequency_pattern={"v_proj": 513})),
        "bias_unknown": ("qwen2", dict(n_frequency=5, bias="some")),
        "seed_none": ("llama", dict(n_frequency=5, random_loc_seed=None)),
        "wavelet_unknown": ("llama", dict(n_frequency=5, wavelet_family="haar")),
        "wavelet_lacks_filter": ("llama", dict(n_frequency=5, wavelet_family="db11")),
        "wavelet_coif5": ("llama", dict(n_frequency=5, wavelet_family="coif5")),
        "target_embedding": ("llama", dict(n_frequency=5, target_modules=["embed_tokens"])),
        "layers_with_regex": ("llama", dict(n_frequency=5, target_modules=r".*q_proj", layers_to_transform=[0])),
        "pattern_with_regex": ("llama", dict(n_frequency=5, target_modules=r".*q_proj", layers_pattern="layers")),
        "layers_pattern_alone": ("llama", dict(n_frequency=5, target_modules=QV, layers_pattern="layers")),
    },
)
