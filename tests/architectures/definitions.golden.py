"""Writes definitions.golden.json: what models of transformers give, and the order of their parameters.

    $GRAFT_ORACLE_PYTHON tests/architectures/definitions.golden.py

The weights are not stored: both sides compute them from their names (`fill`). Sizes are odd, heads
are not as wide as the model where a family allows it, and nothing keeps a neutral value.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import peft
import torch
import transformers

# PEFT's model of encoder–decoders asks for a method that transformers 5 dropped.
transformers.PreTrainedModel._prepare_encoder_decoder_kwargs_for_generation = (
    lambda self, *args, **kwargs: None
)

BERT = dict(
    vocab_size=13,
    hidden_size=9,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=7,
    max_position_embeddings=8,
    type_vocab_size=3,
    layer_norm_eps=1e-3,
)
GPT2 = dict(vocab_size=13, n_embd=6, n_layer=1, n_head=2, n_positions=8, pad_token_id=0)
LLAMA = dict(
    vocab_size=13,
    hidden_size=12,
    intermediate_size=7,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    pad_token_id=0,
)
T5 = dict(
    vocab_size=13,
    d_model=10,
    d_kv=3,
    d_ff=7,
    num_layers=2,
    num_heads=2,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=6,
    decoder_start_token_id=0,
)
NEOX = dict(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=2,
    rotary_pct=0.5,
    pad_token_id=0,
)
PHI = dict(
    vocab_size=13,
    hidden_size=16,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    layer_norm_eps=1e-3,
    pad_token_id=0,
)
OPT = dict(
    vocab_size=13,
    hidden_size=9,
    ffn_dim=7,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=8,
    pad_token_id=0,
)
GEMMA = dict(
    vocab_size=13,
    hidden_size=12,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    pad_token_id=0,
)
GEMMA2 = dict(**GEMMA, sliding_window=3, query_pre_attn_scalar=5, attn_logit_softcapping=0.7)
GEMMA3 = dict(**GEMMA, sliding_window=2, sliding_window_pattern=2, query_pre_attn_scalar=5)
PHI3 = {**LLAMA, "hidden_size": 8, "bos_token_id": 1, "eos_token_id": 2}
LONGROPE = dict(
    max_position_embeddings=16,
    original_max_position_embeddings=4,
    rope_scaling=dict(type="longrope", short_factor=[1.0, 1.5], long_factor=[2.0, 3.0]),
)
BLOOM = dict(vocab_size=13, hidden_size=9, n_layer=2, n_head=3, pad_token_id=0)
ROBERTA = {**BERT, "max_position_embeddings": 11, "pad_token_id": 0}
MPNET = {k: v for k, v in {**ROBERTA, "pad_token_id": 1}.items() if k != "type_vocab_size"}
ELECTRA = {**BERT, "embedding_size": 5}
DISTILBERT = dict(
    vocab_size=13, dim=9, hidden_dim=7, n_layers=2, n_heads=3, max_position_embeddings=8
)
BART = dict(
    vocab_size=13,
    d_model=8,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=7,
    decoder_layers=2,
    decoder_attention_heads=4,
    decoder_ffn_dim=5,
    max_position_embeddings=9,
    decoder_start_token_id=0,
    forced_eos_token_id=None,
    pad_token_id=0,
)
DEBERTA = dict(
    vocab_size=13,
    hidden_size=12,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=9,
    relative_attention=True,
    position_buckets=4,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type="p2c|c2p",
    layer_norm_eps=1e-3,
    position_biased_input=False,
    type_vocab_size=0,
)
DEBERTA_1 = dict(
    vocab_size=13,
    hidden_size=12,
    intermediate_size=7,
    num_hidden_layers=2,
    num_attention_heads=3,
    max_position_embeddings=9,
    relative_attention=True,
    pos_att_type="c2p|p2c",
    layer_norm_eps=1e-3,
)
MODERNBERT = dict(
    vocab_size=13,
    hidden_size=12,
    intermediate_size=7,
    num_hidden_layers=3,
    num_attention_heads=3,
    local_attention=4,
    global_attn_every_n_layers=2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    cls_token_id=1,
    sep_token_id=2,
)
GPT_NEO = dict(
    vocab_size=13,
    hidden_size=9,
    num_layers=2,
    num_heads=3,
    max_position_embeddings=8,
    window_size=2,
    attention_types=[[["global", "local"], 1]],
    pad_token_id=0,
)
GPTJ = {**GPT2, "n_embd": 12, "n_inner": 7, "n_layer": 2, "rotary_dim": 4}
FALCON = dict(
    vocab_size=13,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    ffn_hidden_size=7,
    pad_token_id=0,
)
MPT = dict(vocab_size=13, d_model=9, n_heads=3, n_layers=2, pad_token_id=0)
ROTATED = {k: v for k, v in PHI.items() if k != "layer_norm_eps"}
EXAONE = {**LLAMA, "sliding_window": None, "layer_types": ["full_attention"]}
MIXTRAL = dict(**LLAMA, num_local_experts=4, num_experts_per_tok=2)
# So many experts that a token brings the weights of its own together.
MIXTURE = dict(**LLAMA, moe_intermediate_size=5, num_experts=13, num_experts_per_tok=2)
QWEN2_MOE = {**MIXTURE, "head_dim": 6, "shared_expert_intermediate_size": 3}
SPARSE = dict(decoder_sparse_step=2, num_hidden_layers=4, mlp_only_layers=[3])
MULTI = {"num_labels": 3, "problem_type": "multi_label_classification"}
CASES = [
    ("BertModel", BERT),
    ("BertForSequenceClassification", {**BERT, "num_labels": 3}),
    ("BertForTokenClassification", {**BERT, "num_labels": 3, "hidden_act": "relu"}),
    ("BertForQuestionAnswering", BERT),
    ("RobertaModel", ROBERTA),
    ("RobertaForSequenceClassification", {**ROBERTA, **MULTI}),
    ("RobertaForTokenClassification", {**ROBERTA, "num_labels": 3}),
    ("XLMRobertaForQuestionAnswering", {**ROBERTA, "pad_token_id": 1}),
    ("CamembertForSequenceClassification", {**ROBERTA, "num_labels": 2, "problem_type": "regression"}),
    ("ElectraModel", ELECTRA),
    ("ElectraForSequenceClassification", {**ELECTRA, "embedding_size": 9, "num_labels": 3}),
    ("ElectraForTokenClassification", {**ELECTRA, "num_labels": 3}),
    ("ElectraForQuestionAnswering", ELECTRA),
    ("MPNetModel", MPNET),
    ("MPNetForSequenceClassification", {**MPNET, "num_hidden_layers": 2, "num_labels": 3}),
    ("MPNetForTokenClassification", {**MPNET, "num_labels": 3}),
    ("MPNetForQuestionAnswering", MPNET),
    ("DistilBertModel", DISTILBERT),
    ("DistilBertForSequenceClassification", {**DISTILBERT, "num_labels": 3}),
    ("DistilBertForTokenClassification", {**DISTILBERT, "activation": "relu", "num_labels": 3}),
    ("DistilBertForQuestionAnswering", DISTILBERT),
    ("DebertaV2Model", DEBERTA),
    ("DebertaV2ForSequenceClassification", {**DEBERTA, "share_att_key": False, "num_labels": 3}),
    (
        "DebertaV2ForTokenClassification",
        {
            **DEBERTA,
            "position_buckets": -1,
            "max_relative_positions": 3,
            "pos_att_type": ["c2p"],
            "position_biased_input": True,
            "type_vocab_size": 3,
            "num_labels": 3,
        },
    ),
    (
        "DebertaV2ForQuestionAnswering",
        {**DEBERTA, "norm_rel_ebd": "none", "pos_att_type": "p2c", "embedding_size": 5},
    ),
    ("DebertaV2Model", {**DEBERTA, "relative_attention": False}),
    ("DebertaModel", {**DEBERTA_1, "type_vocab_size": 3}),
    ("DebertaForSequenceClassification", {**DEBERTA_1, "position_biased_input": False}),
    ("DebertaForTokenClassification", {**DEBERTA_1, "pos_att_type": "p2c", "num_labels": 3}),
    ("DebertaForQuestionAnswering", {**DEBERTA_1, "max_relative_positions": 3}),
    ("ModernBertModel", {**MODERNBERT, "norm_bias": True, "global_rope_theta": 50.0}),
    (
        "ModernBertForSequenceClassification",
        {**MODERNBERT, "classifier_pooling": "mean", "classifier_bias": True, "num_labels": 3},
    ),
    (
        "ModernBertForTokenClassification",
        {**MODERNBERT, "attention_bias": True, "mlp_bias": True, "num_labels": 3},
    ),
    ("ModernBertForQuestionAnswering", MODERNBERT),
    ("ModernBertForSequenceClassification", {**MODERNBERT, "num_labels": 2}),
    ("GPT2LMHeadModel", {**GPT2, "n_layer": 2}),
    ("GPT2Model", GPT2),
    ("GPT2ForSequenceClassification", {**GPT2, **MULTI}),
    ("GPT2ForTokenClassification", {**GPT2, "num_labels": 3}),
    ("GPT2ForQuestionAnswering", GPT2),
    ("LlamaForCausalLM", LLAMA),
    ("LlamaModel", LLAMA),
    ("Qwen2ForCausalLM", LLAMA),
    ("Qwen3ForCausalLM", LLAMA),
    ("LlamaForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("LlamaForTokenClassification", {**LLAMA, "num_labels": 3}),
    ("LlamaForQuestionAnswering", LLAMA),
    ("MistralForCausalLM", {**LLAMA, "sliding_window": 3}),
    ("MistralModel", LLAMA),
    ("MistralForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("MistralForTokenClassification", {**LLAMA, "num_labels": 3}),
    ("MistralForQuestionAnswering", {**LLAMA, "sliding_window": 3}),
    ("GPTNeoXForCausalLM", NEOX),
    ("GPTNeoXModel", NEOX),
    ("GPTNeoXForSequenceClassification", {**NEOX, "num_labels": 3}),
    ("GPTNeoXForTokenClassification", {**NEOX, "use_parallel_residual": False, "num_labels": 3}),
    ("GPTNeoXForQuestionAnswering", {**NEOX, "attention_bias": False, "rotary_pct": 1.0}),
    ("PhiModel", PHI),
    ("PhiForCausalLM", {**PHI, "qk_layernorm": True}),
    ("PhiForSequenceClassification", {**PHI, "num_labels": 3}),
    ("PhiForTokenClassification", {**PHI, "num_labels": 3}),
    ("OPTForCausalLM", OPT),
    ("OPTForCausalLM", {**OPT, "word_embed_proj_dim": 5, "do_layer_norm_before": False}),
    ("OPTModel", OPT),
    ("OPTForSequenceClassification", {**OPT, "word_embed_proj_dim": 5, "num_labels": 3}),
    ("OPTForQuestionAnswering", {**OPT, "enable_bias": False}),
    ("GemmaForCausalLM", GEMMA),
    ("GemmaForTokenClassification", {**GEMMA, "hidden_act": "gelu", "num_labels": 3}),
    ("Gemma2ForCausalLM", GEMMA2),
    ("Gemma2ForSequenceClassification", {**GEMMA2, "num_labels": 3}),
    ("GemmaModel", {**GEMMA, "num_hidden_layers": 1}),
    ("GemmaForSequenceClassification", {**GEMMA, "num_labels": 3}),
    ("Gemma2Model", {**GEMMA2, "num_hidden_layers": 1}),
    ("Gemma2ForTokenClassification", {**GEMMA2, "num_labels": 3}),
    ("Gemma3TextForSequenceClassification", {**GEMMA3, "num_labels": 3}),
    ("Gemma3ForCausalLM", {**GEMMA3, "final_logit_softcapping": 0.9}),
    (
        "Gemma3TextModel",
        {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 100.0},
    ),
    ("Olmo2ForCausalLM", LLAMA),
    ("Olmo2Model", LLAMA),
    ("Olmo2ForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("Phi3ForCausalLM", PHI3),
    ("Phi3Model", PHI3),
    ("Phi3ForSequenceClassification", {**PHI3, **LONGROPE, "sliding_window": 3, "num_labels": 3}),
    ("Phi3ForTokenClassification", {**PHI3, "num_labels": 3}),
    ("MixtralForCausalLM", {**MIXTRAL, "num_hidden_layers": 2, "sliding_window": 3}),
    ("MixtralForSequenceClassification", {**MIXTRAL, "num_labels": 3}),
    ("MixtralForTokenClassification", {**MIXTRAL, "num_experts_per_tok": 1, "num_labels": 3}),
    ("Qwen2MoeForCausalLM", QWEN2_MOE),
    ("Qwen2MoeForTokenClassification", {**QWEN2_MOE, "norm_topk_prob": True, "num_labels": 3}),
    (
        "Qwen2MoeForSequenceClassification",
        {**QWEN2_MOE, **SPARSE, "use_sliding_window": True, "sliding_window": 2, "num_labels": 3},
    ),
    ("Qwen3MoeForCausalLM", {**MIXTURE, "norm_topk_prob": True}),
    ("Qwen3MoeForSequenceClassification", {**MIXTURE, "num_experts": 5, "num_labels": 3}),
    ("Qwen3MoeForTokenClassification", {**MIXTURE, **SPARSE, "num_labels": 3}),
    ("BloomForCausalLM", BLOOM),
    ("BloomModel", {**BLOOM, "apply_residual_connection_post_layernorm": True}),
    ("BloomForSequenceClassification", {**BLOOM, "num_labels": 1}),
    ("BloomForTokenClassification", {**BLOOM, "num_labels": 3}),
    ("BloomForQuestionAnswering", {**BLOOM, "hidden_size": 10, "n_head": 5}),
    ("BartModel", {**BART, "scale_embedding": True}),
    ("BartForConditionalGeneration", {**BART, "activation_function": "relu"}),
    ("T5Model", {**T5, "num_layers": 1, "num_decoder_layers": 2}),
    ("T5ForConditionalGeneration", T5),
    (
        "T5ForConditionalGeneration",
        {**T5, "num_layers": 1, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    ("GPTNeoForCausalLM", GPT_NEO),
    ("GPTNeoForSequenceClassification", {**GPT_NEO, "num_labels": 3}),
    ("GPTNeoForTokenClassification", {**GPT_NEO, "intermediate_size": 7, "num_labels": 3}),
    ("GPTNeoForQuestionAnswering", {**GPT_NEO, "window_size": 4}),
    ("GPTJForCausalLM", GPTJ),
    ("GPTJForSequenceClassification", {**GPTJ, "num_labels": 3}),
    ("GPTJForQuestionAnswering", GPTJ),
    ("CodeGenForCausalLM", {**GPTJ, "n_embd": 24, "n_head": 4}),
    ("GPTBigCodeForCausalLM", GPT2),
    ("GPTBigCodeForSequenceClassification", {**GPT2, "multi_query": False, "num_labels": 3}),
    ("GPTBigCodeForTokenClassification", {**GPT2, "num_labels": 3}),
    ("FalconForCausalLM", {**FALCON, "bias": True}),
    (
        "FalconForSequenceClassification",
        {**FALCON, "parallel_attn": False, "multi_query": False, "num_labels": 3},
    ),
    (
        "FalconForTokenClassification",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_labels": 3},
    ),
    (
        "FalconForQuestionAnswering",
        {
            **FALCON,
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
    ),
    ("StableLmForCausalLM", ROTATED),
    (
        "StableLmForSequenceClassification",
        {**ROTATED, "use_parallel_residual": True, "use_qkv_bias": True, "num_labels": 3},
    ),
    ("StableLmForTokenClassification", {**ROTATED, "num_labels": 3}),
    ("MptForCausalLM", {**MPT, "attn_config": {"clip_qkv": 0.7, "softmax_scale": 0.5}}),
    ("MptForSequenceClassification", {**MPT, "num_labels": 3}),
    ("MptForTokenClassification", {**MPT, "num_labels": 3}),
    ("MptForQuestionAnswering", MPT),
    ("Starcoder2ForCausalLM", {**ROTATED, "sliding_window": 3}),
    (
        "Starcoder2ForSequenceClassification",
        {**ROTATED, "use_bias": False, "num_labels": 3},
    ),
    ("CohereForCausalLM", {**ROTATED, "logit_scale": 0.3}),
    ("Cohere2ForCausalLM", {**ROTATED, "sliding_window": 2, "sliding_window_pattern": 2}),
    (
        "GraniteForCausalLM",
        {
            **LLAMA,
            "embedding_multiplier": 1.3,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.4,
            "logits_scaling": 1.9,
        },
    ),
    ("SmolLM3ForCausalLM", {**LLAMA, "num_hidden_layers": 2, "no_rope_layer_interval": 2}),
    (
        "SmolLM3ForQuestionAnswering",
        {**LLAMA, "no_rope_layers": [0], "use_sliding_window": True, "sliding_window": 3},
    ),
    (
        "Exaone4ForCausalLM",
        {**LLAMA, "num_hidden_layers": 2, "sliding_window": 2, "sliding_window_pattern": 2},
    ),
    ("Exaone4ForTokenClassification", {**EXAONE, "num_labels": 3}),
    ("GlmForCausalLM", LLAMA),
    ("Glm4ForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("MT5ForConditionalGeneration", T5),
    ("UMT5ForConditionalGeneration", T5),
    ("PLBartForConditionalGeneration", BART),
    ("MBartForConditionalGeneration", BART),
    ("BlenderbotForConditionalGeneration", BART),
    ("GPTNeoModel", {**GPT_NEO, "num_layers": 1, "attention_types": [[["global"], 1]]}),
    ("GPTJModel", {**GPTJ, "n_layer": 1}),
    ("CodeGenModel", {**GPTJ, "n_embd": 24, "n_head": 4, "n_layer": 1}),
    ("GPTBigCodeModel", GPT2),
    ("FalconModel", {**FALCON, "num_hidden_layers": 1}),
    ("StableLmModel", {**ROTATED, "num_hidden_layers": 1}),
    ("MptModel", {**MPT, "n_layers": 1}),
    ("Starcoder2Model", {**ROTATED, "num_hidden_layers": 1}),
    ("Starcoder2ForTokenClassification", {**ROTATED, "num_hidden_layers": 1, "num_labels": 3}),
    ("CohereModel", {**ROTATED, "num_hidden_layers": 1}),
    ("GraniteModel", LLAMA),
    ("SmolLM3Model", LLAMA),
    ("SmolLM3ForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("SmolLM3ForTokenClassification", {**LLAMA, "num_labels": 3}),
    ("Exaone4Model", EXAONE),
    ("Exaone4ForSequenceClassification", {**EXAONE, "num_labels": 3}),
    ("Exaone4ForQuestionAnswering", EXAONE),
    ("GlmModel", LLAMA),
    ("GlmForTokenClassification", {**LLAMA, "num_labels": 3}),
    ("MixtralModel", MIXTRAL),
    ("MixtralForQuestionAnswering", MIXTRAL),
    ("Qwen2MoeModel", QWEN2_MOE),
    ("Qwen2MoeForQuestionAnswering", QWEN2_MOE),
    ("Qwen3MoeModel", MIXTURE),
    ("Qwen3MoeForQuestionAnswering", MIXTURE),
    ("MBartModel", {**BART, "decoder_layers": 1}),
    ("BlenderbotModel", {**BART, "decoder_layers": 1}),
    ("BartForSequenceClassification", {**BART, "eos_token_id": 11, "num_labels": 3}),
    ("BartForQuestionAnswering", {**BART, "scale_embedding": True, "decoder_layers": 1}),
    ("MBartForSequenceClassification", {**BART, **MULTI, "eos_token_id": 11, "decoder_layers": 1}),
    ("MBartForQuestionAnswering", {**BART, "decoder_layers": 1}),
    ("PLBartModel", {**BART, "decoder_layers": 1}),
    ("PLBartForConditionalGeneration", {**BART, "decoder_layers": 1}),
    ("PLBartForSequenceClassification", {**BART, "eos_token_id": 11, "num_labels": 1}),
    ("T5ForSequenceClassification", {**T5, "eos_token_id": 11, "num_labels": 3}),
    ("T5ForTokenClassification", {**T5, "num_labels": 3}),
    ("T5ForQuestionAnswering", {**T5, "num_layers": 1}),
    ("UMT5ForTokenClassification", {**T5, "num_labels": 3}),
]
TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "Model": "FEATURE_EXTRACTION",
}
OUTPUTS = (
    "logits",
    "start_logits",
    "end_logits",
    "last_hidden_state",
    "pooler_output",
    "encoder_last_hidden_state",
)
# Longer than the largest distance on both sides.
LONG = [[(5 * i * i + 3 * i) % 12 + 1 for i in range(9)], [6, 2, 8, 10, 3, 9, 1, 7, 5]]
# Gradients of almost nothing, which rounding decides about, move parameters by almost nothing.
RATE, DECAY, EPSILON = 1e-2, 0.1, 1e-5


def fill(name: str, size: int) -> list[float]:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return [0.6 * math.sin(0.7 * i * i + seed) for i in range(size)]


def filled(name: str, shape) -> torch.Tensor:
    return torch.tensor(fill(name, math.prod(shape))).reshape(shape)


def ids_of(task: str, config) -> tuple[list[list[int]], tuple[int, int]]:
    """Token ids, and how many of each row are no padding where rows are padded."""
    if config.is_encoder_decoder:
        ends = ((2, 8), (1, 3)) if task == "SEQ_CLS" else ((), ())
        end = config.eos_token_id
        return [
            [end if i in at else id for i, id in enumerate(row)] for row, at in zip(LONG, ends)
        ], (9, 4)
    # The id of padding is no token's.
    pad = config.pad_token_id
    return [[id + (id == pad) for id in row] for row in [[7, 3, 9, 12, 4], [9, 1, 11, 5, 8]]], (5, 3)


def labels_of(task: str, config, ids: list[list[int]]) -> dict:
    if task == "SEQ_CLS":
        kind = config.problem_type or ("regression" if config.num_labels == 1 else "single")
        if kind.startswith("single"):
            return {"labels": [config.num_labels - 1, 0]}
        if kind.startswith("multi"):
            return {"labels": [[(i + row) % 2 * 1.0 for i in range(config.num_labels)] for row in (0, 1)]}
        values = [[0.75 - 2 * row + i for i in range(config.num_labels)] for row in (0, 1)]
        return {"labels": [row[0] for row in values] if config.num_labels == 1 else values}
    if task == "TOKEN_CLS":
        return {"labels": [[2, 0, -100, 1, 0], [1, 2, 0, -100, 2]]}
    if task == "QUESTION_ANS":
        return {"start_positions": [1, 0], "end_positions": [3, 2]}
    if task == "CAUSAL_LM":
        return {"labels": [ids[0][:2] + [-100] + ids[0][3:], ids[1]]}
    if task == "SEQ_2_SEQ_LM":
        return {"labels": [[5, 5, 7, 2, -100, 9, 11, 3], [4, 1, 8, 6, 10, 2, 12, 7]]}
    return {}


def padded(full: list[list], lengths: tuple[int, int], side: str, pad) -> list[list]:
    if side == "none":
        return full
    rows = [row[:n] for row, n in zip(full, lengths)]
    gaps = [[pad] * (len(row) - n) for row, n in zip(full, lengths)]
    return [gap + row if side == "left" else row + gap for row, gap in zip(rows, gaps)]


def batch_of(task: str, config, side: str) -> dict:
    """A batch whose shorter row is padded on one side, or with longer rows and no mask."""
    ids, lengths = ids_of(task, config)
    gap = len(ids[1]) - lengths[1] if side == "left" else 0
    pad = config.pad_token_id or 0
    ones = [[1] * len(row) for row in ids]
    batch = {"input_ids": padded(ids, lengths, side, pad)}
    if side != "none":
        batch["attention_mask"] = padded(ones, lengths, side, 0)
    if config.model_type in ("bert", "electra"):
        batch["token_type_ids"] = padded([[0, 0, 1, 2, 2], [1, 0, 2, 1, 1]], lengths, side, 1)
    labels = labels_of(task, config, ids)
    # Models for classes and answers give their decoders the same again.
    if config.is_encoder_decoder and task != "SEQ_CLS" and (task, side) != ("QUESTION_ANS", "none"):
        lengths = (8, 4)
        written = [[0, 5, 5, 7, 2, 9, 11, 3], [0, 4, 1, 8, 6, 10, 2, 12]]
        batch["decoder_input_ids"] = padded(written, lengths, side, 0)
        if side != "none":
            batch["decoder_attention_mask"] = padded([[1] * 8] * 2, lengths, side, 0)
    for key, value in labels.items():
        if task == "QUESTION_ANS":
            # What lies beyond a row does not count.
            value = [at + (gap if row else 0) for row, at in enumerate(value)]
            value = [value[0], 9] if side == "none" else value
        elif task != "SEQ_CLS":
            value = padded(value, lengths, side, -100)
        batch[key] = value
    return batch


def run_batch(model: torch.nn.Module, batch: dict):
    return model(**{key: torch.tensor(value) for key, value in batch.items()})


def kept(batch: dict, key: str, value: torch.Tensor) -> torch.Tensor:
    """1 where an output is of a token, 0 where of padding."""
    encoder = key == "encoder_last_hidden_state" or "decoder_input_ids" not in batch
    mask = batch.get("attention_mask" if encoder else "decoder_attention_mask")
    ids = batch["input_ids" if encoder else "decoder_input_ids"]
    if mask is None or value.dim() < 2 or value.shape[1] != len(ids[0]) or key == "pooler_output":
        return torch.ones_like(value)
    mask = torch.tensor(mask, dtype=value.dtype)
    return mask.reshape(mask.shape + (1,) * (value.dim() - 2)).expand_as(value)


def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
    """The loss of its task; of models without a head, how far hidden states are from fixed numbers."""
    result = run_batch(model, batch)
    if result.get("loss") is not None:
        return result.loss
    h = result.last_hidden_state
    weight = kept(batch, "last_hidden_state", h)
    return ((h - filled("distance", h.shape)) ** 2 * weight).sum() / weight.sum()


def short(x: float) -> float:
    return float(f"{x:.6g}")


def numbers(result: dict) -> dict:
    return {
        key: {
            "shape": list(result[key].shape),
            "values": [short(x) for x in result[key].flatten().tolist()],
        }
        for key in OUTPUTS
        if result.get(key) is not None
    }


def sketch(value: torch.Tensor) -> list[float]:
    """The largest of some numbers, and their sum with fixed weights."""
    weights = filled("sketch", value.shape)
    return [short(value.abs().max().item()), short((value * weights).sum().item())]


def sketches(result: dict, batch: dict) -> dict:
    return {
        key: sketch(result[key] * kept(batch, key, result[key]))
        for key in OUTPUTS
        if result.get(key) is not None
    }


# Of models for several tasks, PEFT saves these as a whole.
HEADS = r".*(classifier|score|qa_outputs|head|pooler).*"
PREFIX = "base_model.model."


def adapted(base: torch.nn.Module, task: str, batches: dict[str, dict]) -> dict:
    """What PEFT makes of it with a LoRA on the linear layers of the body; all it saves is filled."""
    config = peft.LoraConfig(
        task_type=task, r=2, lora_alpha=3, target_modules="all-linear", exclude_modules=HEADS
    )
    model = peft.get_peft_model(base, config).eval()
    state = {
        key: filled(key, value.shape)
        for key, value in peft.get_peft_model_state_dict(model).items()
    }
    assert not peft.set_peft_model_state_dict(model, state).unexpected_keys
    runs = model.base_model  # Around it, PEFT's model for answers forgets the types of tokens.
    with torch.no_grad():
        results = {side: run_batch(runs, batch) for side, batch in batches.items()}
        merged = run_batch(copy.deepcopy(model).merge_and_unload(), batches["right"])
    for key in OUTPUTS:
        if merged.get(key) is not None:
            far = (merged[key] - results["right"][key]).abs().max() / merged[key].abs().max()
            assert far < 1e-5, f"{key} of the merged model: {far}"
    trained = {
        PREFIX + name.removeprefix(PREFIX).replace(".modules_to_save.default", "").replace(".default", ""): p
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert trained.keys() == state.keys(), trained.keys() ^ state.keys()
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=DECAY, eps=EPSILON)
    losses, gradients = [], {}
    for batch in batches.values():
        if task != "FEATURE_EXTRACTION" and not batch.keys() & {"labels", "start_positions"}:
            continue
        optimizer.zero_grad()
        loss = loss_of(runs, batch)
        loss.backward()
        gradients = gradients or {
            key: sketch(torch.zeros_like(p) if p.grad is None else p.grad) for key, p in trained.items()
        }
        optimizer.step()
        losses.append(loss.item())
    layers = [key.removesuffix(".lora_A.weight") for key in state if key.endswith(".lora_A.weight")]
    keys = [f"{layer}.lora_{leaf}.weight" for layer in layers for leaf in "AB"]
    heads = [key for key in state if ".lora_" not in key]
    assert {*keys, *heads} == state.keys()
    return {
        "layers": [layer.removeprefix(PREFIX) for layer in layers],
        "heads": [key.removeprefix(PREFIX) for key in heads],
        "adapted": {side: sketches(results[side], batch) for side, batch in batches.items()},
        "gradients": [gradients[key] for key in keys + heads],
        "losses": losses,
    }


PROMPTS = [[7, 3, 9, 12, 4], [9, 5, 11]]


@torch.no_grad()
def generated(model: torch.nn.Module, config) -> list[list[int]]:
    """What a model writes after prompts: decoders get them padded on the left, encoders on the right."""
    encodes = config.is_encoder_decoder
    longest = max(map(len, PROMPTS))
    side, lengths = "right" if encodes else "left", tuple(map(len, PROMPTS))
    full = [ids + [0] * (longest - len(ids)) for ids in PROMPTS]
    ids = model.generate(
        input_ids=torch.tensor(padded(full, lengths, side, 0)),
        attention_mask=torch.tensor(padded([[1] * longest] * 2, lengths, side, 0)),
        do_sample=False,
        num_beams=1,
        max_new_tokens=4 if encodes else 3,
        eos_token_id=None,
        pad_token_id=0,
    )
    return ids[:, 1 if encodes else longest :].tolist()


def run(name: str, settings: dict) -> dict:
    family, task = next((name.removesuffix(end), TASKS[end]) for end in TASKS if name.endswith(end))
    family = family.split("For")[0].replace("Gemma3Text", "Gemma3").replace("Gemma3", "Gemma3Text")
    config = getattr(transformers, f"{family}Config")(**settings)
    config._experts_implementation = "eager"
    if getattr(config, "attn_logit_softcapping", None):  # which no other implementation has
        config._attn_implementation = "eager"
    # Where queries see no key, gradients of torch's own attention with a bias are not those of what it gives.
    if config.model_type == "t5" and task == "QUESTION_ANS":
        config._attn_implementation = "eager"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            value.copy_(filled(parameter, value.shape))
    if task == "TOKEN_CLS":  # Only T5 changes it itself.
        config.is_encoder_decoder = False
    batches = {side: batch_of(task, config, side) for side in ("right", "left", "none")}
    # What padding that sees nothing becomes is as in torch's own attention, where a family takes it;
    # next to it, and among scores of answers, it counts.
    if not model._supports_sdpa and task in ("CAUSAL_LM", "QUESTION_ANS"):
        for key in ("labels", "start_positions", "end_positions"):
            batches["left"].pop(key, None)
    parameters = [parameter for parameter, _ in model.named_parameters()]
    with torch.no_grad():
        outputs = numbers(run_batch(model, batches["right"]))
    written = generated(model, config) if model.can_generate() else None
    return {
        **({"generated": written} if written else {}),
        "config": {**settings, "model_type": config.model_type, "architectures": [name]},
        "parameters": parameters,
        "batches": batches,
        "outputs": outputs,
        **adapted(model, task, batches),
    }


def main() -> None:
    cases = [run(name, settings) for name, settings in CASES]
    path = Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")


main()
