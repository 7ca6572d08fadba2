/**
 * The tokenizer that belongs to a model.
 *
 * @module
 */
import { FileError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { loadTokenizer, type Tokenizer, type TokenizerSource } from "./tokenizer.ts";

// A config object is what a model and all that are derived from it share. What is noted here only saves reading: the files say the same.
const sources = new WeakMap<ModelConfig, TokenizerSource>();
const loaded = new WeakMap<ModelConfig, Promise<Tokenizer>>();

/** Notes where the tokenizer of the models with this config is read from. */
export function setTokenizerSource(config: ModelConfig, source: TokenizerSource): void {
  sources.set(config, source);
}

/**
 * The tokenizer that lies beside a model's weights, read once.
 *
 * @throws {FileError} `TOKENIZER_MISSING` where the model was not loaded from anywhere, or its place has no tokenizer.
 */
export function tokenizerOf(model: ModelGraph): Promise<Tokenizer> {
  const { config, source } = model;
  const known = loaded.get(config);
  if (known) return known;
  const from = sources.get(config) ?? source;
  if (from === null) {
    return Promise.reject(
      new FileError(
        "TOKENIZER_MISSING",
        "The model was not loaded from a folder, a file or the hub, so it has no tokenizer of its own. Give one.",
      ),
    );
  }
  const found = loadTokenizer(from);
  loaded.set(config, found);
  found.catch(() => loaded.delete(config));
  return found;
}
