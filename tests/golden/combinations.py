"""Golden files of combined adapters: `add_weighted_adapter` of the real PEFT.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only combinations [--out DIR] [--seed N]

Writes combinations/: the source adapters of each set in PEFT's files, `index.json` (sets, cases,
what PEFT refuses) and `expected.safetensors` (`in.*`, `<set>.<adapter>` and `<case>` are logits).
"""

from __future__ import annotations

from run_case import bases_beside  # first

import json
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from bases import VOCAB, load_base
from peft import PeftModel, get_peft_config, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

SHIFT = 0.15

# fmt: off
QV = ["q_proj", "v_proj"]
GPT2 = ["wte", "c_attn", "mlp.c_proj"]
IA3 = {"peft_type": "IA3"}

# Adapters on one base, as arguments of LoraConfig, or of the config that peft_type names.
SETS: dict[str, tuple[str, dict[str, dict]]] = {
    "plain": ("llama", {
        "a": dict(r=4, lora_alpha=8, target_modules="all-linear"),
        "b": dict(r=4, lora_alpha=4, target_modules="all-linear"),
        "c": dict(r=4, lora_alpha=10, target_modules="all-linear"),
    }),
    "ranks": ("llama", {
        "a": dict(r=6, lora_alpha=9, target_modules=QV),
        "b": dict(r=3, lora_alpha=8, target_modules=["v_proj", "down_proj"]),
    }),
    "rslora": ("llama", {
        "a": dict(r=4, lora_alpha=6, use_rslora=True, target_modules=QV),
        "b": dict(r=4, lora_alpha=3, target_modules=QV),
    }),
    "patterns": ("llama", {
        "a": dict(r=4, lora_alpha=8, target_modules=[*QV, "up_proj"], rank_pattern={"v_proj": 2},
                  alpha_pattern={"q_proj": 5, "layers.1.*v_proj": 3}),
        "b": dict(r=4, lora_alpha=6, target_modules=[*QV, "up_proj"], rank_pattern={"v_proj": 2}),
    }),
    "gpt2": ("gpt2", {
        "a": dict(r=5, lora_alpha=8, target_modules=GPT2),
        "b": dict(r=5, lora_alpha=4, target_modules=["wte", "c_attn"]),
    }),
    "embedding": ("llama", {
        "a": dict(r=3, lora_alpha=5, target_modules=["embed_tokens", "k_proj"], init_lora_weights="gaussian"),
        "b": dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "lm_head"], init_lora_weights=False),
    }),
    "unlike_init": ("llama", {
        "b": dict(r=2, lora_alpha=4, target_modules=QV, init_lora_weights=False),
        "a": dict(r=2, lora_alpha=5, target_modules=QV),
    }),
    "regex": ("llama", {
        "a": dict(r=2, lora_alpha=4, target_modules=r".*\.0\..*(q|v)_proj"),
        "b": dict(r=4, lora_alpha=4, target_modules=r".*down_proj"),
    }),
    "ia3": ("llama", {
        "a": dict(IA3, target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "b": dict(IA3, target_modules=["v_proj", "down_proj", "k_proj"], feedforward_modules=["down_proj"]),
        "c": dict(IA3, target_modules=["v_proj", "down_proj", "k_proj"], feedforward_modules=["down_proj"]),
    }),
    "ia3_gpt2": ("gpt2", {
        "a": dict(IA3, target_modules=".*(c_attn|mlp.c_proj)", feedforward_modules=".*mlp.c_proj"),
        "b": dict(IA3, target_modules=".*(mlp.c_proj|c_attn)", feedforward_modules=".*c_proj"),
    }),
}

PRUNED = ["ties", "dare_linear", "dare_ties", "magnitude_prune"]
TYPES = ["linear", "cat", "svd", *PRUNED, *[f"{name}_svd" for name in PRUNED]]


@dataclass(frozen=True)
class Case:
    """One call. `arguments` are those of add_weighted_adapter but for adapters and adapter_name."""

    name: str
    set: str
    adapters: list[str]
    weights: list[float]
    arguments: dict = field(default_factory=dict)


def case(name: str, of: str, adapters: str, weights: list[float], kind: str | None, **arguments) -> Case:
    options = {**arguments, **({"combination_type": kind} if kind else {})}
    return Case(name, of, list(adapters), weights, options)


