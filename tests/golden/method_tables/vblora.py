"""Golden cases of VBLORA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

SMALL = dict(r=3, num_vectors=7, vector_length=8)

METHOD = Method(
    "VBLoRAConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(SMALL, target_modules=[*QV, "down_proj"]), weight_decay=0.1),
        Case("top1_regex", "qwen3", dict(r=2, num_vectors=5, vector_length=4, topk=1, vblora_dropout=0.1, init_logits_std=1.0, target_modules=r".*0\.(mlp\.up|self_attn\.o)_proj")),
        Case("top_all_gpt2", "gpt2", dict(r=2, num_vectors=3, vector_length=8, topk=3, bias="all", target_modules=GPT2_CONV, exclude_modules=["h.0.mlp.c_proj"])),
        Case("default_targets", "qwen2", dict(SMALL, r=1, init_vector_bank_bound=0.5, bias="vblora_only", task_type=None, layers_to_transform=[1]), keep_init=True),
        # only what is mixed is in the file, from which PEFT does not train on
        Case("topk_only", config=dict(SMALL, topk=3, save_only_topk_weights=True, target_modules=["q_proj", "k_proj"], modules_to_save=["norm"]), resumes=False),
        Case("topk_only_many", "gpt2", dict(r=1, num_vectors=300, vector_length=16, topk=1, save_only_topk_weights=True, target_modules=["attn.c_proj"]), resumes=False),
        Case(
            "two_adapters",
            adapters={
                "style": dict(SMALL, target_modules=["q_proj", "v_proj"]),
                "facts": dict(SMALL, topk=1, save_only_topk_weights=True, target_modules=["v_proj", "up_proj"]),
            },
        ),
    ],
    inits={
        "default": ("llama", dict(r=2, num_vectors=9, vector_length=4, target_modules=QV)),
        "small": ("gpt2", dict(r=1, num_vectors=3, vector_length=16, init_logits_std=0.7, init_vector_bank_bound=1.0, target_modules=["attn.c_proj"])),
    },
    refused={
        "rank_zero": ("llama", dict(SMALL, r=0, target_modules=QV)),
        "topk_zero": ("llama", dict(SMALL, topk=0, target_modules=QV)),
        "topk_more": ("llama", dict(SMALL, topk=8, target_modules=QV)),
        "length": ("llama", dict(SMALL, vector_length=6, target_modules=QV)),
        "length_out": ("llama", dict(SMALL, vector_length=32, target_modules=["v_proj"])),
        "target_embedding": ("llama", dict(SMALL, target_modules=["embed_tokens", "q_proj"])),
        "bias_unknown": ("qwen2", dict(SMALL, bias="some", target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(SMALL, target_modules=QV, layers_pattern="layers")),
        "init_weights": ("llama", dict(SMALL, target_modules=QV, init_weights=True)),
        "dropout": ("llama", dict(SMALL, vblora_dropout=1.5, target_modules=QV)),
    },
)
