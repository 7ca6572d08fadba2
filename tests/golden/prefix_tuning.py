"""Golden files of prefix tuning, below prefix_tuning/, made by the real PEFT.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only prefix_tuning [--out DIR] [--seed N]

DIR (tests/golden by default) holds the bases below base/. What the files hold is in README.md
beside this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from run_case import (  # first: it sets the environment
    LEARNING_RATE,
    STEPS,
    describe,
    make_config,
    relative,
    save,
    shift_trainable,
    trainable,
    write_json,
)
from run_case import expression as expression_of

import torch
import transformers
from peft import (
    LoraConfig,
    PeftMixedModel,
    PeftModel,
    PrefixTuningConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)

from bases import NEW_TOKENS, ROPE_VOCAB, left_padded_batch, load_base, right_padded_batch

WEIGHT_DECAY = 0.02
FOLDER = "prefix_tuning"


@dataclass(frozen=True)
class Case:
    """One adapter, or several under names of their own, on one base."""

    kind: str
    config: dict = field(default_factory=dict)
    adapters: dict[str, dict] | None = None


CASES: dict[str, Case] = {
    # Grouped-query attention: 2 heads of keys for 4 of queries.
    "llama": Case("llama", dict(num_virtual_tokens=3)),
    "llama_zero": Case("llama", dict(num_virtual_tokens=4, init_weights="zero")),
    "llama_projected": Case(
        "llama", dict(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=7)
    ),
    # As documentation says it: sizes of the base, which PEFT reduces to those of the keys.
    "llama_sizes": Case(
        "llama",
        dict(
            num_virtual_tokens=2,
            token_dim=32,
            num_layers=2,
            num_attention_heads=4,
            num_transformer_submodules=1,
            encoder_hidden_size=9,
        ),
    ),
    "llama_saved": Case("llama", dict(num_virtual_tokens=3, modules_to_save=["lm_head"])),
    "llama_tied": Case("llama_tied", dict(num_virtual_tokens=1)),
    # Learned positions: tokens start at position N.
    "gpt2": Case("gpt2", dict(num_virtual_tokens=6)),
    "gpt2_projected": Case(
        "gpt2", dict(num_virtual_tokens=2, prefix_projection=True, init_weights="zero")
    ),
    "qwen2": Case("qwen2", dict(num_virtual_tokens=3)),
    # Heads of 12 where hidden / heads is 8; the prefix does not go through the norm of the keys.
    "qwen3_projected": Case(
        "qwen3", dict(num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=5)
    ),
    # A sliding window of 4: virtual tokens count as positions and fall out of it.
    "mistral": Case("mistral", dict(num_virtual_tokens=3)),
    "mistral_long": Case("mistral", dict(num_virtual_tokens=6)),
    # Past max_position_embeddings 16 with the virtual tokens, not without them.
    "rope_dynamic": Case("rope_dynamic", dict(num_virtual_tokens=9)),
    "two_adapters": Case(
        "llama",
        adapters={
            "short": dict(num_virtual_tokens=2),
            "long": dict(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=6),
        },
    ),
}

INITS: dict[str, tuple[str, dict]] = {
    "flat": ("llama", dict(num_virtual_tokens=3)),
    "flat_odd": ("qwen3", dict(num_virtual_tokens=7)),
    "flat_zero": ("gpt2", dict(num_virtual_tokens=2, init_weights="zero")),
    "projected": (
        "llama",
        dict(num_virtual_tokens=5, prefix_projection=True, encoder_hidden_size=7),
    ),
    "projected_default": ("gpt2", dict(num_virtual_tokens=3, prefix_projection=True)),
    "projected_zero": (
        "qwen2",
        dict(
            num_virtual_tokens=1,
            prefix_projection=True,
            encoder_hidden_size=3,
            init_weights="zero",
        ),
    ),
}

# Configs that say more than they have to, and what PEFT makes of them.
COMPLETED: dict[str, tuple[str, dict]] = {
    "llama": ("llama", dict(num_virtual_tokens=3)),
    "llama_token_dim": ("llama", dict(num_virtual_tokens=3, token_dim=64)),
    "llama_heads": ("llama", dict(num_virtual_tokens=3, num_attention_heads=8)),
    "llama_more_layers": ("llama", dict(num_virtual_tokens=3, num_layers=3)),
    "llama_fewer_layers": ("llama", dict(num_virtual_tokens=3, num_layers=1)),
    "llama_submodules": ("llama", dict(num_virtual_tokens=3, num_transformer_submodules=2)),
    "gpt2": ("gpt2", dict(num_virtual_tokens=3)),
    "gpt2_token_dim": ("gpt2", dict(num_virtual_tokens=3, token_dim=64)),
    "gpt2_heads": ("gpt2", dict(num_virtual_tokens=3, num_attention_heads=8)),
    "gpt2_sizes": ("gpt2", dict(num_virtual_tokens=3, token_dim=32, num_attention_heads=4)),
    "gpt2_encoder": ("gpt2", dict(num_virtual_tokens=3, encoder_hidden_size=11)),
    "gpt2_too_long": ("gpt2", dict(num_virtual_tokens=60)),
    "qwen2_token_dim": ("qwen2", dict(num_virtual_tokens=3, token_dim=64)),
    "qwen2_sizes": ("qwen2", dict(num_virtual_tokens=3, token_dim=32, num_attention_heads=4)),
    "qwen3": ("qwen3", dict(num_virtual_tokens=3)),
    "mistral": ("mistral", dict(num_virtual_tokens=3)),
    "no_tokens": ("llama", dict()),
    "no_task_type": ("llama", dict(num_virtual_tokens=3, task_type=None)),
    "other_init": ("llama", dict(num_virtual_tokens=3, init_weights="one")),
    "target_modules": ("llama", dict(num_virtual_tokens=3, target_modules=["q_proj"])),
}


def prefix_config(settings: dict) -> PrefixTuningConfig:
    return make_config("PrefixTuningConfig", settings)


def expression(settings: dict) -> str:
    return expression_of("PrefixTuningConfig", settings)


def batches(kind: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The right- and the left-padded batch, in the vocabulary of the base."""
    right, left = right_padded_batch(), left_padded_batch()
    if kind.startswith("rope"):
        for batch in (right, left):
            batch["input_ids"] %= ROPE_VOCAB
        right["labels"] = right["input_ids"].masked_fill(right["attention_mask"] == 0, -100)
    return right, left


