"""Writes conversion/: adapters that the real PEFT turned into LoRAs, and what it says of keys and cards.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only conversion [--out DIR] [--seed N]

`conversion/conversion.json` is the index:
- `lora`: `convert_to_lora` with a whole rank and with shares of the energy. `conversion/<name>/` has
  the adapter as it was (`source/`) and as a LoRA (`lora/`, with PEFT's config); `logits` in
  `expected.safetensors` are those of the LoRA on the base, `source` those of the adapter.
- `plain`: `path_initial_model_for_weight_conversion`: the adapter as it began (`initial/`), as it is
  (`trained/`) and as a plain LoRA (`plain/`).
- `refused`: what PEFT refuses, with the error.
- `keys`: what `key_mapping` makes of keys. `cards`: metadata of README.md before and after saving.
The bases are read from DIR/base, or from beside this file where DIR has none.
"""

# fmt: off
# (one case a line reads better than one argument a line)

from __future__ import annotations

from run_case import bases_beside, logits_of, save_without_card, shift_trainable, write_json  # first

import json
import os
import random
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from peft import PeftModel, convert_to_lora, get_peft_config, get_peft_model
from peft.utils.save_and_load import load_peft_weights
from safetensors.torch import load_file, save_file

from bases import VOCAB, load_base



@dataclass(frozen=True)
class Case:
    """One adapter. `ranks` are those to convert it to."""

    name: str
    kind: str
    config: dict
    ranks: tuple[int | float, ...] = ()


QV = ["q_proj", "v_proj"]


def conversions(rng: random.Random) -> list[Case]:
    """Adapters for `convert_to_lora`; ranks and shares vary with the seed."""

    def share() -> float:
        return round(rng.uniform(0.5, 0.97), 3)

    lora = {"peft_type": "LORA", "init_lora_weights": False}
    return [
        Case("lora", "llama", {**lora, "r": rng.randint(4, 7), "lora_alpha": 3, "target_modules": QV}, (2, share())),
        Case("lora_gpt2", "gpt2", {**lora, "r": 5, "lora_alpha": 7, "use_rslora": True, "target_modules": ["c_attn", "mlp.c_proj"], "rank_pattern": {"c_attn": 3}}, (3, share())),
        Case("lora_regex", "llama", {**lora, "r": rng.randint(3, 5), "target_modules": r".*\.(k|down)_proj", "modules_to_save": ["norm"]}, (4, share())),
        Case("lora_layers", "llama", {**lora, "r": 3, "target_modules": ["up_proj", "o_proj"], "layers_to_transform": [1]}, (3,)),
        Case("vera", "llama", {"peft_type": "VERA", "r": 12, "target_modules": ["o_proj"]}, (5, share())),
        Case("vera_gpt2", "gpt2", {"peft_type": "VERA", "r": 9, "target_modules": ["attn.c_proj"]}, (6,)),
        Case("loha", "llama", {"peft_type": "LOHA", "r": 2, "alpha": 3, "target_modules": QV}, (4, share())),
        Case("lokr", "llama", {"peft_type": "LOKR", "r": 2, "alpha": 3, "target_modules": QV}, (share(),)),
        Case("delora", "llama", {"peft_type": "DELORA", "r": 5, "target_modules": ["v_proj"]}, (3, 0.8)),
        Case("gralora", "llama", {"peft_type": "GRALORA", "r": 4, "gralora_k": 2, "target_modules": ["v_proj"]}, (3, 0.9)),
        Case("fourierft", "llama", {"peft_type": "FOURIERFT", "n_frequency": 40, "target_modules": ["v_proj"]}, (4, 0.7)),
        Case("waveft", "llama", {"peft_type": "WAVEFT", "n_frequency": 40, "target_modules": ["v_proj"]}, (4, 0.7)),
        # Singular values come in pairs, which no rank should part.
        Case("c3a", "llama", {"peft_type": "C3A", "block_size": 8, "target_modules": ["v_proj"]}, (12, 0.91)),
        Case("randlora", "llama", {"peft_type": "RANDLORA", "r": 6, "target_modules": ["v_proj"]}, (4, 0.8)),
        Case("vblora", "llama", {"peft_type": "VBLORA", "r": 4, "num_vectors": 12, "vector_length": 8, "topk": 2, "save_only_topk_weights": False, "target_modules": ["v_proj"]}, (2, 0.7)),
        # PEFT gives the exact factors, whatever the rank that was asked for.
        Case("miss", "llama", {"peft_type": "MISS", "r": 4, "target_modules": ["v_proj"]}, (4,)),
        Case("miss_bat", "llama", {"peft_type": "MISS", "r": 4, "init_weights": "bat", "target_modules": ["v_proj"]}, (3, 0.7)),
        Case("psoft", "llama", {"peft_type": "PSOFT", "r": 4, "target_modules": ["v_proj"]}, (3, 0.8)),
        Case("tinylora", "llama", {"peft_type": "TINYLORA", "r": 3, "target_modules": ["v_proj"]}, (2, 0.7)),
        Case("unilora", "llama", {"peft_type": "UNILORA", "r": 4, "theta_d_length": 30, "target_modules": ["v_proj"]}, (3, 0.7)),
    ]


