"""The tiny base models the golden cases stand on, and the batches that are run through them.

Every weight is random and nothing keeps a neutral value (norm weights are not 1, biases not 0),
so that a dropped bias or a forgotten norm shows in the logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

# PEFT's model of encoder–decoders asks for a method that transformers 5 dropped.
transformers.T5ForConditionalGeneration._prepare_encoder_decoder_kwargs_for_generation = (
    lambda self, *args, **kwargs: None
)

VOCAB = 61  # odd on purpose: no row of the logits or of the embeddings is aligned
ROPE_VOCAB = 32

# Padding holds ordinary token ids, not zeros: a mask that is ignored changes the logits.
RIGHT_PADDED = {
    "input_ids": [[5, 17, 53, 2, 41, 41, 8, 46, 30], [31, 9, 5, 58, 12, 3, 54, 23, 60]],
    "attention_mask": [[1] * 9, [1, 1, 1, 1, 1, 1, 0, 0, 0]],
}
LEFT_PADDED = {
    "input_ids": [[14, 41, 37, 5, 5, 29], [33, 30, 11, 5, 44, 41]],
    "attention_mask": [[1] * 6, [0, 0, 1, 1, 1, 1]],
}
LONG_LENGTH, SHORT_LENGTH = 40, 12
NEW_TOKENS = 8


@dataclass(frozen=True)
class Base:
    """One folder under base/: how the model is built and how it is saved."""

    build: Callable[[], torch.nn.Module]
    rope_only: bool = False
    saved_dtype: torch.dtype = torch.float32
    max_shard_size: str | None = None
    # Rewrites config.json after saving, e.g. to the spelling of older transformers.
    edit_config: Callable[[dict], dict] | None = None
    notes: str = ""


def _llama(**overrides) -> LlamaForCausalLM:
    settings = dict(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(LlamaConfig(**{**settings, **overrides}))


def _rope_llama(rope: dict, **overrides) -> LlamaForCausalLM:
    """One layer with wide heads: long sequences and many rotary frequencies, few bytes."""
    return _llama(
        vocab_size=ROPE_VOCAB,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        tie_word_embeddings=True,
        max_position_embeddings=overrides.pop("max_position_embeddings", LONG_LENGTH),
        rope_parameters={"rope_theta": 100.0, **rope},
        **overrides,
    )


def _mistral() -> MistralForCausalLM:
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=56,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=4,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )


def _qwen2() -> Qwen2ForCausalLM:
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=56,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    )


def _qwen3() -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            max_position_embeddings=64,
            initializer_range=0.2,
            tie_word_embeddings=True,
        )
    )


def _gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_embd=32,
            n_inner=56,
            n_layer=2,
            n_head=4,
            n_positions=64,
            initializer_range=0.2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def _to_legacy_rope(config: dict) -> dict:
    """`rope_parameters` and `dtype` as transformers 4 (and so most of the hub) spells them."""
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    config["torch_dtype"] = config.pop("dtype")
    return config


BASES: dict[str, Base] = {
    "llama": Base(_llama, notes="grouped-query attention, untied"),
    "llama_tied": Base(
        lambda: _llama(
            tie_word_embeddings=True,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        ),
        notes="tied embeddings, llama3 rope",
    ),
    "mistral": Base(_mistral, notes="sliding window 4, shorter than the batch"),
    "qwen2": Base(_qwen2, notes="q, k and v have biases, o has none"),
    "qwen3": Base(_qwen3, notes="q_norm and k_norm, head_dim 12 while hidden/heads is 8, tied"),
    "gpt2": Base(_gpt2, notes="Conv1D, learned positions, LayerNorm, tied"),
    "llama_sharded": Base(_llama, max_shard_size="40KB", notes="llama again, in shards by index"),
    "llama_bf16": Base(_llama, saved_dtype=torch.bfloat16, notes="saved in bf16, logits in f32"),
    "llama_f16": Base(_llama, saved_dtype=torch.float16, notes="saved in f16, logits in f32"),
    "rope_default": Base(lambda: _rope_llama({"rope_type": "default"}), rope_only=True),
    "rope_linear": Base(
        lambda: _rope_llama({"rope_type": "linear", "factor": 3.0}), rope_only=True
    ),
    "rope_linear_legacy": Base(
        lambda: _rope_llama({"rope_type": "linear", "factor": 3.0}),
        rope_only=True,
        edit_config=_to_legacy_rope,
        notes="rope_linear with config.json as transformers 4 writes it",
    ),
    "rope_dynamic": Base(
        lambda: _rope_llama({"rope_type": "dynamic", "factor": 2.5}, max_position_embeddings=16),
        rope_only=True,
        notes="the long batch is past max_position_embeddings 16, the short one is not",
    ),
    "rope_yarn": Base(
        lambda: _rope_llama(
            {
                "rope_type": "yarn",
                "factor": 2.5,
                "original_max_position_embeddings": 16,
                "beta_fast": 4.0,
                "beta_slow": 1.0,
            }
        ),
        rope_only=True,
        notes="attention factor from the factor, custom betas",
    ),
    "rope_yarn_attention": Base(
        lambda: _rope_llama(
            {
                "rope_type": "yarn",
                "factor": 2.5,
                "original_max_position_embeddings": 16,
                "attention_factor": 1.7,
            }
        ),
        rope_only=True,
        notes="given attention factor, default betas",
    ),
    "rope_llama3": Base(
        lambda: _rope_llama(
            {
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        ),
        rope_only=True,
    ),
}


def save_base(base: Base, folder: Path, seed: int) -> None:
    """Builds the base from the seed and saves it as transformers does."""
    torch.manual_seed(seed)
    model = base.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(std=0.2)
            elif parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    model = model.to(base.saved_dtype)
    options = {"max_shard_size": base.max_shard_size} if base.max_shard_size else {}
    model.save_pretrained(folder, **options)
    if base.edit_config:
        path = folder / "config.json"
        config = base.edit_config(json.loads(path.read_text()))
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def load_base(folder: str | Path) -> torch.nn.Module:
    """The base as the golden numbers use it: of the class it was saved from, f32, eager attention, no dropout."""
    config = json.loads(Path(folder, "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def right_padded_batch() -> dict[str, torch.Tensor]:
    """input_ids, attention_mask [2, 9]; labels are the ids with padding at -100."""
    batch = {name: torch.tensor(value) for name, value in RIGHT_PADDED.items()}
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batch


def left_padded_batch() -> dict[str, torch.Tensor]:
    """input_ids [2, 6], padded on the left, with the positions that generation would use."""
    batch = {name: torch.tensor(value) for name, value in LEFT_PADDED.items()}
    batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return batch


def rope_batches(seed: int) -> dict[str, torch.Tensor]:
    """Sequences below and beyond the original context of the scaled rotary embeddings."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, ROPE_VOCAB, (1, LONG_LENGTH), generator=generator)
    return {"long": ids, "short": ids[:, :SHORT_LENGTH].contiguous()}


@torch.no_grad()
def base_outputs(model: torch.nn.Module, kind: str, seed: int) -> dict[str, torch.Tensor]:
    """What tests compare a base with: logits, and greedy continuations of the left-padded batch."""
    if BASES[kind].rope_only:
        out = {}
        for name, ids in rope_batches(seed).items():
            out[f"{name}.input_ids"] = ids
            out[f"{name}.logits"] = model(input_ids=ids).logits
        return out
    right, left = right_padded_batch(), left_padded_batch()
    labels = right.pop("labels")
    result = model(**right, labels=labels)
    prompt = {name: left[name] for name in ("input_ids", "attention_mask")}
    return {
        **{f"in.{name}": value for name, value in {**right, "labels": labels}.items()},
        **{f"left.{name}": value for name, value in left.items()},
        "base.logits": result.logits,
        "base.loss": result.loss.reshape(1),
        "left.base.logits": model(**left).logits,
        "generated.ids": model.generate(
            **prompt, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=None, pad_token_id=0
        ),
    }
