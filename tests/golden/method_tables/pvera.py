"""Golden cases of PVERA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "PveraConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(r=4, target_modules=[*QV, "down_proj"]), weight_decay=0.1),
        Case("not_stored", "qwen2", dict(r=3, projection_prng_key=-7, save_projection=False, pvera_dropout=0.1, bias="pvera_only", task_type=None, target_modules=["k_proj", "o_proj"], layers_to_transform=1)),
        Case("conv1d", "gpt2", dict(r=5, save_projection=False, bias="all", target_modules=GPT2_CONV)),
        Case("init_false", config=dict(r=9, init_weights=False, save_projection=False, projection_prng_key=3, target_modules=["v_proj"]), keep_init=True),
        # draws in training, and beyond it
        Case("noise", config=dict(r=4, d_initial=0.5, save_projection=False, target_modules=["q_proj", "down_proj"]), noise=True, weight_decay=0.1),
        Case("sampled", "gpt2", dict(r=3, save_projection=False, sample_at_inference=True, generator_seed=5, target_modules=["c_attn", "attn.c_proj"]), noise=True),
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, target_modules=["q_proj", "down_proj"]),
                "facts": dict(r=4, d_initial=0.3, target_modules=["v_proj", "q_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, target_modules=QV, d_initial=0.25)),
        "false": ("gpt2", dict(r=5, init_weights=False, target_modules="all-linear", projection_prng_key=12345)),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "target_embedding": ("llama", dict(r=4, target_modules=["embed_tokens", "q_proj"])),
        "bias_unknown": ("qwen2", dict(r=4, bias="some", target_modules=QV)),
        "dropout": ("llama", dict(r=4, pvera_dropout=1.5, target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(r=4, target_modules=QV, layers_pattern="layers")),
        "exclude_modules": ("llama", dict(r=4, target_modules=QV, exclude_modules=["v_proj"])),
        "together_key": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=QV, projection_prng_key=1)),
        "together_stored": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=QV, save_projection=False)),
        "together_larger_rank": ("llama", dict(r=4, target_modules=QV), dict(r=6, target_modules=QV)),
        "together_larger_output": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=["up_proj"])),
    },
)
