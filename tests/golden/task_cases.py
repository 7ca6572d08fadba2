"""Golden files of methods and tasks whose cases need more than token ids, below adapters/.

    $GRAFT_ORACLE_PYTHON tests/golden/generate.py --only task_cases [--out DIR] [--seed N]

A table per method (`METHODS`): cases, initial values, and what PEFT refuses. What the files hold is
in README.md beside this.
"""

# fmt: off
# (one case a line reads better than one argument a line)

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from run_case import prepare, write_base, write_json  # first
from run_task_case import TaskCase as Case
from run_task_case import run_task_case, run_task_init, run_task_refused

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bases import BASES
from cases import QV
from task_bases import TASK_BASES, write_task_base

FOLDER = "adapters"
BERT_QV = ["query", "value"]
TOKENIZER = "adapters/tokenizer"


@dataclass(frozen=True)
class Method:
    """One method: `config_class` is the name of PEFT's class for its config."""

    config_class: str
    cases: list[Case]
    # Names of the cases that are written whole; the others are compact.
    whole: tuple[str, ...] = ()
    # Straight after torch.manual_seed(seed) and get_peft_model: base and arguments.
    inits: dict[str, tuple[str, dict]] = field(default_factory=dict)
    # What PEFT refuses: base, arguments, those of a second adapter or None, task ids.
    refused: dict[str, tuple] = field(default_factory=dict)


LORA = Method(
    "LoraConfig",
    cases=[
        Case("bert_seq_cls", "bert_seq_cls", dict(r=3, lora_alpha=5)),
        Case("bert_seq_cls_dora", "bert_seq_cls", dict(r=2, lora_alpha=6, use_dora=True, bias="lora_only", target_modules=["key", "intermediate.dense"]), weight_decay=0.1),
        Case("bert_seq_cls_pooler", "bert_seq_cls", dict(r=2, lora_alpha=3, target_modules=r".*(pooler\.dense|output\.dense)", modules_to_save=["classifier"])),
        Case("bert_seq_cls_embeddings", "bert_seq_cls", dict(r=2, lora_alpha=6, target_modules=["position_embeddings", "token_type_embeddings"])),
        Case("bert_multi_label", "bert_multi_label", dict(r=3, lora_alpha=4)),
        Case("bert_regression", "bert_regression", dict(r=1, lora_alpha=4, target_modules="all-linear")),
        Case("bert_token_cls", "bert_token_cls", dict(r=3, lora_alpha=9, use_rslora=True, target_modules=["query", "attention.output.dense"], layers_to_transform=[1], layers_pattern="layer")),
        Case("bert", "bert", dict(r=3, lora_alpha=5, target_modules=["value", "pooler.dense"])),
        Case("t5", "t5", dict(r=2, lora_alpha=5, exclude_modules=r".*block\.0.*"), generate=True),
        Case("t5_dora", "t5", dict(r=2, lora_alpha=3, use_dora=True, target_modules=r".*decoder.block.1.*(SelfAttention\.q|EncDecAttention\.v|wo)")),
        Case("t5_gated", "t5_gated", dict(r=2, lora_alpha=6, target_modules=["decoder.block.0.layer.0.SelfAttention.q", "wi_0", "lm_head"]), generate=True),
        Case("t5_gated_relative", "t5_gated", dict(r=1, lora_alpha=2, target_modules=["relative_attention_bias", "k"])),
    ],
    whole=("bert_seq_cls", "bert", "t5", "t5_gated"),
)

