"""Golden cases of what LoRA does to a model beside adapting layers: repeating them."""

# fmt: off

from __future__ import annotations

from cases import QV, Case
from method_cases import Method

METHOD = Method(
    "LoraConfig",
    peft_type="LORA",
    whole=("replicated",),
    cases=[
        Case("replicated", config=dict(r=4, lora_alpha=8, target_modules=QV, layer_replication=[[0, 2], [0, 2], [1, 2]])),
        # fewer layers, in another order; tied heads; a trained module that comes twice
        Case("replicated_tied_dora", "llama_tied", dict(r=2, lora_alpha=6, use_dora=True, use_rslora=True, target_modules=["embed_tokens", "o_proj", "down_proj"], layer_replication=[[1, 2], [0, 2]])),
        Case("replicated_saved", "mistral", dict(r=2, lora_alpha=3, bias="none", target_modules="all-linear", exclude_modules=r".*layers\.1\..*", modules_to_save=["layers.2.input_layernorm"], rank_pattern={"layers.2.self_attn.q_proj": 3}, layer_replication=[[0, 1], [0, 2]])),
    ],
    inits={
        "replicated": ("llama", dict(r=3, target_modules=QV, layer_replication=[[0, 2], [1, 2]])),
    },
    refused={
        "layers_unknown": ("gpt2", dict(target_modules=["c_attn"], fan_in_fan_out=True, layer_replication=[[0, 2], [1, 2]])),
        "tokens_overlap": ("llama", dict(target_modules=QV, trainable_token_indices=[5, 8]), dict(target_modules=QV, trainable_token_indices=[9, 5])),
        "tokens_together": ("llama", dict(target_modules=QV, trainable_token_indices=[5, 8]), dict(target_modules=QV, trainable_token_indices=[9])),
        "tokens_together_tied": ("llama_tied", dict(target_modules=QV, trainable_token_indices=[5, 8]), dict(target_modules=QV, trainable_token_indices=[9])),
        "layers_beyond": ("llama", dict(target_modules=QV, layer_replication=[[0, 3]])),
    },
)
