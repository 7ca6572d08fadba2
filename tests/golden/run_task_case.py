"""One golden case of any task: inputs of every kind, noise of training, ranks that are allocated.

The counterpart of run_case.py for adapters/ (task_cases.py writes it). What a case holds is in
README.md beside this.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from run_case import (  # first: it sets the environment
    LEARNING_RATE,
    SHIFT,
    STEPS,
    describe,
    expression,
    make_config,
    recorded_draws,
    relative,
    save,
    save_adapter,
    shift_trainable,
    trainable,
    write_json,
)

import peft
import torch
from peft import PeftModel, get_peft_model
from peft.tuners.poly.router import PolyRouter

from bases import left_padded_batch, load_base
from cases import Case
from task_bases import (
    batch_of,
    cotangents,
    generated,
    outputs_of,
    prompt_of,
    task_type_of,
)


@dataclass(frozen=True)
class TaskCase(Case):
    """A case whose `config` leaves the task type to the base."""

    # One per row of the batch, for methods that mix by task.
    task_ids: tuple[int, ...] | None = None
    # First step and number of steps of a training that allocates ranks (AdaLoRA).
    allocate: tuple[int, int] | None = None
    # Greedy decoding too.
    generate: bool = False


@dataclass(frozen=True)
class Batches:
    """What is run through every model of a case."""

    right: dict[str, torch.Tensor]
    left: dict[str, torch.Tensor] | None
    # What neither a batch nor a merged model has.
    extra: dict[str, torch.Tensor]


def settings_of(kind: str, config: dict) -> dict:
    """A copy, as PEFT adds to lists that it is given."""
    task_type = task_type_of(kind)
    task = {} if task_type == "CAUSAL_LM" else {"task_type": task_type}
    return copy.deepcopy({**task, **config})


def batches_of(case: TaskCase) -> Batches:
    left = None
    if task_type_of(case.kind) == "CAUSAL_LM" and not case.compact:
        left = left_padded_batch()
        if case.config_class == "PromptTuningConfig":
            # PEFT drops the positions that it is given.
            del left["position_ids"]
    extra = {"task_ids": torch.tensor(case.task_ids)} if case.task_ids else {}
    return Batches(batch_of(case.kind, short=case.compact), left, extra)


def without_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


@torch.no_grad()
def outputs(
    model: torch.nn.Module, batches: Batches, name: str, extra: bool = True
) -> dict[str, torch.Tensor]:
    """What a model gives, `<name>.<output>`, and `left.<name>.<output>` of the left-padded batch."""
    more = batches.extra if extra else {}
    right = outputs_of(model(**without_labels(batches.right), **more))
    found = {f"{name}.{key}": value for key, value in right.items()}
    if batches.left is not None:
        left = outputs_of(model(**batches.left, **more))
        found.update({f"left.{name}.{key}": value for key, value in left.items()})
    return found


def apart(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Largest difference of outputs with the same names behind their first one."""
    ends = {key.split(".", 1)[1]: value for key, value in others.items() if not key.startswith("left.")}
    return max(
        relative(value, ends[key.split(".", 1)[1]])
        for key, value in some.items()
        if not key.startswith("left.")
    )


def train(model: torch.nn.Module, case: TaskCase, batches: Batches, expected: dict) -> list[float]:
    """Adds gradients of the first step; gives the loss before each AdamW step."""
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=LEARNING_RATE, weight_decay=case.weight_decay
    )
    losses = []
    model.train(case.noise)
    with recorded_draws(model) as drawn:
        for step in range(STEPS):
            optimizer.zero_grad()
            result = model(**batches.right, **batches.extra)
            result.loss.backward()
            if step == 0:
                expected.update(gradients(model))
                if case.noise:
                    first = {f"noisy.{key}": value for key, value in outputs_of(result).items()}
                    expected.update(first)
            optimizer.step()
            losses.append(result.loss.item())
    if case.noise:
        expected.update({f"noise.{path}": torch.stack(numbers) for path, numbers in drawn.items()})
    model.eval()
    return losses


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        f"grad.{name}": torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in trainable(model).items()
    }


