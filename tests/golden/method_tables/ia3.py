"""Golden cases of IA3."""

# fmt: off

from __future__ import annotations

from cases import GPT2_CONV, QKVO, QV, Case
from method_cases import Method

METHOD = Method(
    "IA3Config",
    whole=("default", "default_gpt2", "bias_qwen2", "two_adapters"),
    cases=[
        # which modules, and which of them are feed-forward
        Case("default", config=dict()),
        Case("default_gpt2", "gpt2", dict()),
        Case("list", config=dict(target_modules=["q_proj", "mlp.up_proj", "o_proj"], feedforward_modules=["mlp.up_proj"]), weight_decay=0.1),
        Case("all_feedforward", config=dict(target_modules=["k_proj", "gate_proj"], feedforward_modules=["gate_proj", "k_proj"])),
        Case("feedforward_regex", config=dict(target_modules=r".*\.(v|o|down|up)_proj", feedforward_modules=r".*1\.(mlp\.down|self_attn\.o)_proj")),
        # Feed-forward names are compared with the end of the path, whatever they cut through.
        Case("feedforward_ending", config=dict(target_modules=r".*layers\.0.*(q|up|down)_proj", feedforward_modules=["p_proj", "0.mlp.down_proj"])),
        Case("all_linear", "llama_tied", dict(target_modules="all-linear", feedforward_modules=r".*\.mlp\.(down|gate)_proj")),
        Case("head", config=dict(target_modules=["lm_head", "v_proj"], feedforward_modules=["lm_head"])),
        Case("head_tied", "llama_tied", dict(target_modules=["lm_head", "k_proj"], feedforward_modules=[])),
        # biases are scaled with the output, and stay as they are behind a scaled input
        Case("bias_qwen2", "qwen2", dict(target_modules=QKVO, feedforward_modules=["k_proj", "o_proj"])),
        Case("conv1d", "gpt2", dict(target_modules=GPT2_CONV, feedforward_modules=["c_proj"], fan_in_fan_out=True)),
        Case("fan_in_true_on_linear", config=dict(target_modules=["up_proj"], feedforward_modules=[], fan_in_fan_out=True)),
        # what is left out, and what is saved whole
        Case("exclude_list", config=dict(exclude_modules=["layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj"])),
        Case("exclude_regex", "gpt2", dict(task_type=None, exclude_modules=r".*h\.0\.attn.*")),
        Case("save_head", config=dict(modules_to_save=["lm_head"])),
        # initial values
        Case("initial", config=dict(), keep_init=True),
        Case("init_false", config=dict(init_ia3_weights=False), keep_init=True),
        Case("half_file", config=dict(), file_dtype="bfloat16"),
        # PEFT writes both sets of names and refuses to read them, as one does not contain the other.
        Case("all_linear_unreadable", config=dict(target_modules="all-linear")),
        Case("list_unreadable", config=dict(target_modules=["q_proj", "k_proj"])),
        Case("list_unreadable_gpt2", "gpt2", dict(target_modules=["c_attn", "c_proj"])),
        # several adapters: they multiply
        Case(
            "two_adapters",
            adapters={
                "style": dict(),
                "facts": dict(target_modules=["k_proj", "up_proj", "down_proj"], feedforward_modules=["up_proj", "down_proj"]),
            },
        ),
        Case(
            "two_adapters_gpt2",
            "gpt2",
            adapters={
                "style": dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["c_attn"]),
                "facts": dict(target_modules=["c_attn", "c_fc"], feedforward_modules=["c_attn"]),
            },
        ),
    ],
    inits={
        "true": ("llama", dict()),
        "false": ("llama", dict(init_ia3_weights=False)),
        "false_gpt2": ("gpt2", dict(init_ia3_weights=False, target_modules="all-linear", feedforward_modules=r".*c_proj")),
        "false_order": ("qwen3", dict(init_ia3_weights=False, target_modules=r".*\.(down_proj|k_proj|lm_head)", feedforward_modules=["head"])),
    },
    refused={
        "feedforward_not_targeted": ("llama", dict(target_modules=QV, feedforward_modules=["down_proj"])),
        "feedforward_longer": ("llama", dict(target_modules=["down_proj"], feedforward_modules=["mlp.down_proj"])),
        "feedforward_shorter": ("llama", dict(target_modules=["mlp.down_proj"], feedforward_modules=["down_proj"])),
        "target_embedding": ("llama", dict(target_modules=["embed_tokens"], feedforward_modules=[])),
        "target_norm": ("llama", dict(target_modules=["norm"], feedforward_modules=[])),
        "no_target_found": ("llama", dict(target_modules=["nope"], feedforward_modules=[])),
        "all_excluded": ("llama", dict(exclude_modules=["k_proj", "v_proj", "down_proj"])),
        "task_type_unknown": ("llama", dict(task_type="CHAT")),
        "layers": ("llama", dict(layers_to_transform=[0])),
        "bias": ("llama", dict(bias="all")),
        "rank": ("llama", dict(r=8)),
        "init_name": ("llama", dict(init_weights=False)),
    },
)
