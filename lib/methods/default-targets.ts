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