LN_TUNING = Method(
    "LNTuningConfig",
    cases=[
        # norms: which of them by default, and by name
        Case("default", config=dict()),
        Case("default_gpt2", "gpt2", dict()),
        Case("default_qwen2", "qwen2", dict()),
        Case("default_mistral", "mistral", dict(exclude_modules=["layers.0.input_layernorm"])),
        Case("head_norms", "qwen3", dict(target_modules=["q_norm", "norm", "layers.1.self_attn.k_norm"]), weight_decay=0.1),
        Case("regex", config=dict(target_modules=r".*layers\.1\..*_layernorm")),
        Case("save_linear", config=dict(target_modules=["norm"], modules_to_save=["layers.0.self_attn.k_proj"])),
        Case("half_file", config=dict(), file_dtype="bfloat16"),
        # whatever else is targeted is copied whole
        Case("linear", "qwen2", dict(target_modules=["norm", "layers.1.self_attn.k_proj"])),
        # other tasks
        Case("bert_seq_cls", "bert_seq_cls", dict(target_modules=["LayerNorm"])),
        Case("bert_token_cls", "bert_token_cls", dict(target_modules=["embeddings.LayerNorm", "attention.output.LayerNorm"])),
        Case("bert", "bert", dict(target_modules=r".*layer\.1\.output\.LayerNorm")),
        Case("t5", "t5", dict()),
        Case("t5_gated", "t5_gated", dict(target_modules=["final_layer_norm", "decoder.block.0.layer.1.layer_norm"])),
        Case("two_adapters", adapters={"style": dict(), "facts": dict(target_modules=["input_layernorm", "post_attention_layernorm", "norm"])}),
    ],
    whole=("default", "default_gpt2", "bert_seq_cls"),
    inits={"default": ("gpt2", dict())},
    refused={
        "no_target_found": ("llama", dict(target_modules=["nope"])),
        "all_excluded": ("llama", dict(exclude_modules=r".*norm")),
        "target_is_saved": ("llama", dict(modules_to_save=["norm"])),
        "target_block": ("llama", dict(target_modules=["layers.0.mlp"])),
        "no_default": ("bert", dict()),
        "layers": ("llama", dict(layers_to_transform=[0])),
        "bias": ("llama", dict(bias="all")),
        "init_weights": ("llama", dict(init_weights=True)),
        "task_type_unknown": ("llama", dict(task_type="CHAT")),
        "two_active": ("llama", dict(), dict()),
    },
)

TRAINABLE_TOKENS = Method(
    "TrainableTokensConfig",
    cases=[
        Case("default", config=dict(token_indices=[41, 5, 57])),
        Case("tied", "llama_tied", dict(token_indices=[5, 41, 9])),
        Case("gpt2", "gpt2", dict(token_indices=[41, 5])),
        Case("positions", "gpt2", dict(token_indices=[3, 2], target_modules=["wpe"])),
        Case("list", "qwen2", dict(token_indices=[2], target_modules=["embed_tokens"]), weight_decay=0.1),
        Case("regex", "mistral", dict(token_indices=[58, 8], target_modules=r".*embed.*")),
        Case("head", config=dict(token_indices=[12, 3], target_modules=["lm_head"])),
        Case("both", config=dict(token_indices=[5, 2], target_modules=["embed_tokens", "lm_head"])),
        # The rows of any linear layer.
        Case("linear", config=dict(token_indices=[15, 0, 4], target_modules=["k_proj"])),
        # Merged, the shared weight changes at both ends.
        Case("head_tied", "llama_tied", dict(token_indices=[41, 60], target_modules=["lm_head"])),
        Case("init_false", config=dict(token_indices=[5, 9, 41], init_weights=False), keep_init=True),
        Case("half_file", config=dict(token_indices=[8, 12]), file_dtype="bfloat16"),
        Case("bert_seq_cls", "bert_seq_cls", dict(token_indices=[9, 50])),
        Case("bert", "bert", dict(token_indices=[1, 0], target_modules=["token_type_embeddings"])),
        Case("t5", "t5", dict(token_indices=[14, 9, 50])),
        Case("two_adapters", adapters={"style": dict(token_indices=[41, 5]), "facts": dict(token_indices=[12, 53, 17])}),
    ],
    whole=("default", "tied"),
    inits={
        "true": ("llama", dict(token_indices=[3, 1])),
        "false": ("gpt2", dict(token_indices=[3, 1, 9], init_weights=False, target_modules=["wte", "wpe"])),
        "false_tied": ("llama_tied", dict(token_indices=[3], init_weights=False)),
    },
    refused={
        "no_tokens": ("llama", dict()),
        "out_of_range": ("llama", dict(token_indices=[61])),
        "negative": ("llama", dict(token_indices=[-1, 5])),
        "duplicate": ("llama", dict(token_indices=[5, 41, 5])),
        "no_target_found": ("llama", dict(token_indices=[5], target_modules=["nope"])),
        "target_norm": ("llama", dict(token_indices=[5], target_modules=["norm"])),
        "target_conv1d": ("gpt2", dict(token_indices=[5], target_modules=["c_attn"])),
        "both_tied": ("llama_tied", dict(token_indices=[5], target_modules=["embed_tokens", "lm_head"])),
        "token_cls": ("bert_token_cls", dict(token_indices=[5])),
        "exclude_modules": ("llama", dict(token_indices=[5], exclude_modules=["lm_head"])),
        "modules_to_save": ("llama", dict(token_indices=[5], modules_to_save=["lm_head"])),
        "together": ("llama", dict(token_indices=[5]), dict(token_indices=[9])),
        "together_overlap": ("llama", dict(token_indices=[5, 8]), dict(token_indices=[9, 5])),
    },
)

