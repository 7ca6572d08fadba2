"""Tiny bases of other tasks than text generation, and the batches that are run through every base.

Odd sizes, three heads, and no neutral weights, as in bases.py. What a batch holds is named as the
arguments of the model's forward pass in transformers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from run_case import save  # first: it sets the environment

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from bases import NEW_TOKENS, Base, left_padded_batch, load_base, right_padded_batch, save_base

VOCAB = 53
# What is compared, of what a model gives.
OUTPUTS = ("logits", "last_hidden_state", "pooler_output")

ENCODER_INPUTS = {
    "input_ids": [[2, 17, 44, 9, 9, 31, 3], [2, 50, 8, 23, 3, 12, 41]],
    "attention_mask": [[1] * 7, [1, 1, 1, 1, 1, 0, 0]],
    "token_type_ids": [[0, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 1]],
}
SEQ2SEQ_INPUTS = {
    "input_ids": [[17, 44, 9, 9, 31, 6, 52, 1], [50, 8, 23, 1, 12, 41, 4, 30]],
    "attention_mask": [[1] * 8, [1, 1, 1, 1, 0, 0, 0, 0]],
    # The labels behind the start token, padding as the id of padding.
    "decoder_input_ids": [[0, 28, 14, 14, 37], [0, 45, 3, 0, 0]],
    "decoder_attention_mask": [[1] * 5, [1, 1, 1, 0, 0]],
    "labels": [[28, 14, 14, 37, 1], [45, 3, 1, -100, -100]],
}


@dataclass(frozen=True)
class TaskBase:
    """One folder under base/, the task that PEFT is told, and the batch that is run."""

    base: Base
    task_type: str
    inputs: dict[str, list] = field(default_factory=lambda: ENCODER_INPUTS)


def _bert(kind: type, **overrides) -> torch.nn.Module:
    settings = dict(
        vocab_size=VOCAB,
        hidden_size=18,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=3,
        max_position_embeddings=30,
        type_vocab_size=2,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return kind(BertConfig(**{**settings, **overrides}))


def _small_bert(**overrides) -> torch.nn.Module:
    """One layer: enough for a loss of its own."""
    sizes = dict(hidden_size=12, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2)
    return _bert(BertForSequenceClassification, **sizes, **overrides)


def _t5(**overrides) -> torch.nn.Module:
    """Heads that are not the width of the model (3 x 6 for 16), distances beyond the last bucket."""
    settings = dict(
        vocab_size=VOCAB,
        d_model=16,
        d_kv=6,
        d_ff=22,
        num_layers=2,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=6,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(T5Config(**{**settings, **overrides}))
    # Small embeddings beside what the layers add: else each token is followed by itself.
    model.shared.weight.data.mul_(0.25)
    return model


def _t5_gated() -> torch.nn.Module:
    """As T5 1.1: gated, a head of its own, outputs that are not scaled; fewer decoder layers."""
    model = _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=1)
    # transformers 5 ties the head of a new model whatever its config says.
    model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCAB, 16) * 0.2)
    return model


def _to_untied(config: dict) -> dict:
    """As transformers 4 (and so the hub) spells it: one word for the head and for the scale."""
    del config["scale_decoder_outputs"]
    return {**config, "tie_word_embeddings": False}


TASK_BASES: dict[str, TaskBase] = {
    "bert_seq_cls": TaskBase(
        Base(
            lambda: _bert(BertForSequenceClassification, num_labels=3),
            notes="pooler and classifier, three labels",
        ),
        "SEQ_CLS",
        {**ENCODER_INPUTS, "labels": [2, 0]},
    ),
    "bert_multi_label": TaskBase(
        Base(
            lambda: _small_bert(num_labels=4, problem_type="multi_label_classification"),
            notes="four labels that do not exclude each other",
        ),
        "SEQ_CLS",
        {**ENCODER_INPUTS, "labels": [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0]]},
    ),
    "bert_regression": TaskBase(
        Base(lambda: _small_bert(num_labels=1), notes="one label: mean squared error"),
        "SEQ_CLS",
        {**ENCODER_INPUTS, "labels": [0.75, -1.5]},
    ),
    "bert_token_cls": TaskBase(
        Base(
            lambda: _bert(
                BertForTokenClassification, num_labels=5, hidden_act="relu", layer_norm_eps=1e-5
            ),
            notes="no pooler; relu, another epsilon",
        ),
        "TOKEN_CLS",
        {
            **ENCODER_INPUTS,
            "labels": [[-100, 1, 4, 0, 2, 2, -100], [-100, 3, 0, 1, -100, -100, -100]],
        },
    ),
    "bert": TaskBase(Base(lambda: _bert(BertModel), notes="no head"), "FEATURE_EXTRACTION"),
    "t5": TaskBase(
        Base(_t5, notes="relu, head tied to the embeddings, scaled"), "SEQ_2_SEQ_LM", SEQ2SEQ_INPUTS
    ),
    "t5_gated": TaskBase(
        Base(
            _t5_gated,
            edit_config=_to_untied,
            notes="gated gelu, untied, not scaled, one decoder layer",
        ),
        "SEQ_2_SEQ_LM",
        SEQ2SEQ_INPUTS,
    ),
}


def task_type_of(kind: str) -> str:
    return TASK_BASES[kind].task_type if kind in TASK_BASES else "CAUSAL_LM"


def batch_of(kind: str, short: bool = False) -> dict[str, torch.Tensor]:
    """The inputs of a base and, but for a model without a head, their labels; [2, 5] if short."""
    if kind not in TASK_BASES:
        batch = right_padded_batch()
        return {name: value[:, 2:7] for name, value in batch.items()} if short else batch
    return {name: torch.tensor(value) for name, value in TASK_BASES[kind].inputs.items()}


def outputs_of(result) -> dict[str, torch.Tensor]:
    return {name: result[name] for name in OUTPUTS if result.get(name) is not None}


def cotangents(outputs: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """What the outputs of a model without a loss are multiplied with, to have gradients."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in outputs.items()}


def prompt_of(kind: str) -> dict[str, torch.Tensor]:
    """What text is generated from."""
    batch = batch_of(kind) if kind in TASK_BASES else left_padded_batch()
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def generated(model: torch.nn.Module, prompt: dict[str, torch.Tensor], **extra) -> torch.Tensor:
    return model.generate(
        **prompt,
        **extra,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )


@torch.no_grad()
def write_task_base(kind: str, seed: int) -> dict:
    """Writes base/<kind>/ with expected.safetensors; gives its entry in the index."""
    folder = Path("base", kind)
    task_base = TASK_BASES[kind]
    save_base(task_base.base, folder, seed)
    model = load_base(folder)
    inputs = batch_of(kind)
    result = model(**inputs)
    expected = {f"in.{name}": value for name, value in inputs.items()}
    expected.update({f"base.{name}": value for name, value in outputs_of(result).items()})
    if "labels" in inputs:
        expected["base.loss"] = result.loss.reshape(1)
    if task_base.task_type == "SEQ_2_SEQ_LM":
        expected["generated.ids"] = generated(model, prompt_of(kind))
    save(expected, folder / "expected.safetensors")
    return {
        "kind": kind,
        "task_type": task_base.task_type,
        "inputs": list(inputs),
        "outputs": list(outputs_of(result)),
        "notes": task_base.base.notes,
    }