def dense(kind: str) -> dict:
    return {} if kind in ("linear", "cat", "svd") else {"density": 0.45}


CASES: list[Case] = [
    *[case(f"two_{kind}", "plain", "ab", [0.7, 0.4], kind, **dense(kind)) for kind in TYPES],
    *[case(f"negative_{kind}", "plain", "ab", [0.8, -0.55], kind, **dense(kind)) for kind in TYPES],
    *[case(f"three_{kind}", "plain", "cab", [0.5, -0.3, 0.9], kind, **dense(kind)) for kind in TYPES],
    *[case(f"frequency_{kind}", "plain", "abc", [0.6, 0.3, -0.8], kind, density=0.7, majority_sign_method="frequency")
      for kind in TYPES if "ties" in kind],
    *[case(f"gpt2_{kind}", "gpt2", "ab", [0.6, -0.9], kind, **dense(kind)) for kind in TYPES],
    case("default", "plain", "ba", [1.5, -0.5], None),
    case("alone", "plain", "b", [-0.6], "ties"),
    case("alone_svd", "plain", "a", [0.3], "svd", svd_rank=2),
    case("twice", "plain", "aa", [1.5, -0.25], "cat"),
    case("zero_weight", "plain", "ab", [0.0, 0.8], "linear"),
    case("density_one", "plain", "ab", [0.5, 0.5], "dare_ties", density=1.0),
    case("density_small", "plain", "ab", [0.9, 0.5], "ties", density=0.011),
    case("density_nothing", "plain", "ab", [0.9, 0.5], "magnitude_prune", density=0.0),
    case("svd_rank_low", "plain", "abc", [0.5, 0.8, -0.4], "svd", svd_rank=3),
    case("svd_rank_high", "plain", "ab", [0.5, 0.8], "svd", svd_rank=12),
    case("svd_rank_ties", "plain", "ab", [0.5, 0.8], "ties_svd", svd_rank=7, density=0.6, svd_full_matrices=False),
    case("svd_rank_beyond", "plain", "ab", [0.5, 0.8], "magnitude_prune_svd", svd_rank=20, density=0.8, svd_full_matrices=False),
    case("ranks_cat", "ranks", "ab", [0.7, -0.6], "cat"),
    case("ranks_svd", "ranks", "ba", [0.7, 0.6], "svd"),
    case("ranks_svd_rank", "ranks", "ab", [0.7, 0.6], "svd", svd_rank=2),
    case("ranks_dare", "ranks", "ab", [0.7, 0.6], "dare_ties_svd", density=0.5, svd_rank=4),
    *[case(f"rslora_{kind}", "rslora", "ab", [0.7, 0.6], kind, **dense(kind)) for kind in ("linear", "cat", "svd", "ties", "dare_linear_svd")],
    *[case(f"patterns_{kind}", "patterns", "ab", [0.7, -0.6], kind, **dense(kind)) for kind in ("linear", "cat", "svd", "ties", "dare_linear")],
    *[case(f"embedding_{kind}", "embedding", "ab", [0.7, -0.6], kind, **dense(kind)) for kind in ("linear", "svd", "dare_linear", "dare_ties_svd")],
    *[case(f"unlike_init_{kind}", "unlike_init", "ba", [0.7, -0.6], kind, density=0.5) for kind in ("dare_linear", "dare_ties_svd")],
    *[case(f"regex_{kind}", "regex", "ab", [0.7, 0.6], kind) for kind in ("cat", "svd")],
]

CASES += [
    case("ia3_average", "ia3", "ab", [0.7, 0.3], None),
    case("ia3_negative", "ia3", "cab", [0.9, -0.6, 0.4], None),
    case("ia3_alone", "ia3", "b", [1.2], None),
    case("ia3_gpt2_average", "ia3_gpt2", "ab", [1.5, -0.5], None),
]

