"""One golden case of one adapter, whatever the method: what PEFT saves, computes and trains.

generate.py (LoRA) and method_cases.py (the other methods) write their cases with it. Importing it
first sets the environment: Python starts again where that has to be set before it starts.
"""

from __future__ import annotations

import os
import sys

# Both must be set before Python and the libraries start.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
if any(os.environ.get(name) != value for name, value in _ENVIRONMENT.items()):
    os.environ.update(_ENVIRONMENT)
    os.execv(sys.executable, [sys.executable, *sys.argv])
sys.dont_write_bytecode = True

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import peft
import torch
import transformers
from peft import PeftModel, get_peft_model
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.monteclora import MontecloraSampler
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from begin import begun
from bases import BASES, base_outputs, left_padded_batch, load_base, right_padded_batch, save_base
from cases import Case

LEARNING_RATE = 1e-2
STEPS = 3
SHIFT = 0.15  # standard deviation of what is added to every trainable value


def make_config(config_class: str, settings: dict) -> peft.PeftConfig:
    return getattr(peft, config_class)(**{"task_type": "CAUSAL_LM", **settings})


def expression(config_class: str, settings: dict) -> str:
    """The Python that makes this config."""
    arguments = {"task_type": "CAUSAL_LM", **settings}
    return f"{config_class}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest expected magnitude."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def shift_trainable(model: torch.nn.Module, seed: int) -> None:
    """Adds seeded noise to every trainable value, once where parameters share their storage."""
    generator = torch.Generator().manual_seed(seed)
    seen = set()
    for _, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad or parameter.data_ptr() in seen:
            continue
        seen.add(parameter.data_ptr())
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * SHIFT)


@torch.no_grad()
def logits(model: torch.nn.Module, **extra) -> dict[str, torch.Tensor]:
    """Logits of the right- and of the left-padded batch."""
    right = right_padded_batch()
    del right["labels"]
    return {
        "": model(**right, **extra).logits,
        "left.": model(**left_padded_batch(), **extra).logits,
    }


