"""Writes corda/: adapters that began as the real PEFT's CorDA initialization makes them.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only corda [--out DIR] [--seed N]

`corda/corda.json` is the index:
- `cases`: `corda/<name>/` has the adapter as it began (`initial/`, marked as plain LoRA as PEFT wants
  it), as it is (`trained/`) and as a plain LoRA (`plain/`, `path_initial_model_for_weight_conversion`).
  `expected.safetensors`: `calibration.N` are the ids of the N-th run of the model, [1, T] each;
  `covariance.<module>`, `values.<module>` (S_WC, before PEFT divides it by the scale) and
  `residual.<module>` (what is left of the base weight, as [out, in]) of each adapted module;
  `input_ids`, `base.logits`, `initial.logits` and `logits` of the trained adapter.
- `half`: the covariance with `use_float16_for_covariance`, of a base that runs in 16 bits, and in f32.
- `configs`: what PEFT writes as `corda_config`, by the arguments of LoraConfig.
- `refused`: what PEFT refuses, with the stage and the error.
The bases are read from DIR/base, or from beside this file where DIR has none.
"""

# fmt: off
# (one case a line reads better than one argument a line)

from __future__ import annotations

from run_case import bases_beside, logits_of, save_without_card, shift_trainable, write_json  # first

import copy
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import types
import warnings
from dataclasses import dataclass
from pathlib import Path

try:
    import attr  # noqa: F401
except ModuleNotFoundError:
    # PEFT's module takes `dataclass` from attrs, which PEFT itself does not install.
    sys.modules["attr"] = types.ModuleType("attr")
    sys.modules["attr"].dataclass = dataclasses.dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda, target_modules
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from bases import VOCAB, load_base



@dataclass(frozen=True)
class Case:
    """One adapter: arguments of LoraConfig, and of CordaConfig."""

    name: str
    kind: str
    config: dict
    corda: dict


QV = ["q_proj", "v_proj"]


def cases(rng: random.Random) -> list[Case]:
    return [
        Case("ipm", "llama", {"r": rng.randint(2, 5), "lora_alpha": 7, "target_modules": ["q_proj", "down_proj"]}, {}),
        Case("kpm_rslora", "llama", {"r": rng.randint(2, 4), "lora_alpha": 3, "use_rslora": True, "target_modules": ["v_proj", "up_proj"]}, {"corda_method": "kpm"}),
        Case("ipm_patterns", "qwen2", {"r": 4, "target_modules": QV, "rank_pattern": {"v_proj": rng.randint(2, 6)}, "alpha_pattern": {"layers.1.self_attn.q_proj": 5}}, {}),
        Case("kpm_gpt2", "gpt2", {"r": rng.randint(2, 4), "lora_alpha": 3, "target_modules": ["c_attn", "mlp.c_proj"]}, {"corda_method": "kpm"}),
    ]


