"""What transformers and PEFT make of SmolLM2-135M-Instruct, read from its GGUF file.

    $GRAFT_ORACLE_PYTHON bench/peers/smollm2_reference.py --gguf FILE.gguf \
        [--prompt TEXT] [--generate N] \
        [--logits OUT.safetensors [--sequences IN.safetensors]] \
        [--train BATCHES.safetensors --adapter FOLDER --losses OUT.json [--lr 1e-3] [--steps N]] \
        [--threads N]

The environment needs torch, transformers, peft and gguf. Weights are dequantized to f32 by
transformers; everything runs on the CPU in f32. What is asked for is done in one process:

--prompt     one user message; printed as one JSON line with the text the chat template gives and
             its token ids; with --generate N, also N greedy tokens of answer.
--logits     f32 logits of every sequence: <name>.input_ids [1, T] and <name>.logits [1, T, V].
             --sequences: a file whose every tensor is the ids of one sequence ([T] or [1, T]);
             without it, the chat prompt and three fixed texts.
--train      input_ids [N, B, T] (labels [N, B, T] if there, else the ids; eval_input_ids
             [M, B, T] if there): one AdamW step (weight decay 0) per batch, dropout as the
             adapter's config says, starting from the PEFT adapter in --adapter.
             --losses gets {"losses": [...], "evalBefore": x, "evalAfter": y, "lr": ...}.
             --save-adapter FOLDER keeps the trained adapter.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})

import torch
import transformers
from safetensors.torch import load_file, save_file

PROMPT = "What is the capital of France?"
TEXTS = {
    "prose": "Call me Ishmael. Some years ago - never mind how long precisely - having little or no money",
    "code": "def add(a, b):\n    return a + b\n\nprint(add(12, 345))",
    "unicode": "Größe 3×4 = 12 — naïve café, 東京 🙂",
}


def load(gguf: Path):
    """Model in f32 and tokenizer, both from the GGUF file."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    return model.eval(), tokenizer


def chat(tokenizer, prompt: str) -> tuple[str, torch.Tensor]:
    """Text and ids [1, T] of one user message, ready for the answer."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    return text, ids


@torch.no_grad()
def report_prompt(model, tokenizer, prompt: str, new_tokens: int) -> None:
    text, ids = chat(tokenizer, prompt)
    line = {"prompt": prompt, "text": text, "ids": ids[0].tolist()}
    if new_tokens:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens
        )
        answer = out[0, ids.shape[1] :]
        line |= {"answerIds": answer.tolist(), "answer": tokenizer.decode(answer)}
    print(json.dumps(line, ensure_ascii=False), flush=True)


@torch.no_grad()
def write_logits(model, sequences: dict[str, torch.Tensor], out: Path) -> None:
    tensors = {}
    for name, ids in sequences.items():
        ids = ids.long().reshape(1, -1)
        tensors[f"{name}.input_ids"] = ids
        tensors[f"{name}.logits"] = model(input_ids=ids).logits.contiguous()
    save_file(tensors, out)
    shapes = {n: list(t.shape) for n, t in tensors.items() if n.endswith(".logits")}
    print(json.dumps({"logits": str(out), "shapes": shapes}), flush=True)


@torch.no_grad()
def mean_loss(model, batches: torch.Tensor) -> float:
    model.eval()
    losses = [model(input_ids=b.long(), labels=b.long()).loss.item() for b in batches]
    return sum(losses) / len(losses)


def train(model, options) -> None:
    from peft import PeftModel

    batches = load_file(options.train)
    inputs = batches["input_ids"].long()
    labels = batches.get("labels", inputs).long()
    steps = min(options.steps or len(inputs), len(inputs))
    model = PeftModel.from_pretrained(model, options.adapter, is_trainable=True)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=options.lr, weight_decay=0.0
    )
    held_back = batches.get("eval_input_ids")
    result = {"losses": [], "lr": options.lr}
    if held_back is not None:
        result["evalBefore"] = mean_loss(model, held_back)
    model.train()
    for ids, targets in zip(inputs[:steps], labels[:steps]):
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=targets).loss
        loss.backward()
        optimizer.step()
        result["losses"].append(loss.item())
        print(json.dumps({"step": len(result["losses"]), "loss": loss.item()}), flush=True)
    if held_back is not None:
        result["evalAfter"] = mean_loss(model, held_back)
    if options.save_adapter:
        model.save_pretrained(options.save_adapter)
    options.losses.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--prompt", nargs="?", const=PROMPT)
    parser.add_argument("--generate", type=int, default=0, metavar="N")
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--sequences", type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--save-adapter", type=Path)
    parser.add_argument("--losses", type=Path)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.train and not (options.adapter and options.losses):
        parser.error("--train needs --adapter and --losses")
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    model, tokenizer = load(options.gguf)
    if options.prompt:
        report_prompt(model, tokenizer, options.prompt, options.generate)
    if options.logits:
        if options.sequences:
            sequences = load_file(options.sequences)
        else:
            sequences = {"chat": chat(tokenizer, options.prompt or PROMPT)[1]}
            for name, text in TEXTS.items():
                sequences[name] = tokenizer(
                    text, add_special_tokens=False, return_tensors="pt"
                ).input_ids
        write_logits(model, sequences, options.logits)
    if options.train:
        train(model, options)


if __name__ == "__main__":
    main()
