"""Writes definitions.golden.json: what models of transformers give, and the order of their parameters.

    $GRAFT_ORACLE_PYTHON tests/architectures/definitions.golden.py

The weights are not stored: both sides compute them from their names (`fill`). Sizes are odd, heads
are not as wide as the model where a family allows it, and nothing keeps a neutral value.
"""

from __future__ import annotations

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
MIXTRAL = dict(**LLAMA, num_local_experts=4, num_experts_per_tok=2)
# So many experts that a token brings the weights of its own together.
MIXTURE = dict(**LLAMA, moe_intermediate_size=5, num_experts=13, num_experts_per_tok=2)
QWEN2_MOE = {**MIXTURE, "head_dim": 6, "shared_expert_intermediate_size": 3}
SPARSE = dict(decoder_sparse_step=2, num_hidden_layers=4, mlp_only_layers=[3])
CASES = [
    ("BertModel", BERT),
    ("BertForSequenceClassification", {**BERT, "num_labels": 3}),
    ("BertForTokenClassification", {**BERT, "num_labels": 3, "hidden_act": "relu"}),
    ("BertForQuestionAnswering", BERT),
    ("RobertaModel", ROBERTA),
    ("RobertaForSequenceClassification", {**ROBERTA, "num_labels": 3}),
    ("RobertaForTokenClassification", {**ROBERTA, "num_labels": 3}),
    ("XLMRobertaForQuestionAnswering", {**ROBERTA, "pad_token_id": 1}),
    ("CamembertForSequenceClassification", {**ROBERTA, "num_labels": 2}),
    ("ElectraModel", ELECTRA),
    ("ElectraForSequenceClassification", {**ELECTRA, "embedding_size": 9, "num_labels": 3}),
    ("ElectraForTokenClassification", {**ELECTRA, "num_labels": 3}),
    ("MPNetModel", MPNET),
    ("MPNetForSequenceClassification", {**MPNET, "num_hidden_layers": 2, "num_labels": 3}),
    ("MPNetForTokenClassification", {**MPNET, "num_labels": 3}),
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
    ("GPT2ForSequenceClassification", {**GPT2, "num_labels": 3}),
    ("GPT2ForTokenClassification", {**GPT2, "num_labels": 3}),
    ("GPT2ForQuestionAnswering", GPT2),
    ("LlamaModel", LLAMA),
    ("LlamaForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("LlamaForTokenClassification", {**LLAMA, "num_labels": 3}),
    ("LlamaForQuestionAnswering", LLAMA),
    ("MistralForQuestionAnswering", {**LLAMA, "sliding_window": 3}),
    ("GPTNeoXForCausalLM", NEOX),
    ("GPTNeoXForSequenceClassification", {**NEOX, "num_labels": 3}),
    ("GPTNeoXForTokenClassification", {**NEOX, "use_parallel_residual": False, "num_labels": 3}),
    ("GPTNeoXForQuestionAnswering", {**NEOX, "attention_bias": False, "rotary_pct": 1.0}),
    ("PhiModel", PHI),
    ("PhiForCausalLM", {**PHI, "qk_layernorm": True}),
    ("PhiForSequenceClassification", {**PHI, "num_labels": 3}),
    ("PhiForTokenClassification", {**PHI, "num_labels": 3}),
    ("OPTForCausalLM", OPT),
    ("OPTForCausalLM", {**OPT, "word_embed_proj_dim": 5, "do_layer_norm_before": False}),
    ("OPTForSequenceClassification", {**OPT, "word_embed_proj_dim": 5, "num_labels": 3}),
    ("OPTForQuestionAnswering", {**OPT, "enable_bias": False}),
    ("GemmaForCausalLM", GEMMA),
    ("GemmaForTokenClassification", {**GEMMA, "hidden_act": "gelu", "num_labels": 3}),
    ("Gemma2ForCausalLM", GEMMA2),
    ("Gemma2ForSequenceClassification", {**GEMMA2, "num_labels": 3}),
    ("Gemma3ForCausalLM", {**GEMMA3, "final_logit_softcapping": 0.9}),
    (
        "Gemma3TextModel",
        {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_theta": 100.0},
    ),
    ("Olmo2ForCausalLM", LLAMA),
    ("Olmo2ForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("Phi3ForCausalLM", PHI3),
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
    ("BloomForSequenceClassification", {**BLOOM, "num_labels": 3}),
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
    ("GPTNeoForQuestionAnswering", GPT_NEO),
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
    ("Exaone4ForTokenClassification", {**LLAMA, "sliding_window": None, "layer_types": ["full_attention"], "num_labels": 3}),
    ("GlmForCausalLM", LLAMA),
    ("Glm4ForSequenceClassification", {**LLAMA, "num_labels": 3}),
    ("MT5ForConditionalGeneration", T5),
    ("UMT5ForConditionalGeneration", T5),
    ("PLBartForConditionalGeneration", BART),
    ("MBartForConditionalGeneration", BART),
    ("BlenderbotForConditionalGeneration", BART),
]
IDS = [[7, 3, 9, 12, 4], [9, 1, 11, 0, 0]]
MASK = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
# Longer than the largest distance on both sides.
LONG = {
    "input_ids": [[(5 * i * i + 3 * i) % 12 + 1 for i in range(9)], [6, 2, 8, 10, 0, 0, 0, 0, 0]],
    "attention_mask": [[1] * 9, [1] * 4 + [0] * 5],
    "decoder_input_ids": [[0, 5, 5, 7, 2, 9, 11, 3], [0, 4, 1, 8, 0, 0, 0, 0]],
    "decoder_attention_mask": [[1] * 8, [1] * 4 + [0] * 4],
}
OUTPUTS = (
    "logits",
    "start_logits",
    "end_logits",
    "last_hidden_state",
    "pooler_output",
    "encoder_last_hidden_state",
)


def fill(name: str, size: int) -> list[float]:
    """The values of a parameter."""
    seed = sum(map(ord, name)) % 97
    return [0.6 * math.sin(1.3 * i + seed) for i in range(size)]


# Of models for several tasks, PEFT saves these as a whole.
HEADS = r".*(classifier|score|qa_outputs|head|pooler).*"


def adapted(model: torch.nn.Module, inputs: dict) -> dict:
    """The outputs with a LoRA on the linear layers of the body, whose leaves have the values of their names, too."""
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules="all-linear", exclude_modules=HEADS
    )
    model = peft.get_peft_model(model, config).eval()
    for parameter, value in model.named_parameters():
        if "lora_" in parameter:
            leaf = parameter.removeprefix("base_model.model.").removesuffix(".default.weight")
            value.copy_(torch.tensor(fill(leaf, value.numel())).reshape(value.shape))
    return model(**{key: torch.tensor(value) for key, value in inputs.items()})


def numbers(result: dict) -> dict:
    return {
        key: {
            "shape": list(result[key].shape),
            "values": [float(f"{x:.6g}") for x in result[key].flatten().tolist()],
        }
        for key in OUTPUTS
        if result.get(key) is not None
    }


PROMPTS = [[7, 3, 9, 12, 4], [9, 5, 11]]


def generated(model: torch.nn.Module, config) -> list[list[int]]:
    """What a model writes after prompts: decoders get them padded on the left, encoders on the right."""
    encodes = config.is_encoder_decoder
    longest = max(map(len, PROMPTS))
    gaps = [[0] * (longest - len(ids)) for ids in PROMPTS]
    rows = [ids + gap if encodes else gap + ids for ids, gap in zip(PROMPTS, gaps)]
    ones = [[1] * len(ids) for ids in PROMPTS]
    mask = [one + gap if encodes else gap + one for one, gap in zip(ones, gaps)]
    ids = model.generate(
        input_ids=torch.tensor(rows),
        attention_mask=torch.tensor(mask),
        do_sample=False,
        num_beams=1,
        max_new_tokens=4 if encodes else 3,
        eos_token_id=None,
        pad_token_id=0,
    )
    return ids[:, 1 if encodes else longest :].tolist()


@torch.no_grad()
def run(name: str, settings: dict) -> dict:
    family = name.split("For")[0].removesuffix("Model").replace("Gemma3Text", "Gemma3")
    family = family.replace("Gemma3", "Gemma3Text")
    config = getattr(transformers, f"{family}Config")(**settings, attn_implementation="eager")
    config._experts_implementation = "eager"
    model = getattr(transformers, name)(config).eval()
    for parameter, value in model.named_parameters():
        value.copy_(torch.tensor(fill(parameter, value.numel())).reshape(value.shape))
    if config.is_encoder_decoder:
        inputs = LONG
    elif family in ("Bert", "Electra"):
        inputs = {**INPUTS, "token_type_ids": [[0, 0, 1, 2, 2], [1, 0, 2, 1, 1]]}
    elif family in ("MPNet", "XLMRoberta"):  # whose padding is 1, in whatever place it stands
        inputs = {**INPUTS, "input_ids": [[id + (id == 1) for id in row] for row in IDS]}
    else:
        inputs = INPUTS
    result = model(**{key: torch.tensor(value) for key, value in inputs.items()})
    written = generated(model, config) if model.can_generate() else None
    return {
        **({"generated": written} if written else {}),
        "config": {**settings, "model_type": config.model_type, "architectures": [name]},
        "parameters": [parameter for parameter, _ in model.named_parameters()],
        "inputs": inputs,
        "outputs": numbers(result),
        "adapted": numbers(adapted(model, inputs)),
    }


def main() -> None:
    cases = [run(name, settings) for name, settings in CASES]
    path = Path(__file__).with_suffix(".json")
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