TEXT = "a cab fed a bad dog"
PROMPT_TUNING = Method(
    "PromptTuningConfig",
    cases=[
        Case("llama", config=dict(num_virtual_tokens=3), generate=True),
        Case("gpt2", "gpt2", dict(num_virtual_tokens=5), generate=True),
        # The window of 4 tokens counts the prompt.
        Case("mistral", "mistral", dict(num_virtual_tokens=2), generate=True, weight_decay=0.1),
        Case("qwen3", "qwen3", dict(num_virtual_tokens=4), generate=True),
        Case("sizes", config=dict(num_virtual_tokens=3, token_dim=32, num_transformer_submodules=1, num_attention_heads=8, num_layers=5)),
        Case("save_norms", config=dict(num_virtual_tokens=2, modules_to_save=["norm", "input_layernorm"])),
        # initial values
        Case("sample_vocab", config=dict(num_virtual_tokens=4, prompt_tuning_init="SAMPLE_VOCAB"), keep_init=True),
        Case("text", config=dict(num_virtual_tokens=4, prompt_tuning_init="TEXT", prompt_tuning_init_text=TEXT, tokenizer_name_or_path=TOKENIZER), keep_init=True),
        # other tasks
        Case("bert_seq_cls", "bert_seq_cls", dict(num_virtual_tokens=3)),
        Case("bert_multi_label", "bert_multi_label", dict(num_virtual_tokens=5, prompt_tuning_init="TEXT", prompt_tuning_init_text="bad", tokenizer_name_or_path=TOKENIZER, tokenizer_kwargs={"padding_side": "left"}), keep_init=True),
        Case("bert_token_cls", "bert_token_cls", dict(num_virtual_tokens=2)),
        Case("bert", "bert", dict(num_virtual_tokens=3)),
        Case("t5", "t5", dict(num_virtual_tokens=3), generate=True),
        Case("t5_gated", "t5_gated", dict(num_virtual_tokens=4, num_transformer_submodules=1), generate=True),
        Case("two_adapters", adapters={"short": dict(num_virtual_tokens=2), "long": dict(num_virtual_tokens=5)}),
    ],
    whole=("llama", "gpt2"),
    inits={
        "random": ("llama", dict(num_virtual_tokens=3)),
        "random_odd": ("gpt2", dict(num_virtual_tokens=7)),
        "random_seq2seq": ("t5", dict(num_virtual_tokens=2)),
        "sample_vocab": ("llama", dict(num_virtual_tokens=5, prompt_tuning_init="SAMPLE_VOCAB")),
        "sample_vocab_seq2seq": ("t5", dict(num_virtual_tokens=2, prompt_tuning_init="SAMPLE_VOCAB")),
        "text": ("llama", dict(num_virtual_tokens=5, prompt_tuning_init="TEXT", prompt_tuning_init_text=TEXT, tokenizer_name_or_path=TOKENIZER)),
        "text_seq2seq": ("t5", dict(num_virtual_tokens=3, prompt_tuning_init="TEXT", prompt_tuning_init_text="a dog", tokenizer_name_or_path=TOKENIZER)),
        "init_unknown": ("llama", dict(num_virtual_tokens=2, prompt_tuning_init="other")),
    },
    refused={
        "no_tokens": ("llama", dict()),
        "text_without_tokenizer": ("llama", dict(num_virtual_tokens=2, prompt_tuning_init="TEXT", prompt_tuning_init_text="a")),
        "text_without_text": ("llama", dict(num_virtual_tokens=2, prompt_tuning_init="TEXT", tokenizer_name_or_path=TOKENIZER)),
        "kwargs_without_text": ("llama", dict(num_virtual_tokens=2, tokenizer_kwargs={"padding_side": "left"})),
        "token_dim": ("llama", dict(num_virtual_tokens=2, token_dim=16)),
        "submodules": ("llama", dict(num_virtual_tokens=2, num_transformer_submodules=2)),
        "too_long": ("gpt2", dict(num_virtual_tokens=60)),
        "token_cls_labels": ("bert_token_cls", dict(num_virtual_tokens=2)),
        "init_unknown": ("llama", dict(num_virtual_tokens=2, prompt_tuning_init="other")),
        "target_modules": ("llama", dict(num_virtual_tokens=2, target_modules=["q_proj"])),
        "two_active": ("llama", dict(num_virtual_tokens=2), dict(num_virtual_tokens=2)),
    },
)

