"""Golden cases of LoRA's initializations."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

EVA = dict(init_lora_weights="eva", r=3, lora_alpha=5)

METHOD = Method(
    "LoraConfig",
    peft_type="LORA",
    cases=[
        # EVA: shares of ranks, layers without any, layers with the same input
        Case("eva_zero", "qwen3", dict(init_lora_weights="eva", r=1, target_modules=["o_proj", "down_proj", "up_proj", "gate_proj"], rank_pattern={"0.mlp.up_proj": 2}, eva_config=dict(rho=4.0, tau=0.9)), begin="eva", keep_init=True),
        Case("eva", config=dict(**EVA, target_modules=["q_proj", "v_proj", "down_proj"], eva_config=dict()), begin="eva", keep_init=True),
        Case("eva_patterns", "gpt2", dict(**EVA, target_modules=["c_attn", "mlp.c_proj"], use_rslora=True, rank_pattern={"h.0.attn.c_attn": 2}, alpha_pattern={"c_proj": 4}, eva_config=dict(rho=1.5, tau=0.995, adjust_scaling_factors=False, use_label_mask=False)), begin="eva", keep_init=True),
        Case("eva_whiten", "qwen2", dict(**EVA, target_modules=["o_proj", "down_proj", "embed_tokens"], use_dora=True, eva_config=dict(rho=1.0, whiten=True, label_mask_value=7)), begin="eva", keep_init=True),
    ],
    inits={
        # as it is before anything was measured
        "eva": ("llama", dict(**EVA, target_modules=QV)),
    },
    refused={
        "eva_rho": ("llama", dict(init_lora_weights="eva", eva_config=dict(rho=0.5), target_modules=QV)),
        "eva_tau": ("llama", dict(init_lora_weights="eva", eva_config=dict(tau=1.5), target_modules=QV)),
        "eva_bias": ("llama", dict(init_lora_weights="eva", lora_bias=True, target_modules=QV)),
    },
)
