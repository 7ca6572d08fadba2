/**
 * The types of tokens, as a part of a batch.
 *
 * @module
 */
import type { ModelConfig } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import { configReader } from "./config-reader.ts";

/** Of so many types. */
export function tokenTypes(types: number): BatchInput {
  return {
    name: "tokenTypeIds",
    axes: ["batch", "tokens"],
    dtype: "i32",
    from: 0,
    to: types - 1,
    otherwise: 0,
    doc:
      "Which part of a text each token is of, such as 0 for a question and 1 for its context [B, T].",
  };
}

/** The types of tokens as parts of a batch, for a config that may say how many there are. */
export function tokenTypeInputs(config: ModelConfig, otherwise: number): readonly BatchInput[] {
  const types = configReader(config).number("type_vocab_size", otherwise);
  return types > 0 ? [tokenTypes(types)] : [];
}
