"""Golden cases of C3A."""

# fmt: off

from __future__ import annotations

from peft.tuners.c3a import layer, utils

from cases import QV, Case
from method_cases import Method

class Differentiable:
    """PEFT's own backward pass gives inputs another gradient than its forward pass has."""

    @staticmethod
    def apply(x, w):
        return x @ utils.get_circulant_fast(w).T


layer.BlockCircularConvolution = Differentiable

METHOD = Method(
    "C3AConfig",
    whole=("basic",),
    cases=[
        Case("basic", config=dict(block_size=8, target_modules=QV)),
        # one block, one element, and sides that are odd
        Case(
            "pattern",
            config=dict(
                block_size=4, init_weights="gaussian", target_modules=r".*\.(q|v|up|down)_proj",
                block_size_pattern={"layers.1.self_attn.q_proj": 32, "v_proj|up_proj": 2, "(down)_proj": 1},
            ),
            weight_decay=0.1,
        ),
        Case("bias_layers", "qwen2", dict(block_size=16, bias="c3a_only", target_modules=["k_proj", "o_proj"], layers_to_transform=[1], layers_pattern=["layers"]), file_dtype="bfloat16"),
        Case("default_layers_pattern", "qwen2", dict(block_size=8, bias="all", init_weights=True, layers_pattern="layers", modules_to_save=["lm_head"])),
        Case(
            "two_adapters",
            adapters={
                "style": dict(block_size=8, target_modules=QV),
                "facts": dict(block_size=16, target_modules=["k_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "xavier": ("llama", dict(block_size=8, target_modules=["q_proj", "down_proj"])),
        "false": ("qwen3", dict(block_size=4, init_weights=False, target_modules=["v_proj"])),
        "kaiming": ("llama", dict(block_size=8, init_weights="kaiming_uniform", target_modules=["gate_proj", "down_proj"])),
        "gaussian": ("llama", dict(block_size=4, init_weights="gaussian", target_modules=QV)),
        "true": ("llama", dict(block_size=16, init_weights=True)),
    },
    refused={
        "block_zero": ("llama", dict(block_size=0)),
        "block_input": ("llama", dict(block_size=16, target_modules=["down_proj"])),
        "block_output": ("llama", dict(block_size=16, target_modules=["up_proj"])),
        "block_pattern": ("llama", dict(block_size=8, block_size_pattern={"v_proj": 3})),
        "init_unknown": ("llama", dict(block_size=8, init_weights="orthogonal")),
        "init_none": ("llama", dict(block_size=8, init_weights=None)),
        "bias_unknown": ("qwen2", dict(block_size=8, bias="some")),
        "conv1d": ("gpt2", dict(block_size=8)),
        "target_embedding": ("llama", dict(block_size=8, target_modules=["embed_tokens"])),
        "exclude_modules": ("llama", dict(block_size=8, exclude_modules=["v_proj"])),
        "layers_with_regex": ("llama", dict(block_size=8, target_modules=r".*q_proj", layers_to_transform=[0])),
        "pattern_with_regex": ("llama", dict(block_size=8, target_modules=r".*q_proj", layers_pattern="layers")),
        "layers_pattern_alone": ("llama", dict(block_size=8, target_modules=QV, layers_pattern="layers")),
    },
)
