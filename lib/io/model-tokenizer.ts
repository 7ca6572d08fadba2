/**
 * The tokenizer and the image processor that belong to a model.
 *
 * @module
 */
import { dirname } from "node:path";
import { FileError } from "../errors.ts";
import type { ModelConfig } from "../model/architecture.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { type ImageProcessor, loadImageProcessor } from "./image-processor.ts";
import { locate } from "./locate.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";

// A config object is what a model and all that are derived from it share. What is noted here only
// saves reading: the files say the same.
const sources = new WeakMap<ModelConfig, Checkpoint>();
const loaded = new WeakMap<ModelConfig, Promise<Tokenizer>>();

/** Notes where the tokenizer of the models with this config is read from. */
export function setTokenizerSource(config: ModelConfig, source: Checkpoint): void {
  sources.set(config, source);
}

/** Notes that models with one config have the tokenizer of those with another. */
export function shareTokenizer(from: ModelConfig, to: ModelConfig): void {
  const source = sources.get(from), known = loaded.get(from);
  if (source) sources.set(to, source);
  if (known) loaded.set(to, known);
}

/**
 * The tokenizer that lies beside a model's weights, read once.
 *
 * @throws {FileError} `TOKENIZER_MISSING` where the model was not loaded from anywhere, or its
 * place has no tokenizer.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, createModel, loadModel } from "@graft/peft";
 * import { loadTokenizer, saveModel, tokenizerOf } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "llama", vocab_size: 256, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = model.device;
 * const folder = await Deno.makeTempDir();
 * await saveModel(model, folder, { tokenizer: await loadTokenizer(byteTokenizerFiles()) });
 * const tokenizer = await tokenizerOf(await loadModel(folder, { device: model.device }));
 * console.log(tokenizer.encode("hi")); // [104, 105]
 * await Deno.remove(folder, { recursive: true });
 * ```
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

/** The folder that a model's weights lie in, where it was loaded from one. */
export function folderOf({ config }: ModelGraph): string | undefined {
  const [file] = sources.get(config)?.source.files ?? [];
  return file === undefined || file.includes("://") ? undefined : dirname(file);
}

/**
 * The image processor that lies beside a model's weights.
 *
 * @throws {FileError} `PROCESSOR_MISSING` where the model was not loaded from anywhere, or its place
 * has none.
 *
 * @example
 * ```ts
 * import { imageProcessorOf, tinyModel } from "@graft/peft";
 * const model = await tinyModel();
 * using _device = model.device;
 * await imageProcessorOf(model).catch(({ code }) => console.log(code)); // PROCESSOR_MISSING
 * ```
 */
export async function imageProcessorOf(model: ModelGraph): Promise<ImageProcessor> {
  const { source } = model;
  if (source !== null) {
    const place = await locate(source);
    return await loadImageProcessor(place.kind === "file" ? dirname(place.path) : source);
  }
  throw new FileError(
    "PROCESSOR_MISSING",
    "The model was not loaded from a folder, a file or the hub, so it has no image processor of its own. Give one as `imageProcessor`.",
  );
}