OFT = Method(
    "OFTConfig",
    cases=[
        # block size or number of blocks, and what becomes of sizes that do not divide
        Case("default", "qwen2", dict(layers_to_transform=1)),
        Case("block", config=dict(oft_block_size=8, target_modules=QV)),
        Case("block_exact", config=dict(oft_block_size=8, use_cayley_neumann=False, target_modules=QV)),
        Case("block_adjusted", config=dict(oft_block_size=6, target_modules=["q_proj", "down_proj"]), weight_decay=0.1),
        Case("block_larger", config=dict(oft_block_size=100, use_cayley_neumann=False, target_modules=["o_proj"], layers_to_transform=1)),
        Case("blocks", config=dict(r=8, oft_block_size=0, target_modules=["o_proj", "layers.0.mlp.down_proj"])),
        Case("blocks_adjusted", config=dict(r=5, oft_block_size=0, use_cayley_neumann=False, target_modules=["v_proj"])),
        # one rotation for all blocks
        Case("shared", config=dict(oft_block_size=8, block_share=True, target_modules=QV)),
        Case("shared_exact", "qwen2", dict(r=4, oft_block_size=0, block_share=True, use_cayley_neumann=False, target_modules=["q_proj", "up_proj"])),
        # the series
        Case("terms_2", config=dict(oft_block_size=4, num_cayley_neumann_terms=2, target_modules=["v_proj"])),
        Case("terms_4", config=dict(oft_block_size=4, num_cayley_neumann_terms=4, target_modules=["v_proj"])),
        Case("terms_8", config=dict(oft_block_size=4, num_cayley_neumann_terms=8, target_modules=["v_proj"])),
        # constrained: the files hold what was not projected yet
        Case("constrained", config=dict(oft_block_size=8, coft=True, target_modules=QV)),
        Case("constrained_eps", config=dict(oft_block_size=8, coft=True, eps=0.7, target_modules=QV)),
        Case("constrained_shared_exact", config=dict(oft_block_size=4, coft=True, eps=0.4, block_share=True, use_cayley_neumann=False, target_modules=["q_proj", "gate_proj"]), weight_decay=0.1),
        # which modules
        Case("embedding", config=dict(oft_block_size=8, target_modules=["embed_tokens", "q_proj"])),
        Case("positions_gpt2", "gpt2", dict(oft_block_size=8, use_cayley_neumann=False, target_modules=["wpe"])),
        Case("all_linear", "bert_regression", dict(oft_block_size=4, target_modules="all-linear")),
        Case("layers_with_regex", config=dict(oft_block_size=4, target_modules=r".*v_proj", layers_to_transform=[1])),
        Case("save_norm", config=dict(oft_block_size=4, target_modules=["v_proj"], modules_to_save=["norm"])),
        Case("bias_all_qwen2", "qwen2", dict(oft_block_size=8, bias="all", target_modules=["q_proj"])),
        Case("bias_only_qwen2", "qwen2", dict(oft_block_size=8, bias="oft_only", target_modules=["k_proj", "o_proj"])),
        # Takes no effect in PEFT, not even in training.
        Case("module_dropout", config=dict(oft_block_size=4, module_dropout=0.5, target_modules=["q_proj"]), noise=True),
        Case("init_false", config=dict(oft_block_size=8, init_weights=False, target_modules=["v_proj"]), keep_init=True),
        Case("half_file", config=dict(oft_block_size=8, target_modules=["v_proj"]), file_dtype="bfloat16"),
        Case("bert_seq_cls", "bert_seq_cls", dict(oft_block_size=6)),
        Case("bert_token_cls", "bert_token_cls", dict(r=4, oft_block_size=0, use_cayley_neumann=False, target_modules=["key", "intermediate.dense"])),
        Case("bert", "bert", dict(oft_block_size=4, target_modules=["token_type_embeddings", "pooler.dense"])),
        Case("t5", "t5", dict(oft_block_size=8, exclude_modules=r".*encoder.*"), generate=True),
        Case("t5_gated", "t5_gated", dict(oft_block_size=6, use_cayley_neumann=False, target_modules=["o", "wi_1"])),
        # Rotations do not commute: PEFT merges them in the other order.
        Case("two_adapters", adapters={"style": dict(oft_block_size=8, target_modules=QV), "facts": dict(oft_block_size=4, use_cayley_neumann=False, target_modules=["q_proj", "layers.0.mlp.up_proj"])}),
    ],
    whole=("block",),
    inits={
        "true": ("llama", dict(oft_block_size=8, target_modules=QV)),
        "false": ("llama", dict(oft_block_size=6, init_weights=False, target_modules=["embed_tokens", "v_proj", "down_proj"])),
    },
    refused={
        "both_sizes": ("llama", dict(r=4, target_modules=QV)),
        "no_size": ("llama", dict(r=0, oft_block_size=0, target_modules=QV)),
        "negative": ("llama", dict(oft_block_size=-4, target_modules=QV)),
        "target_conv1d": ("gpt2", dict(target_modules=["c_attn"])),
        "default_gpt2": ("gpt2", dict()),
        "target_norm": ("llama", dict(target_modules=["norm"])),
        "no_target_found": ("llama", dict(target_modules=["nope"])),
        "bias_unknown": ("qwen2", dict(bias="some", target_modules=QV)),
        "init_unknown": ("llama", dict(init_weights="zeros", target_modules=QV)),
        "layers_pattern_alone": ("llama", dict(target_modules=QV, layers_pattern="layers")),
        "block_one": ("llama", dict(oft_block_size=1, target_modules=QV)),
        "alpha": ("llama", dict(alpha=2, target_modules=QV)),
    },
)

