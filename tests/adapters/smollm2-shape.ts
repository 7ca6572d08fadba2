/**
 * A model of SmolLM2-135M's shape whose weights are never made: for what does not read them.
 *
 * @module
 */
import { llama } from "../../lib/architectures/llama.ts";
import { createModelGraph, type ModelGraph } from "../../lib/model/model-graph.ts";
import { parameterShapes } from "../../lib/model/site.ts";
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
  const tied = llama.tied(SMOLLM2);
  const parameters = new Map(
    llama.sites(SMOLLM2).flatMap((site) =>
      Object.entries(parameterShapes(site)).map(([part, shape]): [string, Tensor] => [
        `${site.path}.${part}`,
        unread(shape),
      ])
    ).filter(([name]) => !(name in tied)),
  );
  return createModelGraph(llama, {
    config: SMOLLM2,
    generationConfig: {},
    parameters,
    device: noDevice,
    source: "smollm2",
  });
}
