"""Writes status/status.json: what the real PEFT says of models with adapters.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only status [--out DIR] [--seed N]

`cases` and `pending` (methods other than LoRA) hold models: the base `kind`, `adapters` (name to the
arguments of the config class of `peft_type`; the first is injected, the others added), `steps` taken
after that, and what PEFT then says: the dataclasses of `get_layer_status` and `get_model_status`
(or the error that they raise), parameter counts, the line of `print_trainable_parameters`, and the
properties of `PeftModel`. `lines` are counts and PEFT's line for them. The bases are read from
DIR/base, or from beside this file where DIR has none; only their shapes count.
"""

# fmt: off
# (one case a line reads better than one argument a line)

from __future__ import annotations

from run_case import bases_beside  # first

import contextlib
import io
import json
import random
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import PeftModel, get_peft_config, get_peft_model

from bases import VOCAB, load_base


@dataclass(frozen=True)
class Case:
    """One model. A step is a list: what to do, and its arguments."""

    name: str
    kind: str
    adapters: dict[str, dict]
    steps: list[list] = field(default_factory=list)


def table(rng: random.Random) -> tuple[list[Case], list[Case]]:
    """The cases; ranks and rows of embeddings vary with the seed."""

    def lora(*targets: str, **settings) -> dict:
        return {"peft_type": "LORA", "r": rng.randint(2, 9), "target_modules": list(targets), **settings}

    def rows(count: int) -> list[int]:
        return rng.sample(range(VOCAB), count)

    def one(name: str, kind: str, config: dict, *steps: list) -> Case:
        return Case(name, kind, {"default": config}, list(steps))

    def two(name: str, kind: str, first: dict, second: dict, *steps: list) -> Case:
        return Case(name, kind, {"default": first, "style": second}, list(steps))

    def overlapping() -> tuple[dict, dict]:
        return lora("q_proj", "v_proj"), lora("q_proj", "down_proj")

    def saved() -> tuple[dict, dict]:
        return lora("q_proj", modules_to_save=["lm_head"]), lora("q_proj", "k_proj")

    def conv() -> dict:
        return {"fan_in_fan_out": True}

    cases = [
        one("one", "llama", lora("q_proj", "v_proj")),
        one("one_disabled", "llama", lora("q_proj", "v_proj"), ["disable"]),
        one("one_enabled_again", "llama", lora("o_proj"), ["disable"], ["enable"]),
        one("one_merged", "llama", lora("q_proj", "v_proj"), ["merge", ["default"]]),
        one("one_frozen", "llama", lora("gate_proj", inference_mode=True)),
        one("one_bf16", "llama_bf16", lora("up_proj")),
        one("no_task", "llama", lora("q_proj", task_type=None)),
        two("two_added", "llama", *overlapping()),
        two("two_switched", "llama", *overlapping(), ["set", "style"]),
        two("two_switched_frozen", "llama", *overlapping(), ["set", "style", True]),
        two("two_both", "llama", *overlapping(), ["set_all", ["style", "default"]]),
        two("two_both_disabled", "llama", *overlapping(), ["set_all", ["style", "default"]], ["disable"]),
        two("two_one_frozen", "llama", *overlapping(), ["set_all", ["default", "style"]], ["requires_grad", "default", False]),
        two("two_inactive_trains", "llama", *overlapping(), ["requires_grad", "style", True]),
        two("two_none_trains", "llama", *overlapping(), ["requires_grad", ["style", "default"], False]),
        two("two_one_merged", "llama", *overlapping(), ["merge", ["style"]]),
        two("two_both_merged", "llama", *overlapping(), ["merge", ["style", "default"]]),
        two("two_deleted", "llama", *overlapping(), ["set", "style"], ["delete", "style"]),
        Case(
            "three",
            "qwen3",
            {"b": lora("q_proj"), "a": lora("k_proj", "o_proj"), "C": lora("q_proj", "k_proj")},
            [["set_all", ["C", "a"]]],
        ),
        one("saved", "llama", lora("q_proj", modules_to_save=["lm_head"])),
        one("saved_merged", "llama", lora("q_proj", modules_to_save=["lm_head"]), ["merge", ["default"]]),
        one("saved_disabled", "llama", lora("q_proj", modules_to_save=["embed_tokens"]), ["disable"]),
        one("saved_containers", "llama", lora("q_proj", modules_to_save=["layers.1.mlp", "norm"])),
        two("saved_of_one", "llama", *saved()),
        two("saved_of_other", "llama", *saved(), ["set", "style"]),
        two("saved_of_one_both", "llama", *saved(), ["set_all", ["style", "default"]]),
        two("saved_of_both", "llama", saved()[0], saved()[0], ["set", "style"]),
        one("saved_tied", "llama_tied", lora("q_proj", modules_to_save=["lm_head"])),
        one("saved_tied_ensured", "llama_tied", lora("q_proj", modules_to_save=["lm_head"], ensure_weight_tying=True)),
        one("tokens", "llama", lora("q_proj", trainable_token_indices=rows(3))),
        one("tokens_merged", "llama", lora("q_proj", trainable_token_indices=rows(2)), ["merge", ["default"]]),
        one("tokens_disabled", "llama", lora("q_proj", trainable_token_indices=rows(2)), ["disable"]),
        one("tokens_tied", "llama_tied", lora("q_proj", trainable_token_indices=rows(5))),
        one("tokens_tied_apart", "llama_tied", lora("q_proj", trainable_token_indices={"embed_tokens": rows(2), "lm_head": rows(3)})),
        two("tokens_of_other", "llama_tied", lora("q_proj", trainable_token_indices=rows(4)), lora("v_proj"), ["set", "style"]),
        one("embedding", "llama", lora("embed_tokens", "lm_head", "q_proj")),
        one("embedding_dora", "gpt2", lora("wte", "wpe", "c_attn", use_dora=True, **conv())),
        one("embedding_tied_ensured", "llama_tied", lora("embed_tokens", "q_proj", ensure_weight_tying=True)),
        one("gpt2", "gpt2", lora("c_attn", "c_proj", **conv())),
        one("gpt2_biases", "gpt2", lora("c_attn", bias="all", modules_to_save=["ln_f", "h.1.mlp.c_fc"], **conv())),
        one("gpt2_biases_only", "gpt2", lora("c_fc", bias="lora_only", lora_bias=True, **conv())),
        one("qwen2_biases", "qwen2", lora("q_proj", "o_proj", bias="lora_only", lora_bias=True)),
        one("patterns", "mistral", lora("q_proj", "up_proj", rank_pattern={"layers.0.self_attn.q_proj": rng.randint(10, 14)})),
        one("pissa", "llama", lora("v_proj", "down_proj", init_lora_weights="pissa")),
    ]
    size = rng.randint(3, 8)
    pending = [
        one("ia3", "llama", {"peft_type": "IA3"}),
        one("ia3_saved", "llama", {"peft_type": "IA3", "modules_to_save": ["lm_head"]}),
        one("ia3_gpt2", "gpt2", {"peft_type": "IA3", **conv()}),
        two("ia3_two", "llama", {"peft_type": "IA3"}, {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}, ["set", "style"]),
        one("vera", "llama", {"peft_type": "VERA", "r": size, "target_modules": ["q_proj", "down_proj"]}),
        one("vera_regenerated", "llama", {"peft_type": "VERA", "r": size, "target_modules": ["o_proj"], "save_projection": False}),
        one("vera_gpt2", "gpt2", {"peft_type": "VERA", "r": size, "target_modules": ["c_attn"], **conv()}),
        one("prefix_tuning", "llama", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": size}),
        one("prefix_tuning_projected", "llama", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": size, "prefix_projection": True, "encoder_hidden_size": 12}),
        one("prefix_tuning_gpt2", "gpt2", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": size}),
    ]
    return cases, pending


def build(case: Case, bases: Path) -> PeftModel:
    configs = {
        name: get_peft_config({"task_type": "CAUSAL_LM", **settings})
        for name, settings in case.adapters.items()
    }
    (first, config), *others = configs.items()
    model = get_peft_model(load_base(bases / case.kind), config, first)
    for name, other in others:
        model.add_adapter(name, other)
    return model


def take(model: PeftModel, step: list) -> None:
    action, *arguments = step
    match action:
        case "disable":
            model.base_model.disable_adapter_layers()
        case "enable":
            model.base_model.enable_adapter_layers()
        case "set":
            model.set_adapter(arguments[0], inference_mode=arguments[1:] == [True])
        case "set_all":
            model.base_model.set_adapter(arguments[0])
        case "requires_grad":
            model.set_requires_grad(*arguments)
        case "merge":
            model.merge_adapter(arguments[0])
        case "delete":
            model.delete_adapter(arguments[0])


def printed(model: PeftModel) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        PeftModel.print_trainable_parameters(model)
    return out.getvalue().removesuffix("\n")


def status(call) -> object:
    try:
        result = call()
    except TypeError as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    return [asdict(layer) for layer in result] if isinstance(result, list) else asdict(result)


def record(case: Case, bases: Path) -> dict:
    asked = asdict(case)  # copied first: PEFT writes into the lists that it is given
    model = build(case, bases)
    for step in case.steps:
        take(model, step)
    trainable, total = model.get_nb_trainable_parameters()
    saved = model.modules_to_save
    return {
        **asked,
        "layers": status(model.get_layer_status),
        "model": status(model.get_model_status),
        "trainable": trainable,
        "all": total,
        "line": printed(model),
        "active_adapters": model.active_adapters,
        "peft_config": {name: config.peft_type.value for name, config in model.peft_config.items()},
        "base_model_torch_dtype": str(model.base_model_torch_dtype),
        "modules_to_save": None if saved is None else sorted(saved),
    }


def lines(rng: random.Random) -> list[list]:
    """Counts and their lines; the first ones lie in the middle between two last decimals."""
    middle = [(odd, 3200) for odd in (1, 3, 5, 3199)] + [(7, 800), (0, 7), (5, 5)]
    drawn = [(rng.randrange(10**7), 10**rng.randint(7, 12) + rng.randrange(10**6)) for _ in range(8)]
    result = []
    for trainable, total in middle + drawn:
        stub = SimpleNamespace(get_nb_trainable_parameters=lambda t=trainable, n=total: (t, n))
        result.append([trainable, total, printed(stub)])
    return result


def write(out: Path, seed: int) -> None:
    """Writes OUT/status/status.json."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    cases, pending = table(rng)
    bases = bases_beside(out) / "base"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = {
            "seed": seed,
            "cases": [record(case, bases) for case in cases],
            "pending": [record(case, bases) for case in pending],
            "lines": lines(rng),
        }
    folder = out / "status"
    folder.mkdir(parents=True, exist_ok=True)
    # One case a line: the file is read by tests, and compared by people.
    body = ",\n".join(
        f' "{key}": '
        + (
            "[\n" + ",\n".join("  " + json.dumps(item) for item in value) + "\n ]"
            if isinstance(value, list)
            else json.dumps(value)
        )
        for key, value in index.items()
    )
    (folder / "status.json").write_text("{\n" + body + "\n}\n")
