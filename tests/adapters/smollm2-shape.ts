/**
 * A model of SmolLM2-135M's shape whose weights are never made: for what does not read them.
 *
 * @module
 */
import { llama } from "../../lib/architectures/llama.ts";
import { createModelGraph, type ModelGraph, structureOf } from "../../lib/model/model-graph.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import { noDevice } from "./bases.ts";

/** SmolLM2-135M's `config.json`, as far as it matters. */
export const SMOLLM2 = {
  model_type: "llama",
  architectures: ["LlamaForCausalLM"],
  vocab_size: 49152,
  hidden_size: 576,
  intermediate_size: 1536,
  num_hidden_layers: 30,
  num_attention_heads: 9,
  num_key_value_heads: 3,
  tie_word_embeddings: true,
};

/** The model; reading a weight is an error. */
export function smolLm2Shape(): ModelGraph {
  const unread = (shape: readonly number[]): Tensor => ({
    dtype: "f32",
    shape,
    where: "host",
    data: () => Promise.reject(new Error("A weight was read.")),
  });
  const { shapes, tied } = structureOf({
    architecture: llama,
    config: SMOLLM2,
    taskType: "CAUSAL_LM",
  });
  const parameters = new Map(
    [...shapes].filter(([name]) => !tied.has(name)).map(([name, shape]) => [name, unread(shape)]),
  );
  return createModelGraph(llama, {
    config: SMOLLM2,
    generationConfig: {},
    parameters,
    device: noDevice,
    source: "smollm2",
  });
}
