/**
 * Prompt tuning (Lester et al., 2021, arXiv:2104.08691): the embeddings of N virtual tokens, trained in
 * the place of any weight, stand before those of the text.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError } from "../errors.ts";
import { inputEmbedding, type ModelGraph, parameterOf } from "../model/model-graph.ts";
import { broadcast } from "../ops/broadcast.ts";
import { concat } from "../ops/concat.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { rowsOf } from "../tensor/rows.ts";
import { commonFields, type ConfigSchema, field, parseConfig } from "./config.ts";
import type { InitSource, Leaf, PeftMethod } from "./method.ts";
import {
  completePromptConfig,
  promptFields,
  type PromptLearningConfig,
  promptSizes,
} from "./prompt-config.ts";

/** A prompt tuning config with every field, as {@link promptTuningConfig} makes it. */
export interface PromptTuningConfig extends PromptLearningConfig {
  /** `"PROMPT_TUNING"`. */
  readonly peftType: "PROMPT_TUNING";
  /**
   * What the virtual tokens begin as: random numbers (default), the embeddings of random tokens of the
   * vocabulary, or those of a text.
   */
  readonly promptTuningInit: "RANDOM" | "SAMPLE_VOCAB" | "TEXT";
  /** The text, where they begin as one; repeated or cut to their number. */
  readonly promptTuningInitText: string | null;
  /** Folder, file or hub id of the text's tokenizer. */
  readonly tokenizerNameOrPath: string | null;
  /** What Python's tokenizer is loaded with; it has no effect here. */
  readonly tokenizerKwargs: Readonly<Record<string, unknown>> | null;
}

const schema: ConfigSchema<PromptTuningConfig> = {
  peftType: "PROMPT_TUNING",
  keyPrefix: "base_model.",
  example: { numVirtualTokens: 3 },
  fields: {
    ...commonFields("PROMPT_TUNING"),
    ...promptFields(),
    // PEFT takes any other word for random.
    promptTuningInit: z.enum(["RANDOM", "SAMPLE_VOCAB", "TEXT"]).default("RANDOM")
      .describe("one of RANDOM, SAMPLE_VOCAB, TEXT"),
    promptTuningInitText: field.text(),
    tokenizerNameOrPath: field.text(),
    tokenizerKwargs: field.object(),
  },
  check({ promptTuningInit, promptTuningInitText, tokenizerNameOrPath, tokenizerKwargs }) {
    const isText = promptTuningInit === "TEXT";
    const missing = tokenizerNameOrPath === null
      ? "tokenizerNameOrPath"
      : promptTuningInitText === null
      ? "promptTuningInitText"
      : undefined;
    if (isText && missing) {
      throw new ConfigError(
        "CONFIG_PROMPT_TEXT",
        `When promptTuningInit is "TEXT", ${missing} can't be null: virtual tokens begin as the embeddings of a text, read by a tokenizer.`,
        { field: missing },
      );
    }
    if (!isText && tokenizerKwargs && Object.keys(tokenizerKwargs).length) {
      throw new ConfigError(
        "CONFIG_PROMPT_TEXT",
        'tokenizerKwargs is only valid when promptTuningInit is "TEXT". Leave it out.',
        { field: "tokenizerKwargs" },
      );
    }
  },
  fit: completePromptConfig,
};

/**
 * A complete prompt tuning config (Lester et al., 2021, arXiv:2104.08691).
 *
 * @param config The fields to set, `numVirtualTokens` among them; the others take PEFT's defaults.
 * Sizes that are left out follow from the model.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields, and for a text without a tokenizer.
 *
 * @example
 * ```ts
 * import { promptTuningConfig } from "@graft/peft";
 * console.log(promptTuningConfig({ numVirtualTokens: 20 }).promptTuningInit); // RANDOM
 * ```
 */
export function promptTuningConfig(config: Partial<PromptTuningConfig> = {}): PromptTuningConfig {
  return parseConfig(schema, config);
}

const PROMPT = "prompt_embeddings";

/** The method `PROMPT_TUNING`. */
export const promptTuning: PeftMethod<PromptTuningConfig> = {
  name: "prompt_tuning",
  config: schema,
  leaves: {
    adapter({ config, model }) {
      const { tokens, dim } = promptSizes(config);
      checkWidth(dim, model);
      // One prompt for the encoder and one for the decoder, of which only the first is read.
      const rows = tokens * config.numTransformerSubmodules!;
      return {
        [PROMPT]: { shape: [rows, dim], init: (from) => begin(from, { config, model, rows }) },
      };
    },
  },
  pass: {
    virtualTokens: (config) => promptSizes(config).tokens,
    // PEFT gives them to classifiers only, and adapters are trained so.
    ignores: ({ taskType }) =>
      ["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"].includes(taskType ?? "")
        ? ["tokenTypeIds"]
        : [],
    embeds({ config, shared }, rows) {
      const { tokens, dim } = promptSizes(config), [batch] = rows.shape;
      const prompt = sliceAxis(shared[PROMPT], { axis: 0, start: 0, size: tokens });
      const all = broadcast(reshape(prompt, [1, tokens, dim]), [batch, tokens, dim]);
      return concat([all, rows], { axis: 1 });
    },
  },
};

function checkWidth(tokenDim: number, model: ModelGraph): void {
  const { outFeatures } = inputEmbedding(model)!;
  if (tokenDim === outFeatures) return;
  throw new ConfigError(
    "CONFIG_SIZE",
    `tokenDim is ${tokenDim}, but virtual tokens stand before embeddings of size ${outFeatures}. Leave it out, or set it to that.`,
    { field: "tokenDim" },
  );
}

async function begin(
  { random, tokenize }: InitSource,
  of: { readonly config: PromptTuningConfig; readonly model: ModelGraph; readonly rows: number },
): Promise<Leaf> {
  const { config, model, rows } = of;
  // PEFT draws them also where others then take their place.
  const drawn = random.normal(rows * promptSizes(config).dim);
  if (config.promptTuningInit === "RANDOM") return drawn;
  const embedding = inputEmbedding(model)!;
  const ids = config.promptTuningInit === "SAMPLE_VOCAB"
    ? [...random.integers(rows, embedding.inFeatures)]
    : await tokenize!(config.promptTuningInitText!, config.tokenizerNameOrPath!);
  const table = parameterOf(model, `${embedding.path}.weight`);
  return await rowsOf(table, Array.from({ length: rows }, (_, i) => ids[i % ids.length]));
}