ADALORA = Method(
    "AdaLoraConfig",
    cases=[
        # init_r and lora_alpha, which is the scale as it is, over the rank
        Case("basic", config=dict(init_r=3, target_r=2, lora_alpha=12, total_step=10, target_modules=QV)),
        Case("alpha_zero", "bert_regression", dict(init_r=3, lora_alpha=0, total_step=10)),
        Case("ignored", config=dict(init_r=2, r=5, lora_alpha=7, use_rslora=True, alpha_pattern={"q_proj": 3}, init_lora_weights="gaussian", total_step=10, target_modules=["q_proj"])),
        Case("conv1d", "gpt2", dict(init_r=2, lora_alpha=6, total_step=10, fan_in_fan_out=True, target_modules=["attn.c_proj", "h.1.mlp.c_fc"])),
        # the penalty
        Case("no_penalty", config=dict(init_r=3, lora_alpha=5, orth_reg_weight=0, total_step=10, target_modules=["v_proj", "layers.0.mlp.up_proj"]), weight_decay=0.1),
        Case("penalty", config=dict(init_r=5, lora_alpha=5, orth_reg_weight=1.7, total_step=10, target_modules=["layers.0.self_attn.k_proj", "layers.1.mlp.down_proj"])),
        # which modules
        Case("all_linear", "bert_multi_label", dict(init_r=1, lora_alpha=3, total_step=10, target_modules="all-linear")),
        Case("tokens", config=dict(init_r=2, lora_alpha=9, total_step=10, target_modules=["q_proj"], trainable_token_indices=[41, 5])),
        Case("bias_only_qwen2", "qwen2", dict(init_r=2, lora_alpha=9, bias="lora_only", total_step=10, target_modules=["v_proj", "o_proj"])),
        Case("init_false", config=dict(init_r=3, lora_alpha=1, init_lora_weights=False, total_step=10, target_modules=["v_proj"]), keep_init=True),
        Case("half_file", config=dict(init_r=3, lora_alpha=9, total_step=10, target_modules=["v_proj"]), file_dtype="bfloat16"),
        # ranks
        Case("allocated", config=dict(init_r=3, target_r=2, lora_alpha=12, tinit=1, tfinal=2, total_step=8, target_modules=QV), allocate=(0, 8)),
        Case("allocated_from_one", config=dict(init_r=3, target_r=1, lora_alpha=9, tfinal=0, beta1=0.6, beta2=0.7, orth_reg_weight=0.2, total_step=6, target_modules=["o_proj", "layers.0.mlp.up_proj"]), allocate=(1, 6)),
        # Masks only every other step: what was masked moves again in between.
        Case("allocated_rarely", config=dict(init_r=3, target_r=1, lora_alpha=10, tfinal=1, deltaT=2, total_step=7, target_modules=["q_proj", "k_proj"]), allocate=(0, 7), weight_decay=0.1),
        Case("allocated_unfinished", config=dict(init_r=3, target_r=1, lora_alpha=10, tfinal=2, deltaT=3, total_step=12, target_modules=["v_proj", "layers.1.self_attn.q_proj"]), allocate=(0, 5)),
        Case("allocated_gpt2", "gpt2", dict(init_r=3, target_r=1, lora_alpha=8, tinit=1, tfinal=1, total_step=6, fan_in_fan_out=True, target_modules=["h.0.attn.c_attn", "attn.c_proj"]), allocate=(0, 6)),
        # other tasks
        Case("bert_seq_cls", "bert_seq_cls", dict(init_r=3, target_r=1, lora_alpha=9, total_step=10)),
        Case("bert_token_cls", "bert_token_cls", dict(init_r=3, target_r=1, lora_alpha=9, tfinal=1, total_step=5, target_modules=["key", "output.dense"], layers_to_transform=[0]), allocate=(0, 5)),
        Case("bert", "bert", dict(init_r=2, target_r=1, lora_alpha=9, total_step=10)),
        Case("t5_gated", "t5_gated", dict(init_r=2, target_r=1, lora_alpha=9, total_step=10, target_modules=["decoder.block.0.layer.1.EncDecAttention.v", "wi_0"])),
        # Only one of them can be trained.
        Case(
            "two_adapters",
            adapters={
                "style": dict(init_r=3, lora_alpha=12, total_step=10, target_modules=["q_proj"]),
                "facts": dict(init_r=2, lora_alpha=6, total_step=10, target_modules=["q_proj", "layers.1.mlp.up_proj"], inference_mode=True),
            },
        ),
    ],
    inits={
        "true": ("llama", dict(init_r=2, total_step=10, target_modules=["v_proj", "layers.1.mlp.down_proj"])),
        "false": ("gpt2", dict(init_r=3, total_step=10, init_lora_weights=False, target_modules=["h.1.attn.c_attn"])),
    },
    refused={
        "no_total_step": ("llama", dict(target_modules=QV)),
        "total_step_zero": ("llama", dict(total_step=0, target_modules=QV)),
        "no_budget_phase": ("llama", dict(total_step=10, tinit=4, tfinal=6, target_modules=QV)),
        "penalty_negative": ("llama", dict(total_step=10, orth_reg_weight=-0.5, target_modules=QV)),
        "rank_negative": ("llama", dict(total_step=10, init_r=-1, target_modules=QV)),
        "rank_zero": ("llama", dict(total_step=10, init_r=0, target_modules=QV)),
        "beta_one": ("llama", dict(total_step=10, beta1=1.0, target_modules=QV)),
        "dora": ("llama", dict(total_step=10, use_dora=True, target_modules=QV)),
        "loftq": ("llama", dict(total_step=10, init_lora_weights="loftq", loftq_config={"loftq_bits": 4}, target_modules=QV)),
        "target_embedding": ("llama", dict(total_step=10, target_modules=["embed_tokens"])),
        "target_norm": ("llama", dict(total_step=10, target_modules=["norm"])),
        "target_parameters": ("llama", dict(total_step=10, target_modules=QV, target_parameters=["lm_head.weight"])),
        "no_default": ("mistral", dict(total_step=10)),
        "layers_with_regex": ("llama", dict(total_step=10, target_modules=r".*q_proj", layers_to_transform=[0])),
        "layers_pattern_alone": ("llama", dict(total_step=10, target_modules=QV, layers_pattern="layers")),
        "rank_pattern": ("llama", dict(total_step=10, target_modules=QV, rank_pattern={"q_proj": 3})),
        "two_trainable": ("llama", dict(total_step=10, target_modules=QV), dict(total_step=10, target_modules=QV)),
    },
)