def differentiate(model: torch.nn.Module, batches: Batches, seed: int, expected: dict) -> None:
    """Gradients of a model without a loss: of the sum of its outputs times fixed numbers."""
    results = outputs_of(model(**batches.right, **batches.extra))
    factors = cotangents(results, seed)
    sum((results[name] * factor).sum() for name, factor in factors.items()).backward()
    expected.update({f"cotangent.{name}": factor for name, factor in factors.items()})
    expected.update(gradients(model))
    model.zero_grad()


@contextlib.contextmanager
def recorded_thresholds() -> Iterator[list[float]]:
    """How far the first score that is kept lies above the last that is not, as a share of it."""
    gaps: list[float] = []
    kthvalue = torch.kthvalue

    def recording(values: torch.Tensor, k: int):
        ordered = values.sort().values
        if k < len(ordered):
            gaps.append(((ordered[k] - ordered[k - 1]) / ordered[k]).item())
        return kthvalue(values, k=k)

    torch.kthvalue = recording
    try:
        yield gaps
    finally:
        torch.kthvalue = kthvalue


def ranks_of(pattern: dict[str, list[bool]] | None) -> dict[str, str] | None:
    """Which ranks are kept, a digit each."""
    if not pattern:
        return None
    return {name: "".join(str(int(kept)) for kept in ranks) for name, ranks in pattern.items()}


def allocate(case: TaskCase, folder: Path, seed: int, batches: Batches, expected: dict) -> dict:
    """A training that allocates ranks, from the saved adapter on: writes trained/, as PEFT saves it."""
    start, count = case.allocate
    config = make_config(case.config_class, settings_of(case.kind, case.config))
    torch.manual_seed(seed)
    model = get_peft_model(load_base(f"base/{case.kind}"), config).eval()
    shift_trainable(model, seed + 1)
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=LEARNING_RATE, weight_decay=case.weight_decay
    )
    values = {name: [] for name in parameters if ".lora_E." in name}
    steps = []
    with recorded_thresholds() as gaps:
        for step in range(start, start + count):
            loss = model(**batches.right, **batches.extra).loss
            loss.backward()
            optimizer.step()
            before = len(gaps)
            model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            pattern = model.peft_config["default"].rank_pattern
            for name, kept in values.items():
                kept.append(parameters[name].detach().clone())
            budget, _ = model.base_model.rankallocator.budget_schedule(step)
            steps.append(
                {
                    "step": step,
                    "loss": loss.item(),
                    "budget": budget,
                    "ranks": ranks_of(pattern),
                    "gap": gaps[-1] if len(gaps) > before else None,
                }
            )
    expected.update({f"steps.{name}": torch.stack(kept) for name, kept in values.items()})
    trained = outputs(model, batches, "trained")
    expected.update({key: value for key, value in trained.items() if not key.startswith("left.")})
    save_adapter(model, folder / "trained", case)
    reloaded = PeftModel.from_pretrained(load_base(f"base/{case.kind}"), folder / "trained").eval()
    again = outputs(reloaded, batches, "reloaded")
    record = {"steps": steps, "trained_reload_difference": apart(again, trained)}
    if record["trained_reload_difference"] > 1e-5:
        # Ranks that the pattern leaves out and that are not 0 are lost on saving.
        expected.update({f"trained.{key}": v for key, v in again.items() if not key.startswith("left.")})
    return record


def merge(model: PeftModel, batches: Batches, adapted: dict, **options) -> tuple[dict, dict]:
    """Merged outputs, and how far they are from the adapted ones, or why PEFT refuses."""
    try:
        found = outputs(model.merge_and_unload(**options), batches, "merged", extra=False)
    except Exception as error:  # what PEFT raises is what is recorded
        return {}, {"merged": False, "merge_error": describe(error)}
    return found, {"merged": True, "merged_difference": apart(found, adapted)}


def texts(model: torch.nn.Module, case: TaskCase, batches: Batches) -> dict[str, torch.Tensor]:
    """Greedy continuations of the prompts as one batch and, of a decoder, of each alone."""
    prompt = prompt_of(case.kind)
    found = {"generated.ids": generated(model, prompt, **batches.extra)}
    if task_type_of(case.kind) != "CAUSAL_LM":
        return found
    for row in range(len(prompt["input_ids"])):
        kept = prompt["attention_mask"][row] == 1
        alone = {name: value[row][kept][None] for name, value in prompt.items()}
        extra = {name: value[row : row + 1] for name, value in batches.extra.items()}
        found[f"alone.{row}.generated.ids"] = generated(model, alone, **extra)
    return found