# What PEFT refuses, or accepts without a word (error null).
REFUSED: dict[str, Case] = {
    "unknown_adapter": case("", "plain", "ax", [1.0, 1.0], "linear"),
    "unknown_type": case("", "plain", "ab", [1.0, 1.0], "sum"),
    "no_adapters": case("", "plain", "", [], "cat"),
    "fewer_weights": case("", "plain", "ab", [1.0], "cat"),
    "more_weights": case("", "plain", "ab", [1.0, 1.0, 1.0], "cat"),
    "no_density": case("", "plain", "ab", [1.0, 1.0], "ties"),
    "no_density_svd": case("", "plain", "ab", [1.0, 1.0], "dare_linear_svd"),
    "density_below": case("", "plain", "ab", [1.0, 1.0], "dare_ties", density=-0.1),
    "density_above": case("", "plain", "ab", [1.0, 1.0], "magnitude_prune", density=1.25),
    "unknown_sign_method": case("", "plain", "ab", [1.0, 1.0], "ties", density=0.5, majority_sign_method="mean"),
    "other_ranks": case("", "ranks", "ab", [1.0, 1.0], "linear"),
    "other_ranks_pruned": case("", "ranks", "ab", [1.0, 1.0], "dare_linear", density=0.5),
    "list_and_regex": case("", "mixed_targets", "ab", [1.0, 1.0], "cat"),
    "other_patterns": case("", "other_patterns", "ab", [1.0, 1.0], "linear"),
    "same_module_saved": case("", "same_saved", "ab", [1.0, 1.0], "cat"),
    "name_taken": Case("", "plain", ["a", "c"], [1.0, 1.0], {"combination_type": "cat", "adapter_name": "c"}),
}

# Sets that are only refused, and not saved: tests make them from their configs.
REFUSED_SETS: dict[str, tuple[str, dict[str, dict]]] = {
    "mixed_targets": ("llama", {"a": dict(r=4, target_modules=QV), "b": dict(r=4, target_modules=".*k_proj")}),
    "other_patterns": ("llama", {"a": dict(r=4, target_modules=QV, rank_pattern={"v_proj": 2}), "b": dict(r=4, target_modules=QV)}),
    "same_saved": ("llama", {"a": dict(r=4, target_modules=QV, modules_to_save=["lm_head"]),
                             "b": dict(r=4, target_modules=QV, modules_to_save=["lm_head"])}),
}
# fmt: on


def build(out: Path, of: tuple[str, dict[str, dict]], seed: int) -> PeftModel:
    """The adapters of a set on a fresh base, with seeded noise on everything they train."""
    kind, configs = of
    base = load_base(bases_beside(out) / "base" / kind)
    base.name_or_path = f"base/{kind}"
    torch.manual_seed(seed)
    model: PeftModel | None = None
    for name, settings in configs.items():
        arguments = {"peft_type": "LORA", "task_type": "CAUSAL_LM", **settings}
        config = get_peft_config(arguments)
        if model is None:
            model = get_peft_model(base, config, name)
        else:
            model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(seed + 1)
    seen = set()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if not ("lora_" in name or "ia3_" in name) or parameter.data_ptr() in seen:
                continue
            seen.add(parameter.data_ptr())
            parameter.add_(torch.randn(parameter.shape, generator=generator) * SHIFT)
    return model.eval()


def logits(model: PeftModel, ids: torch.Tensor, adapter: str) -> torch.Tensor:
    model.set_adapter(adapter)
    with torch.no_grad():
        return model(input_ids=ids).logits


def scale_of_one(model: PeftModel, adapter: str) -> float:
    """Gives the adapter the scale 1, which its factors are made for; returns what PEFT gave it.

    With use_rslora it keeps alpha = r, so that its scale, and with it the result, is √r too large.
    """
    given = 1.0
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and adapter in layer.scaling:
            given = layer.scaling[adapter]
            layer.scaling[adapter] = 1.0
    return given


@contextmanager
def watched_svd() -> Iterator[list[list[float]]]:
    """Collects the singular values of all decompositions."""
    spectra: list[list[float]] = []
    original = torch.linalg.svd

    def svd(matrix, *arguments, **options):
        result = original(matrix, *arguments, **options)
        spectra.append(result.S.tolist())
        return result

    torch.linalg.svd = svd
    try:
        yield spectra
    finally:
        torch.linalg.svd = original


def smallest_gap(spectra: list[list[float]], rank: int) -> float | None:
    """How far the last value that is kept is from the first that is cut off, as a share of it.

    Where it is small, 32 bits cannot tell apart what is kept and what is not. None where nothing
    is cut off.
    """
    cut = [s for s in spectra if rank < len(s) and s[rank] > 1e-4 * s[0]]
    return min((1 - s[rank] / s[rank - 1] for s in cut), default=None)


