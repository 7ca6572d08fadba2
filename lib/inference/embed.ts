/**
 * `embed`: texts as vectors.
 *
 * @module
 */
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { encodeInputs } from "../io/encode-inputs.ts";
import { folderOf } from "../io/model-tokenizer.ts";
import { BOOLEAN, oneOf, rule } from "../options.ts";
import { pool, type Pooling, POOLINGS } from "../tasks/pooling.ts";
import { type InferenceOptions, likeGiven, listOf, openReader, runRows } from "./run-rows.ts";
import { normalize, readSentenceModules, type SentenceModules } from "./sentence-modules.ts";

/**
 * How to embed. What is left out is as the model's folder says where it is one of sentence-transformers
 * (with `modules.json`); else the mean of the tokens, as it is.
 */
export interface EmbedOptions extends InferenceOptions {
  /** What stands for a text. Where it is given, what the folder says follows on that counts no more. */
  readonly pooling?: Pooling;
  /** Whether vectors get length 1. */
  readonly normalize?: boolean;
  /** What each text begins with, such as `"query: "`. */
  readonly prompt?: string;
  /** The longest row in tokens; longer texts are cut. What the model takes by default. */
  readonly maxLength?: number;
}

const PLAIN: SentenceModules = { pooling: "mean", steps: [], lowerCase: false, prompt: "" };

/**
 * Embeds texts with a FEATURE_EXTRACTION model, as sentence-transformers does. Texts that are longer
 * than the model takes are cut, as there.
 *
 * @param model A model with or without adapters.
 * @param text A text.
 * @param options See {@link EmbedOptions}.
 * @returns Its vector [D].
 * @throws {UnsupportedError} `TASK_MODEL` for a model of another task; `SENTENCE_MODULE` for what a
 * folder asks for that is not known here.
 * @throws {ValueError} `INFERENCE_OPTION`, `TEXT_EMPTY`, or for what is no text.
 * @throws {FileError} `TOKENIZER_MISSING`.
 *
 * @example
 * ```ts
 * import { byteTokenizerFiles, createModel, embed, loadTokenizer } from "@graft/peft";
 * const model = await createModel({
 *   model_type: "bert", vocab_size: 256, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2,
 * }, { device: "cpu", taskType: "FEATURE_EXTRACTION" });
 * const tokenizer = await loadTokenizer(byteTokenizerFiles());
 * const [a, b] = await embed(model, ["a boat", "a ship"], { tokenizer, normalize: true });
 * const cosine = a.reduce((sum, x, i) => sum + x * b[i], 0);
 * console.log(a.length, cosine <= 1.00001); // 16 true
 * model.device[Symbol.dispose]();
 * ```
 */
export function embed(
  model: AnyModel,
  text: string,
  options?: EmbedOptions,
): Promise<Float32Array>;
/** The same for several texts; vectors come in their order. */
export function embed(
  model: AnyModel,
  texts: readonly string[],
  options?: EmbedOptions,
): Promise<readonly Float32Array[]>;
export async function embed(
  model: AnyModel,
  given: string | readonly string[],
  options: EmbedOptions = {},
): Promise<Float32Array | readonly Float32Array[]> {
  const reader = await openReader(model, options, {
    of: "embed",
    task: "FEATURE_EXTRACTION",
    rules: {
      pooling: oneOf(POOLINGS),
      normalize: BOOLEAN,
      prompt: rule("a string", (x) => typeof x === "string"),
    },
  });
  const folder = folderOf(baseOf(model));
  const own = reader.pooling || !folder ? PLAIN : await readSentenceModules(folder) ?? PLAIN;
  const { pooling = own.pooling, prompt = own.prompt, tokenizer } = reader;
  const kept = reader.normalize === false ? own.steps.filter((s) => s !== normalize) : own.steps;
  const steps = reader.normalize && !kept.includes(normalize) ? [...kept, normalize] : kept;
  const maxLength = reader.maxLength ?? Math.min(own.maxLength ?? Infinity, reader.limit);
  const ready = (text: string) => own.lowerCase ? (prompt + text).toLowerCase() : prompt + text;
  const rows = encodeInputs(listOf(reader, given).map(ready), {
    tokenizer,
    maxLength: maxLength === Infinity ? undefined : maxLength,
  });
  const outputs = await runRows(reader, rows, {
    key: pooling,
    perToken: false,
    outputs: (pass, { lastHiddenState, encoderLastHiddenState = lastHiddenState }) => ({
      pooled: pool(encoderLastHiddenState, pass.segments, pooling),
    }),
  });
  return likeGiven(
    given,
    outputs.map(({ pooled }) => steps.reduce((row, step) => step(row), pooled)),
  );
}
