"""Golden cases of LoftQ.

These need bitsandbytes (0.50) beside what the others need; without it they stay as they are. PEFT has
it quantize on a GPU; here it does the same on the CPU.
"""

# fmt: off

from __future__ import annotations

import importlib.util
import inspect

from peft.tuners.lora import layer
from peft.utils import loftq_utils

from cases import QV, Case
from method_cases import Method

IS_THERE = importlib.util.find_spec("bitsandbytes") is not None
if IS_THERE:
    exec(inspect.getsource(loftq_utils.loftq_init).replace('"cuda"', '"cpu"'), vars(loftq_utils))
    layer.loftq_init = loftq_utils.loftq_init

LOFTQ = dict(init_lora_weights="loftq", r=3, lora_alpha=5)

METHOD = IS_THERE and Method(
    "LoraConfig",
    peft_type="LORA",
    cases=[
        Case("loftq_4", config=dict(**LOFTQ, lora_dropout=0.1, target_modules=["q_proj", "k_proj"], loftq_config=dict(loftq_bits=4, loftq_iter=1)), keep_init=True),
        Case("loftq_4_again", "qwen2", dict(**LOFTQ, use_rslora=True, target_modules=["o_proj", "gate_proj"], rank_pattern={"1.self_attn.o_proj": 2}, loftq_config=dict(loftq_bits=4, loftq_iter=3)), keep_init=True),
        Case("loftq_8", "mistral", dict(**LOFTQ, target_modules=["v_proj", "up_proj"], loftq_config=dict(loftq_bits=8, loftq_iter=2)), keep_init=True),
    ],
    refused={
        "loftq_config": ("llama", dict(**LOFTQ, target_modules=QV)),
        "loftq_bits": ("llama", dict(**LOFTQ, target_modules=QV, loftq_config=dict(loftq_bits=2, loftq_iter=1))),
        "loftq_iter": ("llama", dict(**LOFTQ, target_modules=QV, loftq_config=dict(loftq_bits=4, loftq_iter=0))),
        "loftq_embedding": ("llama", dict(**LOFTQ, target_modules=["embed_tokens"], loftq_config=dict(loftq_bits=4, loftq_iter=1))),
        "loftq_conv1d": ("gpt2", dict(**LOFTQ, target_modules=["c_attn"], loftq_config=dict(loftq_bits=4, loftq_iter=1))),
        "loftq_ignored": ("llama", dict(target_modules=QV, loftq_config=dict(loftq_bits=4, loftq_iter=1))),
    },
)