ADAPTION_PROMPT = Method(
    "AdaptionPromptConfig",
    cases=[
        Case("llama", config=dict(adapter_len=4, adapter_layers=2), generate=True),
        Case("top_layer", config=dict(adapter_len=3, adapter_layers=1), weight_decay=0.1),
        Case("all_layers", "llama_tied", dict(adapter_len=1, adapter_layers=0)),
        Case("all_but_one", config=dict(adapter_len=2, adapter_layers=-1)),
        Case("mistral", "mistral", dict(adapter_len=5, adapter_layers=2), generate=True),
        Case("gpt2", "gpt2", dict(adapter_len=4, adapter_layers=2), generate=True),
        Case("gpt2_top_layer", "gpt2", dict(adapter_len=7, adapter_layers=1, target_modules="attn", task_type=None)),
        Case("initial", config=dict(adapter_len=2, adapter_layers=2), keep_init=True),
        Case("half_file", config=dict(adapter_len=3, adapter_layers=2), file_dtype="bfloat16"),
        Case("two_adapters", adapters={"style": dict(adapter_len=3, adapter_layers=2), "facts": dict(adapter_len=5, adapter_layers=1)}),
    ],
    whole=("llama", "gpt2"),
    inits={
        "llama": ("llama", dict(adapter_len=3, adapter_layers=2)),
        "gpt2": ("gpt2", dict(adapter_len=5, adapter_layers=1)),
    },
    refused={
        "no_length": ("llama", dict(adapter_layers=1)),
        "no_layers": ("llama", dict(adapter_len=1)),
        "too_many_layers": ("llama", dict(adapter_len=1, adapter_layers=3)),
        "no_target_found": ("llama", dict(adapter_len=1, adapter_layers=1, target_modules="nope")),
        "target_not_attention": ("llama", dict(adapter_len=1, adapter_layers=1, target_modules="mlp")),
        "target_list": ("llama", dict(adapter_len=1, adapter_layers=1, target_modules=["self_attn"])),
        "qwen2": ("qwen2", dict(adapter_len=1, adapter_layers=1)),
        "bert": ("bert", dict(adapter_len=1, adapter_layers=1)),
        "t5": ("t5", dict(adapter_len=1, adapter_layers=1)),
        "modules_to_save": ("llama", dict(adapter_len=1, adapter_layers=1, modules_to_save=["lm_head"])),
        "two_active": ("llama", dict(adapter_len=1, adapter_layers=1), dict(adapter_len=1, adapter_layers=1)),
    },
)

