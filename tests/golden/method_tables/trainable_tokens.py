"""Golden cases of TRAINABLE_TOKENS with several adapters; those of one are in task_cases.py."""

# fmt: off

from __future__ import annotations

from cases import Case
from method_cases import Method

METHOD = Method(
    "TrainableTokensConfig",
    cases=[
        # On one embedding and its head, which are not tied, and in another order
        Case("two_places", adapters={
            "style": dict(token_indices=[60, 2], target_modules=["embed_tokens", "lm_head"]),
            "facts": dict(token_indices=[9], target_modules=r".*(embed_tokens|lm_head)", init_weights=False),
        }),
    ],
    refused={
        "overlap_tied": ("llama_tied", dict(token_indices=[5, 8]), dict(token_indices=[9, 5])),
        "overlap_head": ("llama", dict(token_indices=[5], target_modules=["embed_tokens", "lm_head"]), dict(token_indices=[5], target_modules=["lm_head"])),
        "together_tied": ("llama_tied", dict(token_indices=[5, 8]), dict(token_indices=[9])),
    },
)
