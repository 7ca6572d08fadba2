/**
 * What is usually adapted in each family of models.
 *
 * @module
 */

const QV: readonly string[] = ["q_proj", "v_proj"];
const QUERY_VALUE: readonly string[] = ["query", "value"];
const FUSED: readonly string[] = ["query_key_value"];

/**
 * Names of the attention projections that LoRA, and most methods after it, adapt by default, by
 * `model_type`: PEFT's own choice.
 */
export const ATTENTION_TARGETS: Readonly<Record<string, readonly string[]>> = {
  bart: QV,
  bert: QUERY_VALUE,
  bloom: FUSED,
  "blip-2": ["q", "v", "q_proj", "v_proj"],
  btlm: ["c_proj", "c_attn"],
  chatglm: FUSED,
  codegen: ["qkv_proj"],
  deberta: ["in_proj"],
  "deberta-v2": ["query_proj", "value_proj"],
  electra: QUERY_VALUE,
  falcon: FUSED,
  gemma: QV,
  gemma2: QV,
  gemma3_text: QV,
  gpt2: ["c_attn"],
  gpt_bigcode: ["c_attn"],
  gpt_neo: QV,
  gpt_neox: FUSED,
  gptj: QV,
  layoutlm: QUERY_VALUE,
  llama: QV,
  llama4: QV,
  mistral: QV,
  mixtral: QV,
  mpt: ["Wqkv"],
  mt5: ["q", "v"],
  nemotron_h: ["q_proj", "k_proj", "v_proj", "o_proj"],
  opt: QV,
  phi: [...QV, "fc1", "fc2"],
  qwen2: QV,
  qwen3: QV,
  RefinedWeb: FUSED,
  RefinedWebModel: FUSED,
  roberta: QUERY_VALUE,
  rwkv: ["key", "value", "receptance", "output"],
  rwkv7: ["r_proj", "k_proj", "v_proj", "o_proj", "key", "value"],
  stablelm: QV,
  t5: ["q", "v"],
  "xlm-roberta": QUERY_VALUE,
};

/** What VeRA adapts by default. */
export const VERA_TARGETS: Readonly<Record<string, readonly string[]>> = {
  ...ATTENTION_TARGETS,
  phi: QV,
};

/** What VB-LoRA adapts by default. */
export const VBLORA_TARGETS: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(
    ["gpt2", "bloom", "gptj", "gpt_neox", "gpt_neo", "llama", "llama4", "bert", "roberta"]
      .concat(["gpt_bigcode", "deberta", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"])
      .concat(["nemotron_h"]).map((type) => [type, ATTENTION_TARGETS[type]]),
  ),
  t5: ["q", "k", "v", "o", "wi", "wo"],
  mt5: ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
  bart: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
  opt: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
  "deberta-v2": ["query_proj", "key_proj", "value_proj", "dense"],
};

/** The same without GPT-2's fused projection of queries, keys and values. */
export const UNFUSED_TARGETS: Readonly<Record<string, readonly string[]>> = {
  ...ATTENTION_TARGETS,
  gpt2: ["mlp.c_proj"],
  gpt_bigcode: ["mlp.c_proj"],
};

const GATED: readonly string[] = [
  ...["q_proj", "k_proj", "v_proj", "o_proj"],
  ...["gate_proj", "down_proj", "up_proj"],
];

/** What OSF adapts by default, by `model_type`: PEFT's own choice. */
export const OSF_TARGETS: Readonly<Record<string, readonly string[]>> = {
  bloom: ["query_key_value", "dense_4h_to_h"],
  falcon: ["query_key_value", "dense_4h_to_h"],
  gemma: GATED,
  gemma2: GATED,
  gemma3_text: GATED,
  gpt2: ["c_attn", "c_proj"],
  gpt_bigcode: ["c_attn", "c_proj"],
  gpt_neox: ["query_key_value", "dense_4h_to_h"],
  gptj: ["q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"],
  llama: GATED,
  llama4: GATED,
  mistral: GATED,
  mixtral: GATED,
  opt: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
  phi: GATED,
  qwen2: GATED,
  qwen3: GATED,
};

const QVD: readonly string[] = [...QV, "down_proj"];
const KVD: readonly string[] = ["k_proj", "v_proj", "down_proj"];
const FUSED_OUT: readonly string[] = [...FUSED, "dense_4h_to_h"];

/**
 * What (IA)³ adapts by default, by `model_type`: keys, values and what a feed-forward block puts
 * out, as far as the names allow. PEFT's own choice.
 */
export const IA3_TARGETS: Readonly<Record<string, readonly string[]>> = {
  bart: [...QV, "fc2"],
  bert: ["key", "value", "output.dense"],
  bloom: [...FUSED, "mlp.dense_4h_to_h"],
  deberta: ["in_proj", "output.dense"],
  "deberta-v2": ["key_proj", "value_proj", "output.dense"],
  falcon: FUSED_OUT,
  gemma: QVD,
  gemma2: QVD,
  gemma3_text: QVD,
  gpt2: ["c_attn", "mlp.c_proj"],
  gpt_bigcode: ["c_attn", "mlp.c_proj"],
  gpt_neo: [...QV, "c_proj"],
  gpt_neox: FUSED_OUT,
  gptj: [...QV, "fc_out"],
  llama: KVD,
  llama4: QVD,
  mistral: KVD,
  mixtral: ["k_proj", "v_proj", "w2"],
  mt5: ["k", "v", "wi_1"],
  opt: ["q_proj", "k_proj", "fc2"],
  phi: [...QV, "fc2"],
  qwen2: QVD,
  qwen3: QVD,
  RefinedWeb: FUSED_OUT,
  RefinedWebModel: FUSED_OUT,
  roberta: ["key", "value", "output.dense"],
  t5: ["k", "v", "wo"],
};

/** Which modules (IA)³ takes for feed-forward ones by default, by `model_type`. */
export const IA3_FEEDFORWARD: Readonly<Record<string, readonly string[]>> = {
  ...Object.fromEntries(
    Object.entries(IA3_TARGETS).map(([type, names]) => [type, names.slice(-1)]),
  ),
  mt5: [],
};
