"""Golden files of the methods beside LoRA, below methods/, made by the real PEFT.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only method_cases [--out DIR] [--seed N]

DIR (tests/golden by default) holds the bases below base/; those that are missing are made. What the files hold is in README.md beside this. A method is a table here
(`METHODS`): cases as for LoRA, initial values, and what PEFT refuses.
"""

# fmt: off
# (one case a line reads better than one argument a line)

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from run_case import prepare, run_case, run_init, run_refused, write_base, write_json  # first

from cases import GPT2_CONV, QKVO, QV, Case


@dataclass(frozen=True)
class Method:
    """One method: `config_class` is the name of PEFT's class for its config."""

    config_class: str
    cases: list[Case]
    # Straight after torch.manual_seed(seed) and get_peft_model: base and arguments.
    inits: dict[str, tuple[str, dict]] = field(default_factory=dict)
    # Names of the cases that are written whole; the others are compact.
    whole: tuple[str, ...] = ()
    # What PEFT refuses: base, arguments, and those of a second adapter where it is that.
    refused: dict[str, tuple[str, dict] | tuple[str, dict, dict]] = field(default_factory=dict)


IA3 = Method(
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

VERA = Method(
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

# fmt: on

METHODS: dict[str, Method] = {"ia3": IA3, "vera": VERA}


def write_method(name: str, method: Method, seed: int) -> None:
    """Writes methods/<name>/ with its index.json; the working directory holds base/."""
    folder = Path("methods", name)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "init").mkdir(parents=True)
    cases = [
        replace(case, config_class=method.config_class, compact=case.name not in method.whole)
        for case in method.cases
    ]
    for kind in {case.kind for case in cases}:
        if not Path("base", kind).exists():
            write_base(kind, seed + 100)
    for case in cases:
        run_case(case, seed, folder / case.name)
        print(f"{name} {case.name}", flush=True)
    inits = {
        init: run_init(method.config_class, *asked, seed + 1234, folder / "init" / f"{init}.safetensors")
        for init, asked in method.inits.items()
    }
    refused = {key: run_refused(method.config_class, *asked) for key, asked in method.refused.items()}
    index = {
        "peft_type": name.upper(),
        "config_class": method.config_class,
        "seed": seed,
        "cases": [
            {"name": case.name, "kind": case.kind, "adapters": list(case.adapters or [])}
            for case in cases
        ],
        "init": inits,
        "refused": refused,
    }
    write_json(index, folder / "index.json")


def write(out: Path, seed: int, methods: dict[str, Method] = METHODS) -> None:
    """Writes methods/ below a folder that holds base/, or will."""
    prepare(out)
    for name, method in methods.items():
        write_method(name, method, seed)
