"""Writes optimizers.golden.json: parameters after steps of torch's AdamW and PEFT's own optimizers.

    $GRAFT_ORACLE_PYTHON tests/training/optimizers.golden.py
"""

import json
from pathlib import Path

import peft
import torch
from peft.optimizers import (
    create_lorafa_optimizer,
    create_loraplus_optimizer,
    create_riemannian_optimizer,
    lorafa,
)
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.lin = nn.Linear(3, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, ids):
        return self.head(self.norm(self.lin(self.embed(ids))))


def site(path, kind, bias):
    return {"path": path, "kind": kind, "bias": bias}


LEAVES = [
    ("a0.embed.lora_embedding_A", "embed.lora_embedding_A.default", site("embed", "embedding", False)),
    ("a0.embed.lora_embedding_B", "embed.lora_embedding_B.default", site("embed", "embedding", False)),
    ("a0.lin.lora_A", "lin.lora_A.default.weight", site("lin", "linear", True)),
    ("a0.lin.lora_B", "lin.lora_B.default.weight", site("lin", "linear", True)),
    ("a0.param.lin.bias", "lin.base_layer.bias", site("lin", "linear", True)),
    ("a0.param.norm.weight", "norm.modules_to_save.default.weight", site("norm", "norm", True)),
    ("a0.param.norm.bias", "norm.modules_to_save.default.bias", site("norm", "norm", True)),
    ("a0.param.head.weight", "head.modules_to_save.default.weight", site("head", "linear", False)),
]
FACTORS = [0.25, 1.0, 0.6, 0.1]


def adapted():
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=2, target_modules=["embed", "lin"], bias="lora_only", modules_to_save=["norm", "head"]
    )
    model = peft.get_peft_model(Model(), config)
    parameters = {name.removeprefix("base_model.model."): p for name, p in model.named_parameters()}
    found = [parameters[name] for _, name, _ in LEAVES]
    assert {id(p) for p in found} == {id(p) for p in model.parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in found:
            p.copy_(torch.randn(p.shape, generator=generator))
    gradients = [[torch.randn(p.shape, generator=generator) for p in found] for _ in FACTORS]
    return model, found, gradients


def run(make):
    model, leaves, gradients = adapted()
    optimizer = make(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: ([*FACTORS, 0])[step])
    after = []
    for step in gradients:
        for p, g in zip(leaves, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
        schedule.step()
        after.append([p.detach().flatten().tolist() for p in leaves])
    return after


def adamw(**options):
    return lambda model: torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, **options
    )


def loraplus(**options):
    return lambda model: create_loraplus_optimizer(model, torch.optim.AdamW, lr=0.01, **options)


def riemannian(cls=torch.optim.AdamW, **options):
    return lambda model: create_riemannian_optimizer(model, cls, lr=0.01, **options)


# Where there is bfloat16, PEFT multiplies in it; without, in the type of the weights.
lorafa.is_bf16_available = lambda: False


def lora_fa(betas=(0.9, 0.999), eps=1e-6, **options):
    def make(model):
        optimizer = create_lorafa_optimizer(model, r=2, lora_alpha=8, lr=0.01, **options)
        optimizer.param_groups[0].update(betas=betas, eps=eps)
        return optimizer

    return make


RUNS = [
    ("adamW", {}, adamw()),
    (
        "adamW",
        {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-4, "weightDecay": 0.3},
        adamw(betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3),
    ),
    ("loraPlus", {"loraplusLrRatio": 16}, loraplus(loraplus_lr_ratio=16)),
    (
        "loraPlus",
        {
            "loraplusLrRatio": 3,
            "loraplusLrEmbedding": 0.05,
            "loraplusWeightDecay": 0.2,
            "beta1": 0.7,
        },
        loraplus(
            loraplus_lr_ratio=3,
            loraplus_lr_embedding=0.05,
            loraplus_weight_decay=0.2,
            betas=(0.7, 0.999),
        ),
    ),
    ("riemannian", {}, riemannian()),
    (
        "riemannian",
        {"reg": 0.3, "beta1": 0.8, "weightDecay": 0.2},
        riemannian(reg=0.3, betas=(0.8, 0.999), weight_decay=0.2),
    ),
    ("loraFa", {}, lora_fa()),
    (
        "loraFa",
        {"weightDecay": 0.2, "beta1": 0.7, "epsilon": 1e-3},
        lora_fa(weight_decay=0.2, betas=(0.7, 0.999), eps=1e-3),
    ),
]

_, initial, gradients = adapted()
contents = {
    "peft": peft.__version__,
    "torch": torch.__version__,
    "learningRate": 0.01,
    "factors": FACTORS,
    "leaves": [
        {"name": name, "shape": list(p.shape), "site": at, "values": p.detach().flatten().tolist()}
        for (name, _, at), p in zip(LEAVES, initial, strict=True)
    ],
    "gradients": [[g.flatten().tolist() for g in step] for step in gradients],
    "runs": [{"name": n, "options": o, "after": run(make)} for n, o, make in RUNS],
}
path = Path(__file__).with_suffix(".json")
path.write_text(json.dumps(contents) + "\n")