def batches(seed: int) -> list[torch.Tensor]:
    """Two runs, of one row each, as PEFT needs it; more tokens than the widest layer has inputs."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB, (1, length), generator=generator) for length in (60, 47)]


def make_config(case: Case) -> LoraConfig:
    # Keeps the covariances on the modules, where they can be read.
    corda = CordaConfig(prune_temporary_fields=False, **case.corda)
    return LoraConfig(task_type="CAUSAL_LM", init_lora_weights="corda", corda_config=corda, **case.config)


def runner(model: torch.nn.Module, ids: list[torch.Tensor]):
    def run() -> None:
        for batch in ids:
            model(input_ids=batch)

    return run


def run_case(case: Case, root: Path, seed: int) -> dict:
    folder = root / case.name
    base, config = load_base(f"base/{case.kind}"), make_config(case)
    calibration = batches(seed)
    ids = torch.randint(VOCAB, (2, 7), generator=torch.Generator().manual_seed(seed + 2))
    expected = {"input_ids": ids, "base.logits": logits_of(base, ids)}
    expected |= {f"calibration.{i}": batch for i, batch in enumerate(calibration)}
    preprocess_corda(base, config, run_model=runner(base, calibration))
    modules = dict(target_modules(base, config))
    for name, module in modules.items():
        expected[f"covariance.{name}"] = module.covariance_matrix.clone()
        expected[f"values.{name}"] = module.eigens.S_WC.clone()
    torch.manual_seed(seed)
    model = get_peft_model(base, config).eval()
    for name, module in modules.items():
        weight = module.weight.data
        expected[f"residual.{name}"] = (weight.T if isinstance(module, Conv1D) else weight).clone()
    expected["initial.logits"] = logits_of(model, ids)
    live = model.peft_config["default"]
    live.init_lora_weights = True
    save_without_card(model, folder / "initial")  # marked as plain, as PEFT wants it
    live.init_lora_weights = "corda"
    shift_trainable(model, seed + 1)
    save_without_card(model, folder / "trained")
    expected["logits"] = logits_of(model, ids)
    save_without_card(model, folder / "plain", path_initial_model_for_weight_conversion=str(folder / "initial"))
    save_file({key: value.contiguous() for key, value in expected.items()}, folder / "expected.safetensors")
    return {"name": case.name, "kind": case.kind, "config": case.config, "corda": case.corda, "modules": list(modules)}


def run_half(root: Path, seed: int) -> list[dict]:
    """16 bits all through, as a model that is loaded in them runs; and in f32, where the flag does nothing."""
    ids, found, records = batches(seed), {}, []
    found |= {f"calibration.{i}": batch for i, batch in enumerate(ids)}
    for kind, dtype in (("llama_f16", torch.float16), ("llama_bf16", torch.bfloat16), ("llama", torch.float32)):
        case = Case("half", kind, {"target_modules": ["q_proj"], "layers_to_transform": [0], "r": 2}, {"use_float16_for_covariance": True})
        base, config = AutoModelForCausalLM.from_pretrained(f"base/{kind}", dtype=dtype), make_config(case)
        preprocess_corda(base, config, run_model=runner(base, ids))
        # PEFT takes the same modules for the covariance as for the adapter, layers and all.
        for name, module in target_modules(base, config):
            found[f"{kind}.{name}"] = module.covariance_matrix.clone()
            records.append({"kind": kind, "module": name, "config": case.config, "corda": case.corda, "dtype": str(module.covariance_matrix.dtype)})
    save_file(found, root / "half.safetensors")
    return records


def run_configs() -> list[dict]:
    arguments = [
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "corda", "corda_config": {"corda_method": "kpm", "cache_file": "a/b.pt", "verbose": True}},
        {"init_lora_weights": "corda", "corda_config": {"covariance_file": "c.pt", "use_float16_for_covariance": True, "prune_temporary_fields": False}},
        {"init_lora_weights": True, "corda_config": {"corda_method": "kpm"}},
    ]
    records = []
    for fields in arguments:
        with tempfile.TemporaryDirectory() as folder:
            LoraConfig(**fields).save_pretrained(folder)
            written = json.loads(Path(folder, "adapter_config.json").read_text())
        records.append({"config": fields, "corda_config": written["corda_config"]})
    return records


def run_refusals(root: Path, seed: int) -> dict:
    ids = batches(seed)

    def prepare(change=None, given=ids, run=True, **fields) -> None:
        base = load_base("base/llama")
        if change:
            change(base)
        config = make_config(Case("", "", {"target_modules": QV, **fields}, {}))
        preprocess_corda(base, config, run_model=runner(base, given) if run else None)
        get_peft_model(base, config)

    def not_a_number(base: torch.nn.Module) -> None:
        base.model.layers[0].input_layernorm.weight.data[3] = float("nan")

    def zero(base: torch.nn.Module) -> None:
        base.model.layers[1].input_layernorm.weight.data.zero_()

    def another_rank() -> None:
        base, config = load_base("base/llama"), make_config(Case("", "", {"target_modules": QV, "r": 3}, {}))
        preprocess_corda(base, config, run_model=runner(base, ids))
        other = copy.deepcopy(config)
        other.r = 4
        get_peft_model(base, other)

    attempts = {
        "no_calibration": lambda: get_peft_model(load_base("base/llama"), LoraConfig(init_lora_weights="corda", target_modules=QV)),
        "loaded_without": lambda: PeftModel.from_pretrained(load_base("base/llama"), root / "ipm" / "trained"),
        "no_batches": lambda: prepare(given=[]),
        "no_run_model": lambda: prepare(run=False),
        "nan": lambda: prepare(not_a_number),
        "zero": lambda: prepare(zero),
        "rank_too_large": lambda: prepare(r=40),
        "another_rank": another_rank,
        "lora_bias": lambda: LoraConfig(init_lora_weights="corda", lora_bias=True),
        "upper_case": lambda: get_peft_model(load_base("base/llama"), LoraConfig(init_lora_weights="CORDA", target_modules=QV)),
        "config_type": lambda: LoraConfig(init_lora_weights="corda", corda_config=3),
    }
    records = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            records[name] = None
        except Exception as error:  # what PEFT raises is what is recorded
            records[name] = {"type": type(error).__name__, "message": str(error)}
    return records


def write(out: Path, seed: int) -> None:
    """Writes out/corda/; everything in it depends on the seed alone."""
    torch.set_num_threads(1)
    root = (out / "corda").resolve()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(bases_beside(out))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            index = {
                "seed": seed,
                "cases": [run_case(case, root, seed + 10 * i) for i, case in enumerate(cases(random.Random(seed)))],
                "half": run_half(root, seed + 90),
                "configs": run_configs(),
                "refused": run_refusals(root, seed),
            }
    finally:
        os.chdir(before)
    write_json(index, root / "corda.json")