def named(prefix: str, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{batch}{prefix}.logits": value for batch, value in outputs.items()}


def trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """What is trained by name; what layers share (VB-LoRA's bank) by the model's own name for it."""
    shared = {
        id(p): name
        for name, p in model.named_parameters(remove_duplicate=False)
        if not name.startswith("base_model.model.")
    }
    return {
        shared.get(id(p), name): p
        for name, p in model.named_parameters()
        if p.requires_grad and p.numel()
    }


def penalty(model: torch.nn.Module) -> torch.Tensor | float:
    """What PEFT says that a training loop should add to the loss (KaSA, MonteCLoRA)."""
    names = ("_get_kasa_loss", "_get_monteclora_loss")
    return sum(getattr(model.base_model, name, float)() for name in names)


@contextlib.contextmanager
def recorded_draws(model: torch.nn.Module, seed: int = 0) -> Iterator[dict[str, list[torch.Tensor]]]:
    """What layers draw while training, by their paths: one entry for each pass.

    Uniform and normal numbers are written down one after the other. MonteCLoRA's samplers are given numbers to
    draw; of Wishart matrices the diagonal is all that counts: sums of squares of normal numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, list[torch.Tensor]] = {}
    current: list[list[torch.Tensor]] = []
    handles = []
    draws = {name: getattr(torch, name) for name in ("rand", "randn", "randn_like")}

    def next_sample(layer: str, r: int, inputs: int, samples: int) -> dict[str, torch.Tensor]:
        shapes = {"mvn": (samples, inputs, r), "wishart": (r, r), "dirichlet": (samples,)}
        made = {name: draws["randn"](shape, generator=generator) for name, shape in shapes.items()}
        for name, numbers in made.items():
            drawn.setdefault(f"{layer}.{name}", []).append(numbers)
        wishart = torch.diag((made["wishart"] ** 2).sum(1))
        return {"z_mvn": made["mvn"], "z_wishart": wishart, "z_dirichlet": made["dirichlet"]}

    def finish(path: str) -> None:
        numbers = current.pop()
        if numbers:
            one = numbers[0] if len(numbers) == 1 else torch.cat([n.flatten() for n in numbers])
            drawn.setdefault(path, []).append(one)

    for path, module in model.base_model.model.named_modules():
        if isinstance(module, MontecloraSampler):
            layer = path.split(".lora_monteclora_sampler")[0]
            sizes = (module.out_features, module.in_features, module.num_samples)
            module.sampler.get = partial(next_sample, layer, *sizes)
        elif isinstance(module, BaseTunerLayer):
            handles.append(module.register_forward_pre_hook(lambda *_: current.append([])))
            handles.append(module.register_forward_hook(lambda *_, path=path: finish(path)))

    def recording(draw: Callable, *args, **kwargs) -> torch.Tensor:
        numbers = draw(*args, **kwargs)
        if current:
            current[-1].append(numbers.clone())
        return numbers

    for name, draw in draws.items():
        setattr(torch, name, partial(recording, draw))
    try:
        yield drawn
    finally:
        for name, draw in draws.items():
            setattr(torch, name, draw)
        for handle in handles:
            handle.remove()


def train(model: torch.nn.Module, weight_decay: float) -> tuple[dict, list[float]]:
    """Gradients of the first step by parameter name, and the loss before each AdamW step.

    In eval mode dropout is off, and everything else as in training but where a method draws. A layer
    that is left out of a step has a gradient of zero.
    """
    parameters = trainable(model)
    optimizer = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, weight_decay=weight_decay)
    gradients, losses = {}, []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model(**right_padded_batch()).loss + penalty(model)
        loss.backward()
        for p in parameters.values():
            p.grad = torch.zeros_like(p) if p.grad is None and model.training else p.grad
        if step == 0:
            gradients = {
                f"grad.{name}": (torch.zeros_like(p) if p.grad is None else p.grad.clone())
                for name, p in parameters.items()
            }
        optimizer.step()
        losses.append(loss.item())
    return gradients, losses


def train_shared(model: torch.nn.Module, weight_decay: float) -> list[float] | None:
    """Losses where parameters on one storage are one parameter; None where nothing is shared.

    PEFT ties the adapters of tied layers by storage only, so its optimizer sees and steps both.
    """
    groups: dict[int, list[torch.nn.Parameter]] = {}
    for parameter in trainable(model).values():
        groups.setdefault(parameter.data_ptr() or id(parameter), []).append(parameter)
    if all(len(group) == 1 for group in groups.values()):
        return None
    owners = [group[0] for group in groups.values()]
    optimizer = torch.optim.AdamW(owners, lr=LEARNING_RATE, weight_decay=weight_decay)
    losses = []
    for _ in range(STEPS):
        model.zero_grad()
        loss = model(**right_padded_batch()).loss
        loss.backward()
        for owner, *others in groups.values():
            for other in others:
                grad = other.grad
                owner.grad += grad if grad.shape == owner.grad.shape else grad.T
        optimizer.step()
        losses.append(loss.item())
    return losses


def is_adapter_value(model: PeftModel, name: str) -> bool:
    """Whether a parameter is the method's own, not one of the base that is trained along."""
    return model.base_model.prefix in name


def shared_buffers(model: PeftModel) -> dict[str, torch.Tensor]:
    """What an adapter holds once for all layers without training it (VeRA's projections)."""
    return {
        f"base_model.{name}.{adapter}": value
        for name, values in model.base_model.named_children()
        if isinstance(values, BufferDict)
        for adapter, value in values.items()
    }


def saved_buffers(model: PeftModel) -> dict[str, torch.Tensor]:
    """What files hold of a layer although it is not trained (DeLoRA's norms, SHiRA's indices)."""
    held, prefix = model.state_dict(), model.base_model.prefix
    buffers = {name: b for name, b in model.named_buffers() if prefix in name and name in held}
    saved = peft.get_peft_model_state_dict(model)
    whole = {name: value for name, value in saved.items() if not value.is_floating_point()}
    return {**buffers, **whole}


def changed_weights(model: torch.nn.Module, original: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Base weights of the adapted layers that the initialisation changed (PiSSA, OLoRA)."""
    before = dict(original.named_parameters())
    changed = {}
    for path, layer in model.base_model.model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        weight = layer.get_base_layer().weight.detach()
        if not torch.equal(weight, before[f"{path}.weight"]):
            changed[f"residual.{path}.weight"] = weight.clone()
    return changed


def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path)


def bases_beside(out: Path) -> Path:
    """The folder that holds base/: `out`, or this one where `out` has none."""
    return out if (out / "base").is_dir() else Path(__file__).resolve().parent


def save_without_card(model: PeftModel, folder: Path, **options) -> None:
    """Without the model card, a template of 5 KB."""
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink()


@torch.no_grad()
def logits_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


def write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def save_adapter(model: PeftModel, folder: Path, case: Case) -> None:
    """As PEFT saves it, without the model card (a template of 5 KB each)."""
    if case.convert:
        initial = folder / "initial"
        model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(initial))
        shutil.rmtree(initial)
    else:
        model.save_pretrained(folder)
    for card in folder.rglob("README.md"):
        card.unlink()
    if case.file_dtype:
        path = folder / "adapter_model.safetensors"
        dtype = getattr(torch, case.file_dtype)
        save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path, {"format": "pt"})


def save_initial(model: PeftModel, folder: Path) -> None:
    """The untrained adapter, marked as a plain one, which a later conversion subtracts."""
    config = model.peft_config["default"]
    init, config.init_lora_weights = config.init_lora_weights, True
    model.save_pretrained(folder / "initial")
    config.init_lora_weights = init


def merge_and_compare(model: PeftModel, adapted: dict, **options) -> tuple[dict, dict]:
    """Merged logits, and how far they are from the adapted ones, or why PEFT refuses."""
    try:
        outputs = logits(model.merge_and_unload(**options))
    except Exception as error:  # what PEFT raises is what is recorded
        return {}, {"merged": False, "merge_error": describe(error)}
    difference = relative(outputs[""], adapted[""])
    return {"merged.logits": outputs[""]}, {"merged": True, "merged_difference": difference}


def describe(error: BaseException) -> dict[str, str]:
    return {"type": type(error).__name__, "message": str(error)}


def run_case(case: Case, seed: int, folder: Path) -> None:
    """Writes the folder: PEFT's two files, expected.safetensors and case.json."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record: dict = {"name": case.name, "kind": case.kind, "seed": seed}
    if case.file_dtype:
        record["file_dtype"] = case.file_dtype
    if case.convert:
        record["converted"] = True
    expected: dict[str, torch.Tensor] = {
        **{f"in.{name}": value for name, value in right_padded_batch().items()},
        **{f"left.{name}": value for name, value in left_padded_batch().items()},
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if case.adapters:
            run_adapters(case, folder, seed, record, expected)
        else:
            run_single(case, folder, seed, record, expected)
    peft_warnings = [str(w.message) for w in caught if not issubclass(w.category, ResourceWarning)]
    if case.compact:
        expected = compact(expected, record)
    record["warnings"] = list(dict.fromkeys(" ".join(text.split())[:240] for text in peft_warnings))
    save(expected, folder / "expected.safetensors")
    write_json(record, folder / "case.json")


def compact(expected: dict[str, torch.Tensor], record: dict) -> dict[str, torch.Tensor]:
    """Without the left-padded batch, and without merged logits that repeat the adapted ones."""
    repeated = record.get("merged") and record["merged_difference"] < 1e-5
    return {
        name: value
        for name, value in expected.items()
        if not name.startswith("left.") and not (repeated and name == "merged.logits")
    }


def resume_error(base_folder: str, folder: Path) -> dict[str, str]:
    """Why PEFT does not train further what a file holds."""
    model = PeftModel.from_pretrained(load_base(base_folder), folder, is_trainable=True).train()
    try:
        model(**right_padded_batch())
    except RuntimeError as error:
        return describe(error)
    raise AssertionError(f"PEFT trains {folder} further.")


def run_single(case: Case, folder: Path, seed: int, record: dict, expected: dict) -> None:
    """One adapter named "default"."""
    base_folder = f"base/{case.kind}"
    record.update(config=case.config, python=expression(case.config_class, case.config))
    torch.manual_seed(seed)
    config = make_config(case.config_class, case.config)
    model, recorded = begun(case.begin, load_base(base_folder), config)
    expected.update(recorded)
    model.eval()
    if case.keep_init:
        # MiCA's B is not trained.
        initial = {
            n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad or ".lora_" in n
        }
        expected.update({f"init.{n}": p for n, p in initial.items() if is_adapter_value(model, n)})
        expected.update({f"init.{n}": value for n, value in shared_buffers(model).items()})
        expected.update(changed_weights(model, load_base(base_folder)))
        base_logits = logits(load_base(base_folder))[""]
        record["init_difference"] = relative(logits(model)[""], base_logits)
    if case.convert:
        save_initial(model, folder)
    shift_trainable(model, seed + 1)
    save_adapter(model, folder, case)
    if case.file_dtype:  # what was rounded on saving is what counts
        model = PeftModel.from_pretrained(load_base(base_folder), folder, is_trainable=True).eval()
    adapted = logits(model)
    expected.update(named("adapted", adapted))

    torch.manual_seed(seed)  # pissa_niter draws its sketch again
    try:
        reloaded = PeftModel.from_pretrained(load_base(base_folder), folder).eval()
    except (RuntimeError, ValueError) as error:
        record["reload_error"] = describe(error)
    else:
        record["reload_difference"] = relative(logits(reloaded)[""], adapted[""])
        merged, merge_record = merge_and_compare(reloaded, adapted)
        expected.update(merged)
        record.update(merge_record)

    if not case.resumes:
        record["resume_error"] = resume_error(base_folder, folder)
    count, total = model.get_nb_trainable_parameters()
    record.update(trainable_parameters=count, all_parameters=total)
    state = {name: p.detach().clone() for name, p in trainable(model).items()}
    model.train(case.noise)
    torch.manual_seed(seed + 2)
    with recorded_draws(model, seed + 9) as drawn:
        gradients, losses = train(model, case.weight_decay)
    model.eval()
    expected.update(gradients)
    if case.noise:
        record["mode"] = "train"
        # A layer that is left out draws no more; what it would have drawn means nothing.
        expected.update({f"noise.{p}": pad_sequence(n, batch_first=True) for p, n in drawn.items()})
        expected.update({f"after.{name}": value for name, value in saved_buffers(model).items()})
    record.update(
        optimizer={"name": "AdamW", "lr": LEARNING_RATE, "weight_decay": case.weight_decay},
        losses=losses,
    )
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(state[name])
    shared = train_shared(model, case.weight_decay)
    if shared:
        record["losses_as_one_parameter"] = shared


def run_adapters(case: Case, folder: Path, seed: int, record: dict, expected: dict) -> None:
    """Several named adapters: each alone, both active, rows of one batch, both merged."""
    base_folder = f"base/{case.kind}"
    first, second = case.adapters
    record.update(
        adapters=case.adapters,
        python={name: expression(case.config_class, c) for name, c in case.adapters.items()},
    )
    torch.manual_seed(seed)
    configs = {name: make_config(case.config_class, c) for name, c in case.adapters.items()}
    model = get_peft_model(load_base(base_folder), configs[first], first)
    model.add_adapter(second, configs[second])
    model.eval()
    for index, name in enumerate(case.adapters):
        model.set_adapter(name)
        shift_trainable(model, seed + 1 + index)
    save_adapter(model, folder, case)
    for name in case.adapters:
        model.set_adapter(name)
        expected.update(named(f"adapted.{name}", logits(model)))
    model.base_model.set_adapter([first, second])
    both = logits(model)
    expected.update(named("adapted.both", both))
    model.base_model.set_adapter([second, first])
    record["order_difference"] = relative(logits(model)[""], both[""])
    # Other methods ignore the names of a mixed batch.
    lora = case.config_class == "LoraConfig"
    rows = {"mixed": [first, second], "mixed_base": ["__base__", first]} if lora else {}
    for key, names in rows.items():
        try:
            expected.update(named(key, logits(model, adapter_names=names)))
            record[key] = names
        except ValueError as error:  # DoRA in a mixed batch
            record[key] = {"names": names, "error": describe(error)}

    reloaded = PeftModel.from_pretrained(load_base(base_folder), folder / first, first)
    reloaded.load_adapter(folder / second, second)
    reloaded.base_model.set_adapter([first, second])
    reloaded.eval()
    record["reload_difference"] = relative(logits(reloaded)[""], both[""])
    merged, merge_record = merge_and_compare(reloaded, both, adapter_names=[first, second])
    expected.update(merged)
    record.update(merge_record)


def run_init(config_class: str, kind: str, settings: dict, seed: int, path: Path) -> dict:
    """Writes an adapter as torch's generator made it."""
    base = load_base(f"base/{kind}")
    torch.manual_seed(seed)
    model = get_peft_model(base, make_config(config_class, settings))
    after = torch.rand(1).item()
    save({**trainable(model), **shared_buffers(model), **saved_buffers(model)}, path)
    layer = model.base_model.tuner_layer_cls
    sites = [
        path
        for path, module in model.base_model.model.named_modules()
        if isinstance(module, layer)
    ]
    return {
        "kind": kind,
        "seed": seed,
        "config": settings,
        "python": expression(config_class, settings),
        "order": sites,
        # The next torch.rand(1): agrees only if exactly as many numbers were drawn.
        "next_uniform": after,
    }


def run_refused(config_class: str, kind: str, settings: dict, second: dict | None = None) -> dict:
    """The error that PEFT raises at configuration, injection, forward or saving; null if none.

    With a second config, an adapter of that one is added to the first.
    """
    record: dict = {"kind": kind, "config": settings, "error": None}
    if second is not None:
        record["second"] = second
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stage = "config"
        try:
            config = make_config(config_class, settings)
            stage = "inject"
            model = get_peft_model(load_base(f"base/{kind}"), config)
            if second is not None:
                stage = "config"
                config = make_config(config_class, second)
                stage = "add"
                model.add_adapter("second", config)
                stage = "activate"
                model.base_model.set_adapter(["default", "second"])
            stage = "forward"
            logits(model)
            stage = "save"
            peft.get_peft_model_state_dict(model)
        except Exception as error:  # any refusal is what is recorded
            record.update(stage=stage, error=describe(error))
    return record


def write_base(kind: str, seed: int) -> dict:
    """Writes base/<kind>/ and what the base gives."""
    folder = Path("base", kind)
    shutil.rmtree(folder, ignore_errors=True)
    save_base(BASES[kind], folder, seed)
    outputs = base_outputs(load_base(folder), kind, seed)
    save(outputs, folder / "expected.safetensors")
    base = BASES[kind]
    return {
        "kind": kind,
        "rope_only": base.rope_only,
        "dtype": str(base.saved_dtype).removeprefix("torch."),
        "notes": base.notes,
    }


def prepare(out: Path) -> None:
    """One thread, nothing but errors on the terminal, and the folder that paths are relative to.

    base_model_name_or_path is then "base/<kind>", whatever the machine.
    """
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(out)
