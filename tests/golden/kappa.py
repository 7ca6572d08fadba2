"""Writes kappa.json: target modules by condition numbers, as PEFT's KappaTuneSelector finds them.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only kappa [--out DIR] [--seed N]

`bases` hold the condition numbers of each base's layers, in the order of the model; `linear` says
which of them PEFT looks at by itself. The others are GPT-2's Conv1D, for which the selector saw an
equal `nn.Linear`. `cases` hold the arguments of a call and the modules that it gave, lowest first.
The bases are read from DIR/base, or from beside this file where DIR has none. The seed chooses
arguments.
"""

from __future__ import annotations

from run_case import bases_beside, write_json  # first

import random
from pathlib import Path

import torch
from peft import find_kappa_target_modules
from peft.helpers import KappaTuneSelector
from transformers.pytorch_utils import Conv1D

from bases import load_base

KINDS = ["llama", "llama_tied", "qwen3", "llama_bf16", "gpt2"]


def with_linear_layers(model: torch.nn.Module) -> torch.nn.Module:
    """Conv1D becomes an equal nn.Linear."""
    for path, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            linear = torch.nn.Linear(*module.weight.shape)
            linear.weight.data = module.weight.data.T.contiguous()
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, linear)
    return model


def selector(model: torch.nn.Module, **options) -> KappaTuneSelector:
    return KappaTuneSelector(model, show_progress=False, **options)


def cases(kind: str, model: torch.nn.Module, kappas: list[float], rng: random.Random) -> list[dict]:
    """Calls on one base: every way to choose, with numbers that leave some modules out."""
    count = len(kappas)
    low, high = sorted(kappas)[count // 3 : count // 3 + 2]
    sizes = sorted({max(m.weight.shape) for m in model.modules() if isinstance(m, torch.nn.Linear)})
    chosen = [
        {"top_p": 0.2},
        {"top_p": round(rng.uniform(0.3, 0.9), 2)},
        {"top_p": 0.0},
        {"top_p": 1.0},
        {"num_modules": rng.randint(2, count - 1)},
        {"num_modules": count + 3},
        # Between two numbers, so that rounding does not decide.
        {"threshold": (low + high) / 2},
        {"top_p": 0.5, "max_dim_size_to_analyze": sizes[len(sizes) // 2]},
    ]
    found = []
    for arguments in chosen:
        ways = {key: value for key, value in arguments.items() if key != "max_dim_size_to_analyze"}
        limit = {key: value for key, value in arguments.items() if key not in ways}
        modules = selector(model, **limit).get_best_targets(**ways)
        if "top_p" in ways:
            same = find_kappa_target_modules(model, **arguments, show_progress=False)
            assert same == {"target_modules": modules, "target_parameters": None}
        found.append({"kind": kind, "arguments": arguments, "target_modules": modules})
    return found


def write(out: Path, seed: int) -> None:
    """Writes kappa.json below `out`."""
    rng = random.Random(seed)
    folder = bases_beside(out) / "base"
    bases, calls = {}, []
    for kind in KINDS:
        plain = load_base(folder / kind)
        own = {name for name, m in plain.named_modules() if isinstance(m, torch.nn.Linear)}
        model = with_linear_layers(plain)
        every = selector(model)
        every.get_best_targets()
        numbers = every._condition_numbers
        bases[kind] = {
            "condition_numbers": numbers,
            "linear": [name for name in numbers if name in own],
        }
        calls += cases(kind, model, list(numbers.values()), rng)
    write_json({"seed": seed, "bases": bases, "cases": calls}, out / "kappa.json")
