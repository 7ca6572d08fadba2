/**
 * `tinyModel`: a model for examples and first tries.
 *
 * @module
 */
import type { ModelGraph } from "../model/model-graph.ts";
import { createModel, type ModelDeviceOptions } from "./load-model.ts";

/**
 * A llama with random weights: 96 tokens, 32 features, two layers of four heads. It takes no time and
 * knows nothing.
 *
 * @param options As those of {@link createModel}; on the CPU by default.
 *
 * @example
 * ```ts
 * import { forward, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * const { logits } = await forward(model, { inputIds: [[1, 2, 3]] });
 * console.log(logits.shape); // [1, 3, 96]
 * ```
 */
export function tinyModel(
  options: ModelDeviceOptions & { readonly seed?: number } = {},
): Promise<ModelGraph> {
  return createModel({
    model_type: "llama",
    vocab_size: 96,
    hidden_size: 32,
    intermediate_size: 48,
    num_hidden_layers: 2,
    num_attention_heads: 4,
  }, { device: "cpu", ...options });
}
