"""The LoRA cases: what is asked of PEFT, as keyword arguments of `LoraConfig`. A table, no logic."""

# fmt: off
# (one case a line reads better than one argument a line)

from __future__ import annotations

from dataclasses import dataclass, field

QV = ["q_proj", "v_proj"]
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
GPT2_CONV = ["c_attn", "c_proj", "c_fc"]


@dataclass(frozen=True)
class Case:
    """One folder with a golden case.

    `config` are the arguments of the config class (task_type CAUSAL_LM unless said otherwise).
    `adapters`, when given, replaces `config`: several named adapters on one model.
    """

    name: str
    kind: str = "llama"
    config: dict = field(default_factory=dict)
    adapters: dict[str, dict] | None = None
    # PEFT's class for the config.
    config_class: str = "LoraConfig"
    weight_decay: float = 0.0
    # Only the right-padded batch, and merged logits only where they are not the adapted ones.
    compact: bool = False
    # Keep the leaves as they were before the random shift, and the changed base weights.
    keep_init: bool = False
    # Train in training mode, with what is drawn at random recorded.
    noise: bool = False
    # Convert the saved file to this dtype, as an adapter trained in half precision would be.
    file_dtype: str | None = None
    # Whether training goes on from the file.
    resumes: bool = True
    # What the beginning is measured with: "eva" or "lora_ga"; see begin.py.
    begin: str | None = None
    # Save as a plain LoRA by the difference to the initial state (PiSSA, OLoRA).
    convert: bool = False


