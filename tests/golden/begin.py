"""Adapters whose beginning depends on data: what is measured, and on what.

Three batches with padding on the right, and labels of which some are masked. What a case was begun
with is recorded as `calibration.<number>.<part>`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from peft import (
    PeftModel,
    get_eva_state_dict,
    get_peft_model,
    initialize_lora_eva_weights,
    preprocess_loraga,
)
from peft.utils.incremental_pca import IncrementalPCA

from bases import VOCAB

LENGTHS = ((13, 9, 13), (11, 11, 6), (12, 10, 7))


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(77)
    made = []
    for lengths in LENGTHS:
        ids = torch.randint(VOCAB, (len(lengths), max(lengths)), generator=generator)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            mask[row, :length] = 1
        masked = torch.rand(ids.shape, generator=generator) < 0.2
        labels = ids.masked_fill((mask == 0) | masked, -100)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


@contextlib.contextmanager
def in_64_bits() -> Iterator[None]:
    """EVA's decompositions, which in 32 bits are off by up to 1e-2 of the largest, in 64.

    The numbers that they begin with stay those that torch draws in 32 bits.
    """
    fit, randn = IncrementalPCA.partial_fit, torch.randn
    IncrementalPCA.partial_fit = lambda self, x, check_input=True: fit(self, x.double(), check_input)
    torch.randn = lambda *size, dtype, device: randn(*size, device=device).to(dtype)
    try:
        yield
    finally:
        IncrementalPCA.partial_fit, torch.randn = fit, randn


def begun(how: str | None, base: torch.nn.Module, config) -> tuple[PeftModel, dict[str, torch.Tensor]]:
    """A new adapter, and what to record."""
    if how is None:
        return get_peft_model(base, config), {}
    given = batches()
    recorded = {f"calibration.{i}.{name}": part for i, batch in enumerate(given) for name, part in batch.items()}
    if how == "eva":
        model = get_peft_model(base, config)
        with in_64_bits():
            found = get_eva_state_dict(model, given, show_progress_bar=False)
        found = {name: vectors.float() for name, vectors in found.items()}
        initialize_lora_eva_weights(model, eva_state_dict=found)
        return model, recorded

    def train_step() -> None:
        for batch in given:
            base(**batch).loss.backward()

    base.requires_grad_(True)
    preprocess_loraga(base, config, train_step)
    gradients = {
        f"gradient.{name}": module._peft_loraga_grad.clone()
        for name, module in base.named_modules()
        if hasattr(module, "_peft_loraga_grad")
    }
    return get_peft_model(base, config), {**recorded, **gradients}
