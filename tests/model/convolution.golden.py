"""Writes convolution.golden.json: what PEFT does at convolutions of one to three dimensions.

    $GRAFT_ORACLE_PYTHON tests/model/convolution.golden.py

One module holds them all side by side, on the same embedded tokens seen as signals, images and
volumes. Weights and leaves are not stored: both sides compute them from their names (`fill`).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import peft
import torch
from torch import nn

TOKENS, WIDTH, VOCABULARY = 8, 24, 13
# Shape of a row as the convolution sees it, and torch's arguments.
CONVOLUTIONS = {
    "signal": ((24, 8), dict(out=6, kernel=[3], stride=[2], padding=[1])),
    "signals": ((24, 8), dict(out=8, kernel=[2], groups=4, bias=False)),
    "patch": ((3, 8, 8), dict(out=5, kernel=[4, 2], stride=[4, 2])),
    "image": ((3, 8, 8), dict(out=4, kernel=[3, 3], stride=[2, 1], padding=[1, 0])),
    "images": ((6, 4, 8), dict(out=4, kernel=[2, 3], dilation=[2, 2], groups=2)),
    "point": ((12, 4, 4), dict(out=6, kernel=[1, 1])),
    "volume": ((2, 4, 4, 6), dict(out=3, kernel=[2, 3, 2], stride=[1, 2, 2], padding=[1, 0, 1])),
    "volumes": ((4, 3, 4, 4), dict(out=4, kernel=[2, 1, 2], dilation=[2, 1, 1], groups=2)),
}
PLAIN = ["signal", "patch", "image", "point", "volume"]
CASES = {
    "lora": ("LoraConfig", dict(r=2, lora_alpha=3, target_modules=PLAIN)),
    "lora_groups": (
        "LoraConfig",
        dict(
            r=3,
            lora_alpha=5,
            use_rslora=True,
            target_modules=["signal", "signals", "patch"],
            rank_pattern={"signals": 4},
            alpha_pattern={"patch": 2},
        ),
    ),
    "lora_bias": ("LoraConfig", dict(r=2, lora_alpha=3, target_modules=PLAIN, lora_bias=True)),
    "lora_random": (
        "LoraConfig",
        dict(r=2, target_modules=PLAIN + ["head"], init_lora_weights=False, lora_bias=True),
    ),
    "lora_gaussian": (
        "LoraConfig", dict(r=4, target_modules=["signals", "image"], init_lora_weights="gaussian")
    ),
    "lora_input": ("LoraConfig", dict(r=2, target_modules=["table"])),
    "dora": ("LoraConfig", dict(r=2, lora_alpha=3, target_modules=PLAIN, use_dora=True)),
    "dora_groups": (
        "LoraConfig",
        dict(r=4, target_modules=["signals", "image"], use_dora=True, init_lora_weights=False),
    ),
    "ia3": (
        "IA3Config",
        dict(
            target_modules=["patch", "image", "images", "volume", "volumes", "head"],
            feedforward_modules=["images", "volume"],
        ),
    ),
    "ia3_random": (
        "IA3Config",
        dict(
            target_modules=["image", "volumes"],
            feedforward_modules=["volumes"],
            init_ia3_weights=False,
        ),
    ),
    "oft": ("OFTConfig", dict(target_modules=["point", "head"], oft_block_size=5)),
    "oft_exact": (
        "OFTConfig",
        dict(target_modules=["point"], oft_block_size=4, use_cayley_neumann=False),
    ),
    "oft_shared": (
        "OFTConfig",
        dict(target_modules=["point"], oft_block_size=3, block_share=True, coft=True, eps=0.3),
    ),
    "adalora": (
        "AdaLoraConfig",
        dict(
            target_modules=["image", "patch", "point"],
            init_r=3,
            target_r=2,
            lora_alpha=5,
            total_step=10,
            orth_reg_weight=0.3,
        ),
    ),
    "loha": (
        "LoHaConfig",
        dict(target_modules=["signal", "signals", "image", "point"], r=2, alpha=9),
    ),
    "loha_tucker": (
        "LoHaConfig",
        dict(
            target_modules=["signal", "signals", "patch", "images", "point"],
            r=3,
            alpha=12,
            use_effective_conv2d=True,
            init_weights=False,
        ),
    ),
    # Whole kernels, products, and Tucker decompositions.
    "lokr": ("LoKrConfig", dict(target_modules=["signal", "signals", "image", "images", "point"], r=4, alpha=9)),
    "lokr_products": (
        "LoKrConfig",
        dict(
            target_modules=["signal", "signals", "patch", "image", "images", "point"],
            r=1,
            alpha=3,
            decompose_both=True,
            init_weights="lycoris",
        ),
    ),
    "lokr_tucker": (
        "LoKrConfig",
        dict(
            target_modules=["signal", "signals", "patch", "point"],
            r=2,
            alpha=3,
            decompose_factor=2,
            use_effective_conv2d=True,
            init_weights=False,
        ),
    ),
    "hira": ("HiraConfig", dict(target_modules=[*PLAIN, "table"], r=3, hira_dropout=0.2)),
    "hira_random": (
        "HiraConfig",
        dict(target_modules=["signal", "volume", "head"], r=2, init_weights=False),
    ),
    "hira_gaussian": (
        "HiraConfig",
        dict(target_modules=["image", "table"], r=2, init_weights="gaussian"),
    ),
    "ln_tuning": ("LNTuningConfig", dict(target_modules=["image", "signals", "volume"])),
}
IDS = [[7, 3, 9, 12, 4, 1, 0, 5], [2, 11, 6, 6, 8, 10, 3, 1]]


def tucker_product(t1, w1_a, w1_b, t2, w2_a, w2_b, scale):
    """LoHa's delta with the gradient that it has: PEFT's own mixes its factors up for w1_a and w2_a."""
    one, two = (
        torch.einsum("ijkl,jr,ip->prkl", t, b, a) for t, a, b in ((t1, w1_a, w1_b), (t2, w2_a, w2_b))
    )
    return one * two * scale


peft.tuners.loha.layer.make_weight_cp = tucker_product


def fill(name: str, size: int) -> list[float]:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return [0.2 * math.sin(1.3 * i + seed) + 0.05 for i in range(size)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        features = 0
        for name, (shape, options) in CONVOLUTIONS.items():
            options = dict(options)
            kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 2]
            conv = kind(shape[0], options.pop("out"), options.pop("kernel"), **options)
            self.add_module(name, conv)
            features += conv(torch.zeros(1, *shape)).numel()
        self.head = nn.Linear(features, TOKENS * VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.table(ids)
        parts = [
            getattr(self, name)(rows.reshape(-1, *shape)).flatten(1)
            for name, (shape, _) in CONVOLUTIONS.items()
        ]
        return self.head(torch.cat(parts, 1).tanh()).reshape(-1, TOKENS, VOCABULARY)


def loss_of(model: nn.Module) -> torch.Tensor:
    ids = torch.tensor(IDS)
    logits = model(ids)
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    # What AdaLoRA adds where a model computes its own loss.
    config = model.peft_config["default"]
    if config.peft_type == "ADALORA":
        products = [
            p @ p.T if "lora_A" in name else p.T @ p
            for name, p in model.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        lengths = [torch.norm(product - torch.eye(len(product))) for product in products]
        loss = loss + config.orth_reg_weight * sum(lengths) / len(lengths)
    return loss


def rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{x:.7g}") for x in values.detach().flatten().tolist()]


def base() -> Net:
    net = Net().eval()
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.copy_(torch.tensor(fill(name, value.numel())).reshape(value.shape))
    return net


def run(name: str, kind: str, settings: dict) -> dict:
    net = base()
    torch.manual_seed(7)
    model = peft.get_peft_model(net, getattr(peft, kind)(**settings)).eval()
    keys = {k: list(v.shape) for k, v in peft.get_peft_model_state_dict(model).items()}
    initial = {
        k: rounded(v)[:6] + rounded(v)[-3:]
        for k, v in peft.get_peft_model_state_dict(model).items()
    }
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            if value.requires_grad:
                leaf = parameter.removeprefix("base_model.model.").replace(".default", "")
                old = value.clone() if "magnitude" in leaf else 0.0
                value.copy_(torch.tensor(fill(leaf, value.numel())).reshape(value.shape) + old)
    ids = torch.tensor(IDS)
    result = {"logits": rounded(model(ids))}
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0)
    leaves = {n: p.detach().clone() for n, p in parameters.items()}
    losses = []
    for step in range(3):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        if step == 0:
            result["gradients"] = {n: rounded(p.grad) for n, p in parameters.items()}
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        for n, p in parameters.items():
            p.copy_(leaves[n])
    try:
        merged = rounded(model.merge_and_unload()(ids))
    except NotImplementedError:
        merged = None
    settings = {"peft_type": str(model.peft_config["default"].peft_type.value), **settings}
    return {
        "name": name,
        "config": settings,
        "keys": keys,
        "initial": initial,
        **result,
        "losses": losses,
        "merged": merged,
    }


def main() -> None:
    net = base()
    cases = [run(name, *case) for name, case in CASES.items()]
    layers = {name: {"shape": s, **o} for name, (s, o) in CONVOLUTIONS.items()}
    start = {
        "tokens": TOKENS,
        "width": WIDTH,
        "vocabulary": VOCABULARY,
        "layers": layers,
        "ids": IDS,
        "features": net.head.in_features,
        "logits": rounded(net(torch.tensor(IDS))),
    }
    path = Path(__file__).with_suffix(".json")
    body = ",\n".join(json.dumps(case) for case in cases)
    path.write_text(f'{{"base": {json.dumps(start)},\n"cases": [\n{body}\n]}}\n')


main()