def plain_cases(rng: random.Random) -> list[Case]:
    """Adapters that began as a part of the base."""
    pissa = {"peft_type": "LORA", "init_lora_weights": "pissa", "target_modules": QV}
    olora = {**pissa, "init_lora_weights": "olora"}
    return [
        Case("pissa", "llama", {**pissa, "r": rng.randint(2, 5), "lora_alpha": 7}),
        Case("pissa_rslora", "qwen2", {**pissa, "r": 3, "lora_alpha": 4, "use_rslora": True}),
        Case("pissa_patterns", "llama", {**pissa, "r": 4, "rank_pattern": {"v_proj": rng.randint(2, 6)}, "alpha_pattern": {"layers.1.self_attn.q_proj": 5}}),
        Case("pissa_gpt2", "gpt2", {**pissa, "r": 2, "lora_alpha": 3, "target_modules": ["c_attn"]}),
        Case("olora", "llama", {**olora, "r": rng.randint(2, 5), "lora_alpha": 3}),
    ]


def refusals() -> list[Case]:
    """Adapters that PEFT does not save as plain LoRAs, or does not convert."""
    pissa = {"peft_type": "LORA", "init_lora_weights": "pissa", "use_rslora": True, "target_modules": QV}
    return [
        Case("plain_rank_pattern_rslora", "llama", {**pissa, "rank_pattern": {"v_proj": 3}}),
        Case("plain_alpha_pattern_rslora", "llama", {**pissa, "alpha_pattern": {"v_proj": 3}}),
        Case("plain_ia3", "llama", {"peft_type": "IA3"}),
        Case("rank_zero", "llama", {"peft_type": "LORA"}, (0,)),
        Case("rank_share_above_one", "llama", {"peft_type": "LORA"}, (1.5,)),
        Case("rank_share_zero", "llama", {"peft_type": "LORA"}, (0.0,)),
        Case("rank_too_large", "llama", {"peft_type": "LORA"}, (1000,)),
        Case("bias", "qwen2", {"peft_type": "LORA", "bias": "lora_only", "target_modules": QV}, (2,)),
        Case("ia3", "llama", {"peft_type": "IA3"}, (2,)),
        Case("prefix", "llama", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2}, (2,)),
    ]


def key_mappings() -> list[dict[str, str]]:
    """As transformers has them in `_checkpoint_conversion_mapping`, and as people write them."""
    return [
        {"^model": "language_model.model", "layers": "blocks"},
        {r"layers\.(\d+)\.self_attn": r"h.\1.attn", "q_proj": "query"},
        {r"(?P<which>q|v)_(proj)": r"\2_\g<which>"},
        {r"^model\.(?!norm)": "", "o": "0"},
        {"nothing": "x"},
        {"$": "_end", "model": "never"},
    ]


def cards() -> list[str]:
    """Cards that are there already."""
    return [
        "",
        "# No metadata\n",
        "---\nlicense: mit\n---\n\n# Mine\n",
        "---\npipeline_tag: text2text-generation\nlibrary_name: other\nbase_model: other/x\n---\ntext",
        "---\nlicense: mit\n---\n\n### Framework versions\n\n- PEFT 0.10.0\n- Other 1\n\nafter\n",
    ]