IDS = (2, 0)
POLY = Method(
    "PolyConfig",
    cases=[
        # in evaluation, where routing is what it was trained to
        Case("basic", config=dict(r=2, n_tasks=3, n_skills=2, n_splits=2, target_modules=QV), task_ids=IDS, generate=True),
        Case("one_split", config=dict(r=3, n_tasks=3, n_skills=3, target_modules=["layers.1.self_attn.o_proj"]), task_ids=(1, 1), weight_decay=0.1),
        Case("many_splits", config=dict(r=1, n_tasks=4, n_skills=3, n_splits=8, target_modules=["layers.0.self_attn.k_proj", "layers.1.mlp.down_proj"]), task_ids=(3, 1)),
        Case("one_skill", config=dict(r=2, n_tasks=2, n_skills=1, n_splits=4, target_modules=["v_proj"]), task_ids=(0, 1)),
        Case("init_false", config=dict(r=2, n_tasks=3, n_skills=2, n_splits=2, init_weights=False, target_modules=["v_proj"]), task_ids=IDS, keep_init=True),
        Case("half_file", config=dict(r=2, n_tasks=3, n_skills=2, target_modules=["v_proj"]), task_ids=IDS, file_dtype="bfloat16"),
        # in training, where it is drawn
        Case("noise", config=dict(r=2, n_tasks=3, n_skills=2, n_splits=2, target_modules=["v_proj", "layers.1.self_attn.q_proj"]), task_ids=IDS, noise=True),
        Case("noise_one_split", "mistral", dict(r=2, n_tasks=2, n_skills=3, target_modules=["k_proj"]), task_ids=(1, 0), noise=True, weight_decay=0.1),
        Case("noise_bert_seq_cls", "bert_seq_cls", dict(r=2, n_tasks=3, n_skills=2, n_splits=3), task_ids=IDS, noise=True),
        Case("noise_t5", "t5", dict(r=1, n_tasks=3, n_skills=2, n_splits=2, target_modules=["EncDecAttention.v", "encoder.block.1.layer.0.SelfAttention.v"]), task_ids=IDS, noise=True),
        # other tasks
        Case("bert_token_cls", "bert_token_cls", dict(r=2, n_tasks=3, n_skills=2, target_modules=["value"]), task_ids=IDS),
        Case("bert", "bert", dict(r=2, n_tasks=3, n_skills=2, n_splits=2, target_modules=["query"]), task_ids=IDS),
        Case("t5_gated", "t5_gated", dict(r=2, n_tasks=3, n_skills=2, target_modules=["decoder.block.0.layer.2.DenseReluDense.wi_0"]), task_ids=IDS, generate=True),
        Case(
            "two_adapters",
            task_ids=IDS,
            adapters={
                "style": dict(r=1, n_tasks=3, n_skills=2, n_splits=2, target_modules=QV),
                "facts": dict(r=2, n_tasks=4, n_skills=3, target_modules=["layers.0.self_attn.q_proj", "k_proj"]),
            },
        ),
    ],
    whole=("basic",),
    inits={
        "true": ("bert_regression", dict(r=3, n_tasks=2, n_skills=3, n_splits=2, target_modules=["query", "output.dense"])),
        "false": ("bert_multi_label", dict(r=5, n_tasks=3, n_skills=2, n_splits=4, init_weights=False, target_modules=["intermediate.dense"])),
    },
    refused={
        "rank_zero": ("llama", dict(r=0, target_modules=QV), None, IDS),
        "type_unknown": ("llama", dict(poly_type="mhr", target_modules=QV), None, IDS),
        "splits_zero": ("llama", dict(n_splits=0, target_modules=QV), None, IDS),
        "splits_not_dividing": ("llama", dict(n_tasks=3, n_splits=3, target_modules=QV), None, IDS),
        "skills_zero": ("llama", dict(n_tasks=3, n_skills=0, target_modules=QV), None, IDS),
        "no_task_ids": ("llama", dict(n_tasks=3, target_modules=QV)),
        "task_id_too_large": ("llama", dict(n_tasks=2, target_modules=QV), None, IDS),
        "task_id_negative": ("llama", dict(n_tasks=2, target_modules=QV), None, (0, -1)),
        "task_ids_too_few": ("llama", dict(n_tasks=2, target_modules=QV), None, (1,)),
        "target_conv1d": ("gpt2", dict(n_tasks=3), None, IDS),
        "target_embedding": ("llama", dict(n_tasks=3, target_modules=["embed_tokens"]), None, IDS),
        "target_norm": ("llama", dict(n_tasks=3, target_modules=["norm"]), None, IDS),
        "no_target_found": ("llama", dict(n_tasks=3, target_modules=["nope"]), None, IDS),
        "layers": ("llama", dict(layers_to_transform=[0], target_modules=QV)),
        "bias": ("llama", dict(bias="all", target_modules=QV)),
    },
)

