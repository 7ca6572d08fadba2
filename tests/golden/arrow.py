"""Writes arrow/: tokens that PEFT's create_arrow_model routes through LoRAs.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only arrow [--out DIR] [--seed N]

A case is a folder with the adapters, `task_0` … and `gks_0` … as they were saved, the router's
`arrow_router`, expected.safetensors with the two batches, the logits of each, and `added.logits`
with one more expert, `extra`. arrow.json holds the cases, and what PEFT refuses.
"""

from __future__ import annotations

from run_case import bases_beside, describe, logits, make_config, named, save, shift_trainable, write_json  # first

import shutil
import warnings
from pathlib import Path

import torch
from peft import create_arrow_model, get_peft_model
from peft.tuners.lora.config import ArrowConfig

from bases import left_padded_batch, load_base, right_padded_batch

QV = ["q_proj", "v_proj"]

# base, arguments of all adapters, the experts' lora_alpha, number of general adapters, routing
CASES = {
    "llama": ("llama", dict(r=3, target_modules=["q_proj", "down_proj"]), [6, 5, 1], 0, dict(top_k=2, router_temperature=0.7, rng_seed=3)),
    "gpt2_general": ("gpt2", dict(r=2, use_rslora=True, target_modules=["c_attn"]), [4, 4], 2, dict(top_k=1, use_gks=True, rng_seed=11)),
}

REFUSED = {
    "ranks": ([dict(r=2, target_modules=QV), dict(r=3, target_modules=QV)], {}),
    "modules": ([dict(r=2, target_modules=QV), dict(r=2, target_modules=["q_proj"])], {}),
    "no_experts": ([], {}),
    "no_general": ([dict(r=2, target_modules=QV)], dict(use_gks=True)),
    "embedding": ([dict(r=2, target_modules=["embed_tokens"])], dict(top_k=1)),
    "top_k": ([dict(r=2, target_modules=QV)] * 2, dict(top_k=3)),
    "top_k_zero": ([dict(r=2, target_modules=QV)] * 2, dict(top_k=0)),
    "temperature": ([dict(r=2, target_modules=QV)], dict(top_k=1, router_temperature=0.0)),
    "merge": ([dict(r=2, target_modules=QV)] * 2, dict(top_k=1)),
}


def save_expert(kind: str, settings: dict, seed: int, folder: Path) -> str:
    torch.manual_seed(seed)
    model = get_peft_model(load_base(f"base/{kind}"), make_config("LoraConfig", settings))
    shift_trainable(model, seed + 1)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    return str(folder)


def write_case(name: str, seed: int) -> None:
    kind, settings, alphas, general, routing = CASES[name]
    folder = Path("arrow", name)
    experts = [
        save_expert(kind, {**settings, "lora_alpha": alpha}, seed + 10 * i, folder / f"task_{i}")
        for i, alpha in enumerate(alphas)
    ]
    common = [save_expert(kind, settings, seed + 500 + 10 * i, folder / f"gks_{i}") for i in range(general)]
    extra = save_expert(kind, {**settings, "lora_alpha": 7}, seed + 900, folder / "extra")
    base = load_base(f"base/{kind}")
    model = create_arrow_model(base, experts, ArrowConfig(**routing), general_adapter_paths=common).eval()
    expected = {
        **{f"in.{n}": value for n, value in right_padded_batch().items()},
        **{f"left.{n}": value for n, value in left_padded_batch().items()},
        **named("arrow", logits(model)),
    }
    model.save_pretrained(folder, selected_adapters=["arrow_router"])
    (folder / "README.md").unlink()
    model.load_adapter(extra, "extra")
    model.set_adapter("arrow_router")
    expected["added.logits"] = logits(model)[""]
    save(expected, folder / "expected.safetensors")


def refusal(name: str, seed: int) -> dict:
    adapters, routing = REFUSED[name]
    folder = Path("arrow", "refused")
    paths = [save_expert("llama", settings, seed + i, folder / str(i)) for i, settings in enumerate(adapters)]
    record = {"adapters": adapters, "routing": routing, "error": None}
    try:
        model = create_arrow_model(load_base("base/llama"), paths, ArrowConfig(**routing))
        logits(model)
        if name == "merge":
            model.merge_adapter()
    except Exception as error:  # any refusal is what is recorded
        record["error"] = describe(error)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def write(out: Path, seed: int) -> None:
    """Writes arrow/ below a folder that holds base/."""
    assert (bases_beside(out) / "base").is_dir()
    shutil.rmtree("arrow", ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in CASES:
            write_case(name, seed)
        refused = {name: refusal(name, seed) for name in REFUSED}
    cases = [
        {"name": name, "kind": kind, "experts": len(alphas), "general": general, "routing": routing}
        for name, (kind, _, alphas, general, routing) in CASES.items()
    ]
    write_json({"cases": cases, "refused": refused}, Path("arrow", "arrow.json"))