def make(case: Case, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    config = get_peft_config({"task_type": "CAUSAL_LM", **case.config})
    return get_peft_model(load_base(f"base/{case.kind}"), config).eval()


def run_conversion(case: Case, root: Path, seed: int) -> dict:
    folder = root / case.name
    model = make(case, seed)
    shift_trainable(model, seed + 1)
    save_without_card(model, folder / "source")
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(seed + 2))
    expected = {"input_ids": ids, "source": logits_of(model, ids)}
    results = []
    for index, rank in enumerate(case.ranks):
        config, state = convert_to_lora(model, rank)
        at = folder / f"lora{index}"
        at.mkdir(parents=True)
        save_file({key: value.clone() for key, value in state.items()}, at / "adapter_model.safetensors", {"format": "pt"})
        config.save_pretrained(at)
        expected[f"logits{index}"] = logits_of(PeftModel.from_pretrained(load_base(f"base/{case.kind}"), at).eval(), ids)
        ranks = {key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(value) for key, value in state.items() if key.endswith("lora_A.weight")}
        results.append({"rank": rank, "ranks": ranks, "config": json.loads((at / "adapter_config.json").read_text())})
        (at / "adapter_config.json").unlink()
        shutil.move(at / "adapter_model.safetensors", folder / f"lora{index}.safetensors")
        at.rmdir()
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    return {"name": case.name, "kind": case.kind, "config": case.config, "results": results}


def run_plain(case: Case, root: Path, seed: int) -> dict:
    folder = root / f"plain_{case.name}"
    model = make(case, seed)
    config = model.peft_config["default"]
    init, config.init_lora_weights = config.init_lora_weights, True
    save_without_card(model, folder / "initial")  # marked as plain, as PEFT wants it
    config.init_lora_weights = init
    shift_trainable(model, seed + 1)
    save_without_card(model, folder / "trained")
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(seed + 2))
    save_file({"input_ids": ids, "logits": logits_of(model, ids)}, folder / "expected.safetensors")
    save_without_card(model, folder / "plain", path_initial_model_for_weight_conversion=str(folder / "initial"))
    return {"name": f"plain_{case.name}", "kind": case.kind, "config": case.config}


def run_refusal(case: Case, seed: int) -> dict:
    model = make(case, seed)
    record = {"name": case.name, "kind": case.kind, "config": case.config, "rank": case.ranks[0] if case.ranks else None}
    with tempfile.TemporaryDirectory() as folder:
        try:
            if case.ranks:
                convert_to_lora(model, case.ranks[0])
            else:
                initial = Path(folder, "initial")
                model.save_pretrained(initial)
                model.save_pretrained(Path(folder, "out"), path_initial_model_for_weight_conversion=str(initial))
        except Exception as error:  # what PEFT raises is what is recorded
            return {**record, "error": {"type": type(error).__name__, "message": str(error)}}
    return {**record, "error": None}


def run_keys(root: Path) -> list[dict]:
    folder = root / "lora" / "source"
    keys = sorted(load_file(folder / "adapter_model.safetensors"))
    return [{"mapping": list(mapping.items()), "from": keys, "to": mapped_keys(folder, keys, mapping)} for mapping in key_mappings()]


def mapped_keys(folder: Path, keys: list[str], mapping: dict[str, str]) -> list[str]:
    """Keys one by one, as two that become equal would be lost."""
    result = []
    for key in keys:
        with tempfile.TemporaryDirectory() as one:
            save_file({key: torch.zeros(1)}, Path(one, "adapter_model.safetensors"))
            result.extend(load_peft_weights(one, device="cpu", key_mapping=mapping))
    return result


def run_cards(seed: int) -> list[dict]:
    model = make(Case("card", "llama", {"peft_type": "LORA"}), seed)
    records = []
    for text in cards():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "README.md")
            if text:
                path.write_text(text)
            model.create_or_update_model_card(folder)
            written = ModelCard.load(path)
            # A new card is a template, of which the last lines count.
            body = written.text if text else "\n".join(written.text.splitlines()[-3:])
            records.append({"existing": text, "metadata": written.data.to_dict(), "body": body})
    return records


def write(out: Path, seed: int) -> None:
    """Writes out/conversion/; everything in it depends on the seed alone."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    cases, plain = conversions(rng), plain_cases(rng)
    root = (out / "conversion").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(bases_beside(out))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            index = {
                "seed": seed,
                "lora": [run_conversion(case, root, seed + i) for i, case in enumerate(cases)],
                "plain": [run_plain(case, root, seed + 50 + i) for i, case in enumerate(plain)],
                "refused": [run_refusal(case, seed) for case in refusals()],
                "keys": run_keys(root),
                "cards": run_cards(seed),
            }
    finally:
        os.chdir(before)
    write_json(index, root / "conversion.json")
