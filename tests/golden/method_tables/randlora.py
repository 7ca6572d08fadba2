"""Golden cases of RANDLORA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "RandLoraConfig",
    whole=("basic",),
    cases=[
        # sizes that differ, in and out: the projections are those of the largest
        Case("basic", config=dict(r=5, randlora_alpha=10, target_modules=["q_proj", "v_proj", "down_proj"], layers_to_transform=[0]), weight_decay=0.1),
        Case("sparse", config=dict(r=8, randlora_alpha=3, sparse=True, save_projection=False, projection_prng_key=7, randlora_dropout=0.1, target_modules=["up_proj", "k_proj"])),
        Case("very_sparse", "gpt2", dict(r=6, randlora_alpha=4, very_sparse=True, sparse=True, save_projection=False, bias="randlora_only", target_modules=GPT2_CONV)),
        Case("not_stored", "qwen2", dict(r=7, randlora_alpha=9, save_projection=False, projection_prng_key=-3, bias="all", task_type=None, target_modules=["k_proj", "o_proj"], layers_to_transform=1)),
        Case("rank_over_width", config=dict(r=40, randlora_alpha=20, save_projection=False, target_modules=["lm_head", "q_proj"], modules_to_save=["norm"])),
        Case("init_false", config=dict(r=16, init_weights=False, randlora_alpha=16, save_projection=False, target_modules=["v_proj"]), keep_init=True),
        # The second adapter takes the first one's projections, which are larger.
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=16, randlora_alpha=8, target_modules=["q_proj", "down_proj"], layers_to_transform=0),
                "facts": dict(r=16, randlora_alpha=6, target_modules=["v_proj", "q_proj"], layers_to_transform=0),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=5, target_modules=QV)),
        "false": ("gpt2", dict(r=9, init_weights=False, target_modules="all-linear", save_projection=False, projection_prng_key=12345)),
        "sparse": ("llama", dict(r=4, sparse=True, target_modules=["down_proj", "v_proj"], projection_prng_key=3)),
        "very_sparse": ("llama", dict(r=3, very_sparse=True, init_weights=False, target_modules=["k_proj"], projection_prng_key=4)),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "target_embedding": ("llama", dict(r=4, target_modules=["embed_tokens", "q_proj"])),
        "no_target_found": ("llama", dict(r=4, target_modules=["nope"])),
        "bias_unknown": ("qwen2", dict(r=4, bias="some", target_modules=QV)),
        "dropout": ("llama", dict(r=4, randlora_dropout=1.5, target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(r=4, target_modules=QV, layers_pattern="layers")),
        "exclude_modules": ("llama", dict(r=4, target_modules=QV, exclude_modules=["v_proj"])),
        "unknown_argument": ("llama", dict(rank=4, target_modules=QV)),
        "together_key": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=QV, projection_prng_key=1)),
        "together_stored": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=QV, save_projection=False)),
        "together_larger_rank": ("llama", dict(r=4, target_modules=QV), dict(r=6, target_modules=QV)),
        "together_larger_output": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=["up_proj"])),
    },
)