def run_task_case(case: TaskCase, seed: int, folder: Path) -> None:
    """Writes the folder: PEFT's two files, expected.safetensors and case.json."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record: dict = {"name": case.name, "kind": case.kind, "seed": seed}
    if case.file_dtype:
        record["file_dtype"] = case.file_dtype
    batches = batches_of(case)
    expected = {f"in.{name}": value for name, value in {**batches.right, **batches.extra}.items()}
    if batches.left is not None:
        left = {**batches.left, **batches.extra}
        expected.update({f"left.{name}": value for name, value in left.items()})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = run_adapters if case.adapters else run_single
        run(case, folder, seed, record, expected, batches)
    peft_warnings = [
        str(w.message)
        for w in caught
        if not issubclass(w.category, ResourceWarning)
        and not str(w.message).startswith(("Unsupported layer type", "The following rank_pattern"))
    ]
    if record.get("merged") and record["merged_difference"] < 1e-5:
        expected = {k: v for k, v in expected.items() if not k.startswith("merged.")}
    # Merged outputs of the left-padded batch say nothing more.
    expected = {k: v for k, v in expected.items() if not k.startswith("left.merged.")}
    record["warnings"] = list(dict.fromkeys(" ".join(text.split())[:240] for text in peft_warnings))
    save(expected, folder / "expected.safetensors")
    write_json(record, folder / "case.json")


def run_single(
    case: TaskCase, folder: Path, seed: int, record: dict, expected: dict, batches: Batches
) -> None:
    """One adapter named "default"."""
    base_folder = f"base/{case.kind}"
    settings = settings_of(case.kind, case.config)
    record.update(config=settings, python=expression(case.config_class, settings))
    torch.manual_seed(seed)
    config = make_config(case.config_class, settings_of(case.kind, case.config))
    model = get_peft_model(load_base(base_folder), config).eval()
    if case.keep_init:
        initial = {f"init.{n}": p.detach().clone() for n, p in trainable(model).items()}
        expected.update({n: p for n, p in initial.items() if ".modules_to_save." not in n})
    shift_trainable(model, seed + 1)
    save_adapter(model, folder, case)
    if case.file_dtype:  # what was rounded on saving is what counts
        model = PeftModel.from_pretrained(load_base(base_folder), folder, is_trainable=True).eval()
    adapted = outputs(model, batches, "adapted")
    expected.update(adapted)
    if case.generate:
        expected.update(texts(model, case, batches))

    try:
        reloaded = PeftModel.from_pretrained(load_base(base_folder), folder).eval()
    except (RuntimeError, ValueError) as error:
        record["reload_error"] = describe(error)
    else:
        record["reload_difference"] = apart(outputs(reloaded, batches, "again"), adapted)
        merged, merge_record = merge(reloaded, batches, adapted)
        expected.update(merged)
        record.update(merge_record)

    count, total = model.get_nb_trainable_parameters()
    record.update(trainable_parameters=count, all_parameters=total)
    if "labels" not in batches.right:
        differentiate(model, batches, seed + 3, expected)
        return
    if case.allocate:  # a training of its own
        record["optimizer"] = optimizer_of(case)
        record.update(allocate(case, folder, seed, batches, expected))
        return
    torch.manual_seed(seed + 2)
    try:
        losses = train(model, case, batches, expected)
    except ValueError as error:  # labels that PEFT forgets to extend
        record["loss_error"] = describe(error)
        return
    record.update(optimizer=optimizer_of(case), losses=losses)
    if case.noise:
        record["mode"] = "train"


def optimizer_of(case: TaskCase) -> dict:
    return {"name": "AdamW", "lr": LEARNING_RATE, "weight_decay": case.weight_decay}


def shift_adapter(model: PeftModel, name: str, seed: int) -> None:
    """Adds seeded noise to the values of one adapter, whether they are trained or not."""
    named = {
        key: p
        for key, p in model.named_parameters()
        if f".{name}." in f"{key}." and ".ranknum." not in key
    }
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted((named or trainable(model)).items()):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * SHIFT)


def run_adapters(
    case: TaskCase, folder: Path, seed: int, record: dict, expected: dict, batches: Batches
) -> None:
    """Two named adapters: each alone, both active where the method allows it, both merged."""
    base_folder = f"base/{case.kind}"
    first, second = case.adapters
    settings = {name: settings_of(case.kind, config) for name, config in case.adapters.items()}
    record.update(
        adapters=settings,
        python={name: expression(case.config_class, c) for name, c in settings.items()},
    )
    torch.manual_seed(seed)
    configs = {
        name: make_config(case.config_class, settings_of(case.kind, config))
        for name, config in case.adapters.items()
    }
    model = get_peft_model(load_base(base_folder), configs[first], first)
    model.add_adapter(second, configs[second])
    model.eval()
    for index, name in enumerate(case.adapters):
        model.set_adapter(name)
        shift_adapter(model, name, seed + 1 + index)
    save_adapter(model, folder, case)
    for name in case.adapters:
        model.set_adapter(name)
        expected.update(outputs(model, batches, f"adapted.{name}"))
    try:
        model.base_model.set_adapter([first, second])
        both = outputs(model, batches, "adapted.both")
        expected.update(both)
        model.base_model.set_adapter([second, first])
        record["order_difference"] = apart(outputs(model, batches, "adapted.both"), both)
    except Exception as error:  # methods of which one is active at a time
        record["both_error"] = describe(error)
        return
    reloaded = PeftModel.from_pretrained(load_base(base_folder), folder / first, first)
    reloaded.load_adapter(folder / second, second)
    reloaded.base_model.set_adapter([first, second])
    reloaded.eval()
    again = outputs(reloaded, batches, "adapted.both")
    record["reload_difference"] = apart(again, both)
    names = {key.replace("adapted.both.", "adapted."): value for key, value in both.items()}
    merged, merge_record = merge(reloaded, batches, names, adapter_names=[first, second])
    expected.update(merged)
    record.update(merge_record)


def run_task_init(config_class: str, kind: str, config: dict, seed: int, path: Path) -> dict:
    """Writes an adapter as torch's generator made it; saved modules are the base's and left out."""
    settings = settings_of(kind, config)
    base = load_base(f"base/{kind}")
    torch.manual_seed(seed)
    model = get_peft_model(base, make_config(config_class, settings_of(kind, config)))
    after = torch.rand(1).item()
    values = {n: p for n, p in trainable(model).items() if ".modules_to_save." not in n}
    save(values, path)
    return {
        "kind": kind,
        "seed": seed,
        "config": settings,
        "python": expression(config_class, settings),
        "order": list(values),
        # The next torch.rand(1): agrees only if exactly as many numbers were drawn.
        "next_uniform": after,
    }


def run_task_refused(
    config_class: str,
    kind: str,
    config: dict,
    second: dict | None = None,
    task_ids: tuple[int, ...] | None = None,
) -> dict:
    """The error that PEFT raises at configuration, injection, forward, loss or saving; null if none."""
    settings = settings_of(kind, config)
    record: dict = {"kind": kind, "config": settings, "error": None}
    if second is not None:
        record["second"] = second
    if task_ids is not None:
        record["task_ids"] = list(task_ids)
    extra = {"task_ids": torch.tensor(task_ids)} if task_ids is not None else {}
    batch = batch_of(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stage = "config"
        try:
            made = make_config(config_class, settings_of(kind, config))
            stage = "inject"
            model = get_peft_model(load_base(f"base/{kind}"), made).eval()
            if second is not None:
                stage = "config"
                other = make_config(config_class, settings_of(kind, second))
                stage = "add"
                model.add_adapter("second", other)
                stage = "activate"
                (model.base_model if config_class != "PromptTuningConfig" else model).set_adapter(
                    ["default", "second"]
                )
            with torch.no_grad():
                stage = "forward"
                model(**without_labels(batch), **extra)
                stage = "loss"
                model(**batch, **extra)
            stage = "save"
            peft.get_peft_model_state_dict(model)
        except Exception as error:  # any refusal is what is recorded
            record.update(stage=stage, error=describe(error))
    return record
