"""Writes trainer.golden.json: what transformers' Trainer makes of the golden llama with a LoRA.

    $GRAFT_ORACLE_PYTHON tests/training/trainer.golden.py
"""

import json
import os
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import torch
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, EarlyStoppingCallback, Trainer, TrainingArguments

GOLDEN = Path(__file__).parent.parent / "golden"


class InOrder(Trainer):
    """The rows in their order, so that both sides learn from the same batches."""

    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def rows(count: int, seed: int, ignored) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        ids = torch.randint(3, 61, (7,), generator=generator).tolist()
        labels = [-100 if t < ignored(i) else id for t, id in enumerate(ids)]
        made.append({"input_ids": ids, "attention_mask": [1] * 7, "labels": labels})
    return made


def run(name: str, patience=None, threshold=0.0, **settings) -> dict:
    given = {**settings, "patience": patience, "threshold": threshold}
    callbacks = [EarlyStoppingCallback(patience, threshold)] if patience else []
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / "base/llama")
    model = PeftModel.from_pretrained(model, GOLDEN / "lora/basic", is_trainable=True)
    train = rows(settings.pop("rows"), 1, lambda i: (3 * i) % 5)
    evaluation = rows(3, 2, lambda _: 1)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, report_to=[], use_cpu=True, disable_tqdm=True, logging_steps=1,
            per_device_train_batch_size=2, per_device_eval_batch_size=3, weight_decay=0.01,
            max_grad_norm=0.0, **settings,
        )
        trainer = InOrder(
            model, arguments, train_dataset=train, eval_dataset=evaluation, callbacks=callbacks,
        )
        trainer.train()
        left = sorted(int(p.name.split("-")[1]) for p in Path(folder).glob("checkpoint-*"))
        history = trainer.state.log_history
        best = trainer.state.best_global_step
        final = trainer.evaluate()["eval_loss"]
    return {
        "name": name,
        "settings": given,
        "train": train,
        "eval": evaluation,
        "steps": [{"loss": h["loss"], "learningRate": h["learning_rate"]} for h in history if "loss" in h],
        "evalLosses": [h["eval_loss"] for h in history if "eval_loss" in h],
        "checkpoints": left,
        "best": best,
        "finalEvalLoss": final,
    }


EVERY_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}

cases = [
    run("a last window of one batch", rows=5, num_train_epochs=3, gradient_accumulation_steps=2,
        learning_rate=1e-2, lr_scheduler_type="linear", save_strategy="no"),
    run("windows longer than an epoch", rows=5, num_train_epochs=2, gradient_accumulation_steps=4,
        learning_rate=1e-2, lr_scheduler_type="cosine", save_strategy="no"),
    run("best and latest checkpoints", rows=5, num_train_epochs=3, learning_rate=8e-2,
        lr_scheduler_type="constant", load_best_model_at_end=True, save_total_limit=2, **EVERY_STEP),
    run("early stopping", patience=2, threshold=0.001, rows=5, num_train_epochs=8,
        learning_rate=1e-2, lr_scheduler_type="constant", load_best_model_at_end=True,
        save_total_limit=3, **EVERY_STEP),
]
path = Path(__file__).with_suffix(".json")
path.write_text(json.dumps(cases) + "\n")
for case in cases:
    print(case["name"], len(case["steps"]), case["best"], case["checkpoints"], case["evalLosses"])
