"""Reads adapters that Graft wrote into Python PEFT and compares.

    $GRAFT_ORACLE_PYTHON tests/golden/verify.py [--tolerance 2e-5] [--json] FOLDER [FOLDER ...]

A folder holds adapter_config.json and adapter_model.safetensors as written by the library under
test, and beside them
    case.json            {"kind": "llama", "config": {"r": 4, ...}, "seed": 0}
                         kind: a folder of tests/golden/base (or "base": a path to any base);
                         config: the arguments of PEFT's config that were asked for; its class is
                         that of the peft_type in adapter_config.json;
                         without it, adapter_config.json is taken at its word;
                         converted: true where the file is a plain LoRA made from PiSSA or OLoRA;
                         file_dtype: where the file is not to be f32; seed: for pissa_niter only
    outputs.safetensors  in.<argument of the forward pass> (input_ids, attention_mask,
                         token_type_ids, decoder_input_ids, task_ids, ...) and adapted.<output>
                         (logits, last_hidden_state, ...) of that library; optionally the same
                         under left. (left.input_ids, left.adapted.logits)
A golden case is such a folder too (expected.safetensors stands in for outputs.safetensors).

One line per folder: the largest difference of the outputs at unmasked positions, as a share of the
largest, and every field of the config and every key, shape or dtype of the weights that
differs from what PEFT itself saves for that config. Exits with 1 when anything differs.
"""

from __future__ import annotations

import os
import sys

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
sys.dont_write_bytecode = True

import argparse
import contextlib
import json
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file

from bases import load_base

GOLDEN = Path(__file__).resolve().parent
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Sets in PEFT: their order in the file means nothing.
SET_FIELDS = ("target_modules", "exclude_modules", "feedforward_modules")
# PEFT adds a task's heads to those that are there already, and once more to a prompt's.
REPEATED_FIELDS = ("modules_to_save",)
# A path as the writer knows it; PEFT's own depends on where this script runs.
PATH_FIELDS = ("base_model_name_or_path",)


def base_path(case: dict) -> Path:
    return Path(case["base"]) if "base" in case else GOLDEN / "base" / case["kind"]


def comparable(field: str, value: object) -> object:
    if field in SET_FIELDS and isinstance(value, list):
        return sorted(value)
    if field in REPEATED_FIELDS and isinstance(value, list):
        return list(dict.fromkeys(value))
    return value


