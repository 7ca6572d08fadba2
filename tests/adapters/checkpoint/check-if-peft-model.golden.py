"""Writes check-if-peft-model.golden.json: what PEFT answers for the contents of an adapter_config.json.

    $GRAFT_ORACLE_PYTHON tests/adapters/checkpoint/check-if-peft-model.golden.py
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

from peft.helpers import check_if_peft_model

TEXTS = [
    '{"peft_type": "LORA"}',
    '{"peft_type": "LORA", "r": 3, "rnak": 3}',
    '{"peft_type": "LORA", "target_modules": 7}',
    '{"peft_type": "LORA", "task_type": "CAUSAL_LM"}',
    '{"peft_type": "LORA", "task_type": "NOPE"}',
    '{"peft_type": "LORA", "layers_pattern": "h"}',
    '{"peft_type": "ADALORA"}',
    '{"peft_type": "ADALORA", "total_step": 10}',
    '{"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": ["k_proj"]}',
    '{"peft_type": "MULTITASK_PROMPT_TUNING"}',
    '{"peft_type": "XLORA"}',
    '{"peft_type": "NOPE"}',
    '{"peft_type": "lora"}',
    '{"peft_type": 3}',
    '{"peft_type": null}',
    '{"architecture": "pfeiffer"}',
    "{}",
    "{",
    "[]",
    "null",
    "",
    '{"peft_type": "LORA", "peft_type": "IA3"}',
]


def ask(text: str | None) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        if text is not None:
            Path(folder, "adapter_config.json").write_text(text)
        return check_if_peft_model(folder)


def main() -> None:
    warnings.simplefilter("ignore")
    cases = [{"text": text, "is": ask(text)} for text in [*TEXTS, None]]
    path = Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
