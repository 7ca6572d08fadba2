"""Writes own-model.golden.json: what PEFT makes of a torch module of one's own.

    $GRAFT_ORACLE_PYTHON tests/model/own-model.golden.py

Images and sounds become rows, which words attend to. Weights and leaves are not stored: both sides
compute them from their names (`fill`), and so do the inputs.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import peft
import torch
from peft.tuners.frod.layer import FrodLayer
from torch import nn

ATTENTION = [f"attention.{name}" for name in "qkvo"]
CASES = [
    (
        "LoraConfig",
        dict(r=2, lora_alpha=3, target_modules=["patch", "mix", "wave", "words", "head", *ATTENTION]),
    ),
    (
        "LoraConfig",
        dict(r=3, use_dora=True, target_modules=["patch", "wave", "words", "head", *ATTENTION]),
    ),
    (
        "LoraConfig",
        dict(r=2, lora_bias=True, target_modules=["attention.q"], modules_to_save=["norm", "head"]),
    ),
    (
        "IA3Config",
        dict(target_modules=["patch", "head", *ATTENTION], feedforward_modules=["head"]),
    ),
    ("VeraConfig", dict(r=3, target_modules=ATTENTION, projection_prng_key=5)),
    ("PeanutConfig", dict(r=3, depth=1, act_fn="hardswish", scaling=0.6, target_modules=ATTENTION)),
    ("PsoftConfig", dict(r=3, psoft_alpha=5, target_modules=["head", *ATTENTION])),
    ("RandLoraConfig", dict(r=3, randlora_alpha=2, save_projection=False, target_modules=["head", *ATTENTION])),
    ("VBLoRAConfig", dict(r=2, num_vectors=5, vector_length=2, target_modules=ATTENTION)),
    ("PveraConfig", dict(r=2, projection_prng_key=6, target_modules=["head", *ATTENTION])),
    ("TinyLoraConfig", dict(r=3, u=2, weight_tying=0.4, target_modules=["words", "head", *ATTENTION])),
    ("UniLoraConfig", dict(r=2, theta_d_length=7, target_modules=["head", *ATTENTION])),
    ("FrodConfig", dict(sparse_rate=0.1, progressbar=False, target_modules=["head", *ATTENTION])),
    ("AdamssConfig", dict(r=2, num_subspaces=2, target_modules=["head", *ATTENTION])),
    ("OFTConfig", dict(oft_block_size=2, target_modules=["mix", "head", *ATTENTION])),
    (
        "AdaLoraConfig",
        dict(
            target_modules=["patch", "mix", "head", "attention.v"],
            init_r=3,
            lora_alpha=5,
            total_step=100,
            tinit=50,
            tfinal=20,
            orth_reg_weight=0.3,
        ),
    ),
    (
        "LoHaConfig",
        dict(
            r=2,
            alpha=5,
            target_modules=["patch", "mix", "wave", "head", *ATTENTION],
            rank_pattern={"head": 3},
        ),
    ),
    ("DeftConfig", dict(r=3, decomposition_method="qr", alpha=2, target_modules=["head", *ATTENTION])),
    ("DeloraConfig", dict(r=3, delora_lambda=2, rank_pattern={"head": 2}, target_modules=["head", *ATTENTION])),
    ("GraloraConfig", dict(r=4, hybrid_r=1, alpha=3, target_modules=ATTENTION)),
    ("MissConfig", dict(r=2, init_weights="bat", target_modules=["attention.q", "attention.o"])),
    ("MissConfig", dict(r=3, target_modules=["head", *ATTENTION])),
    (
        "LoKrConfig",
        dict(
            r=1,
            alpha=3,
            target_modules=["patch", "mix", "wave", "head", *ATTENTION],
            decompose_both=True,
        ),
    ),
    (
        "HiraConfig",
        dict(r=2, target_modules=["patch", "mix", "wave", "words", "head", *ATTENTION]),
    ),
    (
        "GloraConfig",
        dict(r=2, config_D_E="vector", target_modules=["head", *ATTENTION]),
    ),
    ("OSFConfig", dict(effective_rank=3, rank_pattern={"head": 1}, target_modules=["head", *ATTENTION])),
    ("LNTuningConfig", dict(target_modules=["norm"])),
    ("PolyConfig", dict(r=2, n_tasks=3, n_skills=2, target_modules=["head", *ATTENTION])),
    ("ShiraConfig", dict(r=1, random_seed=3, target_modules=["head", *ATTENTION])),
    ("WaveFTConfig", dict(n_frequency=7, wavelet_family="sym3", target_modules=["head", *ATTENTION])),
    ("C3AConfig", dict(block_size=2, block_size_pattern={"k": 4}, target_modules=ATTENTION[:3])),
    ("FourierFTConfig", dict(n_frequency=7, scaling=40.0, target_modules=["head", *ATTENTION])),
    ("TrainableTokensConfig", dict(target_modules=["words"], token_indices=[7, 3])),
]
REFUSED = ("AdaptionPromptConfig", dict(adapter_len=2, adapter_layers=1, target_modules="attention"))
WORDS = [[7, 3, 9, 0], [1, 10, 3, 3]]
TASKS = [2, 0]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (
            nn.Linear(6, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8), nn.Linear(8, 6)
        )

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        q, k, v = (y.unflatten(2, (2, 4)).transpose(1, 2) for y in (self.q(x), self.k(rows), self.v(rows)))
        attended = (q @ k.mT / 2).softmax(-1) @ v
        return self.o(attended.transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.mix = nn.Conv2d(8, 8, 1)
        self.wave = nn.Conv1d(4, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.words = nn.Embedding(11, 6)
        self.attention = Attention()
        self.head = nn.Linear(6, 3)

    def forward(self, image: torch.Tensor, sound: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        seen = self.mix(torch.tanh(self.patch(image))).flatten(2)
        rows = self.norm(torch.cat([seen, self.wave(sound)], 2).mT)
        x = self.words(words)
        return self.head(x + self.attention(x, rows))


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


INPUTS = {
    "image": fill("image", (2, 3, 7, 5)), "sound": fill("sound", (2, 4, 9)), "words": torch.tensor(WORDS)
}


def short(x: float) -> float:
    return float(f"{x:.7g}")


def numbers(values: torch.Tensor) -> list[float]:
    return [short(x) for x in values.flatten().tolist()]


def sketch(values: torch.Tensor) -> list[float]:
    """The largest of some numbers, and their sum with fixed weights."""
    weights = fill("sketch", values.shape)
    return [short(values.abs().max().item()), short((values * weights).sum().item())]


def penalty(model: nn.Module) -> torch.Tensor | float:
    """What AdaLoRA adds where a model computes its own loss."""
    config = model.peft_config["default"]
    if config.peft_type != "ADALORA":
        return 0.0
    products = [
        p @ p.T if "lora_A" in name else p.T @ p
        for name, p in model.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    lengths = [torch.norm(product - torch.eye(len(product))) for product in products]
    return config.orth_reg_weight * sum(lengths) / len(lengths)


def run(kind: str, settings: dict) -> dict:
    torch.manual_seed(7)
    model = peft.get_peft_model(base(), getattr(peft, kind)(**copy.deepcopy(settings))).eval()
    state = {
        key: fill(key, value.shape) + (value if "magnitude" in key else 0)
        if value.is_floating_point()
        else value
        for key, value in peft.get_peft_model_state_dict(model).items()
    }
    assert not peft.set_peft_model_state_dict(model, state).unexpected_keys
    for layer in model.modules():
        if isinstance(layer, FrodLayer):  # in PEFT these do not follow from what was put in
            v = layer.frod_V["default"]
            layer.frod_U["default"], _ = layer._calculate_frod_u_and_lambda(v, layer.get_base_layer().weight)
    config = model.peft_config["default"]
    inputs = {**INPUTS, "task_ids": torch.tensor(TASKS)} if config.peft_type == "POLY" else INPUTS
    result = {
        "config": {"peft_type": config.peft_type.value, **settings},
        "keys": {key: list(value.shape) for key, value in state.items()},
    }
    with torch.no_grad():
        result["scores"] = numbers(model.base_model(**inputs))
        try:
            result["merged"] = numbers(copy.deepcopy(model).merge_and_unload()(**INPUTS))
        except (NotImplementedError, AttributeError):
            result["merged"] = None
    # What layers share goes by the model's own name for it.
    shared = {
        id(p): name
        for name, p in model.named_parameters(remove_duplicate=False)
        if not name.startswith("base_model.model.")
    }
    parameters = {
        shared.get(id(p), name): p for name, p in model.named_parameters() if p.requires_grad
    }
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, weight_decay=0.1)
    result["losses"] = []
    for step in range(3):
        optimizer.zero_grad()
        scores = model.base_model(**inputs)
        loss = ((scores - fill("wanted", scores.shape)) ** 2).mean() + penalty(model)
        loss.backward()
        if step == 0:
            result["gradients"] = {name: sketch(p.grad) for name, p in parameters.items()}
        optimizer.step()
        result["losses"].append(loss.item())
    return result


def refused() -> dict:
    kind, settings = REFUSED
    config = getattr(peft, kind)(**settings)
    try:
        peft.get_peft_model(base(), config)
    except (ValueError, AttributeError) as error:
        return {config.peft_type.value: str(error)}
    raise AssertionError(f"PEFT takes {kind}.")


def main() -> None:
    cases = [run(*case) for case in CASES]
    start = {"words": WORDS, "tasks": TASKS, "scores": numbers(base()(**INPUTS)), "refused": refused()}
    path = Path(__file__).with_suffix(".json")
    body = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f'{{"base": {json.dumps(start)},\n"cases": [\n{body}\n]}}\n')


main()
