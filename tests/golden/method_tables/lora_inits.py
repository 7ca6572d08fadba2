"""Golden cases of LoRA's initializations."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

EVA = dict(init_lora_weights="eva", r=3, lora_alpha=5)

GA = dict(init_lora_weights="lora_ga", r=3, lora_alpha=5)

METHOD = Method(
    "LoraConfig",
    peft_type="LORA",
    cases=[
        # EVA: shares of ranks, layers without any, layers with the same input
        Case("eva_zero", "qwen3", dict(init_lora_weights="eva", r=1, target_modules=["o_proj", "down_proj", "up_proj", "gate_proj"], rank_pattern={"0.mlp.up_proj": 2}, eva_config=dict(rho=4.0, tau=0.9)), begin="eva", keep_init=True),
        Case("eva", config=dict(**EVA, target_modules=["q_proj", "v_proj", "down_proj"], eva_config=dict()), begin="eva", keep_init=True),
        Case("eva_patterns", "gpt2", dict(**EVA, target_modules=["c_attn", "mlp.c_proj"], use_rslora=True, rank_pattern={"h.0.attn.c_attn": 2}, alpha_pattern={"c_proj": 4}, eva_config=dict(rho=1.5, tau=0.995, adjust_scaling_factors=False, use_label_mask=False)), begin="eva", keep_init=True),
        Case("eva_whiten", "qwen2", dict(**EVA, target_modules=["o_proj", "down_proj", "embed_tokens"], use_dora=True, eva_config=dict(rho=1.0, whiten=True, label_mask_value=7)), begin="eva", keep_init=True),
        # LoRA-GA: which directions A and B take, and how long they are
        Case("ga_stable", config=dict(**GA, target_modules=["q_proj", "down_proj"], lora_ga_config=dict(stable_gamma=9)), begin="lora_ga", keep_init=True),
        Case("ga_weight_svd", "gpt2", dict(**GA, target_modules=["c_attn", "mlp.c_proj"], lora_ga_config=dict(direction="ArBr", scale="weight_svd")), begin="lora_ga", keep_init=True),
        Case("ga_stable_gpt2", "gpt2", dict(**GA, target_modules=["c_fc"], lora_ga_config=dict(direction="A2rBr", scale="stable")), begin="lora_ga", keep_init=True),
        Case("ga_gd_scale", "mistral", dict(**GA, target_modules=["v_proj", "up_proj"], use_dora=True, use_rslora=True, lora_ga_config=dict(direction="random", scale="gd_scale")), begin="lora_ga", keep_init=True),
        Case("ga_plain", "qwen2", dict(**GA, target_modules=QV, rank_pattern={"v_proj": 2}, lora_ga_config=dict(scale="unit")), begin="lora_ga", convert=True),
        # MiCA: B is not trained
        Case("mica", config=dict(init_lora_weights="mica", r=3, lora_alpha=5, lora_dropout=0.1, target_modules=["q_proj", "down_proj", "up_proj"]), keep_init=True),
        Case("mica_gpt2", "gpt2", dict(init_lora_weights="mica", r=2, lora_alpha=3, use_rslora=True, target_modules=["c_attn", "wte", "mlp.c_proj"], rank_pattern={"wte": 3}), keep_init=True),
        # those without settings at other kinds of sites; some are called as it pleases
        Case("pissa_niter_gpt2", "gpt2", dict(init_lora_weights="pissa_niter_4", r=3, lora_alpha=5, target_modules=["c_attn", "wte", "mlp.c_proj"]), keep_init=True),
        Case("olora_embedding", "qwen2", dict(init_lora_weights="OLoRA", r=3, lora_alpha=5, target_modules=["embed_tokens", "o_proj", "down_proj"]), keep_init=True),
        Case("orthogonal_embedding", "mistral", dict(init_lora_weights="orthogonal", r=4, lora_alpha=5, target_modules=["embed_tokens", "k_proj"]), keep_init=True),
        Case("gaussian_gpt2", "gpt2", dict(init_lora_weights="Gaussian", r=3, lora_alpha=5, target_modules=["wte", "c_fc"]), keep_init=True),
    ],
    inits={
        # as it is before anything was measured
        "eva": ("llama", dict(**EVA, target_modules=QV)),
    },
    refused={
        "eva_rho": ("llama", dict(init_lora_weights="eva", eva_config=dict(rho=0.5), target_modules=QV)),
        "eva_tau": ("llama", dict(init_lora_weights="eva", eva_config=dict(tau=1.5), target_modules=QV)),
        "olora_conv1d": ("gpt2", dict(init_lora_weights="olora", target_modules=["c_attn"])),
        "mica_rank": ("llama", dict(init_lora_weights="mica", r=40, target_modules=QV)),
        "mica_dora": ("llama", dict(init_lora_weights="mica", use_dora=True, target_modules=QV)),
        "eva_bias": ("llama", dict(init_lora_weights="eva", lora_bias=True, target_modules=QV)),
    },
)
