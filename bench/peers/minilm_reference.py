"""What transformers makes of texts with a folder of sentence-transformers that asks for the mean of
the tokens, normalised: one list of numbers for each text, as JSON.

    $GRAFT_ORACLE_PYTHON bench/peers/minilm_reference.py FOLDER '["a text", ...]'
"""

import json
import os
import sys
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"})

import torch
import transformers

folder, texts = Path(sys.argv[1]), json.loads(sys.argv[2])
model = transformers.AutoModel.from_pretrained(folder).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
rows = []
for text in texts:
    inputs = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad():
        mean = model(**inputs).last_hidden_state[0].mean(0)
    rows.append(torch.nn.functional.normalize(mean, dim=0).tolist())
print(json.dumps(rows))