CASES: list[Case] = [
    # r, lora_alpha and with them the scale
    Case("basic", config=dict(r=4, lora_alpha=8, target_modules=QV)),
    Case("basic_weight_decay", config=dict(r=4, lora_alpha=8, target_modules=QV), weight_decay=0.1),
    Case("rank3_alpha5", config=dict(r=3, lora_alpha=5, target_modules=QKVO)),
    Case("rank1", config=dict(r=1, lora_alpha=1, target_modules=["gate_proj", "down_proj"])),
    Case("rank_over_width", config=dict(r=20, lora_alpha=10, target_modules=["k_proj"])),
    Case("default_targets", config=dict()),
    Case("default_targets_gpt2", "gpt2", dict()),
    Case("dropout", config=dict(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=QV)),
    Case("no_task_type", config=dict(r=2, target_modules=QV, task_type=None)),
    Case("half_file", config=dict(r=4, lora_alpha=8, target_modules=QV), file_dtype="bfloat16"),
    # the other families
    Case("tied_all_linear", "llama_tied", dict(r=2, lora_alpha=6, target_modules="all-linear")),
    Case("mistral_qkvo", "mistral", dict(r=4, lora_alpha=12, target_modules=QKVO)),
    Case("qwen2_qkvo", "qwen2", dict(r=4, lora_alpha=6, target_modules=QKVO)),
    Case("qwen3_all_linear", "qwen3", dict(r=2, lora_alpha=6, target_modules="all-linear")),
    Case("gpt2_conv1d", "gpt2", dict(r=4, lora_alpha=8, fan_in_fan_out=True, target_modules=GPT2_CONV)),
    # rank-stabilised scale
    Case("rslora", config=dict(r=4, lora_alpha=8, use_rslora=True, target_modules=QV)),
    Case("rslora_rank3", config=dict(r=3, lora_alpha=2, use_rslora=True, target_modules=["o_proj", "up_proj"])),
    Case(
        "rslora_patterns",
        config=dict(
            r=4,
            lora_alpha=8,
            use_rslora=True,
            target_modules=r".*\.(q|v|down)_proj",
            rank_pattern={"layers.1.self_attn.q_proj": 2},
            alpha_pattern={"v_proj": 3},
        ),
    ),
    # biases of the base, and of lora_B
    Case("bias_all_gpt2", "gpt2", dict(r=4, bias="all", fan_in_fan_out=True, target_modules=["c_attn"])),
    Case("bias_only_gpt2", "gpt2", dict(r=2, lora_alpha=6, bias="lora_only", fan_in_fan_out=True, target_modules=["c_attn", "c_fc"])),
    Case("bias_all_qwen2", "qwen2", dict(r=4, bias="all", target_modules=["q_proj"])),
    Case("bias_only_qwen2", "qwen2", dict(r=4, bias="lora_only", target_modules=["q_proj", "o_proj"])),
    Case("bias_all_without_biases", config=dict(r=4, bias="all", target_modules=QV)),
    Case("lora_bias_gpt2", "gpt2", dict(r=4, lora_alpha=12, lora_bias=True, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"])),
    Case("lora_bias_qwen2", "qwen2", dict(r=3, lora_bias=True, use_rslora=True, target_modules=["q_proj", "v_proj"])),
    Case("lora_bias_all_qwen2", "qwen2", dict(r=2, lora_bias=True, bias="all", target_modules=["k_proj"])),
    Case("lora_bias_without_bias", config=dict(r=4, lora_bias=True, target_modules=QV)),
    # fan_in_fan_out is corrected to fit what was matched
    Case("fan_in_false_on_conv1d", "gpt2", dict(r=4, fan_in_fan_out=False, target_modules=["c_fc"])),
    Case("fan_in_true_on_linear", config=dict(r=4, fan_in_fan_out=True, target_modules=QV)),
    # DoRA
    Case("dora", config=dict(r=4, lora_alpha=8, use_dora=True, target_modules=QV)),
    Case("dora_all_linear", config=dict(r=3, lora_alpha=5, use_dora=True, target_modules="all-linear")),
    Case("dora_embedding", config=dict(r=4, lora_alpha=8, use_dora=True, target_modules=["embed_tokens", "o_proj"])),
    Case("dora_gpt2", "gpt2", dict(r=4, lora_alpha=8, use_dora=True, fan_in_fan_out=True, target_modules=GPT2_CONV)),
    Case("dora_gpt2_wte_bias", "gpt2", dict(r=2, lora_alpha=6, use_dora=True, bias="lora_only", fan_in_fan_out=True, target_modules=["wpe", "c_attn"])),
    Case("dora_qwen2_rslora", "qwen2", dict(r=4, lora_alpha=3, use_dora=True, use_rslora=True, target_modules=QKVO)),
    Case("dora_patterns", config=dict(r=4, lora_alpha=8, use_dora=True, target_modules=QV, rank_pattern={"v_proj": 2}, alpha_pattern={"layers.0.self_attn.q_proj": 20})),
    Case("dora_pissa", config=dict(r=4, lora_alpha=8, use_dora=True, init_lora_weights="pissa", target_modules=QV), keep_init=True),
    # initial values
    Case("init_false", config=dict(r=4, init_lora_weights=False, target_modules=QV), keep_init=True),
    Case("init_gaussian", config=dict(r=4, init_lora_weights="gaussian", target_modules=QV), keep_init=True),
    Case("init_orthogonal", config=dict(r=4, init_lora_weights="orthogonal", target_modules=QV), keep_init=True),
    Case("init_orthogonal_gpt2", "gpt2", dict(r=6, lora_alpha=3, init_lora_weights="orthogonal", fan_in_fan_out=True, target_modules=["c_fc"]), keep_init=True),
    Case("init_pissa", config=dict(r=4, lora_alpha=8, init_lora_weights="pissa", target_modules=QV), keep_init=True),
    Case("init_pissa_gpt2_rslora", "gpt2", dict(r=3, lora_alpha=2, use_rslora=True, init_lora_weights="pissa", fan_in_fan_out=True, target_modules=["c_attn"]), keep_init=True),
    Case("init_pissa_niter", config=dict(r=4, lora_alpha=8, init_lora_weights="pissa_niter_4", target_modules=["q_proj", "down_proj"]), keep_init=True),
    Case("init_pissa_niter_16", config=dict(r=2, lora_alpha=1, init_lora_weights="pissa_niter_16", target_modules=["up_proj"]), keep_init=True),
    Case("init_olora", config=dict(r=4, lora_alpha=8, init_lora_weights="olora", target_modules=QV), keep_init=True),
    Case("init_olora_wide", config=dict(r=6, lora_alpha=3, init_lora_weights="olora", target_modules=["down_proj", "gate_proj"], layers_to_transform=1), keep_init=True),
    Case("converted_pissa", config=dict(r=4, lora_alpha=8, init_lora_weights="pissa", target_modules=QV), convert=True),
    Case("converted_olora", config=dict(r=3, lora_alpha=2, init_lora_weights="olora", use_rslora=True, target_modules=QV), convert=True),
    # which modules
    Case("regex", config=dict(r=4, target_modules=r"model\.layers\.\d+\.(self_attn\.[qk]|mlp\.up)_proj")),
    Case("regex_one", config=dict(r=4, target_modules=r".*1.*\.o_proj")),
    Case("all_linear", config=dict(r=2, lora_alpha=6, target_modules="all-linear")),
    Case("all_linear_gpt2", "gpt2", dict(r=2, lora_alpha=6, fan_in_fan_out=True, target_modules="ALL-LINEAR")),
    Case("full_names", config=dict(r=4, target_modules=["model.layers.0.self_attn.q_proj", "mlp.up_proj", "lm_head"])),
    Case("exclude_list", config=dict(r=4, target_modules=QV, exclude_modules=["layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj"])),
    Case("exclude_regex", config=dict(r=4, target_modules=QV, exclude_modules=r".*layers\.1\..*")),
    Case("exclude_all_linear", config=dict(r=2, target_modules="all-linear", exclude_modules=["q_proj", "layers.1.mlp.up_proj"])),
    Case("layer_int", config=dict(r=4, target_modules=QV, layers_to_transform=1)),
    Case("layer_list", config=dict(r=4, target_modules=["q_proj", "model.layers.1.self_attn.v_proj"], layers_to_transform=[0])),
    Case("layers_pattern", config=dict(r=4, target_modules=["o_proj"], layers_to_transform=[1], layers_pattern="layers")),
    Case("layers_pattern_list_gpt2", "gpt2", dict(r=4, target_modules=["c_attn"], fan_in_fan_out=True, layers_to_transform=[0], layers_pattern=["layers", "h"])),
    # rank and alpha by pattern: the first matching key wins
    Case(
        "patterns",
        config=dict(
            r=4,
            lora_alpha=8,
            target_modules=QV,
            rank_pattern={"layers.1.self_attn.q_proj": 2, "^model.layers.0.self_attn.v_proj": 3, "q_proj": 5, "nowhere": 9},
            alpha_pattern={r"layers\.\d+\.self_attn\.v_proj": 7, ".*0.*q_proj": 1},
        ),
    ),
    Case("patterns_gpt2", "gpt2", dict(r=2, lora_alpha=4, fan_in_fan_out=True, target_modules=GPT2_CONV, rank_pattern={r"h\.1\.mlp\.c_proj": 5, "mlp.c_proj": 3}, alpha_pattern={r"h\.1\..*": 9})),
    # The keys overlap and PEFT sorts them on saving: it cannot read back what it wrote.
    Case("patterns_order_lost", "gpt2", dict(r=2, lora_alpha=4, fan_in_fan_out=True, target_modules=["c_proj"], rank_pattern={"mlp.c_proj": 5, "c_proj": 3})),
    # whole modules
    Case("save_head", config=dict(r=4, target_modules=QV, modules_to_save=["lm_head"])),
    Case("save_embed", config=dict(r=4, target_modules=["o_proj"], modules_to_save=["embed_tokens"])),
    Case("save_norms", config=dict(r=4, target_modules=QV, modules_to_save=["norm"])),
    Case("save_linear_too", config=dict(r=4, target_modules="all-linear", modules_to_save=["layers.0.mlp.up_proj", "k_proj"])),
    Case("save_gpt2", "gpt2", dict(r=4, fan_in_fan_out=True, target_modules=["c_attn"], modules_to_save=["ln_f", "h.1.mlp.c_fc"])),
    Case("save_head_tied", "llama_tied", dict(r=4, target_modules=QV, modules_to_save=["lm_head"])),
    Case("save_embed_tied", "llama_tied", dict(r=4, target_modules=QV, modules_to_save=["embed_tokens"])),
    Case("save_head_tied_ensured", "llama_tied", dict(r=4, target_modules=QV, modules_to_save=["lm_head"], ensure_weight_tying=True)),
    Case("save_embed_tied_ensured", "llama_tied", dict(r=4, target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    # single tokens
    Case("tokens_list", config=dict(r=4, target_modules=QV, trainable_token_indices=[41, 5, 57])),
    Case("tokens_dict", config=dict(r=4, target_modules=["o_proj"], trainable_token_indices={"embed_tokens": [5, 9]})),
    Case("tokens_both", config=dict(r=4, target_modules=QV, trainable_token_indices={"embed_tokens": [5, 41], "lm_head": [3]})),
    Case("tokens_tied", "llama_tied", dict(r=4, target_modules=QV, trainable_token_indices=[41, 5, 57])),
    Case("tokens_tied_ensured", "llama_tied", dict(r=4, target_modules=QV, trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [5, 9]}, ensure_weight_tying=True)),
    Case("tokens_tied_apart", "llama_tied", dict(r=4, target_modules=QV, trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [12]})),
    Case("tokens_gpt2", "gpt2", dict(r=4, fan_in_fan_out=True, target_modules=["c_fc"], trainable_token_indices=[5, 46])),
    # embeddings
    Case("embedding", config=dict(r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"])),
    Case("embedding_rslora", config=dict(r=3, lora_alpha=2, use_rslora=True, target_modules=r".*(embed_tokens|v_proj)")),
    Case("embedding_and_head", config=dict(r=4, lora_alpha=6, target_modules=["embed_tokens", "lm_head"])),
    Case("embedding_gpt2", "gpt2", dict(r=4, lora_alpha=6, fan_in_fan_out=True, target_modules=["wte", "wpe", "c_fc"])),
    Case("embedding_tied", "llama_tied", dict(r=4, target_modules=["embed_tokens", "q_proj"])),
    Case("head_tied", "llama_tied", dict(r=4, target_modules=["lm_head", "q_proj"])),
    Case("embedding_tied_ensured", "llama_tied", dict(r=4, target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True)),
    Case("head_tied_ensured", "llama_tied", dict(r=2, lora_alpha=6, target_modules=["lm_head", "q_proj"], ensure_weight_tying=True)),
    # several adapters
    Case(
        "two_adapters",
        adapters={
            "style": dict(r=4, lora_alpha=8, target_modules=QV),
            "facts": dict(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
        },
    ),
    Case(
        "two_adapters_dora",
        adapters={
            "style": dict(r=4, lora_alpha=8, use_dora=True, target_modules=QV),
            "facts": dict(r=2, lora_alpha=6, use_rslora=True, target_modules=["v_proj", "up_proj"]),
        },
    ),
    Case("bf16_base", "llama_bf16", dict(r=4, lora_alpha=8, target_modules=QV)),
]

# Straight after `torch.manual_seed(seed)` and `get_peft_model`: torch's own random numbers.
INITS: dict[str, tuple[str, dict]] = {
    "true": ("llama", dict(r=4, target_modules=QKVO, layers_to_transform=0)),
    "true_rank3": ("llama", dict(r=3, target_modules=["down_proj"], rank_pattern={"layers.1.mlp.down_proj": 5})),
    "true_lora_bias": ("qwen2", dict(r=4, lora_bias=True, target_modules=QV, layers_to_transform=0)),
    "false": ("llama", dict(r=4, init_lora_weights=False, target_modules=QV, layers_to_transform=0)),
    "false_lora_bias": ("qwen2", dict(r=3, init_lora_weights=False, lora_bias=True, target_modules=QV, layers_to_transform=0)),
    "gaussian": ("llama", dict(r=4, init_lora_weights="gaussian", target_modules=["v_proj", "down_proj"], layers_to_transform=0)),
    "embedding": ("llama", dict(r=3, target_modules=["embed_tokens", "lm_head"])),
    "embedding_false": ("llama", dict(r=2, init_lora_weights=False, target_modules=["embed_tokens"])),
    "orthogonal": ("llama", dict(r=4, init_lora_weights="orthogonal", target_modules=QV, layers_to_transform=0)),
    "gpt2": ("gpt2", dict(r=2, fan_in_fan_out=True, target_modules=["c_attn", "c_proj"], layers_to_transform=1)),
    "dora": ("llama", dict(r=4, use_dora=True, target_modules=["v_proj"])),
    "regex_order": ("llama", dict(r=2, target_modules=r".*(v_proj|q_proj|lm_head|up_proj)")),
}

# What PEFT refuses: class and message of the error are recorded.
REFUSED: dict[str, tuple[str, dict]] = {
    "no_target_found": ("llama", dict(target_modules=["nope"])),
    "no_target_found_regex": ("llama", dict(target_modules="q_proj")),
    "no_target_in_layer": ("llama", dict(target_modules=QV, layers_to_transform=[7], layers_pattern="layers")),
    "all_excluded": ("llama", dict(target_modules=QV, exclude_modules=QV)),
    "target_is_saved": ("llama", dict(target_modules=["lm_head"], modules_to_save=["lm_head"])),
    "target_not_linear": ("llama", dict(target_modules=["norm"])),
    "target_block": ("llama", dict(target_modules=["mlp"])),
    "empty_targets": ("llama", dict(target_modules=[])),
    "rank_zero": ("llama", dict(r=0, target_modules=QV)),
    "rank_pattern_zero": ("llama", dict(target_modules=QV, rank_pattern={"v_proj": 0})),
    "bias_unknown": ("qwen2", dict(bias="some", target_modules=QV)),
    "init_unknown": ("llama", dict(init_lora_weights="zeros", target_modules=QV)),
    "init_pissa_malformed": ("llama", dict(init_lora_weights="pissa_niter", target_modules=QV)),
    "orthogonal_odd_rank": ("llama", dict(r=3, init_lora_weights="orthogonal", target_modules=QV)),
    "olora_conv1d": ("gpt2", dict(init_lora_weights="olora", target_modules=["c_fc"])),
    "task_type_unknown": ("llama", dict(task_type="CHAT", target_modules=QV)),
    "layers_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_to_transform=[0])),
    "layers_pattern_with_regex": ("llama", dict(target_modules=r".*q_proj", layers_pattern="layers")),
    "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
    "lora_bias_with_dora": ("gpt2", dict(lora_bias=True, use_dora=True, target_modules=["c_attn"])),
    "lora_bias_with_gaussian": ("gpt2", dict(lora_bias=True, init_lora_weights="gaussian", target_modules=["c_attn"])),
    "lora_bias_on_embedding": ("llama", dict(lora_bias=True, target_modules=["embed_tokens"])),
    "tokens_and_saved": ("llama", dict(target_modules=QV, modules_to_save=["embed_tokens"], trainable_token_indices={"embed_tokens": [5]})),
    "tokens_and_targeted": ("llama", dict(target_modules=["embed_tokens"], trainable_token_indices=[5])),
    "tokens_out_of_range": ("llama", dict(target_modules=QV, trainable_token_indices=[61])),
    "tokens_layer_not_found": ("llama", dict(target_modules=QV, trainable_token_indices={"wte": [5]})),
    "tokens_tied_mismatch": ("llama_tied", dict(target_modules=QV, trainable_token_indices={"embed_tokens": [5], "lm_head": [9]}, ensure_weight_tying=True)),
    "modules_to_save_not_found": ("llama", dict(target_modules=QV, modules_to_save=["nope"])),
    "unknown_argument": ("llama", dict(target_modules=QV, rank=4)),
}
