"""Writes contrastive.golden.json: the multiple negatives ranking loss of sentence-transformers in f64 on the
adapted bert_embed of tests/golden/inference, its gradients, and three steps of AdamW.

    $GRAFT_ORACLE_PYTHON tests/tasks/contrastive.golden.py
"""

import json
from pathlib import Path

import torch
import transformers
from peft import PeftModel

HERE = Path(__file__).parent
FOLDER = HERE.parent / "golden" / "inference" / "bert_embed"
RATE, DECAY, STEPS = 5e-3, 0.01, 3
ROWS = [[1, 20, 31, 44, 2], [1, 50, 61, 2], [1, 7, 9, 33, 71, 2], [1, 21, 30, 2], [1, 52, 60, 63, 90, 2], [1, 8, 9, 2]]
CASES = {
    "pairs": dict(columns=2, scale=20.0, pooling="mean"),
    "hard negatives": dict(columns=3, scale=20.0, pooling="mean"),
    "first token": dict(columns=3, scale=7.5, pooling="cls"),
    "last token": dict(columns=2, scale=20.0, pooling="last"),
}


def batch(left):
    longest = max(map(len, ROWS))
    pads = [[4] * (longest - len(row)) for row in ROWS]
    masks = [[0] * (longest - len(row)) for row in ROWS]
    join = (lambda pad, row: pad + row) if left else (lambda pad, row: row + pad)
    return {
        "input_ids": torch.tensor([join(pad, row) for pad, row in zip(pads, ROWS)]),
        "attention_mask": torch.tensor([join(pad, [1] * len(row)) for pad, row in zip(masks, ROWS)]),
    }


def loss_of(model, inputs, columns, scale, pooling):
    h, mask = model(**inputs).last_hidden_state, inputs["attention_mask"]
    rows = torch.arange(len(h))
    if pooling == "mean":
        pooled = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    elif pooling == "cls":
        pooled = h[rows, mask.argmax(1)]
    else:
        pooled = h[rows, mask.shape[1] - 1 - mask.flip(1).argmax(1)]
    unit = torch.nn.functional.normalize(pooled, dim=-1)
    n = len(h) // columns
    return torch.nn.functional.cross_entropy(unit[:n] @ unit[n:].T * scale, torch.arange(n))


def run(left, **options):
    base = transformers.BertModel.from_pretrained(FOLDER)
    model = PeftModel.from_pretrained(base, FOLDER / "adapter", is_trainable=True).double().eval()
    inputs = batch(left)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY)
    losses, gradients = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, inputs, **options)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            gradients = {
                name.removeprefix("base_model.model.").replace(".default.weight", ""): p.grad.flatten().tolist()
                for name, p in model.named_parameters() if p.requires_grad
            }
        optimizer.step()
    return {"left": left, "options": options, "inputs": {k: v.tolist() for k, v in inputs.items()}, "losses": losses, "gradients": gradients}


cases = {name: run(name == "last token", **options) for name, options in CASES.items()}
contents = {"rate": RATE, "decay": DECAY, "cases": cases}
Path(__file__).with_suffix(".json").write_text(json.dumps(contents, separators=(",", ":")) + "\n")