# fmt: on

METHODS: dict[str, Method] = {
    "lora": LORA,
    "ln_tuning": LN_TUNING,
    "trainable_tokens": TRAINABLE_TOKENS,
    "prompt_tuning": PROMPT_TUNING,
    "oft": OFT,
    "adalora": ADALORA,
    "adaption_prompt": ADAPTION_PROMPT,
    "poly": POLY,
}


def write_tokenizer(folder: str) -> None:
    """A byte-level BPE that knows the letters a to g, spaces and three pairs, and begins with <s>."""
    letters = ["Ġ", *"abcdefgo"]
    pairs = [("Ġ", "a"), ("a", "d"), ("b", "ad")]
    tokens = ["<s>", "</s>", *letters, *("".join(pair) for pair in pairs)]
    # Not one after the other: a row that is off by a constant shows.
    vocabulary = {token: 3 * index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)


def write_method(name: str, method: Method, seed: int) -> dict:
    """Writes adapters/<name>/ with its index.json; gives its entry in the index of all."""
    folder = Path(FOLDER, name)
    (folder / "init").mkdir(parents=True)
    cases = [
        replace(case, config_class=method.config_class, compact=case.name not in method.whole)
        for case in method.cases
    ]
    for case in cases:
        run_task_case(case, seed, folder / case.name)
        print(f"{name} {case.name}", flush=True)
    inits = {
        init: run_task_init(
            method.config_class, *asked, seed + 1234, folder / "init" / f"{init}.safetensors"
        )
        for init, asked in method.inits.items()
    }
    refused = {
        key: run_task_refused(method.config_class, *asked) for key, asked in method.refused.items()
    }
    index = {
        "peft_type": name.upper(),
        "config_class": method.config_class,
        "seed": seed,
        "cases": [
            {"name": case.name, "kind": case.kind, "adapters": list(case.adapters or [])}
            for case in cases
        ],
        "init": inits,
        "refused": refused,
    }
    if not inits:
        (folder / "init").rmdir()
    write_json(index, folder / "index.json")
    return {"peft_type": name.upper(), "folder": name}


def write(out: Path, seed: int, methods: dict[str, Method] = METHODS) -> None:
    """Writes adapters/ and the bases of its tasks below a folder that holds base/, or will."""
    prepare(out)
    shutil.rmtree(FOLDER, ignore_errors=True)
    Path(FOLDER).mkdir()
    kinds = {case.kind for method in methods.values() for case in method.cases}
    for kind in kinds & BASES.keys():
        if not Path("base", kind).exists():
            write_base(kind, seed + 100)
    bases = []
    for kind in TASK_BASES:
        shutil.rmtree(Path("base", kind), ignore_errors=True)
        bases.append(write_task_base(kind, seed + 100))
    write_tokenizer(TOKENIZER)
    index = [write_method(name, method, seed) for name, method in methods.items()]
    write_json({"seed": seed, "bases": bases, "methods": index}, Path(FOLDER, "index.json"))
