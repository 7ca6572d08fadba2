"""Writes multihead.golden.json: what PEFT makes of nn.MultiheadAttention.

    $GRAFT_ORACLE_PYTHON tests/model/multihead.golden.py

Weights and leaves are not stored: both sides compute them from their names (`fill`), and so do the
inputs. `init` is what each adapter starts from after torch.manual_seed(7).
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import peft
import torch
from torch import nn

CASES = [
    dict(r=2, lora_alpha=3, target_modules=["attn", "cross"], rank_pattern={"cross": 1}, alpha_pattern={"attn": 5}),
    dict(r=2, target_modules=["cross", "head"], bias="all", init_lora_weights="gaussian"),
    dict(r=2, target_modules=["attn"], bias="lora_only", init_lora_weights=False),
]
REFUSED = [
    dict(target_modules=["attn"], use_dora=True),
    dict(target_modules=["attn"], init_lora_weights="pissa"),
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Linear(5, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 4, batch_first=True, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        x, rows = self.seen(x), self.seen(rows)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.head(x + self.cross(x, rows, rows)[0])


def fill(name: str, shape) -> torch.Tensor:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    values = [0.6 * math.sin(0.7 * i * i + seed) for i in range(math.prod(shape))]
    return torch.tensor(values).reshape(shape)


def base() -> Net:
    net = Net().eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(fill(name, value.shape))
    return net


INPUTS = {"x": fill("x", (2, 3, 5)), "rows": fill("rows", (2, 4, 5))}


def numbers(values: torch.Tensor) -> list[float]:
    return [float(f"{x:.9g}") for x in values.detach().flatten().tolist()]


def adapted(settings: dict) -> peft.PeftModel:
    net = base()
    torch.manual_seed(7)
    return peft.get_peft_model(net, peft.LoraConfig(**copy.deepcopy(settings))).eval()


def run(settings: dict) -> dict:
    model = adapted(settings)
    state = peft.get_peft_model_state_dict(model)
    result = {"config": {"peft_type": "LORA", **settings}, "init": {k: numbers(v) for k, v in state.items()}}
    with torch.no_grad():
        result["start"] = numbers(model(**INPUTS))
    peft.set_peft_model_state_dict(model, {key: fill(key, value.shape) for key, value in state.items()})
    with torch.no_grad():
        result["scores"] = numbers(model(**INPUTS))
        result["merged"] = numbers(copy.deepcopy(model).merge_and_unload()(**INPUTS))
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.1)
    result["losses"] = []
    for step in range(3):
        optimizer.zero_grad()
        scores = model(**INPUTS)
        loss = ((scores - fill("wanted", scores.shape)) ** 2).mean()
        loss.backward()
        if step == 0:
            result["gradients"] = {name: numbers(p.grad) for name, p in parameters.items()}
        optimizer.step()
        result["losses"].append(loss.item())
    return result


def main() -> None:
    cases = [run(case) for case in CASES]
    for settings in REFUSED:
        try:
            adapted(settings)
        except (ValueError, AttributeError):
            continue
        raise AssertionError(f"PEFT takes {settings}.")
    body = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    Path(__file__).with_suffix(".json").write_text(
        f'{{"base": {json.dumps(numbers(base()(**INPUTS)))},\n"cases": [\n{body}\n]}}\n'
    )


main()
