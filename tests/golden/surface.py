"""Writes surface.json: the public members of the real PEFT that docs/peft.md has a row for.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only surface [--out DIR] [--seed N]

`members` are names by class or module, in the order of their definition: of a class those that it
defines itself (and `push_to_hub`) with the attributes that its instances get, of a module its own
functions and classes. What torch and transformers give to every model is left out. `enums` are the
values of PEFT's enumerations. The seed changes nothing.
"""

from __future__ import annotations

from run_case import write_json  # first

import importlib
import inspect
import warnings
from dataclasses import fields
from pathlib import Path

import peft
import peft.auto
import peft.peft_model
import torch
import transformers
from peft.config import PeftConfigMixin
from peft.peft_model import PeftModel, TunerLayerStatus, TunerModelStatus
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations import peft as transformers_peft


MODULES = [
    "peft.helpers",
    "peft.utils.peft_types",
    "peft.mapping",
    "peft.mapping_func",
    "peft.functional",
    "peft.utils.save_and_load",
    "peft.utils.hotswap",
    "peft.utils.merge_utils",
    "peft.tuners.lora.conversion",
    "peft.tuners.tuners_utils",
]


def own(of: type) -> list[str]:
    """What a class itself defines."""
    return [name for name in vars(of) if not name.startswith("_")]


def attributes() -> list[str]:
    """What instances of PeftModel have beside what their classes define."""
    torch_names = set(vars(torch.nn.Module()))
    sizes = dict(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    configs = [
        peft.LoraConfig(task_type="CAUSAL_LM"),
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    ]
    found: dict[str, None] = {}
    for config in configs:
        base = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, **sizes))
        model = peft.get_peft_model(base, config)
        names = [*(set(vars(model)) - torch_names), *model._modules]
        found.update(dict.fromkeys(sorted(name for name in names if not name.startswith("_"))))
    return list(found)


def defined(name: str) -> list[str]:
    """A module's own public functions and classes, with registries, and what it names in __all__."""
    module = importlib.import_module(name)
    return [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (
            ((inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == name)
            or (name == "peft.mapping" and key.startswith("PEFT_TYPE_TO_"))
            or key in getattr(module, "__all__", [])
        )
    ]


def tuners() -> list[str]:
    """Methods that tuners have beside those of all."""
    known = {*dir(BaseTuner), "prefix", "tuner_layer_cls", "target_module_mapping", "layers_mapping"}
    return [
        f"{name}.{member}"
        for name, value in inspect.getmembers(peft, inspect.isclass)
        if issubclass(value, BaseTuner)
        for member in own(value)
        if member not in known
    ]


def members() -> dict[str, list[str]]:
    models = [
        value
        for _, value in inspect.getmembers(peft.peft_model, inspect.isclass)
        if issubclass(value, PeftModel) and value is not PeftModel
    ]
    modules = {name: defined(name) for name in MODULES}
    named = {name for names in modules.values() for name in names}
    mixin = transformers_peft.PeftAdapterMixin
    return {
        "PeftModel": [*own(PeftModel), "push_to_hub", *attributes()],
        **{model.__name__: own(model) for model in models},
        "PeftMixedModel": own(peft.PeftMixedModel),
        "peft.auto": [name for name, _ in inspect.getmembers(peft.auto, inspect.isclass) if name.startswith("AutoPeft")],
        "PeftConfig": [*dict.fromkeys([*own(PeftConfigMixin), *own(peft.PeftConfig)])],
        "BaseTuner": own(BaseTuner),
        "peft.tuners": tuners(),
        "BaseTunerLayer": own(BaseTunerLayer),
        "LoraLayer": [*dict.fromkeys([*own(LoraLayer), *own(LoraLinear)])],
        "TunerLayerStatus": [field.name for field in fields(TunerLayerStatus)],
        "TunerModelStatus": [field.name for field in fields(TunerModelStatus)],
        **modules,
        "peft": [
            name
            for name, _ in inspect.getmembers(peft, inspect.isfunction)
            if name not in named
        ],
        "PeftAdapterMixin": [*own(mixin), "_dispatch_accelerate_model"],
        "transformers.integrations.peft": [
            name
            for name, value in inspect.getmembers(transformers_peft, inspect.isfunction)
            if value.__module__ == transformers_peft.__name__
        ],
    }


def write(out: Path, seed: int) -> None:
    """Writes surface.json below `out`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = members()
    enums = {of.__name__: [item.value for item in of] for of in (peft.PeftType, peft.TaskType)}
    versions = {"peft": peft.__version__, "transformers": transformers.__version__}
    write_json({"versions": versions, "members": found, "enums": enums}, out / "surface.json")
