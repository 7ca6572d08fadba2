"""Writes qalora/: an adapter with use_qalora, as the real PEFT's variant for GPTQ layers computes it.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only qalora [--out DIR] [--seed N]

GPTQ needs a GPU, so that layers of the base stand for quantized ones here: their weights are the values of
Q8_0, and PEFT's linear layers take the variant there, and none elsewhere, as its dispatch does.
`expected.safetensors` has `q8_0.<module>`, the weights in blocks of 34 bytes, `init.<parameter>`,
`in.<part>` and `logits` of the adapter that was saved, `grad.<parameter>`, and `losses`.
"""

# fmt: off

from __future__ import annotations

from run_case import bases_beside, make_config, save_without_card, shift_trainable, train, trainable, write_json  # first

import os
import shutil
from pathlib import Path

import torch
from peft import get_peft_model
from peft.tuners.lora.layer import Linear
from peft.tuners.lora.variants import QALoraLinearVariant
from safetensors.torch import save_file

from bases import load_base, right_padded_batch

KIND = "llama"
CONFIG = dict(r=3, lora_alpha=5, lora_dropout=0.1, use_qalora=True, qalora_group_size=8, target_modules=["q_proj", "v_proj", "o_proj"])


def quantize(weight: torch.Tensor) -> torch.Tensor:
    """Q8_0: a scale in 16 bits and 32 whole numbers, block after block; the weight gets their values."""
    blocks = weight.data.view(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half()
    codes = (blocks / scale.float()).round().to(torch.int8)
    weight.data = (codes.float() * scale.float()).view(weight.shape)
    return torch.cat((scale.view(torch.uint8), codes.view(torch.uint8)), 1).flatten()


def write(out: Path, seed: int) -> None:
    """Writes out/qalora/; everything in it depends on the seed alone."""
    torch.set_num_threads(1)
    root = (out / "qalora").resolve()
    shutil.rmtree(root, ignore_errors=True)
    before, resolve = Path.cwd(), Linear.resolve_lora_variant
    os.chdir(bases_beside(out))
    Linear.resolve_lora_variant = lambda self, **options: (
        QALoraLinearVariant() if hasattr(self.get_base_layer(), "is_quantized") else resolve(self, **options)
    )
    try:
        base, expected = load_base(f"base/{KIND}"), {}
        for path, module in base.named_modules():
            if path.endswith(("q_proj", "v_proj")):
                expected[f"q8_0.{path}"] = quantize(module.weight)
                module.is_quantized = True
        torch.manual_seed(seed)
        model = get_peft_model(base, make_config("LoraConfig", CONFIG)).eval()
        expected |= {f"init.{name}": value.detach().clone() for name, value in trainable(model).items()}
        shift_trainable(model, seed + 1)
        save_without_card(model, root)
        batch = right_padded_batch()
        expected |= {f"in.{name}": part for name, part in batch.items()}
        with torch.no_grad():
            expected["logits"] = model(**batch).logits
        gradients, losses = train(model, 0.0)
        expected |= gradients
        save_file({key: value.contiguous() for key, value in expected.items()}, root / "expected.safetensors")
        write_json({"kind": KIND, "seed": seed, "losses": losses}, root / "qalora.json")
    finally:
        Linear.resolve_lora_variant = resolve
        os.chdir(before)