def combine(model: PeftModel, of: Case, seed: int) -> None:
    arguments = {"adapter_name": "combined", **of.arguments}
    torch.manual_seed(seed)
    model.base_model.add_weighted_adapter(of.adapters, of.weights, **arguments)


def run_case(model: PeftModel, of: Case, seed: int, ids: torch.Tensor) -> tuple[dict, torch.Tensor]:
    status = [model.active_adapters, {n for n, p in model.named_parameters() if p.requires_grad}]
    with watched_svd() as spectra:
        combine(model, of, seed)
    assert status == [
        model.active_adapters,
        {n for n, p in model.named_parameters() if p.requires_grad},
    ], "a combined adapter is neither active nor trainable"
    config = model.peft_config["combined"].to_dict()
    keys = ["r", "lora_alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern"]
    targets = config["target_modules"]
    record = {
        "name": of.name,
        "set": of.set,
        "seed": seed,
        "adapters": of.adapters,
        "weights": of.weights,
        "arguments": of.arguments,
        "config": {key: config[key] for key in keys if key in config}
        | {"target_modules": targets if isinstance(targets, str) else shortened(targets)},
        "scale": scale_of_one(model, "combined"),
        "gap": smallest_gap(spectra, config.get("r", 0)),
    }
    out = logits(model, ids, "combined")
    model.delete_adapter("combined")
    return record, out


def shortened(targets: set[str]) -> list[str] | int:
    """Targets in order; only their number where they are all linear layers by full path."""
    return len(targets) if len(targets) > 8 else sorted(targets)


def lines(records: list[dict]) -> str:
    """One record a line."""
    return ",\n".join(f"  {json.dumps(record)}" for record in records)


def sort_targets(folder: Path) -> None:
    """PEFT writes sets in any order; in one order the same seed gives the same bytes."""
    for path in folder.glob("*/adapter_config.json"):
        config = json.loads(path.read_text())
        if not isinstance(config["target_modules"], str):
            config["target_modules"].sort()
        path.write_text(json.dumps(config, indent=2, sort_keys=True))


def refuse(out: Path, of: Case, seed: int) -> dict:
    record = {
        "set": of.set,
        "adapters": of.adapters,
        "weights": of.weights,
        "arguments": of.arguments,
        "error": None,
    }
    sets = {**SETS, **REFUSED_SETS}
    if of.set in REFUSED_SETS:
        kind, configs = REFUSED_SETS[of.set]
        record["kind"], record["configs"] = kind, configs
    model = build(out, sets[of.set], seed)
    try:
        combine(model, of, seed)
    except Exception as error:  # any refusal is what is recorded
        record["error"] = {"type": type(error).__name__, "message": str(error)}
    return record


def write(out: Path, seed: int) -> None:
    """Writes combinations/ below `out`."""
    folder = out / "combinations"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed + 7)
    ids = torch.randint(0, VOCAB, (1, 4), generator=generator)
    tensors = {"in.input_ids": ids}
    records, sets = [], {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, (name, (kind, configs)) in enumerate(SETS.items()):
            model = build(out, (kind, configs), seed + 20 * index)
            model.save_pretrained(folder / name, save_embedding_layers=False)
            (folder / name / "README.md").unlink()
            sort_targets(folder / name)
            sets[name] = {"kind": kind, "adapters": list(configs)}
            first = next(iter(configs))
            for adapter in configs:
                tensors[f"{name}.{adapter}"] = logits(model, ids, adapter)
            model.set_adapter(first)
            for number, of in enumerate(CASES):
                if of.set != name:
                    continue
                record, result = run_case(model, of, seed + 500 + number, ids)
                model.set_adapter(first)
                assert not math.isnan(result.sum().item()), of.name
                records.append(record)
                tensors[of.name] = result
        refused = {name: refuse(out, of, seed) for name, of in REFUSED.items()}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "expected.safetensors")
    text = f'{{\n"seed": {seed},\n"sets": {json.dumps(sets)},\n"cases": [\n{lines(records)}\n],\n'
    text += f'"refused": [\n{lines([{"name": n, **r} for n, r in refused.items()])}\n]\n}}\n'
    (folder / "index.json").write_text(text)
