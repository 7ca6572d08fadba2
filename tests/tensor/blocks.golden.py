"""Makes blocks.golden.json: random blocks of each type and their values by gguf-py (pip install gguf)."""

import base64
import json
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

HALVES = {
    "Q4_0": (18, [0]),
    "Q4_1": (20, [0, 2]),
    "Q8_0": (34, [0]),
    "Q4_K": (144, [0, 2]),
    "Q6_K": (210, [208]),
    "Q5_0": (22, [0]),
    "Q5_1": (24, [0, 2]),
    "Q2_K": (84, [80, 82]),
    "Q3_K": (110, [108]),
    "Q5_K": (176, [0, 2]),
    "IQ4_NL": (18, [0]),
    "IQ4_XS": (136, [0]),
}
random = np.random.default_rng(7)
golden = {}
for name, (size, halves) in HALVES.items():
    blocks = random.integers(0, 256, size=(3, size), dtype=np.uint8)
    for at in halves:
        half = random.normal(0, 0.05, 3).astype(np.float16)
        blocks[:, at : at + 2] = half.view(np.uint8).reshape(-1, 2)
    values = dequantize(blocks, Type[name]).astype(np.float32)
    golden[name.lower()] = {
        "blocks": base64.b64encode(blocks.tobytes()).decode(),
        "values": base64.b64encode(values.tobytes()).decode(),
    }
path = pathlib.Path(__file__).with_name("blocks.golden.json")
path.write_text(json.dumps(golden, indent=2) + "\n")
