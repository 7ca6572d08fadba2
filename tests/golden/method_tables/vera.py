"""Golden cases of VERA."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QV, Case
from method_cases import Method

METHOD = Method(
    "VeraConfig",
    whole=("basic", "key_not_stored", "conv1d", "two_adapters"),
    cases=[
        Case("basic", config=dict(r=4, target_modules=QV)),
        Case("default_targets", config=dict(r=6)),
        Case("dropout", config=dict(r=4, vera_dropout=0.1, target_modules=QV)),
        Case("half_file", config=dict(r=4, target_modules=QV), file_dtype="bfloat16"),
        # the projections: stored, or made again from their key
        Case("not_stored", config=dict(r=4, save_projection=False, target_modules=QV)),
        Case("key", config=dict(r=5, projection_prng_key=11, target_modules=["o_proj", "k_proj"]), weight_decay=0.1),
        Case("key_not_stored", config=dict(r=3, projection_prng_key=7, save_projection=False, target_modules=["q_proj", "down_proj"])),
        Case("key_negative", "qwen2", dict(r=2, projection_prng_key=-3 - 2**33, save_projection=False, task_type=None, target_modules=["k_proj"])),
        # sizes that differ share the largest projections
        Case("all_linear", "qwen3", dict(r=3, target_modules="all-linear")),
        Case("all_linear_gpt2", "gpt2", dict(r=3, save_projection=False, target_modules="all-linear")),
        Case("head_tied", "llama_tied", dict(r=4, target_modules=["lm_head", "q_proj"])),
        # Conv1D and biases
        Case("conv1d", "gpt2", dict(r=4, fan_in_fan_out=True, target_modules=GPT2_CONV)),
        Case("fan_in_true_on_linear", config=dict(r=4, fan_in_fan_out=True, target_modules=QV)),
        Case("bias_all_gpt2", "gpt2", dict(r=2, bias="all", target_modules=["c_attn"])),
        Case("bias_only_qwen2", "qwen2", dict(r=4, bias="vera_only", target_modules=["k_proj", "o_proj"])),
        # which modules
        Case("regex", config=dict(r=4, target_modules=r"model\.layers\.\d+\.(self_attn\.[qk]|mlp\.up)_proj")),
        Case("layer_int", config=dict(r=4, target_modules=["q_proj", "up_proj"], layers_to_transform=1)),
        Case("layer_list", config=dict(r=4, target_modules=["q_proj", "model.layers.1.self_attn.v_proj"], layers_to_transform=[0])),
        Case("layers_pattern_gpt2", "gpt2", dict(r=4, target_modules=["c_attn"], layers_to_transform=[0], layers_pattern=["layers", "h"])),
        Case("layers_with_regex", config=dict(r=4, target_modules=r".*v_proj", layers_to_transform=[1])),
        Case("save_head", config=dict(r=4, target_modules=QV, modules_to_save=["lm_head"])),
        # initial values
        Case("initial", config=dict(r=4, d_initial=0.5, target_modules=QV), keep_init=True),
        Case("init_false", config=dict(r=18, init_weights=False, save_projection=False, target_modules=["v_proj"]), keep_init=True),
        # several adapters
        Case(
            "two_adapters",
            adapters={
                "style": dict(r=4, target_modules=QV),
                "facts": dict(r=4, d_initial=0.3, target_modules=["q_proj", "o_proj"]),
            },
        ),
        Case(
            "two_adapters_not_stored",
            "gpt2",
            adapters={
                "style": dict(r=3, projection_prng_key=5, save_projection=False, target_modules=["c_attn"]),
                # PEFT corrects fan_in_fan_out only where it wraps a layer, which the first adapter did.
                "facts": dict(r=3, projection_prng_key=5, save_projection=False, fan_in_fan_out=True, target_modules=["attn.c_attn"], layers_to_transform=[1]),
            },
        ),
        # The second adapter is smaller and takes the first one's projections.
        Case(
            "two_adapters_sizes",
            adapters={
                "style": dict(r=4, target_modules=["q_proj", "down_proj"]),
                "facts": dict(r=4, target_modules=["v_proj", "o_proj"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(r=4, target_modules=QV, d_initial=0.25)),
        "false": ("llama", dict(r=5, init_weights=False, target_modules=["v_proj", "down_proj"], projection_prng_key=3)),
        "false_wide": ("gpt2", dict(r=17, init_weights=False, target_modules="all-linear", save_projection=False, projection_prng_key=12345)),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV)),
        "rank_negative": ("llama", dict(r=-2, target_modules=QV)),
        "target_embedding": ("llama", dict(r=4, target_modules=["embed_tokens", "q_proj"])),
        "target_norm": ("llama", dict(r=4, target_modules=["norm"])),
        "no_target_found": ("llama", dict(r=4, target_modules=["nope"])),
        "bias_unknown": ("qwen2", dict(r=4, bias="some", target_modules=QV)),
        "dropout": ("llama", dict(r=4, vera_dropout=1.5, target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(r=4, target_modules=QV, layers_pattern="layers")),
        "layers_pattern_with_regex": ("llama", dict(r=4, target_modules=r".*q_proj", layers_pattern="layers")),
        "exclude_modules": ("llama", dict(r=4, target_modules=QV, exclude_modules=["v_proj"])),
        "task_type_unknown": ("llama", dict(r=4, task_type="CHAT", target_modules=QV)),
        "unknown_argument": ("llama", dict(rank=4, target_modules=QV)),
        "together_key": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=QV, projection_prng_key=1)),
        "together_stored": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=QV, save_projection=False)),
        "together_bias": ("qwen2", dict(r=4, target_modules=QV, bias="all"), dict(r=4, target_modules=QV, bias="vera_only")),
        "together_larger_rank": ("llama", dict(r=4, target_modules=QV), dict(r=6, target_modules=QV)),
        "together_smaller_rank": ("llama", dict(r=6, target_modules=QV), dict(r=4, target_modules=QV)),
        "together_larger_output": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=["up_proj"])),
        "together_larger_input": ("llama", dict(r=4, target_modules=QV), dict(r=4, target_modules=["down_proj"])),
    },
)