@torch.no_grad()
def outputs(model: torch.nn.Module, kind: str, name: str = "adapted") -> dict[str, torch.Tensor]:
    """Logits of both batches, and what greedy decoding adds to the left-padded one."""
    right, left = batches(kind)
    del right["labels"]
    prompt = {key: left[key] for key in ("input_ids", "attention_mask")}
    # Dynamic rotary embeddings remember the longest text until a short one comes: the left-padded
    # batch is short, and goes before the others.
    left_logits = model(**left).logits
    logits = model(**right).logits
    generated = model.generate(
        **prompt, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0
    )
    model(**left)
    prefix = "" if name == "adapted" else f"{name}."
    return {
        f"{name}.logits": logits,
        f"left.{name}.logits": left_logits,
        f"{prefix}generated.ids": generated,
    }


def train(model: torch.nn.Module, kind: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Gradients of the first step by parameter name, and the loss before each AdamW step."""
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    gradients, losses = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**batches(kind)[0]).loss
        loss.backward()
        if step == 0:
            gradients = {f"grad.{name}": p.grad.clone() for name, p in parameters.items()}
        optimizer.step()
        losses.append(loss.item())
    return gradients, losses


def save_adapter(model: PeftModel, folder: Path) -> None:
    """As PEFT saves it, without the model card."""
    model.save_pretrained(folder)
    for card in folder.rglob("README.md"):
        card.unlink()


def run_case(name: str, case: Case, seed: int) -> dict:
    """Writes <name>/: PEFT's files, expected.safetensors and case.json; gives its index entry."""
    folder = Path(FOLDER, name)
    folder.mkdir(parents=True)
    base_folder = f"base/{case.kind}"
    right, left = batches(case.kind)
    expected = {
        **{f"in.{key}": value for key, value in right.items()},
        **{f"left.{key}": value for key, value in left.items()},
    }
    record: dict = {"name": name, "kind": case.kind, "seed": seed}
    configs = case.adapters or {"default": case.config}
    torch.manual_seed(seed)
    first, *others = configs
    model = get_peft_model(load_base(base_folder), prefix_config(configs[first]), first)
    for other in others:
        model.add_adapter(other, prefix_config(configs[other]))
    model.eval()
    shift_trainable(model, seed + 1)
    save_adapter(model, folder)
    count, total = model.get_nb_trainable_parameters()
    record.update(trainable_parameters=count, all_parameters=total)
    if case.adapters:
        record.update(
            adapters=case.adapters,
            python={key: expression(config) for key, config in configs.items()},
        )
        for key in configs:
            model.set_adapter(key)
            expected.update(outputs(model, case.kind, f"adapted.{key}"))
    else:
        record.update(config=case.config, python=expression(case.config))
        adapted = outputs(model, case.kind)
        expected.update(adapted)
        # What a file does not hold where the prefix is projected.
        expected.update({f"parameter.{key}": value for key, value in trainable(model).items()})
        reloaded = PeftModel.from_pretrained(load_base(base_folder), folder).eval()
        again = outputs(reloaded, case.kind)["adapted.logits"]
        record["reload_difference"] = relative(again, adapted["adapted.logits"])
        expected = {key: value.detach().clone() for key, value in expected.items()}
        gradients, losses = train(model, case.kind)
        expected.update(gradients)
        record.update(
            optimizer={"name": "AdamW", "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
            losses=losses,
        )
    save(expected, folder / "expected.safetensors")
    write_json(record, folder / "case.json")
    return {"name": name, "kind": case.kind, "adapters": list(case.adapters or [])}


def run_init(name: str, seed: int) -> dict:
    """Writes init/<name>.safetensors: a prefix as torch's generator made it."""
    kind, settings = INITS[name]
    torch.manual_seed(seed)
    model = get_peft_model(load_base(f"base/{kind}"), prefix_config(settings))
    after = torch.rand(1).item()
    save(trainable(model), Path(FOLDER, "init", f"{name}.safetensors"))
    return {
        "name": name,
        "kind": kind,
        "seed": seed,
        "config": settings,
        # The next torch.rand(1): agrees only if exactly as many numbers were drawn.
        "next_uniform": after,
    }


def run_completed(name: str) -> dict:
    """The config after PEFT filled it in, and the first stage at which it refuses, if any."""
    kind, settings = COMPLETED[name]
    record: dict = {"name": name, "kind": kind, "config": settings}
    stage = "config"
    try:
        config = prefix_config(settings)
        stage = "inject"
        model = get_peft_model(load_base(f"base/{kind}"), config)
        record["completed"] = {
            key: getattr(config, key)
            for key in (
                "token_dim",
                "num_layers",
                "num_attention_heads",
                "num_transformer_submodules",
                "encoder_hidden_size",
            )
        }
        stage = "forward"
        right, _ = batches(kind)
        model(**right)
    except Exception as error:  # any refusal is what is recorded
        record.update(stage=stage, error=describe(error))
    return record


def refusals() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """Name, what is tried in words, and how."""
    case = f"{FOLDER}/llama_projected"

    def model() -> PeftModel:
        return get_peft_model(
            load_base("base/llama"), prefix_config(dict(num_virtual_tokens=3))
        )

    def projected() -> PeftModel:
        settings = dict(num_virtual_tokens=3, prefix_projection=True)
        return get_peft_model(load_base("base/llama"), prefix_config(settings))

    def two() -> PeftModel:
        both = model()
        both.add_adapter("other", prefix_config(dict(num_virtual_tokens=2)))
        return both

    lora = LoraConfig(task_type="CAUSAL_LM")
    yield "merge", "model.merge_and_unload()", lambda: model().merge_and_unload()
    yield "merge_adapter", "model.merge_adapter()", lambda: model().merge_adapter()
    yield "unload", "model.unload()", lambda: model().unload()
    yield (
        "weighted",
        "model.add_weighted_adapter(['default', 'other'], [0.5, 0.5], 'sum')",
        lambda: two().add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum"),
    )
    yield (
        "two_active",
        "model.set_adapter(['default', 'other'])",
        lambda: two().set_adapter(["default", "other"]),
    )
    yield (
        "mixed_model",
        "PeftMixedModel(base, PrefixTuningConfig(...))",
        lambda: PeftMixedModel(
            load_base("base/llama"), prefix_config(dict(num_virtual_tokens=3))
        ),
    )
    yield "add_lora", "model.add_adapter('l', LoraConfig())", lambda: model().add_adapter("l", lora)
    yield (
        "added_to_lora",
        "lora.add_adapter('p', PrefixTuningConfig(...))",
        lambda: get_peft_model(
            load_base("base/llama"), LoraConfig(task_type="CAUSAL_LM")
        ).add_adapter("p", prefix_config(dict(num_virtual_tokens=3))),
    )
    yield (
        "load_trainable",
        "PeftModel.from_pretrained(base, folder, is_trainable=True)",
        lambda: PeftModel.from_pretrained(load_base("base/llama"), case, is_trainable=True),
    )
    yield (
        "flat_into_projected",
        "set_peft_model_state_dict(projected, get_peft_model_state_dict(projected))",
        lambda: (lambda m: set_peft_model_state_dict(m, get_peft_model_state_dict(m)))(projected()),
    )
    yield (
        "requires_grad",
        "model.set_requires_grad('default')",
        lambda: model().set_requires_grad("default"),
    )
    yield "layer_status", "model.get_layer_status()", lambda: model().get_layer_status()
    yield "model_status", "model.get_model_status()", lambda: model().get_model_status()


def run_refusal(name: str, python: str, attempt: Callable[[], object]) -> dict:
    try:
        attempt()
    except Exception as error:  # any refusal is what is recorded
        return {"name": name, "python": python, "error": describe(error)}
    return {"name": name, "python": python, "error": None}


@contextlib.contextmanager
def quiet_in(folder: Path) -> Iterator[None]:
    """In the folder of the golden files, so that paths in them are the same on every machine."""
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


def write(out: Path, seed: int) -> None:
    """Writes prefix_tuning/ below a folder that holds the bases below base/."""
    with quiet_in(out):
        shutil.rmtree(FOLDER, ignore_errors=True)
        Path(FOLDER, "init").mkdir(parents=True)
        write_json(
            {
                "seed": seed,
                "cases": [run_case(name, case, seed) for name, case in CASES.items()],
                "init": [run_init(name, seed + 1234) for name in INITS],
                "completed": [run_completed(name) for name in COMPLETED],
                "refused": [run_refusal(*refusal) for refusal in refusals()],
            },
            Path(FOLDER, "index.json"),
        )