def tensors_of(path: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(path, "pt") as file:
        views = {key: file.get_slice(key) for key in file.keys()}
        return {key: (view.get_shape(), view.get_dtype()) for key, view in views.items()}


def save_as_peft_would(folder: Path, case: dict, out: Path) -> None:
    """An untrained adapter of the same config, saved by PEFT itself."""
    config = PeftConfig.from_pretrained(folder)
    if "config" in case:
        config = type(config)(**{"task_type": "CAUSAL_LM", **case["config"]})
    else:
        config.inference_mode = False
    base = load_base(base_path(case))
    with contextlib.chdir(GOLDEN):  # where the tokenizer of a config lies
        get_peft_model(base, config).save_pretrained(out)


def config_differences(ours: dict, theirs: dict) -> list[str]:
    found = []
    for field in sorted(ours.keys() | theirs.keys()):
        if field not in ours:
            found.append(f"{CONFIG} lacks {field} ({theirs[field]!r} in PEFT)")
        elif field not in theirs:
            found.append(f"{CONFIG} has {field}={ours[field]!r}, which PEFT does not write")
        elif field in PATH_FIELDS:
            if not isinstance(ours[field], str):
                found.append(f"{CONFIG} {field} is {ours[field]!r}, not a string")
        elif comparable(field, ours[field]) != comparable(field, theirs[field]):
            found.append(f"{CONFIG} {field} is {ours[field]!r}, in PEFT {theirs[field]!r}")
    return found


def weight_differences(ours: dict, theirs: dict, file_dtype: str | None) -> list[str]:
    found = [f"{WEIGHTS} lacks {key}" for key in sorted(theirs.keys() - ours.keys())]
    found += [f"{WEIGHTS} has {key}, PEFT does not" for key in sorted(ours.keys() - theirs.keys())]
    for key in sorted(ours.keys() & theirs.keys()):
        (shape, dtype), (peft_shape, peft_dtype) = ours[key], theirs[key]
        if shape != peft_shape:
            found.append(f"{WEIGHTS} {key} has shape {shape}, in PEFT {peft_shape}")
        if file_dtype is None and dtype != peft_dtype:
            found.append(f"{WEIGHTS} {key} is {dtype}, in PEFT {peft_dtype}")
    return found


def mask_of(arguments: dict[str, torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Where an output means something: virtual tokens do, padding does not."""
    if output.ndim < 3:
        return torch.ones(output.shape[:1], dtype=torch.bool)
    decoder = "decoder_input_ids" in arguments
    ids = arguments["decoder_input_ids" if decoder else "input_ids"]
    mask = arguments.get(
        "decoder_attention_mask" if decoder else "attention_mask", torch.ones_like(ids)
    ).bool()
    virtual = torch.ones(len(mask), output.shape[1] - mask.shape[1], dtype=torch.bool)
    return torch.cat((virtual, mask), dim=1)


@torch.no_grad()
def output_difference(model: torch.nn.Module, outputs: dict, batch: str) -> float:
    """The largest of all outputs of a batch, relative to the largest magnitude, where the mask is 1."""
    inputs, given = (f"{batch}.", f"{batch}.adapted.") if batch != "in" else ("in.", "adapted.")
    arguments = {
        key.removeprefix(inputs): value.long()
        for key, value in outputs.items()
        if key.startswith(inputs) and key.count(".") == 1 and key != f"{inputs}labels"
    }
    expected = model(**arguments)
    differences = []
    for key, value in outputs.items():
        if not key.startswith(given):
            continue
        theirs = expected[key.removeprefix(given)]
        ours = value.to(theirs.dtype)
        if ours.shape != theirs.shape:
            raise ValueError(f"{key} has shape {list(ours.shape)}, in PEFT {list(theirs.shape)}")
        mask = mask_of(arguments, theirs)
        differences.append((ours - theirs)[mask].abs().max() / theirs[mask].abs().max())
    return max(differences).item()


def verify(folder: Path, tolerance: float) -> dict:
    case = json.loads((folder / "case.json").read_text())
    problems: list[str] = []
    difference = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.manual_seed(case.get("seed", 0))
            model = PeftModel.from_pretrained(load_base(base_path(case)), folder).eval()
            outputs_path = folder / "outputs.safetensors"
            if not outputs_path.exists():
                outputs_path = folder / "expected.safetensors"
            outputs = load_file(outputs_path)
            batches = ["in"] + (["left"] if "left.adapted.logits" in outputs else [])
            difference = max(output_difference(model, outputs, batch) for batch in batches)
            if not difference <= tolerance:
                problems.append(f"outputs differ by {difference:.2e} of the largest")
        except Exception as error:  # whatever PEFT cannot read is a finding about the folder
            problems.append(f"PEFT: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    for warning in caught:
        text = " ".join(str(warning.message).split())
        if "missing adapter keys" in text or "Unexpected keyword" in text:
            problems.append(f"PEFT warns: {text[:300]}")
    if not case.get("converted"):
        with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            save_as_peft_would(folder, case, Path(out))
            read = lambda where: json.loads((Path(where) / CONFIG).read_text())
            problems += config_differences(read(folder), read(out))
            problems += weight_differences(
                tensors_of(folder / WEIGHTS),
                tensors_of(Path(out) / WEIGHTS),
                case.get("file_dtype"),
            )
    return {"folder": str(folder), "difference": difference, "problems": problems}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tolerance", type=float, default=2e-5)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    failed = 0
    for folder in options.folders:
        try:
            result = verify(folder.resolve(), options.tolerance)
        except (OSError, ValueError) as error:  # not such a folder: say so and go on
            result = {"folder": str(folder), "difference": None, "problems": [str(error)]}
        failed += bool(result["problems"])
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        difference = result["difference"]
        shown = "-" if difference is None else f"{difference:.2e}"
        print(f"{'FAIL' if result['problems'] else 'ok':4} {shown:>9} {folder}", flush=True)
        for problem in result["problems"]:
            print(f"     {problem}", flush=True)
    print(f"{len(options.folders) - failed} agree, {failed} differ", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
