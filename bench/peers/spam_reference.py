"""What Python's PEFT makes of the mails of bench/spam.ts: accuracy and rows per second, as JSON.

    $GRAFT_ORACLE_PYTHON bench/peers/spam_reference.py MODEL FOLDER SETTINGS

FOLDER has rows.json and, in start/, the adapter and the head that training begins with. Texts are
tokenized before clocks start, there as here.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"})

import peft
import torch
import transformers

folder, settings = Path(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(settings["threads"])
torch.manual_seed(0)
transformers.logging.set_verbosity_error()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
base = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1], num_labels=2)
model = peft.PeftModel.from_pretrained(base, folder / "start", is_trainable=True)
rows = json.loads((folder / "rows.json").read_text())


def batches(some: list):
    for at in range(0, len(some), settings["batch"]):
        part = some[at : at + settings["batch"]]
        texts = [row["text"] for row in part]
        inputs = tokenizer(
            texts,
            truncation=True,
            max_length=settings["length"],
            padding=True,
            return_tensors="pt",
        )
        yield inputs, torch.tensor([row["label"] for row in part])


optimizer = torch.optim.AdamW(
    [p for p in model.parameters() if p.requires_grad],
    lr=settings["learningRate"],
    weight_decay=0.0,
)
seconds = []
model.train()
for inputs, labels in list(batches(rows["learned"])):
    start = time.perf_counter()
    optimizer.zero_grad()
    model(**inputs, labels=labels).loss.backward()
    optimizer.step()
    seconds.append(time.perf_counter() - start)
model.eval()
held_back = list(batches(rows["heldBack"]))
right = 0
start = time.perf_counter()
with torch.no_grad():
    for inputs, labels in held_back:
        right += (model(**inputs).logits.argmax(-1) == labels).sum().item()
passed = time.perf_counter() - start
print(
    json.dumps(
        {
            "accuracy": right / len(rows["heldBack"]),
            "trainRows": settings["batch"] / statistics.median(seconds),
            "evaluationRows": len(rows["heldBack"]) / passed,
        }
    )
)
