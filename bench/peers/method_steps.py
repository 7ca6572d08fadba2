"""Training steps of one method at SmolLM2-135M's shape with PEFT on torch, one for each line that
comes in. A line in JSON answers each, and one comes before the first.

    $GRAFT_ORACLE_PYTHON bench/peers/method_steps.py MODEL CONFIG THREADS BATCH LENGTH
"""

import json
import os
import sys
import warnings

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
warnings.simplefilter("ignore")

import peft
import torch
import transformers

from torch_peft import peak_rss_mb

folder, config = sys.argv[1], json.loads(sys.argv[2])
threads, batch, length = map(int, sys.argv[3:])
torch.set_num_threads(threads)
torch.manual_seed(0)
transformers.utils.logging.disable_progress_bar()
base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
vocabulary = base.config.vocab_size
settings = {key: value for key, value in config.items() if key != "peft_type"}
kind = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
model = peft.get_peft_model(base, kind(**settings)).train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4)
say = lambda line: print(json.dumps(line), flush=True)
say({"parameters": sum(p.numel() for p in trained)})
generator = torch.Generator().manual_seed(2)
for step, _ in enumerate(sys.stdin):
    ids = torch.randint(3, vocabulary, (batch, length), generator=generator)
    optimizer.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    # What some methods ask for after each step.
    if config["peft_type"] == "ADALORA":
        model.base_model.update_and_allocate(step)
    say({"loss": loss.item(), "peakRssMb": peak_rss_mb()})
